package s3api_test

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"
)

// TestWholeChecksumIsNeverDropped completes uploads that announced no checksum.
func TestWholeChecksumIsNeverDropped(t *testing.T) {
	r := newRig(t)
	r.bucket()
	const wrong = "AAAAAA=="
	for _, c := range []struct {
		name                string
		kept                bool
		header, value, want string
	}{
		{"not kept", false, "x-amz-checksum-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "InvalidRequest"},
		{"not kept at all", false, "x-amz-checksum-crc32", wrong, "InvalidRequest"},
		{"wrong", true, "x-amz-checksum-crc32", wrong, "BadDigest"},
		{"wrong composite", true, "x-amz-checksum-crc32", wrong + "-1", "BadDigest"},
		{"right", true, "x-amz-checksum-crc32", crc32Of("part"), ""},
		{"another than kept", true, "x-amz-checksum-crc32c", wrong, "InvalidRequest"},
		{"not base64", true, "x-amz-checksum-crc32", "?", "InvalidRequest"},
	} {
		_, started := r.do("POST", "/b-1/d/k?uploads", nil)
		_, id, _ := strings.Cut(started, "<UploadId>")
		id, _, _ = strings.Cut(id, "</UploadId>")
		var headers []string
		if c.kept {
			headers = append(headers, "x-amz-checksum-crc32", crc32Of("part"))
		}
		part, answer := r.do("PUT", "/b-1/d/k?partNumber=1&uploadId="+id, []byte("part"), headers...)
		if part.StatusCode != 200 || strings.Contains(started, "Checksum") {
			t.Fatalf("%s, %s", started, answer)
		}
		doc := "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>" + part.Header.Get("ETag") + "</ETag></Part></CompleteMultipartUpload>"
		res, answer := r.do("POST", "/b-1/d/k?uploadId="+id, []byte(doc), c.header, c.value)
		if code(answer) != c.want {
			t.Errorf("%s: %d %s, want %q", c.name, res.StatusCode, answer, c.want)
		}
	}
}

func crc32Of(s string) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE([]byte(s))))
}
