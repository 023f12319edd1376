package s3api

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// selection is the part of an object that a GET or HEAD asks for.
type selection struct {
	rng     core.Range
	partial bool // answers 206
	part    int  // partNumber, 0 if none
}

// selected reads Range and partNumber. Errors: InvalidRequest, InvalidArgument.
func (r *request) selected() (selection, error) {
	sel := selection{rng: core.All}
	if rng, ok := parseRange(first(r.http.Header, "Range")); ok {
		sel.rng, sel.partial = rng, true
	}
	if v, ok := r.query["partNumber"]; ok {
		n, err := strconv.Atoi(v[0])
		if err != nil || n < 1 || n > maxParts {
			return sel, invalidArgument("partNumber", v[0], "Part number must be an integer between 1 and 10000, inclusive.")
		}
		if first(r.http.Header, "Range") != "" {
			return sel, invalidRequest("Cannot specify both Range header and partNumber query parameter")
		}
		sel.part, sel.partial = n, true
	}
	return sel, nil
}

// settle fixes the range on the version the client will get: a part of it, or the whole if If-Range names another.
// Errors: InvalidPartNumber.
func (sel *selection) settle(r *request, info core.Info) error {
	switch {
	case sel.part > 0:
		return sel.ofPart(info)
	case sel.partial && !ifRange(first(r.http.Header, "If-Range"), info):
		sel.rng, sel.partial = core.All, false
	}
	return nil
}

func (sel *selection) ofPart(info core.Info) error {
	if sel.part > max(1, len(info.Parts)) {
		return errInvalidPartNumber
	}
	if len(info.Parts) == 0 {
		return nil
	}
	sel.rng = core.Range{Len: info.Parts[sel.part-1]}
	for _, n := range info.Parts[:sel.part-1] {
		sel.rng.Off += n
	}
	return nil
}

// clamp returns the bytes selected of an object of the given size; ok is false if there are none to be had.
func (sel *selection) clamp(size int64) (off, n int64, ok bool) {
	off = sel.rng.Off
	if off < 0 {
		off = max(0, size+off)
	}
	if off > size || off == size && sel.partial && sel.part == 0 && sel.rng.Off >= 0 {
		return 0, 0, false
	}
	n = size - off
	if sel.rng.Len >= 0 {
		n = min(n, sel.rng.Len)
	}
	return off, n, true
}

// statObject returns the facts of the key. A directory is one only if it is a key. Errors: NoSuchKey, NoSuchBucket.
func (s *Server) statObject(r *request, p core.Path) (core.Info, error) {
	info, err := s.ns.Stat(r.ctx, p)
	if err != nil || !info.Dir || info.Marker {
		return info, err
	}
	_, edge := p.Split()
	for key, err := range s.ns.List(r.ctx, p.Parent(), core.ListOptions{Prefix: edge, Limit: 1}) {
		if err != nil || key.Name == edge { // also a directory without a marker is one while it is explicit and empty
			return info, err
		}
	}
	return info, errs.E("s3api.Stat", "", errs.NotExist, nil)
}

// headObject serves HeadObject.
func (s *Server) headObject(r *request) error {
	sel, err := r.selected()
	if err != nil {
		return err
	}
	info, err := s.statObject(r, r.path)
	if err != nil {
		return s.inBucket(r, r.dir, err)
	}
	if err := sel.settle(r, info); err != nil {
		return err
	}
	off, n, err := r.prepare(info, sel)
	if err != nil {
		return err
	}
	r.begin(r.length(info, sel, off, n))
	return nil
}

// prepare judges the conditions on a version and sets the response's headers but its length.
func (r *request) prepare(info core.Info, sel selection) (off, n int64, err error) {
	r.describe(info)
	if err := readConditions(r.http.Header).check(info); err != nil {
		return 0, 0, err
	}
	if err := r.override(); err != nil {
		return 0, 0, err
	}
	off, n, ok := sel.clamp(info.Size)
	if !ok {
		size := itoa(info.Size)
		r.out.Header()["Content-Range"] = []string{"bytes */" + size}
		return 0, 0, &apiError{Code: "InvalidRange", Status: 416, Message: "The requested range is not satisfiable",
			Detail: []pair{{"RangeRequested", first(r.http.Header, "Range")}, {"ActualObjectSize", size}}}
	}
	return off, n, nil
}

// length sets the length of the body and returns the status that goes with it.
func (r *request) length(info core.Info, sel selection, off, n int64) int {
	f := r.fields(3)
	f.set("Content-Length", itoa(n))
	if sel.part > 0 && len(info.Parts) > 0 {
		f.set("x-amz-mp-parts-count", strconv.Itoa(len(info.Parts)))
	}
	if whole := !sel.partial || sel.part > 0 && len(info.Parts) == 0; whole && r.wantsChecksum() {
		r.showChecksums(info.Checksums)
	}
	if !sel.partial || n == 0 && sel.part == 0 { // the last bytes of an object without any are the object
		return http.StatusOK
	}
	if n > 0 {
		f.set("Content-Range", "bytes "+itoa(off)+"-"+itoa(off+n-1)+"/"+itoa(info.Size))
	}
	return http.StatusPartialContent
}

// getObject serves GetObject. A version that leaves its store between opening and the first byte is opened once more: what
// replaced it is as good an answer to a request that is still running.
func (s *Server) getObject(r *request) error {
	err := s.sendObject(r)
	if errors.Is(err, errs.Conflict) && !r.answered {
		err = s.sendObject(r)
	}
	return err
}

func (s *Server) sendObject(r *request) error {
	sel, err := r.selected()
	if err != nil {
		return err
	}
	version := ""
	if r.path.IsDir() || sel.part > 0 || sel.partial && first(r.http.Header, "If-Range") != "" {
		info, err := s.statObject(r, r.path)
		if err != nil {
			return s.inBucket(r, r.dir, err)
		}
		if err := sel.settle(r, info); err != nil {
			return err
		}
		if info.Dir {
			return r.sendEmpty(info, sel)
		}
		version = info.Version
	}
	rd, err := s.ns.Open(r.ctx, r.path, sel.rng)
	if errors.Is(err, errs.Range) {
		return s.unsatisfiable(r, sel)
	}
	if err != nil {
		return s.inBucket(r, r.dir, err)
	}
	defer rd.Close()
	info := rd.Info()
	if version != "" && version != info.Version {
		return errChanged
	}
	off, n, err := r.prepare(info, sel)
	if err != nil {
		return err
	}
	status := r.length(info, sel, off, n)
	if n == 0 {
		r.begin(status)
		return nil
	}
	_, err = rd.WriteTo(&bodyWriter{r, status})
	return err
}

// errChanged is a version that was looked at and is gone.
var errChanged = errs.New("s3api.GetObject", "", errs.Conflict, "the object changed while it was opened")

// sendEmpty answers for a directory that is a key: its object has no bytes.
func (r *request) sendEmpty(info core.Info, sel selection) error {
	off, n, err := r.prepare(info, sel)
	if err != nil {
		return err
	}
	r.begin(r.length(info, sel, off, n))
	return nil
}

// unsatisfiable answers a range beyond the end: the conditions of the request come first.
func (s *Server) unsatisfiable(r *request, sel selection) error {
	info, err := s.statObject(r, r.path)
	if err != nil {
		return s.inBucket(r, r.dir, err)
	}
	if _, _, err = r.prepare(info, sel); err != nil {
		return err
	}
	return errChanged
}
