package s3ufs

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// fake is a small S3 service over memufs that keeps to the letter what the driver relies on: conditions, copies of a
// version, odd keys, listings in byte order. It checks no signatures.
type fake struct {
	*httptest.Server
	bucket string
	store  *memufs.Store
	deaf   bool // changes are made whatever their conditions, as older services do
	// intercept sees every request first, and says whether it has answered it.
	intercept func(w http.ResponseWriter, r *http.Request) bool

	mu    sync.Mutex
	calls map[string]int // by method and operation
}

// root keeps the keys clear of memufs's own staging directory.
const root = "o/"

func newFake(t *testing.T) *fake {
	f := &fake{bucket: "bkt", store: memufs.New(memufs.Options{}), calls: map[string]int{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	bucket, rawKey, object := strings.Cut(raw, "/")
	key, err := url.PathUnescape(rawKey)
	if err != nil {
		f.fail(w, "InvalidURI", http.StatusBadRequest)
		return
	}
	if f.deaf && r.Method != "GET" {
		r.Header.Del("If-Match")
		r.Header.Del("If-None-Match")
	}
	q := r.URL.Query()
	f.mu.Lock()
	f.calls[r.Method]++
	f.mu.Unlock()
	switch {
	case f.intercept != nil && f.intercept(w, r):
	case bucket != f.bucket:
		f.fail(w, "NoSuchBucket", http.StatusNotFound)
	case !object || key == "":
		f.serveBucket(w, r, q)
	default:
		f.serveObject(w, r, root+key, q)
	}
}

func (f *fake) serveBucket(w http.ResponseWriter, r *http.Request, q url.Values) {
	switch {
	case r.Method == "HEAD":
	case r.Method == "GET":
		f.list(w, r, q)
	case r.Method == "POST" && q.Has("delete"):
		f.deleteObjects(w, r)
	default:
		f.fail(w, "NotImplemented", http.StatusNotImplemented)
	}
}

func (f *fake) serveObject(w http.ResponseWriter, r *http.Request, name string, q url.Values) {
	id, ctx := q.Get("uploadId"), r.Context()
	switch {
	case r.Method == "POST" && q.Has("uploads"):
		id, err := f.store.Begin(ctx, name, attrOf(r.Header))
		f.answer(w, err, struct {
			XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
			UploadId string
		}{UploadId: id})
	case r.Method == "PUT" && id != "":
		f.putPart(w, r, name, id, q)
	case r.Method == "POST" && id != "":
		f.complete(w, r, name, id)
	case r.Method == "DELETE" && id != "":
		f.noContent(w, f.store.Cancel(ctx, name, id))
	case r.Method == "PUT" && r.Header.Get("X-Amz-Copy-Source") != "":
		f.copyObject(w, r, name)
	case r.Method == "PUT":
		f.putObject(w, r, name)
	case r.Method == "GET", r.Method == "HEAD":
		f.getObject(w, r, name)
	case r.Method == "DELETE":
		in, err := f.stat(r, name)
		if m := r.Header.Get("If-Match"); err == nil && m != "" && m != quote(in.ETag) {
			err = errs.Precondition
		}
		if err == nil {
			err = f.store.Remove(ctx, name, "")
		}
		if errors.Is(err, errs.NotExist) {
			err = nil
		}
		f.noContent(w, err)
	default:
		f.fail(w, "NotImplemented", http.StatusNotImplemented)
	}
}

// readBody returns the body, which must have the announced length and, if it goes in signed chunks, be closed by an empty
// one. Signatures are looked for and not verified.
func readBody(r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(r.Body)
	if err == nil && int64(len(data)) != r.ContentLength {
		err = io.ErrUnexpectedEOF
	}
	if err != nil || r.Header.Get("X-Amz-Content-Sha256") != chunkedHash {
		return data, err
	}
	var out []byte
	for {
		head, rest, ok := bytes.Cut(data, []byte("\r\n"))
		length, signature, signed := strings.Cut(string(head), ";chunk-signature=")
		n, err := strconv.ParseInt(length, 16, 64)
		if !ok || !signed || len(signature) != 64 || err != nil || int64(len(rest)) < n+2 {
			return nil, io.ErrUnexpectedEOF
		}
		if n == 0 {
			break
		}
		out, data = append(out, rest[:n]...), rest[n+2:]
	}
	if r.Header.Get(sizeHeader) != strconv.Itoa(len(out)) {
		return nil, io.ErrUnexpectedEOF
	}
	return out, nil
}

func quote(s string) string { return `"` + s + `"` }

// stat describes an object, not a prefix.
func (f *fake) stat(r *http.Request, name string) (ufs.Info, error) {
	in, err := f.store.Stat(r.Context(), name)
	if err == nil && in.Version == "" {
		err = errs.NotExist
	}
	return in, err
}

// cond translates the conditional headers to conditions of the store.
func (f *fake) cond(r *http.Request, name string) (o ufs.CreateOptions, err error) {
	o.IfNew = r.Header.Get("If-None-Match") == "*"
	if m := r.Header.Get("If-Match"); m != "" {
		in, err := f.stat(r, name)
		if err != nil {
			return o, err
		}
		if quote(in.ETag) != m {
			return o, errs.Precondition
		}
		o.IfVersion = in.Version
	}
	return o, nil
}

func (f *fake) putObject(w http.ResponseWriter, r *http.Request, name string) {
	data, err := readBody(r)
	if err != nil {
		f.fail(w, "IncompleteBody", http.StatusBadRequest)
		return
	}
	o, err := f.cond(r, name)
	var in ufs.Info
	if err == nil && strings.HasSuffix(name, "/") {
		in, err = f.store.Mkdir(r.Context(), name, attrOf(r.Header))
	} else if err == nil {
		o.Attr = attrOf(r.Header)
		in, err = ufs.WriteFile(r.Context(), f.store, name, data, o)
	}
	w.Header().Set("ETag", quote(in.ETag))
	f.answer(w, err, nil)
}

func (f *fake) getObject(w http.ResponseWriter, r *http.Request, name string) {
	in, err := f.stat(r, name)
	if m := r.Header.Get("If-Match"); err == nil && m != "" && m != quote(in.ETag) {
		err = errs.Precondition
	}
	if err != nil {
		f.answer(w, err, nil)
		return
	}
	var data []byte
	if !in.Dir {
		if data, err = ufs.ReadAll(r.Context(), f.store, name, in.Version, 1<<30); err != nil {
			f.answer(w, err, nil)
			return
		}
	}
	for k, v := range in.Attr.Headers {
		w.Header().Set(k, v)
	}
	for k, v := range in.Attr.User {
		w.Header().Set("X-Amz-Meta-"+k, v)
	}
	if in.Attr.Headers["Content-Type"] == "" {
		w.Header().Set("Content-Type", "binary/octet-stream")
	}
	w.Header().Set("ETag", quote(in.ETag))
	w.Header().Set("Last-Modified", in.ModTime.UTC().Format(http.TimeFormat))
	f.serveRange(w, r, data)
}

// serveRange writes the one range of data that is asked for, with its length whatever its encoding.
func (f *fake) serveRange(w http.ResponseWriter, r *http.Request, data []byte) {
	size, status := len(data), http.StatusOK
	if h := r.Header.Get("Range"); h != "" {
		first, last := 0, size-1
		if n, _ := fmt.Sscanf(h, "bytes=%d-%d", &first, &last); n == 0 || first >= size {
			f.fail(w, "InvalidRange", http.StatusRequestedRangeNotSatisfiable)
			return
		}
		last = min(last, size-1)
		data, status = data[first:last+1], http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, size))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if r.Method != "HEAD" {
		_, _ = w.Write(data)
	}
}

func attrOf(h http.Header) ufs.Attr {
	a := ufs.Attr{Headers: map[string]string{}, User: map[string]string{}}
	for k, v := range h {
		switch k {
		case "Content-Type", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Expires":
			a.Headers[k] = v[0]
		}
		if k, ok := strings.CutPrefix(k, "X-Amz-Meta-"); ok {
			a.User[strings.ToLower(k)] = v[0]
		}
	}
	return a
}

// source returns the object and version that a copy names.
func (f *fake) source(r *http.Request) (name, version string, err error) {
	s, err := url.PathUnescape(r.Header.Get("X-Amz-Copy-Source"))
	key, ok := strings.CutPrefix(strings.TrimPrefix(s, "/"), f.bucket+"/")
	if err != nil || !ok {
		return "", "", errs.Invalid
	}
	in, err := f.stat(r, root+key)
	if m := r.Header.Get("X-Amz-Copy-Source-If-Match"); err == nil && m != "" && m != quote(in.ETag) {
		err = errs.Precondition
	}
	return root + key, in.Version, err
}

type copyResult struct {
	XMLName xml.Name
	ETag    string
}

func (f *fake) copyObject(w http.ResponseWriter, r *http.Request, name string) {
	from, version, err := f.source(r)
	var attr *ufs.Attr
	if r.Header.Get("X-Amz-Metadata-Directive") == "REPLACE" {
		a := attrOf(r.Header)
		attr = &a
	}
	var in ufs.Info
	if err == nil && strings.HasSuffix(from, "/") {
		in, err = f.store.SetAttr(r.Context(), from, version, *attr)
	} else if err == nil {
		in, err = f.store.Copy(r.Context(), from, version, name, attr)
	}
	f.answer(w, err, copyResult{XMLName: xml.Name{Local: "CopyObjectResult"}, ETag: quote(in.ETag)})
}

func (f *fake) putPart(w http.ResponseWriter, r *http.Request, name, id string, q url.Values) {
	number, _ := strconv.Atoi(q.Get("partNumber"))
	if r.Header.Get("X-Amz-Copy-Source") == "" {
		data, err := readBody(r)
		if err != nil {
			f.fail(w, "IncompleteBody", http.StatusBadRequest)
			return
		}
		etag, err := f.store.PutPart(r.Context(), name, id, number, int64(len(data)), bytes.NewReader(data))
		w.Header().Set("ETag", quote(etag))
		f.answer(w, err, nil)
		return
	}
	from, version, err := f.source(r)
	var first, last int64
	if err == nil {
		_, err = fmt.Sscanf(r.Header.Get("X-Amz-Copy-Source-Range"), "bytes=%d-%d", &first, &last)
	}
	var etag string
	if err == nil {
		etag, err = f.store.CopyPart(r.Context(), name, id, number, from, version, first, last-first+1)
	}
	f.answer(w, err, copyResult{XMLName: xml.Name{Local: "CopyPartResult"}, ETag: quote(etag)})
}

func (f *fake) complete(w http.ResponseWriter, r *http.Request, name, id string) {
	var body struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.NewDecoder(r.Body).Decode(&body); err != nil {
		f.fail(w, "MalformedXML", http.StatusBadRequest)
		return
	}
	var parts []ufs.Part
	for _, p := range body.Part {
		parts = append(parts, ufs.Part{Number: p.PartNumber, ETag: strings.Trim(p.ETag, `"`)})
	}
	o, err := f.cond(r, name)
	var in ufs.Info
	if err == nil {
		in, err = f.store.Complete(r.Context(), name, id, parts, o)
	}
	switch errs.KindOf(err) {
	case errs.Invalid:
		f.fail(w, "InvalidPart", http.StatusBadRequest)
		return
	case errs.NotExist:
		f.fail(w, "NoSuchUpload", http.StatusNotFound)
		return
	}
	f.answer(w, err, copyResult{XMLName: xml.Name{Local: "CompleteMultipartUploadResult"}, ETag: quote(in.ETag)})
}

func (f *fake) deleteObjects(w http.ResponseWriter, r *http.Request) {
	var body struct{ Object []struct{ Key string } }
	if err := xml.NewDecoder(r.Body).Decode(&body); err != nil {
		f.fail(w, "MalformedXML", http.StatusBadRequest)
		return
	}
	for _, o := range body.Object {
		_ = f.store.Remove(r.Context(), root+o.Key, "") // S3 does not tell what was not there
	}
	f.answer(w, nil, struct {
		XMLName xml.Name `xml:"DeleteResult"`
	}{})
}

// list answers in small pages, so that every test goes through several.
func (f *fake) list(w http.ResponseWriter, r *http.Request, q url.Values) {
	type content struct {
		Key, ETag, LastModified string
		Size                    int64
	}
	type prefix struct{ Prefix string }
	out := struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		EncodingType          string
		IsTruncated           bool
		NextContinuationToken string
		Contents              []content
		CommonPrefixes        []prefix
	}{EncodingType: q.Get("encoding-type")}
	encode := func(s string) string {
		if out.EncodingType == "url" {
			return url.QueryEscape(s)
		}
		return s
	}
	limit := 7
	if n, err := strconv.Atoi(q.Get("max-keys")); err == nil {
		limit = min(limit, n)
	}
	after, last, n := max(q.Get("start-after"), q.Get("continuation-token")), "", 0
	for in, err := range f.store.List(r.Context(), root, "", true) {
		if err != nil {
			f.answer(w, err, nil)
			return
		}
		key := strings.TrimPrefix(in.Name, root)
		rest, ok := strings.CutPrefix(key, q.Get("prefix"))
		if !ok || key <= after {
			continue
		}
		if d := q.Get("delimiter"); d != "" && strings.Contains(rest, d) {
			head, _, _ := strings.Cut(rest, d)
			key = q.Get("prefix") + head + d
			if key == last || q.Has("continuation-token") && key <= after {
				continue
			}
		}
		if n == limit {
			out.IsTruncated, out.NextContinuationToken = true, last
			break
		}
		n++
		if last = key; strings.HasSuffix(key, "/") && key != strings.TrimPrefix(in.Name, root) || len(rest) > 0 &&
			q.Get("delimiter") != "" && strings.Contains(rest, "/") {
			out.CommonPrefixes = append(out.CommonPrefixes, prefix{encode(key)})
			continue
		}
		modified := in.ModTime.UTC().Format("2006-01-02T15:04:05.000Z")
		out.Contents = append(out.Contents, content{Key: encode(key), ETag: quote(in.ETag), LastModified: modified, Size: in.Size})
	}
	f.answer(w, nil, out)
}

func (f *fake) noContent(w http.ResponseWriter, err error) {
	if err != nil {
		f.answer(w, err, nil)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// answer writes the body, or the error.
func (f *fake) answer(w http.ResponseWriter, err error, body any) {
	switch errs.KindOf(err) {
	case errs.Other:
		if err == nil {
			if body != nil {
				_ = xml.NewEncoder(w).Encode(body)
			}
			return
		}
		f.fail(w, "InternalError", http.StatusInternalServerError)
	case errs.NotExist:
		f.fail(w, "NoSuchKey", http.StatusNotFound)
	case errs.Precondition, errs.Exist:
		f.fail(w, "PreconditionFailed", http.StatusPreconditionFailed)
	default:
		f.fail(w, "InvalidArgument", http.StatusBadRequest)
	}
}

func (f *fake) fail(w http.ResponseWriter, code string, status int) {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>the fake says so</Message></Error>", code)
}
