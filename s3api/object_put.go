package s3api

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"errors"
	"net/http"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api/checksum"
)

// putObject serves PutObject.
func (s *Server) putObject(r *request) error {
	h := r.http.Header
	if r.query.Has("partNumber") {
		return invalidArgument("partNumber", r.query.Get("partNumber"), "This operation does not accept a partNumber without an uploadId.")
	}
	attr, err := fileAttr(h)
	if err != nil {
		return err
	}
	cond, err := writeCond(h)
	if err != nil {
		return err
	}
	how, err := writeType(h)
	if err != nil {
		return err
	}
	if r.lengthMissing() {
		return errMissingLength
	}
	p, err := r.payload(checksum.CRC64NVME) // S3 takes it of every object that comes without a checksum
	if err != nil {
		return err
	}
	if _, err := s.statBucket(r); err != nil {
		return err // Create would make the bucket with the key's other parents
	}
	o := core.CreateOptions{MakeParents: true, Within: r.dir, Size: p.size, Cond: cond, Attr: attr, WriteType: how}
	info, err := s.store(r, p, o)
	if err != nil {
		return s.inBucket(r, r.dir, s.unmatched(r, cond, err))
	}
	f := r.fields(4)
	f.set("ETag", `"`+etagOf(info)+`"`)
	f.set("x-amz-object-size", itoa(info.Size))
	r.showChecksums(p.checksums())
	if how = cmp.Or(info.Write, how); how != "" {
		f.set("X-Sluice-Write-Type", string(how)) // not what was asked for where too few workers could hold it
	}
	return r.empty(http.StatusOK)
}

// lengthMissing reports whether the client says nothing of how long its body is.
func (r *request) lengthMissing() bool {
	h := r.http
	return h.ProtoMajor == 1 && h.ContentLength == 0 && len(h.Header["Content-Length"]) == 0 && len(h.TransferEncoding) == 0
}

// store makes the body the object.
func (s *Server) store(r *request, p *payload, o core.CreateOptions) (core.Info, error) {
	var first []byte
	if r.path.IsDir() {
		var err error
		if first, err = p.peek(); err != nil {
			return core.Info{}, err
		}
		if len(first) == 0 {
			return s.makeMarker(r, p, o)
		}
	}
	w, err := s.ns.Create(r.ctx, r.path, o)
	if err != nil {
		return core.Info{}, r.asKey(err)
	}
	defer w.Abort()
	if len(first) > 0 {
		if _, err := w.Write(first); err != nil {
			return core.Info{}, err
		}
	}
	if err := p.copyTo(w); err != nil {
		return core.Info{}, err
	}
	info, err := w.Commit(r.ctx, core.CommitOptions{MD5: p.md5, Checksums: p.checksums()})
	return info, r.asKey(err)
}

// makeMarker makes a key that ends in a slash and has no bytes: a directory that is a key.
func (s *Server) makeMarker(r *request, p *payload, o core.CreateOptions) (core.Info, error) {
	if sum := md5.Sum(nil); p.md5 != nil && !bytes.Equal(p.md5, sum[:]) {
		return core.Info{}, errBadDigest
	}
	return s.ns.Mkdir(r.ctx, r.path, core.MkdirOptions{MakeParents: true, Within: r.dir, Marker: true,
		Headers: o.Attr.Headers, User: o.Attr.User, Cond: o.Cond})
}

// asKey words the refusal of bytes under a key that ends in a slash.
func (r *request) asKey(err error) error {
	if r.path.IsDir() && errors.Is(err, errs.IsDir) {
		return invalidArgument("key", r.key, "The store below this bucket keeps a key that ends in a slash as a directory, which holds no bytes. Choose another key.")
	}
	return err
}

// unmatched words a condition that failed because there is nothing to match as S3 does: NoSuchKey.
func (s *Server) unmatched(r *request, cond core.Cond, err error) error {
	if cond.IfMatch == "" || !errors.Is(err, errs.Precondition) {
		return err
	}
	if _, serr := s.statObject(r, r.path); errors.Is(serr, errs.NotExist) {
		return errNoSuchKey
	}
	return err
}
