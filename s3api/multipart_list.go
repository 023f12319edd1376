package s3api

import (
	"strconv"
	"strings"

	"github.com/sluicefs/sluice/core"
)

// listParts serves ListParts.
func (s *Server) listParts(r *request) error {
	r.about = upload
	limit, err := r.limit("max-parts", maxKeys)
	if err != nil {
		return err
	}
	after, err := r.partMarker(r.query.Get("part-number-marker"))
	if err != nil {
		return err
	}
	up, parts, err := s.uploads.ListParts(r.ctx, r.path, r.query.Get("uploadId"), after)
	if err != nil {
		return s.inBucket(r, r.dir, err)
	}
	var page []core.Part
	more := false
	for p, err := range parts {
		if err != nil {
			return err
		}
		if more = len(page) == limit; more {
			break
		}
		page = append(page, p)
	}
	x := newXML(512 + 160*len(page))
	x.root("ListPartsResult")
	x.text("Bucket", r.bucket)
	x.text("Key", r.key)
	x.text("UploadId", up.ID)
	x.owner("Initiator", up.Owner)
	x.owner("Owner", up.Owner)
	x.text("StorageClass", "STANDARD")
	x.optional("ChecksumAlgorithm", up.Checksum.Algorithm)
	x.optional("ChecksumType", up.Checksum.Type)
	x.int("PartNumberMarker", int64(after))
	next := after
	if len(page) > 0 {
		next = page[len(page)-1].Number
	}
	x.int("NextPartNumberMarker", int64(next))
	x.int("MaxParts", int64(limit))
	x.bool("IsTruncated", more && limit > 0)
	for _, p := range page {
		x.open("Part")
		x.int("PartNumber", int64(p.Number))
		x.time("LastModified", p.ModTime)
		x.etag(p.ETag)
		x.int("Size", p.Size)
		for _, c := range p.Checksums {
			x.text("Checksum"+c.Algorithm, c.Value)
		}
		x.close("Part")
	}
	x.close("ListPartsResult")
	return r.document(x.b)
}

// partMarker reads the number after which parts are listed. Errors: InvalidArgument.
func (r *request) partMarker(v string) (int, error) {
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 0 {
		return 0, invalidArgument("part-number-marker", v, "Argument part-number-marker must be an integer between 0 and 2147483647")
	}
	return int(n), nil
}

// uploadEntry is an upload of a listing, or a common prefix of uploads.
type uploadEntry struct {
	core.Upload
	prefix string
}

// listMultipartUploads serves ListMultipartUploads.
func (s *Server) listMultipartUploads(r *request) error {
	l, err := r.listing("max-uploads")
	if err != nil {
		return err
	}
	key, id := r.query.Get("key-marker"), r.query.Get("upload-id-marker")
	if key == "" {
		id = "" // S3 ignores it then
	}
	if _, err := s.statBucket(r); err != nil {
		return err
	}
	page, more, err := s.uploadPage(r, l, key, id)
	if err != nil {
		return err
	}
	x := newXML(512 + 256*len(page))
	x.root("ListMultipartUploadsResult")
	x.text("Bucket", r.bucket)
	x.text("KeyMarker", l.name(key))
	x.text("UploadIdMarker", id)
	if more {
		last := page[len(page)-1]
		if last.prefix != "" {
			x.text("NextKeyMarker", l.name(last.prefix))
			x.text("NextUploadIdMarker", "")
		} else {
			x.text("NextKeyMarker", l.name(last.Name))
			x.text("NextUploadIdMarker", last.ID)
		}
	}
	x.optional("Delimiter", l.name(l.delimiter))
	x.text("Prefix", l.name(l.prefix))
	x.encoding(l)
	x.int("MaxUploads", int64(l.max))
	x.bool("IsTruncated", more)
	x.uploads(l, page)
	x.close("ListMultipartUploadsResult")
	return r.document(x.b)
}

// uploadPage collects one page, rolling keys up to the delimiter.
func (s *Server) uploadPage(r *request, l listing, key, id string) (page []uploadEntry, more bool, err error) {
	if l.max == 0 {
		return nil, false, nil
	}
	skip := ""
	if l.delimiter != "" && strings.HasPrefix(key, l.prefix) && strings.HasSuffix(key, l.delimiter) && len(key) > len(l.prefix) {
		skip = key // the marker is a common prefix: what it stands for has been listed
	}
	for up, err := range s.uploads.ListUploads(r.ctx, r.dir, l.prefix, key, id) {
		if err != nil {
			return nil, false, err
		}
		if skip != "" && strings.HasPrefix(up.Name, skip) {
			continue
		}
		e := uploadEntry{Upload: up, prefix: l.common(up.Name)}
		if n := len(page); n > 0 && e.prefix != "" && page[n-1].prefix == e.prefix {
			continue
		}
		if len(page) == l.max {
			return page, true, nil
		}
		page = append(page, e)
	}
	return page, false, nil
}

// common returns the common prefix that a name is rolled up to, "" if it stands for itself.
func (l listing) common(name string) string {
	if l.delimiter == "" {
		return ""
	}
	rest, ok := strings.CutPrefix(name, l.prefix)
	if !ok {
		return ""
	}
	i := strings.Index(rest, l.delimiter)
	if i < 0 {
		return ""
	}
	return name[:len(l.prefix)+i+len(l.delimiter)]
}

func (x *xmlWriter) uploads(l listing, page []uploadEntry) {
	for _, e := range page {
		if e.prefix != "" {
			continue
		}
		x.open("Upload")
		x.text("Key", l.name(e.Name))
		x.text("UploadId", e.ID)
		x.owner("Initiator", e.Owner)
		x.owner("Owner", e.Owner)
		x.text("StorageClass", "STANDARD")
		x.time("Initiated", e.Initiated)
		x.optional("ChecksumAlgorithm", e.Checksum.Algorithm)
		x.optional("ChecksumType", e.Checksum.Type)
		x.close("Upload")
	}
	for _, e := range page {
		if e.prefix != "" {
			x.open("CommonPrefixes")
			x.text("Prefix", l.name(e.prefix))
			x.close("CommonPrefixes")
		}
	}
}
