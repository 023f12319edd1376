package conformance

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// Bad input to the built binary: each piece is answered with the protocol's own error, and nothing changes.

// abuse is a server with something in it, and the count of cases.
type abuse struct {
	*testing.T
	rig    *rig
	before map[string]string
	cases  int
}

// want is an answer: the status, and S3's code, the Java class or a text of the message.
type want struct {
	status int
	code   string
}

// TestAbuse sends bad requests to a server whose WebHDFS asks for key pairs.
func TestAbuse(t *testing.T) {
	a := &abuse{T: t, rig: newRig(Start(t, Options{Args: []string{"--webhdfs-auth", "basic"}}))}
	a.rig.basic = true
	a.rig.mkbucket(t, "abuse")
	lake := t.TempDir()
	a.rig.mount(t, "/lake", "file://"+lake)
	a.rig.mustPut(t, "/abuse/kept", content{"kept", 1, 5000})
	a.rig.mustPut(t, "/abuse/dir/kept", content{"dir/kept", 1, 10})
	a.rig.mustPut(t, "/lake/kept", content{"lake/kept", 1, 10})
	a.before = a.rig.picture(t, "/")
	for _, group := range []struct {
		name string
		run  func()
	}{
		{"wrong secret on S3", a.wrongSecretS3}, {"wrong secret on WebHDFS", a.wrongSecretHDFS}, {"wrong secret on the admin API", a.wrongSecretAdmin},
		{"signed streams", a.streams}, {"cut bodies", a.cutBodies}, {"names", a.names}, {"documents", a.documents},
		{"ranges and parameters", a.parameters}, {"digests", a.digests}, {"admin API", a.adminAPI}, {"half requests", a.halfRequests},
	} {
		t.Run(group.name, func(t *testing.T) {
			a.T = t
			group.run()
			a.rig.unchanged(t, a.before, group.name)
		})
	}
	eventually(t, 10*time.Second, func() error {
		if left := files(t, filepath.Join(a.rig.Data, "root", ".sluice")); len(left) > 0 {
			return fmt.Errorf("left in staging: %v", sorted(left))
		}
		return nil
	})
	Minimum(t, "abuse", a.cases)
}

// s3 sends a request and compares the answer.
func (a *abuse) s3(what string, q raw, w want) {
	a.Helper()
	a.cases++
	status, h, body := a.rig.do(a, q)
	if status != w.status {
		a.Errorf("%s: got %d %.300s, want %d %s", what, status, body, w.status, w.code)
		return
	}
	if q.method == "HEAD" || w.code == "" {
		return
	}
	var doc struct {
		XMLName         xml.Name
		Code, RequestId string
	}
	if err := xml.Unmarshal(body, &doc); err != nil || doc.XMLName.Local != "Error" || doc.Code != w.code {
		a.Errorf("%s: got %.300s, want the code %s", what, body, w.code)
	}
	if id := h.Get("X-Amz-Request-Id"); id == "" || doc.RequestId != id {
		a.Errorf("%s: the request id is %q in the header, %q in the document", what, id, doc.RequestId)
	}
}

// hdfs sends a request and compares the answer.
func (a *abuse) hdfs(what string, q raw, w want) {
	a.Helper()
	a.cases++
	status, _, body := a.rig.do(a, q)
	if status != w.status {
		a.Errorf("%s: got %d %.300s, want %d %s", what, status, body, w.status, w.code)
		return
	}
	if q.method == "HEAD" || q.method == "OPTIONS" {
		return
	}
	if e, ok := remoteException(status, body).(*hdfsError); !ok || e.Exception != w.code {
		a.Errorf("%s: got %.300s, want %s", what, body, w.code)
	}
}

// routes returns the rows of a table in the source, so that every route there is gets its request.
func routes(t *testing.T, file, row string, least int) [][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(row).FindAllStringSubmatch(string(b), -1)
	if len(rows) < least {
		t.Fatalf("%s has %d rows like %s; there were %d", file, len(rows), row, least)
	}
	return rows
}

func (a *abuse) wrongSecretS3() {
	targets := map[string]string{"service": "/", "bucket": "/abuse", "object": "/abuse/kept"}
	for _, row := range routes(a.T, "s3api/routes.go", `\{"(\w+)", "(GET|HEAD|PUT|POST|DELETE)", (service|bucket|object), "([^"]*)", "([^"]*)"`, 100) {
		op, method, on, query, header := row[1], row[2], row[3], row[4], row[5]
		q := a.rig.request(method, targets[on], nil)
		if query != "" {
			for p := range strings.SplitSeq(query, "&") {
				if !strings.Contains(p, "=") {
					p += "=1"
				}
				q.target += map[bool]string{true: "&", false: "?"}[strings.Contains(q.target, "?")] + p
			}
		}
		if header != "" {
			q.header.Set(header, "/abuse/dir/kept")
		}
		wrong := q
		wrong.secret = "not-the-secret"
		a.s3(op+" with a wrong secret", wrong, want{403, "SignatureDoesNotMatch"})
		unknown := q
		unknown.key = "nobody"
		a.s3(op+" with an unknown key", unknown, want{403, "InvalidAccessKeyId"})
		none := q
		none.key = ""
		a.s3(op+" without a signature", none, want{403, "AccessDenied"})
	}
}

func (a *abuse) wrongSecretHDFS() {
	for _, row := range routes(a.T, "webhdfs/operations.go", `\{"(\w+)", "(GET|PUT|POST|DELETE)", "[^"]*"`, 50) {
		q := a.rig.webhdfs(row[2], "/abuse/kept", row[1], "", nil)
		q.user = ""
		a.hdfs(row[1]+" without a key pair", q, want{401, "AccessControlException"})
		q.user, q.password = a.rig.access, "not-the-secret"
		a.hdfs(row[1]+" with a wrong secret", q, want{401, "AccessControlException"})
		q.user, q.password = "nobody", a.rig.secret
		a.hdfs(row[1]+" with an unknown key", q, want{401, "AccessControlException"})
	}
	q := a.rig.webhdfs("PUT", "/abuse/new", "CREATE", "data=true&ticket=eyJhbGciOiJub25lIn0", []byte("x"))
	q.user = ""
	a.cases++
	if status, _, body := a.rig.do(a, q); status != 401 && status != 403 {
		a.Errorf("a made-up ticket: got %d %s", status, body)
	}
}

func (a *abuse) wrongSecretAdmin() {
	for _, c := range [][2]string{{"GET", "/api/v1/mounts"}, {"POST", "/api/v1/mounts"}, {"GET", "/api/v1/mounts/lake"}, {"PATCH", "/api/v1/mounts/lake"}, {"DELETE", "/api/v1/mounts/lake"}} {
		for _, pair := range [][2]string{{"", ""}, {a.rig.access, "not-the-secret"}, {"nobody", a.rig.secret}} {
			a.cases++
			q := raw{method: c[0], base: a.rig.Admin, target: c[1], user: pair[0], password: pair[1], header: http.Header{}, body: []byte(`{"path":"/x","uri":"file:///tmp"}`)}
			q.header.Set("Content-Type", "application/json")
			if status, h, body := a.rig.do(a, q); status != 401 || h.Get("WWW-Authenticate") == "" || !strings.HasPrefix(h.Get("Content-Type"), "application/problem+json") {
				a.Errorf("%s %s as %q: got %d %v %s", c[0], c[1], pair[0], status, h, body)
			}
		}
	}
}

// stream is a body in chunks, signed or with a trailer.
type stream struct {
	rig     *rig
	chunks  [][]byte
	trailer string                   // "name:value"
	tamper  func(body []byte) []byte // changes what is sent
}

// request returns the PUT of path with the stream, signed chunk by chunk unless it has a trailer.
func (s stream) request(path string) (raw, error) {
	size := 0
	for _, c := range s.chunks {
		size += len(c)
	}
	hash := "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	if s.trailer != "" {
		hash = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	}
	q := s.rig.request("PUT", path, nil, "X-Amz-Content-Sha256", hash, "X-Amz-Decoded-Content-Length", fmt.Sprint(size), "Content-Encoding", "aws-chunked")
	if s.trailer != "" {
		name, _, _ := strings.Cut(s.trailer, ":")
		q.header.Set("X-Amz-Trailer", name)
	}
	now := time.Now().UTC()
	q.body = s.encode(now, "") // for its length
	req, err := q.build(context.Background())
	if err != nil {
		return q, err
	}
	req.Header.Del("Authorization")
	creds := aws.Credentials{AccessKeyID: s.rig.access, SecretAccessKey: s.rig.secret}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	if err := signer.SignHTTP(context.Background(), creds, req, hash, "s3", "us-east-1", now); err != nil {
		return q, err
	}
	_, seed, _ := strings.Cut(req.Header.Get("Authorization"), "Signature=")
	q.key, q.header, q.body = "", req.Header, s.encode(now, seed)
	if s.tamper != nil {
		q.body = s.tamper(q.body)
	}
	return q, nil
}

// encode writes the chunks as S3 reads them.
// Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
func (s stream) encode(now time.Time, seed string) []byte {
	mac := func(key, data string) []byte {
		h := hmac.New(sha256.New, []byte(key))
		h.Write([]byte(data))
		return h.Sum(nil)
	}
	date := now.Format("20060102")
	key := string(mac(string(mac(string(mac(string(mac("AWS4"+s.rig.secret, date)), "us-east-1")), "s3")), "aws4_request"))
	empty := sha256.Sum256(nil)
	previous := seed
	var b bytes.Buffer
	for _, c := range append(s.chunks[:len(s.chunks):len(s.chunks)], nil) {
		if s.trailer != "" {
			fmt.Fprintf(&b, "%x\r\n", len(c))
		} else {
			sum := sha256.Sum256(c)
			previous = hex.EncodeToString(mac(key, strings.Join([]string{"AWS4-HMAC-SHA256-PAYLOAD", now.Format("20060102T150405Z"),
				date + "/us-east-1/s3/aws4_request", previous, hex.EncodeToString(empty[:]), hex.EncodeToString(sum[:])}, "\n")))
			fmt.Fprintf(&b, "%x;chunk-signature=%064s\r\n", len(c), previous)
		}
		b.Write(c)
		if len(c) > 0 || s.trailer == "" {
			b.WriteString("\r\n")
		}
	}
	if s.trailer != "" {
		b.WriteString(s.trailer + "\r\n\r\n")
	}
	return b.Bytes()
}

func (a *abuse) streams() {
	chunk := bytes.Repeat([]byte("chunk by chunk. "), 512)
	signed := func(tamper func([]byte) []byte) stream {
		return stream{rig: a.rig, chunks: [][]byte{chunk, chunk}, tamper: tamper}
	}
	crc := func(p []byte) string {
		return b64(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(p)))
	}
	trailed := func(value string) stream {
		return stream{rig: a.rig, chunks: [][]byte{chunk, chunk}, trailer: "x-amz-checksum-crc32:" + value}
	}
	whole := append(bytes.Clone(chunk), chunk...)
	flip := func(i int) func([]byte) []byte {
		return func(b []byte) []byte { b[(i+len(b))%len(b)] ^= 1; return b }
	}
	for _, c := range []struct {
		what string
		s    stream
		want want
	}{
		{"a tampered byte of a chunk", signed(flip(500)), want{403, "SignatureDoesNotMatch"}},
		{"a tampered byte of the second chunk", signed(flip(-200)), want{403, "SignatureDoesNotMatch"}},
		{"a tampered chunk signature", signed(flip(40)), want{403, "SignatureDoesNotMatch"}},
		{"a missing last chunk, with the length that was signed", signed(func(b []byte) []byte { return b[:bytes.LastIndex(b, []byte("0;chunk"))] }), want{403, "SignatureDoesNotMatch"}},
		{"no last chunk", signed(func(b []byte) []byte {
			last := bytes.LastIndex(b, []byte("0;chunk"))
			return append(b[:last], bytes.Repeat([]byte("x"), len(b)-last)...)
		}), want{400, "IncompleteBody"}},
		{"a chunk size that is no number", signed(func(b []byte) []byte { b[0] = 'z'; return b }), want{400, "InvalidRequest"}},
		{"a chunk size beyond the end", signed(func(b []byte) []byte { copy(b, "ffff"); return b }), want{400, "IncompleteBody"}},
		{"a wrong trailer checksum", trailed(crc(chunk)), want{400, "BadDigest"}},
		{"a trailer that is no checksum", trailed("!!!"), want{400, "InvalidRequest"}},
	} {
		q, err := c.s.request("/abuse/streamed")
		if err != nil {
			a.Fatal(err)
		}
		a.s3(c.what, q, c.want)
	}
	for what, s := range map[string]stream{"signed": signed(nil), "trailed": trailed(crc(whole))} { // the means are sound
		q, err := s.request("/abuse/streamed")
		if err != nil {
			a.Fatal(err)
		}
		a.s3("an honest stream, "+what, q, want{200, ""})
		a.s3("what it wrote", a.rig.request("DELETE", "/abuse/streamed", nil), want{204, ""})
	}
}

// cutBodies sends half of what was announced and ends the connection, or only its own half of it.
func (a *abuse) cutBodies() {
	body := bytes.Repeat([]byte("half of it. "), 20_000)
	send := func(req *http.Request, half bool) string {
		a.Helper()
		a.cases++
		conn, err := net.Dial("tcp", req.URL.Host)
		if err != nil {
			a.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\n", req.Method, strings.TrimPrefix(req.URL.RequestURI(), "//"+req.URL.Host), req.URL.Host)
		req.Header.Write(conn)
		fmt.Fprintf(conn, "Content-Length: %d\r\n\r\n", len(body))
		conn.Write(body[:len(body)/2])
		if !half {
			return ""
		}
		conn.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(conn)
		return string(b)
	}
	for _, half := range []bool{true, false} {
		for _, path := range []string{"/abuse/cut", "/abuse/kept", "/lake/kept"} {
			req, err := a.rig.request("PUT", path, body).build(a.Context())
			if err != nil {
				a.Fatal(err)
			}
			if got := send(req, half); half && (!strings.HasPrefix(got, "HTTP/1.1 400 ") || !strings.Contains(got, "<Code>IncompleteBody</Code>")) {
				a.Errorf("half a PUT of %s: got %.400q", path, got)
			}
		}
		for _, c := range [][3]string{{"PUT", "/abuse/cut", "CREATE"}, {"PUT", "/abuse/kept", "CREATE&overwrite=true"}, {"POST", "/abuse/kept", "APPEND"}} {
			q := a.rig.webhdfs(c[0], c[1], c[2], "", nil)
			status, h, b := a.rig.do(a, q)
			if status != 307 {
				a.Fatalf("%v: %d %s", c, status, b)
			}
			req, err := http.NewRequest(c[0], h.Get("Location"), nil)
			if err != nil {
				a.Fatal(err)
			}
			if got := send(req, half); half && (!strings.HasPrefix(got, "HTTP/1.1 4") || !strings.Contains(got, "RemoteException")) {
				a.Errorf("half a %s of %s: got %.400q", c[2], c[1], got)
			}
		}
	}
}

func (a *abuse) names() {
	long := strings.Repeat("k", 1025)
	segment := strings.Repeat("s", 256)
	for _, c := range []struct {
		key  string
		want want
	}{
		{"nul%00byte", want{400, "InvalidArgument"}}, {"%00", want{400, "InvalidArgument"}},
		{long, want{400, "KeyTooLongError"}}, {strings.Repeat("d/", 512) + "kk", want{400, "KeyTooLongError"}}, {segment, want{400, "InvalidArgument"}},
		{"../up", want{400, "InvalidArgument"}}, {"a/../b", want{400, "InvalidArgument"}}, {"a/%2e%2e/b", want{400, "InvalidArgument"}}, {"..", want{400, "InvalidArgument"}},
		{"./a", want{400, "InvalidArgument"}}, {"a//b", want{400, "InvalidArgument"}}, {"/a", want{400, "InvalidArgument"}}, {"a//", want{400, "InvalidArgument"}},
		{"kept/below", want{409, "ObjectParentIsFile"}}, {"dir", want{409, "ExistingObjectIsDirectory"}},
		{"%ff%fe", want{400, "InvalidArgument"}},
		{"bad%zzescape", want{400, ""}}, // refused by net/http, before there is a request that a protocol could answer
	} {
		for _, bucket := range []string{"/abuse/", "/lake/"} {
			if bucket == "/lake/" && c.key == "dir" {
				continue
			}
			a.s3("PUT of "+bucket+c.key[:min(30, len(c.key))], a.rig.request("PUT", bucket+c.key, []byte("x")), c.want)
			if c.key != "dir" && !strings.HasPrefix(c.key, "kept/") {
				q := a.rig.request("POST", bucket+c.key+"?uploads", nil)
				a.s3("an upload to "+bucket+c.key[:min(30, len(c.key))], q, c.want)
			}
		}
	}
	for _, key := range []string{".sluice/tmp/x", ".sluice/x", ".sluice/"} {
		a.s3("PUT of /lake/"+key, a.rig.request("PUT", "/lake/"+key, nil), want{403, "AccessDenied"})
		a.s3("GET of /lake/"+key, a.rig.request("GET", "/lake/"+key, nil), want{404, "NoSuchKey"})
	}
	for _, bucket := range []string{"Upper", "ab", "a_b", "-ab", "192.168.0.1", strings.Repeat("b", 64)} {
		a.s3("bucket "+bucket, a.rig.request("PUT", "/"+bucket, nil), want{400, "InvalidBucketName"})
	}
	hdfs := func(method, path, op, params string, w want) {
		q := a.rig.webhdfs(method, path, op, params, nil)
		a.hdfs(op+" of "+path[:min(30, len(path))], q, w)
	}
	for _, path := range []string{"/abuse/../x", "/abuse/a/%2e%2e/b", "/abuse/..", "/abuse/./x"} {
		hdfs("PUT", path, "MKDIRS", "", want{400, "InvalidPathException"})
		hdfs("PUT", path, "CREATE", "", want{400, "InvalidPathException"})
		hdfs("GET", path, "GETFILESTATUS", "", want{400, "InvalidPathException"})
	}
	hdfs("PUT", "/abuse/"+segment, "MKDIRS", "", want{400, "IllegalArgumentException"})
	hdfs("PUT", "/abuse/a%00b", "MKDIRS", "", want{400, "IllegalArgumentException"})
	hdfs("PUT", "/abuse/a%00b", "CREATE", "", want{400, "IllegalArgumentException"})
	hdfs("PUT", "/.sluice/x", "MKDIRS", "", want{403, "AccessControlException"})
	hdfs("PUT", "/lake/.sluice/x", "CREATE", "", want{403, "AccessControlException"})
	hdfs("PUT", "/lake/kept", "RENAME", "destination=/lake/.sluice/x", want{403, "AccessControlException"})
	hdfs("PUT", "/abuse/kept/below", "MKDIRS", "", want{403, "ParentNotDirectoryException"})
	hdfs("PUT", "/abuse/kept", "RENAME", "destination=/abuse/../x", want{400, "InvalidPathException"})
	hdfs("PUT", "/abuse/kept", "RENAME", "destination=relative", want{400, "IllegalArgumentException"})
	hdfs("PUT", "/abuse/kept", "RENAME", "", want{400, "IllegalArgumentException"})
	hdfs("PUT", "/abuse/dir", "RENAME", "destination=/abuse/dir/below&renameoptions=NONE", want{403, "IOException"})
}

func (a *abuse) documents() {
	big := append(bytes.Repeat([]byte(" "), 8<<20), `<Delete><Object><Key>kept</Key></Object></Delete>`...)
	for _, c := range []struct {
		what, target string
		body         []byte
		want         want
	}{
		{"DeleteObjects, not XML", "/abuse?delete", []byte("not XML"), want{400, "MalformedXML"}},
		{"DeleteObjects, empty", "/abuse?delete", nil, want{400, "MalformedXML"}},
		{"DeleteObjects, cut", "/abuse?delete", []byte(`<Delete><Object><Key>kept</Key></Object>`), want{400, "MalformedXML"}},
		{"DeleteObjects, another document", "/abuse?delete", []byte(`<Tagging/>`), want{400, "MalformedXML"}},
		{"DeleteObjects, no objects", "/abuse?delete", []byte(`<Delete></Delete>`), want{400, "MalformedXML"}},
		{"DeleteObjects, 1,001 objects", "/abuse?delete", []byte(`<Delete>` + strings.Repeat(`<Object><Key>kept</Key></Object>`, 1001) + `</Delete>`), want{400, "MalformedXML"}},
		{"DeleteObjects, too long", "/abuse?delete", big, want{400, "MaxMessageLengthExceeded"}},
		{"DeleteObjects, an entity bomb", "/abuse?delete", []byte(`<!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Delete><Object><Key>&b;</Key></Object></Delete>`), want{400, "MalformedXML"}},
		{"Complete, not XML", "/abuse/kept?uploadId=x", []byte("{}"), want{400, "MalformedXML"}},
		{"Complete of no upload", "/abuse/kept?uploadId=x", []byte(`<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>x</ETag></Part></CompleteMultipartUpload>`), want{404, "NoSuchUpload"}},
	} {
		sum := md5.Sum(c.body)
		a.s3(c.what, a.rig.request("POST", c.target, c.body, "Content-MD5", b64(sum[:])), c.want)
	}
	a.s3("CreateBucket, not XML", a.rig.request("PUT", "/other-bucket", []byte("not XML")), want{400, "MalformedXML"})
	a.s3("DeleteObjects without a digest", a.rig.request("POST", "/abuse?delete", []byte(`<Delete><Object><Key>kept</Key></Object></Delete>`)), want{400, "InvalidRequest"})
}

func (a *abuse) parameters() {
	for _, c := range []struct {
		method, target string
		header         []string
		want           want
	}{
		{"GET", "/abuse/kept", []string{"Range", "bytes=5000-"}, want{416, "InvalidRange"}},
		{"GET", "/abuse/kept", []string{"Range", "bytes=999999999999-"}, want{416, "InvalidRange"}},
		{"GET", "/abuse/kept", []string{"Range", "bytes=-0"}, want{416, "InvalidRange"}},
		{"GET", "/abuse/kept?partNumber=0", nil, want{400, "InvalidArgument"}},
		{"GET", "/abuse/kept?partNumber=2", nil, want{416, "InvalidPartNumber"}},
		{"GET", "/abuse?max-keys=-1", nil, want{400, "InvalidArgument"}},
		{"GET", "/abuse?list-type=2&max-keys=many", nil, want{400, "InvalidArgument"}},
		{"GET", "/abuse?list-type=2&continuation-token=forged", nil, want{400, "InvalidArgument"}},
		{"GET", "/abuse?list-type=2&encoding-type=rot13", nil, want{400, "InvalidArgument"}},
		{"GET", "/abuse/kept?versionId=v1", nil, want{404, "NoSuchVersion"}},
		{"PUT", "/abuse/kept?uploadId=x&partNumber=0", nil, want{400, "InvalidArgument"}},
		{"PUT", "/abuse/kept?uploadId=x&partNumber=10001", nil, want{400, "InvalidArgument"}},
		{"PUT", "/abuse/kept?uploadId=x&partNumber=1", nil, want{404, "NoSuchUpload"}},
		{"DELETE", "/abuse/kept?uploadId=x", nil, want{404, "NoSuchUpload"}},
		{"PUT", "/abuse/new", []string{"X-Amz-Copy-Source", "/abuse/none"}, want{404, "NoSuchKey"}},
		{"PUT", "/abuse/new", []string{"X-Amz-Copy-Source", "nonsense"}, want{400, "InvalidArgument"}},
		{"PUT", "/abuse/new", []string{"If-None-Match", `"tag"`}, want{501, "NotImplemented"}},
		{"PUT", "/abuse/kept", []string{"If-None-Match", "*"}, want{412, "PreconditionFailed"}},
		{"PUT", "/abuse/kept", []string{"If-Match", `"other"`}, want{412, "PreconditionFailed"}},
		{"PUT", "/abuse/new", []string{"If-Match", `"other"`}, want{404, "NoSuchKey"}},
		{"PUT", "/abuse/new", []string{"X-Amz-Storage-Class", "MARS"}, want{400, "InvalidStorageClass"}},
		{"PUT", "/abuse/new", []string{"X-Amz-Meta-Big", strings.Repeat("m", 3000)}, want{400, "MetadataTooLarge"}},
		{"PUT", "/abuse/new", []string{"X-Amz-Server-Side-Encryption", "AES256"}, want{501, "NotImplemented"}},
		{"DELETE", "/abuse", nil, want{409, "BucketNotEmpty"}},
		{"DELETE", "/lake", nil, want{403, "AccessDenied"}},
		{"PUT", "/none/key", nil, want{404, "NoSuchBucket"}},
		{"PATCH", "/abuse/kept", nil, want{405, "MethodNotAllowed"}},
	} {
		a.s3(c.method+" "+c.target+" "+fmt.Sprint(c.header)[:min(40, len(fmt.Sprint(c.header)))], a.rig.request(c.method, c.target, nil, c.header...), c.want)
	}
	a.cases++
	if status, _, body := a.rig.do(a, a.rig.request("GET", "/abuse/kept", nil, "Range", "bytes=nonsense")); status != 200 || len(body) != 5000 {
		a.Errorf("a range that is none is ignored: got %d, %d bytes", status, len(body))
	}
	for _, c := range []struct {
		method, path, op, params string
		want                     want
	}{
		{"GET", "/abuse/kept", "OPEN", "offset=5001", want{403, "IOException"}},
		{"GET", "/abuse/kept", "OPEN", "offset=-1", want{400, "IllegalArgumentException"}},
		{"GET", "/abuse/kept", "OPEN", "length=-1", want{400, "IllegalArgumentException"}},
		{"GET", "/abuse/kept", "OPEN", "offset=abc", want{400, "IllegalArgumentException"}},
		{"GET", "/abuse/kept", "NOSUCHOP", "", want{400, "IllegalArgumentException"}},
		{"PUT", "/abuse/kept", "OPEN", "", want{400, "IllegalArgumentException"}},
		{"GET", "/abuse/none", "GETFILESTATUS", "", want{404, "FileNotFoundException"}},
		{"GET", "/abuse", "OPEN", "", want{404, "FileNotFoundException"}},
		{"PUT", "/abuse/kept", "SETPERMISSION", "permission=9z", want{400, "IllegalArgumentException"}},
		{"PUT", "/abuse/kept", "SETREPLICATION", "replication=0", want{400, "IllegalArgumentException"}},
		{"PUT", "/abuse/kept", "CREATE", "", want{403, "FileAlreadyExistsException"}},
		{"PUT", "/abuse/kept", "CREATE", "overwrite=maybe", want{400, "IllegalArgumentException"}},
		{"PUT", "/abuse/new", "CREATE", "blocksize=-5", want{400, "IllegalArgumentException"}},
		{"POST", "/abuse/none", "APPEND", "", want{404, "FileNotFoundException"}},
		{"POST", "/abuse/kept", "CONCAT", "sources=/abuse/none", want{404, "FileNotFoundException"}},
		{"DELETE", "/abuse", "DELETE", "recursive=false", want{403, "PathIsNotEmptyDirectoryException"}},
		{"DELETE", "/lake", "DELETE", "recursive=true", want{403, "IOException"}},
		{"PUT", "/abuse/kept", "TRUNCATE", "", want{400, "IllegalArgumentException"}},
		{"POST", "/abuse/kept", "TRUNCATE", "newlength=1", want{400, "UnsupportedOperationException"}},
	} {
		q := a.rig.webhdfs(c.method, c.path, c.op, c.params, nil)
		a.hdfs(c.op+" "+c.path+" "+c.params, q, c.want)
	}
}

func (a *abuse) digests() {
	body := []byte("what is sent")
	wrong := md5.Sum([]byte("something else"))
	a.s3("a wrong Content-MD5", a.rig.request("PUT", "/abuse/new", body, "Content-MD5", b64(wrong[:])), want{400, "BadDigest"})
	a.s3("a Content-MD5 that is none", a.rig.request("PUT", "/abuse/new", body, "Content-MD5", "nonsense"), want{400, "InvalidDigest"})
	other := sha256.Sum256([]byte("something else"))
	a.s3("a wrong X-Amz-Content-Sha256", a.rig.request("PUT", "/abuse/new", body, "X-Amz-Content-Sha256", hex.EncodeToString(other[:])), want{400, "XAmzContentSHA256Mismatch"})
	for _, c := range []struct{ name, value string }{
		{"Crc32", "AAAAAA=="}, {"Crc32c", "AAAAAA=="}, {"Crc64nvme", "AAAAAAAAAAA="}, {"Sha1", b64(make([]byte, 20))}, {"Sha256", b64(make([]byte, 32))},
	} {
		a.s3("a wrong X-Amz-Checksum-"+c.name, a.rig.request("PUT", "/abuse/kept", body, "X-Amz-Checksum-"+c.name, c.value), want{400, "BadDigest"})
	}
	late := a.rig.request("PUT", "/abuse/new", body)
	req, err := late.build(a.Context())
	if err != nil {
		a.Fatal(err)
	}
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	creds := aws.Credentials{AccessKeyID: a.rig.access, SecretAccessKey: a.rig.secret}
	req.Header.Del("Authorization")
	if err := signer.SignHTTP(a.Context(), creds, req, req.Header.Get("X-Amz-Content-Sha256"), "s3", "us-east-1", time.Now().Add(-time.Hour)); err != nil {
		a.Fatal(err)
	}
	late.key, late.header = "", req.Header
	a.s3("a signature of an hour ago", late, want{403, "RequestTimeTooSkewed"})
	ps := s3.NewPresignClient(a.rig.s3)
	url, err := ps.PresignGetObject(a.Context(), &s3.GetObjectInput{Bucket: aws.String("abuse"), Key: aws.String("kept")})
	if err != nil {
		a.Fatal(err)
	}
	target := strings.TrimPrefix(url.URL, a.rig.S3)
	a.s3("a presigned URL for another key", raw{method: "GET", base: a.rig.S3, target: strings.Replace(target, "/kept", "/dir/kept", 1), header: http.Header{}}, want{403, "SignatureDoesNotMatch"})
	a.s3("a presigned URL for another method", raw{method: "DELETE", base: a.rig.S3, target: target, header: http.Header{}}, want{403, "SignatureDoesNotMatch"})
	expired := regexp.MustCompile(`X-Amz-Expires=\d+`).ReplaceAllString(target, "X-Amz-Expires=604801")
	a.s3("a presigned URL for more than a week", raw{method: "GET", base: a.rig.S3, target: expired, header: http.Header{}}, want{400, "AuthorizationQueryParametersError"})
}

func (a *abuse) adminAPI() {
	call := func(what, method, path, body string, status int, text string) {
		a.Helper()
		a.cases++
		q := raw{method: method, base: a.rig.Admin, target: path, user: a.rig.access, password: a.rig.secret, header: http.Header{}, body: []byte(body)}
		q.header.Set("Content-Type", "application/json")
		got, h, b := a.rig.do(a, q)
		var doc struct {
			Status        int
			Title, Detail string
		}
		if got != status || !strings.HasPrefix(h.Get("Content-Type"), "application/problem+json") || json.Unmarshal(b, &doc) != nil || doc.Status != got || !strings.Contains(string(b), text) {
			a.Errorf("%s: got %d %s %s, want %d with %q", what, got, h.Get("Content-Type"), b, status, text)
		}
	}
	gone := FreePort(a)
	missing := filepath.Join(a.TempDir(), "missing")
	call("not JSON", "POST", "/api/v1/mounts", "not JSON", 400, "")
	call("cut JSON", "POST", "/api/v1/mounts", `{"path":"/x"`, 400, "")
	call("no body", "POST", "/api/v1/mounts", "", 400, "")
	call("an unknown field", "POST", "/api/v1/mounts", `{"path":"/x","uri":"file:///tmp","colour":"blue"}`, 422, "colour")
	call("a missing field", "POST", "/api/v1/mounts", `{"path":"/x"}`, 422, "uri")
	call("a wrong type", "POST", "/api/v1/mounts", `{"path":"/x","uri":7}`, 422, "uri")
	call("an unknown scheme", "POST", "/api/v1/mounts", `{"path":"/x","uri":"ftp://host/"}`, 422, "ftp")
	call("an unknown option", "POST", "/api/v1/mounts", `{"path":"/x","uri":"file:///tmp","options":{"colour":"blue"}}`, 422, "colour")
	call("a missing directory", "POST", "/api/v1/mounts", `{"path":"/x","uri":"file://`+missing+`"}`, 422, "missing")
	call("a server that is not there", "POST", "/api/v1/mounts", `{"path":"/x","uri":"s3://bucket","options":{"endpoint":"http://`+gone+`","access_key":"abc","secret_key":"abcdefgh"}}`, 422, gone)
	call("a mount at /", "POST", "/api/v1/mounts", `{"path":"/","uri":"file:///tmp"}`, 422, "")
	call("a mount below ..", "POST", "/api/v1/mounts", `{"path":"/a/../b","uri":"file:///tmp"}`, 422, "")
	call("a mount on a mount", "POST", "/api/v1/mounts", `{"path":"/lake","uri":"file:///tmp"}`, 409, "")
	call("a mount on what holds files", "POST", "/api/v1/mounts", `{"path":"/abuse","uri":"file://`+a.TempDir()+`"}`, 409, "")
	call("a mount of the data directory", "POST", "/api/v1/mounts", `{"path":"/x","uri":"file://`+a.rig.Data+`"}`, 422, "")
	call("a bad interval", "POST", "/api/v1/mounts", `{"path":"/x","uri":"file:///tmp","sync_interval":"soon"}`, 422, "sync_interval")
	call("an unknown mount", "GET", "/api/v1/mounts/none", "", 404, "")
	call("an unknown mount removed", "DELETE", "/api/v1/mounts/none", "", 404, "")
	call("a patch that is none", "PATCH", "/api/v1/mounts/lake", `[]`, 422, "")
	call("an unknown path", "GET", "/api/v1/none", "", 404, "")
	a.cases++
	if status, doc := a.rig.admin(a, "GET", "/api/v1/mounts", ""); status != 200 || len(doc["items"].([]any)) != 2 {
		a.Errorf("the mounts are now %d %v", status, doc)
	}
	if a.Failed() {
		return
	}
	store := StartVersitygw(a)
	makeBucket(a.T, store, "there")
	for what, spec := range map[string][2]string{"a missing bucket": {"nowhere", "nowhere"}, "a wrong secret": {"there", ""}} {
		o := store.Options()
		if what == "a wrong secret" {
			o["secret_key"] = "not-the-secret"
		}
		b, _ := json.Marshal(map[string]any{"path": "/x", "uri": "s3://" + spec[0], "options": o})
		call(what, "POST", "/api/v1/mounts", string(b), 422, spec[1])
	}
}

// halfRequests keeps the listeners full of requests that do not come to an end, and asks for something beside them.
func (a *abuse) halfRequests() {
	const each = 200
	slow, err := a.rig.request("PUT", "/abuse/slow", bytes.Repeat([]byte("x"), 1<<20)).build(a.Context())
	if err != nil {
		a.Fatal(err)
	}
	var signed bytes.Buffer
	fmt.Fprintf(&signed, "PUT /abuse/slow HTTP/1.1\r\nHost: %s\r\n", slow.URL.Host)
	slow.Header.Write(&signed)
	fmt.Fprintf(&signed, "Content-Length: %d\r\n\r\nxxx", 1<<20)
	for _, c := range []struct {
		base, text string
	}{
		{a.rig.S3, "GET /abuse/kept HTTP/1.1\r\nHost: x\r\nX-Slow"}, {a.rig.S3, ""}, {a.rig.WebHDFS, "PUT /webhdfs/v1/abuse/x?op=CRE"},
		{a.rig.S3, "PUT /abuse/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nxxx"}, {a.rig.S3, signed.String()},
	} {
		for range each {
			conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
			if err != nil {
				a.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, c.text); err != nil {
				a.Fatal(err)
			}
		}
	}
	for i := range 20 {
		a.cases++
		started := time.Now()
		ctx, cancel := context.WithTimeout(a.Context(), 20*time.Second)
		_, _, err := a.rig.get(ctx, "/abuse/kept", content{"kept", 1, 5000})
		if err == nil {
			path := fmt.Sprintf("/abuse/beside-%d", i)
			if _, err = a.rig.put(ctx, path, content{path, 1, 70_000}); err == nil {
				a.s3("a DELETE beside half requests", a.rig.request("DELETE", path, nil), want{204, ""})
			}
		}
		cancel()
		if took := time.Since(started); err != nil || took > 5*time.Second {
			a.Errorf("beside %d half requests: %v after %v", 5*each, err, took)
		}
	}
}

// ends runs the binary, which must end by itself, and returns what it wrote and its exit status.
func ends(t *testing.T, env []string, args ...string) (text string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(t), args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%v did not end: %v\n%s", args, err, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestAbuseStart starts the binary as it should not be started: it ends with a reason and leaves what is there alone.
func TestAbuseStart(t *testing.T) {
	s := Start(t, Options{})
	r := newRig(s)
	r.mkbucket(t, "abuse")
	r.mustPut(t, "/abuse/kept", content{"kept", 1, 5000})
	before := r.picture(t, "/")
	cases := 0
	host := func(url string) string { return strings.TrimPrefix(url, "http://") }
	free := func() []string {
		return []string{"--s3-listen", "127.0.0.1:0", "--webhdfs-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--cache-tier", "dir=" + t.TempDir() + ",quota=64MiB,medium=ssd"}
	}
	check := func(name string, code int, texts []string, env []string, args ...string) {
		t.Helper()
		cases++
		got, status := ends(t, env, append([]string{"serve"}, args...)...)
		if status != code {
			t.Errorf("%s: exit status %d, want %d\n%s", name, status, code, got)
		}
		for _, text := range texts {
			if !strings.Contains(got, text) {
				t.Errorf("%s: got\n%s\nwant %q in it", name, got, text)
			}
		}
	}
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "sluice.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, l := range []struct{ flag, name, addr string }{{"s3-listen", "s3", host(s.S3)}, {"webhdfs-listen", "webhdfs", host(s.WebHDFS)}, {"admin-listen", "admin", host(s.Admin)}} {
		args := append(free(), "--data", filepath.Join(t.TempDir(), "new"), "--"+l.flag, l.addr)
		check("port in use: "+l.flag, 1, []string{fmt.Sprintf("sluice: %s: %s is in use by another process (pid %d, ", l.name, l.addr, s.Pid()), "; stop it or choose another with --" + l.flag}, nil, args...)
	}
	check("data directory in use", 1, []string{"the data directory is in use by process " + fmt.Sprint(s.Pid())}, nil, append(free(), "--data", s.Data)...)
	check("data is a file", 1, []string{"data: ", "choose another with --data"}, nil, append(free(), "--data", file("x"))...)
	check("unknown key in the file", 2, []string{"s3.colour"}, nil, append(free(), "--data", t.TempDir(), "--config", file("s3:\n  colour: blue\n"))...)
	check("unknown section in the file", 2, []string{"colour"}, nil, append(free(), "--data", t.TempDir(), "--config", file("colour: blue\n"))...)
	check("a file that is no YAML", 2, []string{"sluice.yaml"}, nil, append(free(), "--data", t.TempDir(), "--config", file("{[\n"))...)
	check("no such file", 2, []string{"/nowhere.yaml"}, nil, append(free(), "--data", t.TempDir(), "--config", "/nowhere.yaml")...)
	check("unknown flag", 2, []string{"--colour"}, nil, append(free(), "--data", t.TempDir(), "--colour", "blue")...)
	check("unknown argument", 2, []string{"colour"}, nil, append(free(), "colour")...)
	check("a bad value in the environment", 2, []string{"sync_interval"}, []string{"SLUICE_SYNC_INTERVAL=soon"}, append(free(), "--data", t.TempDir())...)
	check("a bad value of a flag", 2, []string{"webhdfs.auth"}, nil, append(free(), "--data", t.TempDir(), "--webhdfs-auth", "none")...)
	check("a mount of an unknown scheme", 1, []string{"ftp"}, nil, append(free(), "--data", t.TempDir(), "--mount", "/x=ftp://host/")...)
	check("a mount of a missing directory", 1, []string{"/nowhere"}, nil, append(free(), "--data", t.TempDir(), "--mount", "/x=file:///nowhere")...)

	noKeys := []string{"SLUICE_ROOT_ACCESS_KEY=", "SLUICE_ROOT_SECRET_KEY="}
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"garbled credentials": {"{", 0o600, "remove it to get another key pair"}, "empty credentials": {"", 0o600, "remove it to get another key pair"},
		"credentials without a secret": {`{"access_key":"abc"}`, 0o600, "remove it to get another key pair"}, "credentials others can read": {`{"access_key":"abc","secret_key":"abcdefgh"}`, 0o644, "chmod 600"},
	} {
		data := t.TempDir()
		kept := filepath.Join(data, "root-credentials.json")
		if err := os.WriteFile(kept, []byte(c.text), c.mode); err != nil {
			t.Fatal(err)
		}
		check(name, 1, []string{kept, c.want}, noKeys, append(free(), "--data", data)...)
		if b, err := os.ReadFile(kept); err != nil || string(b) != c.text {
			t.Errorf("%s: the file is now %q, %v", name, b, err)
		}
	}
	t.Run("unknown name in the environment", func(t *testing.T) {
		cases++
		odd := Start(t, Options{Env: []string{"SLUICE_S3_COLOUR=blue"}})
		if log := odd.Log(); !strings.Contains(log, "SLUICE_S3_COLOUR") {
			t.Errorf("the log does not name it:\n%s", log)
		}
	})
	r.unchanged(t, before, "all of that")
	Minimum(t, "abuse-start", cases)
}
