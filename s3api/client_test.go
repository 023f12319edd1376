package s3api_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/google/go-cmp/cmp"
)

func TestBuckets(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.bucket()
	_, err := r.s3.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("b-1")})
	wantCode(t, err, "BucketAlreadyOwnedByYou")
	_, err = r.s3.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String("Bad_Name")})
	wantCode(t, err, "InvalidBucketName")
	list, err := r.s3.ListBuckets(ctx, &s3.ListBucketsInput{})
	if err != nil || len(list.Buckets) != 1 || *list.Buckets[0].Name != "b-1" || *list.Owner.ID != "alice" {
		t.Fatalf("ListBuckets = %+v, %v", list, err)
	}
	head, err := r.s3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: aws.String("b-1")})
	if err != nil || *head.BucketRegion != region {
		t.Fatalf("HeadBucket = %+v, %v", head, err)
	}
	if loc, err := r.s3.GetBucketLocation(ctx, &s3.GetBucketLocationInput{Bucket: aws.String("b-1")}); err != nil || loc.LocationConstraint != "" {
		t.Fatalf("GetBucketLocation = %+v, %v", loc, err)
	}
	r.put("k", "v")
	_, err = r.s3.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: aws.String("b-1")})
	wantCode(t, err, "BucketNotEmpty")
	if _, err := r.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String("b-1"), Key: aws.String("k")}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s3.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: aws.String("b-1")}); err != nil {
		t.Fatal(err)
	}
	_, err = r.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String("b-1")})
	wantCode(t, err, "NoSuchBucket")
}

func TestObjectRoundTrip(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	b := r.bucket()
	for _, size := range []int{0, 1, 70000, 3 << 20} {
		body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		key := fmt.Sprintf("dir/ä b+%%&/%d", size)
		for _, a := range types.ChecksumAlgorithm("").Values()[:5] {
			if !slices.Contains([]types.ChecksumAlgorithm{"CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"}, a) {
				continue
			}
			put, err := r.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &b, Key: &key, Body: bytes.NewReader(body), ChecksumAlgorithm: a,
				ContentType: aws.String("text/x-test"), CacheControl: aws.String("no-store"), ContentEncoding: aws.String("gzip"),
				Metadata: map[string]string{"Job-Id": "7"}})
			if err != nil {
				t.Fatalf("put %s: %v", a, err)
			}
			get, err := r.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: &key, ChecksumMode: types.ChecksumModeEnabled})
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(get.Body)
			if err != nil || !bytes.Equal(got, body) {
				t.Fatalf("%s: read %d bytes, %v", a, len(got), err)
			}
			if *get.ETag != *put.ETag || *get.ContentType != "text/x-test" || *get.ContentEncoding != "gzip" || get.Metadata["job-id"] != "7" || *get.ContentLength != int64(size) {
				t.Errorf("GetObject = %+v", get)
			}
			if get.ChecksumType != types.ChecksumTypeFullObject {
				t.Errorf("%s: checksum type = %q", a, get.ChecksumType)
			}
		}
	}
	_, err := r.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: aws.String("none")})
	wantCode(t, err, "NoSuchKey")
	_, err = r.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String("nobody"), Key: aws.String("k")})
	wantCode(t, err, "NoSuchBucket")
	_, err = r.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: aws.String("nobody"), Key: aws.String("k")})
	wantCode(t, err, "NoSuchBucket")
}

func TestRanges(t *testing.T) {
	r := newRig(t)
	r.bucket()
	r.put("k", "0123456789")
	r.put("empty", "")
	for _, c := range []struct {
		key, rng string
		status   int
		body     string
		content  string
	}{
		{"k", "bytes=0-3", 206, "0123", "bytes 0-3/10"},
		{"k", "bytes=4-", 206, "456789", "bytes 4-9/10"},
		{"k", "bytes=-3", 206, "789", "bytes 7-9/10"},
		{"k", "bytes=-99", 206, "0123456789", "bytes 0-9/10"},
		{"k", "bytes=8-99", 206, "89", "bytes 8-9/10"},
		{"k", "bytes=8-99999999999999999999", 206, "89", "bytes 8-9/10"},
		{"k", "bytes=10-", 416, "InvalidRange", "bytes */10"},
		{"k", "bytes=99-100", 416, "InvalidRange", "bytes */10"},
		{"k", "bytes=99999999999999999999-", 416, "InvalidRange", "bytes */10"},
		{"k", "bytes=-0", 416, "InvalidRange", "bytes */10"},
		{"k", "bytes=5-4", 200, "0123456789", ""},
		{"k", "bytes=0-1,3-4", 200, "0123456789", ""},
		{"k", "chars=0-1", 200, "0123456789", ""},
		{"k", "bytes=a-b", 200, "0123456789", ""},
		{"empty", "bytes=0-", 416, "InvalidRange", "bytes */0"},
		{"empty", "bytes=-1", 200, "", ""},
		{"k", "bytes= -1", 200, "0123456789", ""},
		{"empty", "", 200, "", ""},
	} {
		res, body := r.do("GET", "/b-1/"+c.key, nil, "Range", c.rng)
		if res.StatusCode == 416 {
			body = code(body)
		}
		if res.StatusCode != c.status || body != c.body || res.Header.Get("Content-Range") != c.content {
			t.Errorf("%s %q: %d %q %q, want %d %q %q", c.key, c.rng, res.StatusCode, body, res.Header.Get("Content-Range"), c.status, c.body, c.content)
		}
		if head, body := r.do("HEAD", "/b-1/"+c.key, nil, "Range", c.rng); head.StatusCode != c.status || body != "" {
			t.Errorf("HEAD %q: %d %q, want %d", c.rng, head.StatusCode, body, c.status)
		}
	}
	if res, body := r.do("GET", "/b-1/k", nil, "Range", "bytes=0-1", "If-Range", `"other"`); res.StatusCode != 200 || body != "0123456789" {
		t.Errorf("If-Range of another version: %d %q", res.StatusCode, body)
	}
}

func TestReadConditions(t *testing.T) {
	r := newRig(t)
	r.bucket()
	r.put("k", "v")
	head, _ := r.do("HEAD", "/b-1/k", nil)
	tag := head.Header.Get("ETag")
	epoch, err := http.ParseTime(head.Header.Get("Last-Modified"))
	if err != nil {
		t.Fatal(err)
	}
	before, after := epoch.Add(-time.Hour).Format(http.TimeFormat), epoch.Add(time.Hour).Format(http.TimeFormat)
	for _, c := range []struct {
		headers []string
		want    int
	}{
		{[]string{"If-Match", tag}, 200},
		{[]string{"If-Match", "*"}, 200},
		{[]string{"If-Match", `"a", ` + tag}, 200},
		{[]string{"If-Match", `"a"`}, 412},
		{[]string{"If-None-Match", tag}, 304},
		{[]string{"If-None-Match", strings.Trim(tag, `"`)}, 304},
		{[]string{"If-None-Match", `"a"`}, 200},
		{[]string{"If-Modified-Since", after}, 304},
		{[]string{"If-Modified-Since", before}, 200},
		{[]string{"If-Unmodified-Since", before}, 412},
		{[]string{"If-Unmodified-Since", after}, 200},
		{[]string{"If-Match", tag, "If-Unmodified-Since", before}, 200},
		{[]string{"If-None-Match", `"a"`, "If-Modified-Since", after}, 200},
		{[]string{"If-None-Match", tag, "If-Modified-Since", before}, 304},
		{[]string{"If-None-Match", tag, "Range", "bytes=99-"}, 304},
		{[]string{"If-Modified-Since", "nonsense"}, 200},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			if res, _ := r.do(method, "/b-1/k", nil, c.headers...); res.StatusCode != c.want {
				t.Errorf("%s %v = %d, want %d", method, c.headers, res.StatusCode, c.want)
			} else if c.want == 304 && res.Header.Get("ETag") != tag {
				t.Errorf("%v: 304 without ETag", c.headers)
			}
		}
	}
}

func TestWriteConditions(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	b := r.bucket()
	put := func(match, none string) error {
		in := &s3.PutObjectInput{Bucket: &b, Key: aws.String("k"), Body: strings.NewReader("x")}
		if match != "" {
			in.IfMatch = &match
		}
		if none != "" {
			in.IfNoneMatch = &none
		}
		_, err := r.s3.PutObject(ctx, in)
		return err
	}
	wantCode(t, put(`"a"`, ""), "NoSuchKey")
	if err := put("", "*"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, put("", "*"), "PreconditionFailed")
	wantCode(t, put(`"a"`, ""), "PreconditionFailed")
	wantCode(t, put("", `"a"`), "NotImplemented")
	if err := put(`"9dd4e461268c8034f5c8564e155c67a6"`, ""); err != nil {
		t.Error(err)
	}
}

func TestListing(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	b := r.bucket()
	keys := []string{"a", "a&<>\"", "d/", "d/1", "d/2", "e/./y", "e//x", "new\nline", "z"}
	for _, k := range keys {
		r.put(k, "")
	}
	for _, size := range []int32{1, 2, 3, 1000} {
		var got []string
		p := s3.NewListObjectsV2Paginator(r.s3, &s3.ListObjectsV2Input{Bucket: &b, MaxKeys: &size, EncodingType: types.EncodingTypeUrl})
		for p.HasMorePages() {
			page, err := p.NextPage(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page.Contents {
				got = append(got, decode(t, *o.Key))
			}
		}
		if d := cmp.Diff(keys, got); d != "" {
			t.Errorf("V2 by %d: %s", size, d)
		}
		got = nil
		in := &s3.ListObjectsInput{Bucket: &b, MaxKeys: &size, Delimiter: aws.String("/")}
		for {
			page, err := r.s3.ListObjects(ctx, in)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range page.Contents {
				got = append(got, *o.Key)
			}
			for _, o := range page.CommonPrefixes {
				got = append(got, *o.Prefix)
			}
			if !*page.IsTruncated {
				break
			}
			in.Marker = page.NextMarker
		}
		want := []string{"a", "a&<>\"", "d/", "e/", "new\nline", "z"}
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("V1 by %d: %s", size, d)
		}
	}
	out, err := r.s3.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &b, Prefix: aws.String("d/")})
	if err != nil || len(out.Versions) != 3 || *out.Versions[0].VersionId != "null" {
		t.Errorf("ListObjectVersions = %+v, %v", out, err)
	}
	if res, _ := r.do("GET", "/b-1?list-type=2&max-keys=0", nil); res.StatusCode != 200 {
		t.Errorf("max-keys=0: %d", res.StatusCode)
	}
	for _, q := range []string{"max-keys=-1", "max-keys=x", "max-keys=99999999999", "encoding-type=x", "continuation-token=", "continuation-token=Zm9v"} {
		if res, body := r.do("GET", "/b-1?list-type=2&"+q, nil); res.StatusCode != 400 || code(body) != "InvalidArgument" {
			t.Errorf("%s: %d %s", q, res.StatusCode, body)
		}
	}
}

func TestDelete(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	b := r.bucket()
	var ids []types.ObjectIdentifier
	for i := range 40 {
		key := fmt.Sprintf("k%02d", i)
		r.put(key, "x")
		ids = append(ids, types.ObjectIdentifier{Key: &key})
	}
	long := strings.Repeat("k", 1025)
	ids = append(ids, types.ObjectIdentifier{Key: aws.String("none")}, types.ObjectIdentifier{Key: &long})
	out, err := r.s3.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &b, Delete: &types.Delete{Objects: ids}})
	if err != nil || len(out.Deleted) != 41 || len(out.Errors) != 1 || *out.Errors[0].Code != "KeyTooLongError" {
		t.Fatalf("DeleteObjects = %+v, %v", out, err)
	}
	if left, err := r.s3.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &b}); err != nil || len(left.Contents) != 0 {
		t.Errorf("left = %+v, %v", left, err)
	}
	r.put("q", "x")
	out, err = r.s3.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &b, Delete: &types.Delete{Objects: []types.ObjectIdentifier{{Key: aws.String("q")}}, Quiet: aws.Bool(true)}})
	if err != nil || len(out.Deleted) != 0 {
		t.Errorf("quiet = %+v, %v", out, err)
	}
}

func TestMarkers(t *testing.T) {
	r := newRig(t)
	r.bucket()
	r.put("d/", "")
	r.put("d/f", "x")
	if res, body := r.do("GET", "/b-1/d/", nil); res.StatusCode != 200 || body != "" || res.Header.Get("ETag") != `"d41d8cd98f00b204e9800998ecf8427e"` {
		t.Errorf("GET marker: %d %q %v", res.StatusCode, body, res.Header)
	}
	if res, _ := r.do("HEAD", "/b-1/d/", nil); res.StatusCode != 200 {
		t.Errorf("HEAD marker: %d", res.StatusCode)
	}
	if res, body := r.do("PUT", "/b-1/e/", []byte("bytes")); res.StatusCode != 400 || code(body) != "InvalidArgument" {
		t.Errorf("PUT of bytes: %d %s", res.StatusCode, body)
	}
	if res, body := r.do("PUT", "/b-1/g/", nil, "X-Amz-Copy-Source", "b-1/d/"); res.StatusCode != 200 {
		t.Errorf("copy of a marker: %d %s", res.StatusCode, body)
	}
	if res, _ := r.do("DELETE", "/b-1/d/", nil); res.StatusCode != 204 {
		t.Errorf("DELETE marker: %d", res.StatusCode)
	}
	if res, _ := r.do("HEAD", "/b-1/d/", nil); res.StatusCode != 404 {
		t.Errorf("HEAD of an implied directory: %d", res.StatusCode)
	}
}

func TestCopy(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	b := r.bucket()
	if _, err := r.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: &b, Key: aws.String("a b+c"), Body: strings.NewReader("x"), Metadata: map[string]string{"m": "1"}}); err != nil {
		t.Fatal(err)
	}
	copyTo := func(dst string, change func(*s3.CopyObjectInput)) error {
		in := &s3.CopyObjectInput{Bucket: &b, Key: &dst, CopySource: aws.String("b-1/a%20b%2Bc")}
		change(in)
		_, err := r.s3.CopyObject(ctx, in)
		return err
	}
	if err := copyTo("c", func(*s3.CopyObjectInput) {}); err != nil {
		t.Fatal(err)
	}
	head, err := r.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b, Key: aws.String("c")})
	if err != nil || head.Metadata["m"] != "1" {
		t.Errorf("HeadObject = %+v, %v", head, err)
	}
	wantCode(t, copyTo("a b+c", func(*s3.CopyObjectInput) {}), "InvalidRequest")
	err = copyTo("a b+c", func(in *s3.CopyObjectInput) {
		in.MetadataDirective, in.Metadata = types.MetadataDirectiveReplace, map[string]string{"m": "2"}
	})
	if err != nil {
		t.Error(err)
	}
	wantCode(t, copyTo("d", func(in *s3.CopyObjectInput) { in.CopySourceIfMatch = aws.String(`"no"`) }), "PreconditionFailed")
	wantCode(t, copyTo("d", func(in *s3.CopyObjectInput) { in.CopySourceIfNoneMatch = head.ETag }), "PreconditionFailed")
	wantCode(t, copyTo("d", func(in *s3.CopyObjectInput) { in.CopySourceIfModifiedSince = aws.Time(time.Now().Add(time.Hour)) }), "PreconditionFailed")
	wantCode(t, copyTo("d", func(in *s3.CopyObjectInput) { in.CopySource = aws.String("b-1/none") }), "NoSuchKey")
	wantCode(t, copyTo("d", func(in *s3.CopyObjectInput) { in.CopySource = aws.String("nobody/k") }), "NoSuchBucket")
	wantCode(t, copyTo("d", func(in *s3.CopyObjectInput) { in.CopySource = aws.String("b-1") }), "InvalidArgument")
	wantCode(t, copyTo("d", func(in *s3.CopyObjectInput) { in.Bucket = aws.String("nobody") }), "NoSuchBucket")
}

func TestMultipart(t *testing.T) {
	for _, a := range []struct {
		algorithm types.ChecksumAlgorithm
		kind      types.ChecksumType
	}{{"", ""}, {"CRC32", "COMPOSITE"}, {"CRC32", "FULL_OBJECT"}, {"CRC64NVME", ""}, {"SHA256", ""}} {
		t.Run(string(a.algorithm+"/"+types.ChecksumAlgorithm(a.kind)), func(t *testing.T) { testMultipart(t, a.algorithm, a.kind) })
	}
}

func testMultipart(t *testing.T, algorithm types.ChecksumAlgorithm, kind types.ChecksumType) {
	r := newRig(t)
	ctx := t.Context()
	b, key := r.bucket(), aws.String("big")
	up, err := r.s3.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b, Key: key, ContentType: aws.String("text/x"), ChecksumAlgorithm: algorithm, ChecksumType: kind})
	if err != nil {
		t.Fatal(err)
	}
	body := bytes.Repeat([]byte("x"), 5<<20)
	var parts []types.CompletedPart
	for i, data := range [][]byte{body, []byte("tail")} {
		n := int32(i + 1)
		p, err := r.s3.UploadPart(ctx, &s3.UploadPartInput{Bucket: &b, Key: key, UploadId: up.UploadId, PartNumber: &n, Body: bytes.NewReader(data), ChecksumAlgorithm: algorithm})
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, types.CompletedPart{PartNumber: &n, ETag: p.ETag, ChecksumCRC32: p.ChecksumCRC32, ChecksumCRC64NVME: p.ChecksumCRC64NVME, ChecksumSHA256: p.ChecksumSHA256})
	}
	cp, err := r.s3.UploadPartCopy(ctx, &s3.UploadPartCopyInput{Bucket: &b, Key: key, UploadId: up.UploadId, PartNumber: aws.Int32(3), CopySource: aws.String("b-1/none")})
	wantCode(t, err, "NoSuchKey")
	r.put("src", "0123456789")
	cp, err = r.s3.UploadPartCopy(ctx, &s3.UploadPartCopyInput{Bucket: &b, Key: key, UploadId: up.UploadId, PartNumber: aws.Int32(3), CopySource: aws.String("b-1/src"), CopySourceRange: aws.String("bytes=2-4")})
	if err != nil || cp.CopyPartResult.ETag == nil {
		t.Fatalf("UploadPartCopy = %+v, %v", cp, err)
	}
	_, err = r.s3.UploadPartCopy(ctx, &s3.UploadPartCopyInput{Bucket: &b, Key: key, UploadId: up.UploadId, PartNumber: aws.Int32(3), CopySource: aws.String("b-1/src"), CopySourceRange: aws.String("bytes=2-40")})
	wantCode(t, err, "InvalidArgument")
	list, err := r.s3.ListParts(ctx, &s3.ListPartsInput{Bucket: &b, Key: key, UploadId: up.UploadId, MaxParts: aws.Int32(2)})
	if err != nil || len(list.Parts) != 2 || !*list.IsTruncated || *list.NextPartNumberMarker != "2" {
		t.Fatalf("ListParts = %+v, %v", list, err)
	}
	ups, err := r.s3.ListMultipartUploads(ctx, &s3.ListMultipartUploadsInput{Bucket: &b})
	if err != nil || len(ups.Uploads) != 1 || *ups.Uploads[0].Key != "big" {
		t.Fatalf("ListMultipartUploads = %+v, %v", ups, err)
	}
	complete := func(parts ...types.CompletedPart) (*s3.CompleteMultipartUploadOutput, error) {
		return r.s3.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: &b, Key: key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}})
	}
	_, err = complete(parts[1], parts[0])
	wantCode(t, err, "InvalidPartOrder")
	_, err = complete(types.CompletedPart{PartNumber: aws.Int32(1), ETag: aws.String("bad")})
	wantCode(t, err, "InvalidPart")
	third := types.CompletedPart{PartNumber: aws.Int32(3), ETag: cp.CopyPartResult.ETag, ChecksumCRC32: cp.CopyPartResult.ChecksumCRC32, ChecksumSHA256: cp.CopyPartResult.ChecksumSHA256}
	_, err = complete(parts[0], parts[1], third)
	wantCode(t, err, "EntityTooSmall")
	_, err = complete()
	wantCode(t, err, "MalformedXML")
	for range 2 { // the second repeats a success
		out, err := complete(parts...)
		if err != nil || !strings.HasSuffix(*out.ETag, `-2"`) {
			t.Fatalf("CompleteMultipartUpload = %+v, %v", out, err)
		}
	}
	get, err := r.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: key, PartNumber: aws.Int32(2)})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(get.Body); string(got) != "tail" || *get.PartsCount != 2 || *get.ContentRange != "bytes 5242880-5242883/5242884" {
		t.Errorf("part 2 = %q, %+v", got, get)
	}
	_, err = r.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: key, PartNumber: aws.Int32(3)})
	wantCode(t, err, "InvalidPartNumber")
	whole, err := r.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: key, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(whole.Body); err != nil || len(got) != 5<<20+4 {
		t.Errorf("whole = %d bytes, %v", len(got), err)
	}
	attrs, err := r.s3.GetObjectAttributes(ctx, &s3.GetObjectAttributesInput{Bucket: &b, Key: key, ObjectAttributes: types.ObjectAttributesEtag.Values()})
	if err != nil || *attrs.ObjectSize != 5<<20+4 || *attrs.ObjectParts.TotalPartsCount != 2 || len(attrs.ObjectParts.Parts) != 2 {
		t.Errorf("GetObjectAttributes = %+v, %v", attrs, err)
	}
	if algorithm != "" && attrs.Checksum == nil {
		t.Errorf("no checksum kept")
	}
	_, err = r.s3.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b, Key: key, UploadId: up.UploadId})
	wantCode(t, err, "NoSuchUpload")
}

func TestListUploads(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	b := r.bucket()
	for _, k := range []string{"a", "d/1", "d/2", "d/2", "z"} {
		if _, err := r.s3.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: &b, Key: &k}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		delimiter string
		want      []string
	}{{"", []string{"a", "d/1", "d/2", "d/2", "z"}}, {"/", []string{"a", "d/", "z"}}} {
		for _, n := range []int32{1, 2, 1000} {
			var got []string
			in := &s3.ListMultipartUploadsInput{Bucket: &b, MaxUploads: &n, Delimiter: &c.delimiter}
			for {
				page, err := r.s3.ListMultipartUploads(ctx, in)
				if err != nil {
					t.Fatal(err)
				}
				for _, u := range page.Uploads {
					got = append(got, *u.Key)
				}
				for _, u := range page.CommonPrefixes {
					got = append(got, *u.Prefix)
				}
				if !*page.IsTruncated {
					break
				}
				in.KeyMarker, in.UploadIdMarker = page.NextKeyMarker, page.NextUploadIdMarker
			}
			slices.Sort(got)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("delimiter %q by %d: %s", c.delimiter, n, d)
			}
		}
	}
}

func TestPresigned(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	b := r.bucket()
	r.put("k", "v")
	req, err := s3.NewPresignClient(r.s3).PresignGetObject(ctx, &s3.GetObjectInput{Bucket: &b, Key: aws.String("k"), ResponseContentType: aws.String("text/html")})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Get(req.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, _ := io.ReadAll(res.Body); string(got) != "v" || res.Header.Get("Content-Type") != "text/html" {
		t.Errorf("presigned GET: %d %q %v", res.StatusCode, got, res.Header)
	}
	res, err = http.Get(strings.Replace(req.URL, "text", "mext", 1))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 403 {
		t.Errorf("changed presigned GET: %d", res.StatusCode)
	}
}

func TestUnsetConfiguration(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	b := r.bucket()
	r.put("k", "v")
	if v, err := r.s3.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &b}); err != nil || v.Status != "" {
		t.Errorf("GetBucketVersioning = %+v, %v", v, err)
	}
	if acl, err := r.s3.GetObjectAcl(ctx, &s3.GetObjectAclInput{Bucket: &b, Key: aws.String("k")}); err != nil || *acl.Owner.ID != "alice" || acl.Grants[0].Permission != "FULL_CONTROL" {
		t.Errorf("GetObjectAcl = %+v, %v", acl, err)
	}
	if tags, err := r.s3.GetObjectTagging(ctx, &s3.GetObjectTaggingInput{Bucket: &b, Key: aws.String("k")}); err != nil || len(tags.TagSet) != 0 {
		t.Errorf("GetObjectTagging = %+v, %v", tags, err)
	}
	for q, want := range map[string]string{
		"policy": "NoSuchBucketPolicy", "tagging": "NoSuchTagSet", "lifecycle": "NoSuchLifecycleConfiguration", "cors": "NoSuchCORSConfiguration",
		"encryption": "ServerSideEncryptionConfigurationNotFoundError", "object-lock": "ObjectLockConfigurationNotFoundError",
		"website": "NoSuchWebsiteConfiguration", "replication": "ReplicationConfigurationNotFoundError",
		"publicAccessBlock": "NoSuchPublicAccessBlockConfiguration", "ownershipControls": "OwnershipControlsNotFoundError",
	} {
		if res, body := r.do("GET", "/b-1?"+q, nil); res.StatusCode != 404 || code(body) != want {
			t.Errorf("%s: %d %s, want %s", q, res.StatusCode, body, want)
		}
		if _, body := r.do("GET", "/nobody?"+q, nil); code(body) != "NoSuchBucket" {
			t.Errorf("%s of no bucket: %s", q, body)
		}
		if res, body := r.do("PUT", "/b-1?"+q, []byte("<x/>")); res.StatusCode != 501 || code(body) != "NotImplemented" {
			t.Errorf("PUT %s: %d %s", q, res.StatusCode, body)
		}
	}
	for _, q := range []string{"requestPayment", "logging", "notification", "accelerate"} {
		if res, body := r.do("GET", "/b-1?"+q, nil); res.StatusCode != 200 {
			t.Errorf("%s: %d %s", q, res.StatusCode, body)
		}
	}
}
