package s3api_test

import (
	"crypto/md5"
	"encoding/base64"
	"flag"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite testdata/shapes.txt with what the server answers")

// varying is what differs from run to run.
var varying = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`<(RequestId|HostId|UploadId|NextUploadIdMarker)>[^<]+<`), "<$1>…<"},
	{regexp.MustCompile(`<(LastModified|CreationDate|Initiated)>[0-9T:.Z-]+<`), "<$1>…<"},
	{regexp.MustCompile(`<Location>http://[^/]+/`), "<Location>http://…/"},
}

// TestShapes compares the answers to a conversation with testdata/shapes.txt: a change of the wire is a diff to read.
func TestShapes(t *testing.T) {
	r := newRig(t)
	var out strings.Builder
	say := func(method, path, body string, headers ...string) string {
		t.Helper()
		if strings.HasSuffix(path, "?delete") {
			sum := md5.Sum([]byte(body))
			headers = append(headers, "Content-MD5", base64.StdEncoding.EncodeToString(sum[:]))
		}
		res, got := r.do(method, path, []byte(body), headers...)
		fmt.Fprintf(&out, "%s %s\n", method, regexp.MustCompile(`uploadId=[^&]+`).ReplaceAllString(path, "uploadId=…"))
		if body != "" {
			fmt.Fprintf(&out, "> %s\n", regexp.MustCompile(`x{9,}`).ReplaceAllString(body, "x…"))
		}
		fmt.Fprintf(&out, "%d\n", res.StatusCode)
		writeHeaders(&out, res.Header)
		text := got
		for _, v := range varying {
			text = v.pattern.ReplaceAllString(text, v.by)
		}
		fmt.Fprintf(&out, "%s\n\n", strings.ReplaceAll(text, "><", ">\n<"))
		return got
	}
	say("PUT", "/b-1", "")
	say("GET", "/", "")
	say("PUT", "/b-1/a%26b%0A", "hello", "Content-Type", "text/plain", "x-amz-meta-Who", "me")
	say("PUT", "/b-1/d/1", "x", "x-amz-checksum-crc32", "jNwWgw==", "x-amz-sdk-checksum-algorithm", "CRC32")
	say("PUT", "/b-1/e/", "")
	say("HEAD", "/b-1/a%26b%0A", "", "x-amz-checksum-mode", "ENABLED")
	say("GET", "/b-1/a%26b%0A", "", "Range", "bytes=1-2")
	say("GET", "/b-1?delimiter=/", "")
	say("GET", "/b-1?list-type=2&fetch-owner=true&max-keys=1", "")
	say("GET", "/b-1?list-type=2&encoding-type=url&prefix=a%26&start-after=a", "")
	say("GET", "/b-1?versions&delimiter=/", "")
	say("PUT", "/b-1/c", "", "x-amz-copy-source", "/b-1/d/1")
	say("GET", "/b-1/c?attributes", "", "x-amz-object-attributes", "ETag,Checksum,ObjectSize,StorageClass")
	say("GET", "/b-1/c?acl", "")
	say("GET", "/b-1/c?tagging", "")
	say("POST", "/b-1?delete", "<Delete><Object><Key>c</Key></Object><Object><Key>none</Key><VersionId>7</VersionId></Object></Delete>")
	got := say("POST", "/b-1/m%2Fp?uploads", "", "x-amz-checksum-algorithm", "CRC32C")
	_, rest, _ := strings.Cut(got, "<UploadId>")
	id, _, _ := strings.Cut(rest, "</UploadId>")
	say("PUT", "/b-1/m%2Fp?partNumber=1&uploadId="+id, "part", "x-amz-checksum-crc32c", "cP5/Xg==")
	say("GET", "/b-1/m%2Fp?uploadId="+id, "")
	say("GET", "/b-1?uploads", "")
	say("POST", "/b-1/m%2Fp?uploadId="+id, "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\"x\"</ETag></Part></CompleteMultipartUpload>")
	say("POST", "/b-1/m%2Fp?uploadId="+id, `<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"f4c9385f1902f7334b00b9b4ecd164de"</ETag><ChecksumCRC32C>cP5/Xg==</ChecksumCRC32C></Part></CompleteMultipartUpload>`)
	say("DELETE", "/b-1/m%2Fp?uploadId="+id, "")
	say("GET", "/b-1?location", "")
	say("GET", "/b-1?policy", "")
	say("GET", "/b-1/none", "")
	say("PUT", "/b-1?versioning", "<x/>")
	say("DELETE", "/b-1", "")

	const golden = "testdata/shapes.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), out.String()); d != "" {
		t.Errorf("the wire changed (run with -update and read the diff):\n%s", d)
	}
}

// writeHeaders writes what an operation says in headers, in order.
func writeHeaders(out *strings.Builder, h http.Header) {
	var lines []string
	for k, v := range h {
		switch k {
		case "Date", "X-Amz-Request-Id", "X-Amz-Id-2", "Server", "Last-Modified", "Content-Length", "Age":
		default:
			lines = append(lines, k+": "+v[0])
		}
	}
	slices.Sort(lines)
	for _, l := range lines {
		fmt.Fprintln(out, l)
	}
}
