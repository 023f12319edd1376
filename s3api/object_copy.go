package s3api

import (
	"errors"
	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/s3api/checksum"
)

// source is the object that a copy reads.
type source struct {
	dir, path core.Path
	bucket    string
}

// source parses x-amz-copy-source into a path. Errors: InvalidArgument, NoSuchVersion.
func (s *Server) source(r *request) (source, error) {
	from, err := parseCopySource(r.http.Header.Get("X-Amz-Copy-Source"))
	if err != nil {
		return source{}, err
	}
	src := source{bucket: from.bucket}
	if src.dir, _, err = s.bucketPath(r.ctx, from.bucket); err != nil && !errors.Is(err, errBucketName) {
		return source{}, err
	} else if err != nil {
		return source{}, invalidArgument("x-amz-copy-source", from.bucket, "Invalid copy source bucket name")
	}
	if src.path, err = objectPath(src.dir, from.key); err != nil {
		return source{}, err
	}
	return src, s.checkOwner(r, "X-Amz-Source-Expected-Bucket-Owner", src.dir)
}

// statSource returns the version that a copy reads, having judged the conditions on it.
func (s *Server) statSource(r *request, src source) (core.Info, error) {
	info, err := s.statObject(r, src.path)
	if err != nil {
		return info, s.inBucket(r, src.dir, err)
	}
	if copyConditions(r.http.Header).check(info) != nil {
		return info, errPrecondition // also where a GET would say NotModified
	}
	return info, nil
}

// copyObject serves CopyObject. The version copied is the one the conditions were judged on.
func (s *Server) copyObject(r *request) error {
	src, err := s.source(r)
	if err != nil {
		return err
	}
	o, algorithm, err := copyOptions(r)
	if err != nil {
		return err
	}
	if src.path == r.path && o.ReplaceAttr == nil && algorithm == "" {
		return invalidRequest("This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes.")
	}
	from, err := s.statSource(r, src)
	if err != nil {
		return err
	}
	if from.Size > maxPut {
		return invalidRequest("The specified copy source is larger than the maximum allowable size for a copy source: 5368709120")
	}
	if _, err := s.statBucket(r); err != nil {
		return err
	}
	info, err := s.copy(r, src, from, algorithm, o)
	if err != nil {
		return s.inBucket(r, r.dir, s.unmatched(r, o.Dest, err))
	}
	x := newXML(256)
	x.root("CopyObjectResult")
	x.time("LastModified", info.ModTime)
	x.etag(etagOf(info))
	x.checksums(info.Checksums)
	x.close("CopyObjectResult")
	return r.document(x.b)
}

// copyOptions reads what a copy shall be, and the additional checksum it shall get ("": the source's). Errors: InvalidArgument, InvalidRequest, those of fileAttr.
func copyOptions(r *request) (o core.CopyOptions, algorithm checksum.Algorithm, err error) {
	h := r.http.Header
	o.MakeParents, o.Within = true, r.dir
	attr, err := fileAttr(h)
	if err != nil {
		return o, "", err
	}
	switch directive := h.Get("X-Amz-Metadata-Directive"); directive {
	case "", "COPY":
	case "REPLACE":
		o.ReplaceAttr = &attr
	default:
		return o, "", invalidArgument("x-amz-metadata-directive", directive, "Unknown metadata directive.")
	}
	if name := h.Get("X-Amz-Checksum-Algorithm"); name != "" {
		if algorithm, err = checksum.Parse(name); err != nil {
			return o, "", checksumRefused(err)
		}
	}
	o.Dest, err = writeCond(h)
	return o, algorithm, err
}

// copy copies one version. An object without bytes may change between a file and a directory that is a key.
func (s *Server) copy(r *request, src source, from core.Info, algorithm checksum.Algorithm, o core.CopyOptions) (core.Info, error) {
	if !from.Dir && !r.path.IsDir() && algorithm != "" {
		return s.copyHashing(r, src, from, algorithm, o)
	}
	if !from.Dir && !(r.path.IsDir() && from.Size == 0) {
		o.Source = core.Cond{IfMatch: from.ETag}
		info, err := s.ns.Copy(r.ctx, src.path, r.path, o)
		return info, r.asKey(err)
	}
	attr := core.FileAttr{Headers: from.Headers, User: from.User}
	if o.ReplaceAttr != nil {
		attr = *o.ReplaceAttr
	}
	if r.path.IsDir() {
		return s.ns.Mkdir(r.ctx, r.path, core.MkdirOptions{MakeParents: true, Within: r.dir, Marker: true, Headers: attr.Headers, User: attr.User, Cond: o.Dest})
	}
	w, err := s.ns.Create(r.ctx, r.path, core.CreateOptions{MakeParents: true, Within: r.dir, Cond: o.Dest, Attr: attr})
	if err != nil {
		return core.Info{}, err
	}
	defer w.Abort()
	return w.Commit(r.ctx, core.CommitOptions{})
}

// copyHashing copies one version through this process, which takes the checksum asked for on the way.
func (s *Server) copyHashing(r *request, src source, from core.Info, algorithm checksum.Algorithm, o core.CopyOptions) (core.Info, error) {
	rd, err := s.ns.Open(r.ctx, src.path, core.All)
	if err != nil {
		return core.Info{}, err
	}
	defer rd.Close()
	if rd.Info().Version != from.Version {
		return core.Info{}, errChanged
	}
	attr := core.FileAttr{Headers: from.Headers, User: from.User}
	if o.ReplaceAttr != nil {
		attr = *o.ReplaceAttr
	}
	w, err := s.ns.Create(r.ctx, r.path, core.CreateOptions{MakeParents: true, Within: r.dir, Size: from.Size, Cond: o.Dest, Attr: attr})
	if err != nil {
		return core.Info{}, err
	}
	defer w.Abort()
	sums, err := copyHashed(w, rd, algorithm)
	if err != nil {
		return core.Info{}, err
	}
	return w.Commit(r.ctx, core.CommitOptions{Checksums: sums})
}

// checksums writes the elements of additional checksums.
func (x *xmlWriter) checksums(sums []core.Checksum) {
	for _, c := range sums {
		x.text("Checksum"+c.Algorithm, c.Value)
	}
	if len(sums) > 0 {
		x.optional("ChecksumType", sums[0].Type)
	}
}
