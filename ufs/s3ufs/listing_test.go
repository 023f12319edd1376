package s3ufs

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/sluicefs/sluice/ufs/ufstest"
)

// listingPages are answers as services write them.
var listingPages = []string{
	`<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix></Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken><Contents><Key>a%26b</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;d41d8cd98f00b204e9800998ecf8427e-3&quot;</ETag><ChecksumAlgorithm>CRC32</ChecksumAlgorithm><Size>12345678901</Size><Owner><ID>1</ID><DisplayName>n &amp; m</DisplayName></Owner><StorageClass>STANDARD</StorageClass></Contents><Contents><Key>d/</Key><LastModified>2026-01-02T03:04:05Z</LastModified><ETag>"x"</ETag><Size>0</Size></Contents><CommonPrefixes><Prefix>e/</Prefix></CommonPrefixes></ListBucketResult>`,
	`<?xml version='1.0' encoding='utf-8'?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <Name>b</Name>
  <IsTruncated>false</IsTruncated>
  <Contents>
    <Key>ä &lt;&gt; &apos;x</Key>
    <LastModified>2026-01-02T03:04:05.000Z</LastModified>
    <Size>7</Size>
  </Contents>
  <Contents><Size>7</Size></Contents>
</ListBucketResult>
`,
	`<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>`,
}

// strangePages are those that are left to the SDK, or are none.
var strangePages = []string{
	"", "x", "<a/>", `<Error><Code>SlowDown</Code></Error>`, listingPages[0][:len(listingPages[0])-1], listingPages[0] + "x", listingPages[0] + listingPages[2],
	`<ListBucketResult><contents><Key>a</Key></contents></ListBucketResult>`,
	`<s:ListBucketResult xmlns:s="x"><s:Contents><s:Key>a</s:Key></s:Contents></s:ListBucketResult>`,
	`<ListBucketResult><Contents><Key>a&#x41;</Key></Contents></ListBucketResult>`,
	`<ListBucketResult><Contents><Key>a&amp</Key></Contents></ListBucketResult>`,
	`<ListBucketResult><Contents><Key>&amp;amp;</Key></Contents></ListBucketResult>`,
	`<ListBucketResult><Contents><Key><![CDATA[a]]></Key></Contents></ListBucketResult>`,
	`<ListBucketResult><!-- x --><Contents><Key>a<!-- y -->b</Key></Contents></ListBucketResult>`,
	`<ListBucketResult><Contents><Key>a</Key></ListBucketResult>`,
	`<ListBucketResult><Contents><Key>a</Key><Size>x</Size></Contents></ListBucketResult>`,
	`<ListBucketResult><Contents><Key>a</Key><LastModified>now</LastModified></Contents></ListBucketResult>`,
	`<ListBucketResult><Contents><Key a="b">a</Key></Contents><Delimiter/></ListBucketResult>`,
	"<ListBucketResult><Contents><Key>a\r\nb\x01</Key></Contents></ListBucketResult>", "<ListBucketResult><Contents><Key>\xff</Key></Contents></ListBucketResult>",
}

// TestReadListing has the SDK and the short way read the same answers: whole ones, strange ones, and such as a broken service gives.
func TestReadListing(t *testing.T) {
	body, broken := "", false
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		if broken {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)+1))
		}
		_, _ = io.WriteString(w, body)
	}))
	defer service.Close()
	c := s3.New(s3.Options{Region: "r", BaseEndpoint: &service.URL, UsePathStyle: true, RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider("k", "s", "")})
	ask := func(o ...func(*s3.Options)) (*s3.ListObjectsV2Output, error) {
		out, err := c.ListObjectsV2(t.Context(), &s3.ListObjectsV2Input{Bucket: aws.String("b")}, o...)
		if err != nil {
			return nil, err
		}
		less := &s3.ListObjectsV2Output{KeyCount: out.KeyCount, CommonPrefixes: out.CommonPrefixes, IsTruncated: out.IsTruncated, NextContinuationToken: out.NextContinuationToken, EncodingType: out.EncodingType}
		for _, o := range out.Contents {
			o.StorageClass, o.Owner, o.ChecksumAlgorithm = "", nil, nil
			less.Contents = append(less.Contents, o)
		}
		return less, nil
	}
	same := func() {
		t.Helper()
		want, werr := ask()
		got, err := ask(readListing)
		if (err == nil) != (werr == nil) || !reflect.DeepEqual(got, want) {
			t.Errorf("of %q\ngot %+v, %v\nwant %+v, %v", body, got, err, want, werr)
		}
	}
	for _, body = range listingPages {
		if _, ok := parseListing([]byte(body)); !ok {
			t.Errorf("is left to the SDK: %s", body)
		}
		same()
		broken = true
		same()
		broken = false
	}
	for _, body = range strangePages {
		same()
	}
	r := rand.New(rand.NewPCG(1, 2))
	bits := strings.Split("<|>|/|&|;|\"|x|&amp;|</Key>|<Key>|</Contents>|<Contents>|<Size>|7| |\n|é|]]>|<?|", "|")
	for range 3000 {
		from := listingPages[r.IntN(len(listingPages))]
		at := r.IntN(len(from))
		end := min(len(from), at+r.IntN(4)*r.IntN(8))
		body = from[:at] + bits[r.IntN(len(bits))] + from[end:]
		if _, ok := parseListing([]byte(body)); ok { // what is left to the SDK is the same
			same()
		}
	}
}

// TestListsInTurns checks that the pages of a listing are read, and made entries of, in turns that nobody has while the service is
// waited for: pages that are read here, and pages that are left to the SDK.
func TestListsInTurns(t *testing.T) {
	for what, strange := range map[string]string{"read here": "", "left to the SDK": "<!-- -->"} {
		t.Run(what, func(t *testing.T) {
			var turns ufstest.Turns
			service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				turns.Want(t, 0, "while the service is asked")
				name, more := "a", `<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>`
				if r.URL.Query().Has("continuation-token") {
					name, more = "b", `<IsTruncated>false</IsTruncated>`
				}
				_, _ = fmt.Fprintf(w, "<ListBucketResult>%s%s<Contents><Key>%s</Key>", strange, more, name)
				w.(http.Flusher).Flush()
				turns.Want(t, 0, "while the answer comes")
				_, _ = io.WriteString(w, "</Contents></ListBucketResult>")
			}))
			defer service.Close()
			turns.WantTurns(t, at(t, service.URL), 2, 2)
		})
	}
}

// BenchmarkParseListing reads a page of a thousand keys.
func BenchmarkParseListing(b *testing.B) {
	var page strings.Builder
	page.WriteString(`<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><IsTruncated>false</IsTruncated>`)
	for i := range 1000 {
		fmt.Fprintf(&page, "<Contents><Key>table/day%%3D00001/part-%08d.parquet</Key><LastModified>2026-01-02T03:%02d:%02d.000Z</LastModified><ETag>&quot;%032x&quot;</ETag><Size>%d</Size><StorageClass>STANDARD</StorageClass></Contents>", i, i/60, i%60, i, i)
	}
	page.WriteString("</ListBucketResult>")
	text := []byte(page.String())
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if out, ok := parseListing(text); !ok || len(out.Contents) != 1000 {
			b.Fatal("is left to the SDK")
		}
	}
}
