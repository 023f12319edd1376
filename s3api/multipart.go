package s3api

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api/checksum"
)

// maxParts is the highest part number, and the most parts of a listing's page less than it.
// Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
const maxParts = 10000

// maxPartElements are the elements of the largest CompleteMultipartUpload: each part's number, ETag and checksum.
const maxPartElements = 1 + 4*maxParts

// keepAlive is how long CompleteMultipartUpload is silent before it starts to send white space, which S3 allows it.
const keepAlive = 10 * time.Second

// createMultipartUpload serves CreateMultipartUpload.
func (s *Server) createMultipartUpload(r *request) error {
	attr, err := fileAttr(r.http.Header)
	if err != nil {
		return err
	}
	how, err := writeType(r.http.Header)
	if err != nil {
		return err
	}
	sum, err := uploadChecksum(r.http.Header)
	if err != nil {
		return err
	}
	if _, err := s.statBucket(r); err != nil {
		return err
	}
	id, err := s.uploads.CreateUpload(r.ctx, r.path, core.CreateOptions{MakeParents: true, Within: r.dir, Size: -1, Attr: attr, WriteType: how, Checksum: sum})
	if err != nil {
		return r.asKey(err)
	}
	if sum.Algorithm != "" {
		f := r.fields(2)
		f.set("x-amz-checksum-algorithm", sum.Algorithm)
		f.set("x-amz-checksum-type", sum.Type)
	}
	x := newXML(256)
	x.root("InitiateMultipartUploadResult")
	x.text("Bucket", r.bucket)
	x.text("Key", r.key)
	x.text("UploadId", id)
	x.close("InitiateMultipartUploadResult")
	return r.document(x.b)
}

// uploadChecksum reads which checksum an upload shall have. Errors: InvalidRequest.
func uploadChecksum(h http.Header) (core.Checksum, error) {
	name, kind := h.Get("X-Amz-Checksum-Algorithm"), strings.ToUpper(h.Get("X-Amz-Checksum-Type"))
	if t := checksum.Type(kind); t != "" && t != checksum.FullObject && t != checksum.Composite {
		return core.Checksum{}, invalidRequest("Value for x-amz-checksum-type header is invalid.")
	}
	if name == "" {
		if kind != "" {
			return core.Checksum{}, invalidRequest("The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.")
		}
		return core.Checksum{}, nil
	}
	a, err := checksum.Parse(name)
	if err != nil {
		return core.Checksum{}, checksumRefused(err)
	}
	t := checksum.Type(kind)
	switch {
	case t == "":
		t = a.DefaultType()
	case !a.Supports(t):
		return core.Checksum{}, invalidRequest("The " + kind + " checksum type cannot be used with the " + strings.ToLower(name) + " checksum algorithm.")
	}
	return core.Checksum{Algorithm: string(a), Type: string(t)}, nil
}

// partNumber reads the part's number. Errors: InvalidArgument.
func (r *request) partNumber() (int, error) {
	v := r.query.Get("partNumber")
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > maxParts {
		return 0, invalidArgument("partNumber", v, "Part number must be an integer between 1 and 10000, inclusive.")
	}
	return n, nil
}

// upload returns the upload that the request names. Errors: NoSuchUpload, NoSuchBucket.
func (s *Server) upload(r *request) (core.Upload, error) {
	r.about = upload
	up, _, err := s.uploads.ListParts(r.ctx, r.path, r.query.Get("uploadId"), maxParts)
	if err != nil {
		return up, s.inBucket(r, r.dir, err)
	}
	_, err = s.statBucket(r)
	return up, err
}

// uploadPart serves UploadPart.
func (s *Server) uploadPart(r *request) error {
	number, err := r.partNumber()
	if err != nil {
		return err
	}
	if r.lengthMissing() {
		return errMissingLength
	}
	if err := refuseUnbuilt(r.http.Header); err != nil {
		return err
	}
	up, err := s.upload(r)
	if err != nil {
		return err
	}
	compute := checksum.Algorithm(up.Checksum.Algorithm)
	if up.Checksum.Type == string(checksum.Composite) {
		compute = "" // the client must know it to complete the upload
	}
	p, err := r.payload(compute)
	if err != nil {
		return err
	}
	if up.Checksum.Algorithm != "" && string(p.algorithm) != up.Checksum.Algorithm {
		return checksumMismatch(up.Checksum.Algorithm, cmp.Or(string(p.algorithm), "null"))
	}
	w, err := s.uploads.PutPart(r.ctx, r.path, up.ID, number, p.size)
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := p.copyTo(w); err != nil {
		return err
	}
	info, err := w.Commit(r.ctx, core.CommitOptions{MD5: p.md5, Checksums: p.checksums()})
	if err != nil {
		return err
	}
	f := r.fields(1)
	f.set("ETag", `"`+info.ETag+`"`)
	for _, c := range p.checksums() {
		f.set("x-amz-checksum-"+strings.ToLower(c.Algorithm), c.Value)
	}
	return r.empty(http.StatusOK)
}

func checksumMismatch(want, got string) error {
	return invalidRequest("Checksum Type mismatch occurred, expected checksum Type: " + want + ", actual checksum Type: " + got)
}

// uploadPartCopy serves UploadPartCopy.
func (s *Server) uploadPartCopy(r *request) error {
	number, err := r.partNumber()
	if err != nil {
		return err
	}
	src, err := s.source(r)
	if err != nil {
		return err
	}
	from, err := s.statSource(r, src)
	if err != nil {
		return err
	}
	rng, err := copyRange(r.http.Header.Get("X-Amz-Copy-Source-Range"), from.Size)
	if err != nil {
		return err
	}
	up, err := s.upload(r)
	if err != nil {
		return err
	}
	part, err := s.copyPart(r, up, number, src, from, rng)
	if err != nil {
		return err
	}
	x := newXML(256)
	x.root("CopyPartResult")
	x.time("LastModified", part.ModTime)
	x.etag(part.ETag)
	for _, c := range part.Checksums {
		x.text("Checksum"+c.Algorithm, c.Value)
	}
	x.close("CopyPartResult")
	return r.document(x.b)
}

// copyPart makes a part of a version's bytes. The store may copy them itself unless a checksum of them is needed or the
// version was judged by conditions, which only a reader is bound to.
func (s *Server) copyPart(r *request, up core.Upload, number int, src source, from core.Info, rng core.Range) (core.Part, error) {
	if from.Dir {
		return core.Part{}, invalidArgument("x-amz-copy-source", src.path.Name(), "The source is a directory's key, which has no bytes.")
	}
	if up.Checksum.Algorithm == "" && copyConditions(r.http.Header).none() {
		return s.uploads.CopyPart(r.ctx, r.path, up.ID, number, src.path, rng)
	}
	rd, err := s.ns.Open(r.ctx, src.path, rng)
	if err != nil {
		return core.Part{}, err
	}
	defer rd.Close()
	if rd.Info().Version != from.Version {
		return core.Part{}, errPrecondition
	}
	_, size := rd.Span()
	w, err := s.uploads.PutPart(r.ctx, r.path, up.ID, number, size)
	if err != nil {
		return core.Part{}, err
	}
	defer w.Abort()
	sums, err := copyHashed(w, rd, checksum.Algorithm(up.Checksum.Algorithm))
	if err != nil {
		return core.Part{}, err
	}
	info, err := w.Commit(r.ctx, core.CommitOptions{Checksums: sums})
	return core.Part{Number: number, Size: info.Size, ETag: info.ETag, ModTime: info.ModTime, Checksums: sums}, err
}

// copyHashed writes the reader's range to w and returns the checksum of it that a names.
func copyHashed(w io.Writer, rd core.Reader, a checksum.Algorithm) ([]core.Checksum, error) {
	if a == "" {
		_, err := rd.WriteTo(w)
		return nil, err
	}
	h, err := checksum.New(a)
	if err != nil {
		return nil, err
	}
	if _, err := rd.WriteTo(io.MultiWriter(w, h)); err != nil {
		return nil, err
	}
	return []core.Checksum{{Algorithm: string(a), Value: checksum.Encode(h.Sum(nil)), Type: string(checksum.FullObject)}}, nil
}

// copyRange reads x-amz-copy-source-range, which must lie inside the source. Errors: InvalidArgument.
func copyRange(s string, size int64) (core.Range, error) {
	if s == "" {
		return core.All, nil
	}
	rng, ok := parseRange(s)
	if !ok || rng.Off < 0 || rng.Len < 0 {
		return rng, invalidArgument("x-amz-copy-source-range", s, "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy")
	}
	if rng.Off >= size || rng.Len > size-rng.Off {
		return rng, invalidArgument("x-amz-copy-source-range", s, "Range specified is not valid for source object of size: "+itoa(size))
	}
	return rng, nil
}

// abortMultipartUpload serves AbortMultipartUpload.
func (s *Server) abortMultipartUpload(r *request) error {
	if err := s.checkInitiated(r); err != nil {
		return err
	}
	r.about = upload
	if err := s.uploads.AbortUpload(r.ctx, r.path, r.query.Get("uploadId")); err != nil {
		return s.inBucket(r, r.dir, err)
	}
	return r.empty(http.StatusNoContent)
}

// checkInitiated judges the condition that AbortMultipartUpload knows: when the upload was started, to the second.
func (s *Server) checkInitiated(r *request) error {
	v := r.http.Header.Get("X-Amz-If-Match-Initiated-Time")
	if v == "" {
		return nil
	}
	want, err := http.ParseTime(v)
	if err != nil {
		return invalidArgument("x-amz-if-match-initiated-time", v, "The time must be an HTTP date.")
	}
	up, err := s.upload(r)
	if err != nil {
		return err
	}
	if want.After(time.Now()) {
		return nil // S3 ignores dates to come
	}
	if !up.Initiated.Truncate(time.Second).Equal(want) {
		return errPrecondition
	}
	return nil
}

// completeMultipartUpload serves CompleteMultipartUpload.
func (s *Server) completeMultipartUpload(r *request) error {
	r.about = upload
	cond, err := writeCond(r.http.Header)
	if err != nil {
		return err
	}
	doc, err := r.completeDocument()
	if err != nil {
		return err
	}
	parts, err := parseComplete(doc)
	if err != nil {
		return err
	}
	o := core.CompleteOptions{Cond: cond, Within: r.dir}
	if o.Checksums, err = s.judgeParts(r, parts); err != nil {
		return err
	}
	c := completion{s: s, r: r, parts: parts, options: o}
	return c.run()
}

// completeDocument reads the list of parts. A checksum in the headers is the object's and not the document's.
func (r *request) completeDocument() ([]byte, error) {
	p := &payload{r: r}
	var err error
	if p.md5, err = contentMD5(r.http.Header); err != nil {
		return nil, err
	}
	body, err := r.auth.Body(r.http)
	if err != nil {
		return nil, err
	}
	p.src, p.size = body, body.Length()
	return p.document(maxDocument)
}

// parseComplete reads a CompleteMultipartUpload document. Errors: MalformedXML, InvalidPartOrder.
func parseComplete(doc []byte) ([]core.Part, error) {
	root, err := parseXML(doc, maxPartElements, "CompleteMultipartUpload")
	if err != nil {
		return nil, err
	}
	if len(root.children) == 0 || len(root.children) > maxParts {
		return nil, errMalformedXML
	}
	known := []string{"PartNumber", "ETag"}
	for _, a := range checksum.Algorithms() {
		known = append(known, "Checksum"+string(a))
	}
	parts := make([]core.Part, 0, len(root.children))
	for _, e := range root.children {
		v, err := e.leaves(known...)
		if err != nil || e.name != "Part" || v["ETag"] == "" || v["PartNumber"] == "" {
			return nil, errMalformedXML
		}
		n, err := strconv.Atoi(strings.TrimSpace(v["PartNumber"]))
		if err != nil || n < 1 || n > maxParts {
			return nil, invalidArgument("PartNumber", v["PartNumber"], "PartNumber must be >= 1")
		}
		if len(parts) > 0 && parts[len(parts)-1].Number >= n {
			return nil, errInvalidPartOrder
		}
		part := core.Part{Number: n, ETag: unquote(strings.TrimSpace(v["ETag"]))}
		for _, a := range checksum.Algorithms() {
			if sum := strings.TrimSpace(v["Checksum"+string(a)]); sum != "" {
				if _, err := checksum.Decode(a, sum); err != nil || len(part.Checksums) > 0 {
					return nil, invalidArgument("Part.Checksum", sum, "Invalid Base64 or multiple checksums present in request")
				}
				part.Checksums = append(part.Checksums, core.Checksum{Algorithm: string(a), Value: sum, Type: string(checksum.FullObject)})
			}
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// judgeParts compares what the client says of the whole with the parts as they are kept, and returns the checksum of the
// whole. An upload that is gone is left to CompleteUpload, which may have completed it before.
func (s *Server) judgeParts(r *request, parts []core.Part) ([]core.Checksum, error) {
	up, kept, err := s.uploads.ListParts(r.ctx, r.path, r.query.Get("uploadId"), 0)
	if errors.Is(err, errs.NotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	want, err := objectChecksum(r.http.Header, up)
	if err != nil {
		return nil, err
	}
	size := r.http.Header.Get("X-Amz-Mp-Object-Size")
	if n, err := strconv.ParseInt(size, 10, 64); size != "" && err != nil {
		return nil, invalidRequest("Value for x-amz-mp-object-size header is invalid: '" + size + "'")
	} else if n < 0 {
		return nil, invalidRequest("Value for x-amz-mp-object-size header is less than zero: '" + size + "'")
	}
	whole := up
	if whole.Checksum.Algorithm == "" {
		whole.Checksum = want.of // of the parts that came with it
	}
	if whole.Checksum.Algorithm == "" && size == "" {
		return nil, nil
	}
	byNumber := make(map[int]core.Part, len(parts))
	for part, err := range kept {
		if err != nil {
			return nil, err
		}
		byNumber[part.Number] = part
	}
	chosen, total := make([]core.Part, 0, len(parts)), int64(0)
	for _, p := range parts {
		k, ok := byNumber[p.Number]
		if !ok || k.ETag != p.ETag {
			return nil, &core.PartError{Number: p.Number, ETag: p.ETag}
		}
		if err := judgeChecksum(up, p, k); err != nil {
			return nil, err
		}
		chosen, total = append(chosen, k), total+k.Size
	}
	if size != "" && size != itoa(total) {
		return nil, invalidRequest("The provided 'x-amz-mp-object-size' header value " + size + " does not match what was computed: " + itoa(total))
	}
	sums, err := wholeChecksum(whole, chosen, want.value)
	if _, missing := errors.AsType[*core.PartError](err); missing && up.Checksum.Algorithm == "" {
		return nil, checksumMismatch("null", whole.Checksum.Algorithm)
	}
	return sums, err
}

// judgeChecksum compares the checksum that the client lists of a part with the one kept of it.
// Errors: InvalidRequest, BadDigest, InvalidPart.
func judgeChecksum(up core.Upload, listed, kept core.Part) error {
	want := up.Checksum.Algorithm
	switch {
	case want == "":
		return nil
	case len(listed.Checksums) == 0:
		if up.Checksum.Type != string(checksum.Composite) {
			return nil
		}
		return invalidRequest("The upload was created using a " + strings.ToLower(want) + " checksum. The complete request must include the checksum for each part. It was missing for part " +
			strconv.Itoa(listed.Number) + " in the request.")
	case listed.Checksums[0].Algorithm != want:
		e := *errBadDigest
		e.Message = "The " + strings.ToLower(listed.Checksums[0].Algorithm) + " you specified for part " + strconv.Itoa(listed.Number) + " did not match what we received."
		return &e
	case listed.Checksums[0].Value != valueOf(kept.Checksums, want):
		return &core.PartError{Number: listed.Number, ETag: listed.ETag}
	}
	return nil
}

// expected is the checksum of the whole object that a client names; zero if it names none.
type expected struct {
	value string
	of    core.Checksum // its algorithm and type
}

// objectChecksum returns the checksum of the object that the client expects. Errors: InvalidRequest.
func objectChecksum(h http.Header, up core.Upload) (want expected, err error) {
	if t := checksum.Type(strings.ToUpper(h.Get("X-Amz-Checksum-Type"))); t != "" && t != checksum.FullObject && t != checksum.Composite {
		return want, invalidRequest("Value for x-amz-checksum-type header is invalid.")
	} else if t != "" && up.Checksum.Type != "" && string(t) != up.Checksum.Type {
		return want, invalidRequest("The upload was created using the " + up.Checksum.Type + " checksum mode. The complete request must use the same checksum mode.")
	}
	for k, v := range h {
		a, ok := checksum.OfHeader(k)
		if !ok {
			continue
		}
		if want.value != "" {
			return want, invalidRequest("Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
		}
		if up.Checksum.Algorithm != "" && string(a) != up.Checksum.Algorithm {
			return want, checksumMismatch(up.Checksum.Algorithm, string(a))
		}
		if _, _, err := checksum.DecodeComposite(a, v[0]); err != nil {
			return want, invalidRequest("Value for " + a.Header() + " header is invalid.")
		}
		want = expected{v[0], core.Checksum{Algorithm: string(a), Type: string(wholeType(a, v[0], h.Get("X-Amz-Checksum-Type")))}}
	}
	return want, nil
}

// wholeType returns the type of a whole object's checksum that the upload did not announce: the one named, else what the
// value looks like. An algorithm that has but one type has that.
func wholeType(a checksum.Algorithm, value, named string) checksum.Type {
	t := checksum.Type(strings.ToUpper(named))
	if t == "" {
		t = checksum.FullObject
		if strings.Contains(value, "-") {
			t = checksum.Composite
		}
	}
	if !a.Supports(t) {
		return a.DefaultType()
	}
	return t
}

// wholeChecksum computes the checksum of the object from those of its parts. Errors: BadDigest if want is another one;
// InvalidPart if a part has none.
func wholeChecksum(up core.Upload, parts []core.Part, want string) ([]core.Checksum, error) {
	a := checksum.Algorithm(up.Checksum.Algorithm)
	if a == "" {
		return nil, nil
	}
	pieces, sums := make([]checksum.Part, len(parts)), make([][]byte, len(parts))
	for i, p := range parts {
		sum, err := checksum.Decode(a, valueOf(p.Checksums, string(a)))
		if err != nil {
			return nil, &core.PartError{Number: p.Number, ETag: p.ETag}
		}
		pieces[i], sums[i] = checksum.Part{Sum: sum, Size: p.Size}, sum
	}
	var value string
	if up.Checksum.Type == string(checksum.FullObject) {
		sum, err := checksum.Combine(a, pieces)
		if err != nil {
			return nil, err
		}
		value = checksum.Encode(sum)
	} else {
		var err error
		if value, err = checksum.CompositeOf(a, sums); err != nil {
			return nil, err
		}
	}
	if bare, _, _ := strings.Cut(value, "-"); want != "" && want != value && want != bare {
		e := *errBadDigest
		e.Message = "The " + up.Checksum.Algorithm + " you specified did not match the calculated checksum."
		return nil, &e
	}
	return []core.Checksum{{Algorithm: up.Checksum.Algorithm, Value: value, Type: up.Checksum.Type}}, nil
}

func valueOf(sums []core.Checksum, algorithm string) string {
	for _, c := range sums {
		if c.Algorithm == algorithm {
			return c.Value
		}
	}
	return ""
}

// completion is a CompleteUpload under way, whose client is kept awake by white space in front of the document.
type completion struct {
	s       *Server
	r       *request
	parts   []core.Part
	options core.CompleteOptions
	info    core.Info
	err     error
}

// run completes the upload and answers. After the first white space the status is out, and an error can only be the
// document, as S3 says that it may.
//
// Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html
func (c *completion) run() error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.info, c.err = c.s.uploads.CompleteUpload(c.r.ctx, c.r.path, c.r.query.Get("uploadId"), c.parts, c.options)
	}()
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return c.answer()
		case <-tick.C:
			c.stayAwake()
		}
	}
}

func (c *completion) stayAwake() {
	r := c.r
	if !r.answered {
		r.out.Header()["Content-Type"] = xmlType
		r.begin(http.StatusOK)
		_ = r.write([]byte(xmlProlog)) // whether anybody listens shows when the answer is written
	}
	_ = r.write([]byte(" "))
	_ = http.NewResponseController(r.out).Flush()
}

func (c *completion) answer() error {
	r := c.r
	if c.err != nil {
		err := c.s.inBucket(r, r.dir, c.s.unmatched(r, c.options.Cond, c.err))
		if !r.answered {
			return err
		}
		_ = r.write(errorDocument(toAPI(r.about, err), r)[len(xmlProlog):])
		return err
	}
	x := newXML(512)
	x.root("CompleteMultipartUploadResult")
	x.text("Location", location(r))
	x.text("Bucket", r.bucket)
	x.text("Key", r.key)
	x.etag(c.info.ETag)
	x.checksums(c.info.Checksums)
	x.close("CompleteMultipartUploadResult")
	if r.answered {
		return r.write(x.b[len(xmlProlog):])
	}
	return r.document(x.b)
}

// location returns the URL of the object.
func location(r *request) string {
	scheme := "http://"
	if r.http.TLS != nil {
		scheme = "https://"
	}
	return scheme + r.http.Host + rawPath(r.http)
}
