package s3api

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"sync"

	"github.com/sluicefs/sluice/core"
)

// maxKeys is the largest page of a listing.
const maxKeys = 1000

// listing is what every operation that lists keys asks for and how it wants names written.
type listing struct {
	prefix, delimiter string
	max               int
	url               bool // encoding-type=url
}

// listing reads the parameters that all listings share. Errors: InvalidArgument.
func (r *request) listing(maxParam string) (listing, error) {
	l := listing{prefix: r.query.Get("prefix"), delimiter: r.query.Get("delimiter")}
	switch v := r.query.Get("encoding-type"); v {
	case "":
	case "url":
		l.url = true
	default:
		return l, invalidArgument("encoding-type", v, "Invalid Encoding Method specified in Request")
	}
	var err error
	l.max, err = r.limit(maxParam, maxKeys)
	return l, err
}

// name writes a key, prefix or marker as the client wants names.
func (l listing) name(s string) string {
	if l.url {
		return urlEncode(s)
	}
	return s
}

// page is one page of keys, rendered as it was listed: a thousand core.Infos would take more memory than their elements.
type page struct {
	keys, prefixes xmlWriter // elements of the keys, and of the common prefixes, which S3 writes after them
	count          int
	more           bool
	last           string // the last name of the page, where the next one goes on
}

var pages = sync.Pool{New: func() any { return new(page) }}

// maxPooled is the size from which on a page's memory is not kept for others, in bytes.
const maxPooled = 1 << 20

// free gives the page's memory back.
func (p *page) free() {
	if cap(p.keys.b)+cap(p.prefixes.b) <= maxPooled {
		pages.Put(p)
	}
}

// page lists the bucket after the given name. Keys become elements of the given name, with their owners if asked for. The
// caller frees the page.
func (s *Server) page(r *request, l listing, after, element string, owner bool) (*page, error) {
	p := pages.Get().(*page)
	*p = page{keys: xmlWriter{p.keys.b[:0]}, prefixes: xmlWriter{p.prefixes.b[:0]}}
	if l.max == 0 {
		_, err := s.statBucket(r)
		return p, err
	}
	o := core.ListOptions{Prefix: l.prefix, Delimiter: l.delimiter, After: after, Limit: l.max + 1}
	for info, err := range s.ns.List(r.ctx, r.dir, o) {
		if err != nil {
			return p, err
		}
		if p.count == l.max {
			p.more = true
			break
		}
		p.add(l, &info, element, owner)
	}
	return p, nil
}

func (p *page) add(l listing, info *core.Info, element string, owner bool) {
	p.count++
	p.last = info.Name
	if !info.CommonPrefix {
		p.keys.object(l, info, element, owner)
		return
	}
	p.prefixes.open("CommonPrefixes")
	p.prefixes.text("Prefix", l.name(info.Name))
	p.prefixes.close("CommonPrefixes")
}

func (x *xmlWriter) object(l listing, info *core.Info, element string, owner bool) {
	x.open(element)
	x.text("Key", l.name(info.Name))
	if element == "Version" {
		x.text("VersionId", "null")
		x.bool("IsLatest", true)
	}
	x.time("LastModified", info.ModTime)
	x.etag(etagOf(*info))
	for _, c := range info.Checksums {
		x.text("ChecksumAlgorithm", c.Algorithm)
		x.optional("ChecksumType", c.Type)
	}
	x.int("Size", info.Size)
	if owner {
		x.owner("Owner", info.Owner)
	}
	x.text("StorageClass", "STANDARD")
	x.close(element)
}

// listed answers with a document: what x has written, the page, and the end of the root element.
func (r *request) listed(x *xmlWriter, p *page, root string) error {
	p.prefixes.close(root)
	return r.document(x.b, p.keys.b, p.prefixes.b)
}

// listObjectsV2 serves ListObjectsV2.
func (s *Server) listObjectsV2(r *request) error {
	l, err := r.listing("max-keys")
	if err != nil {
		return err
	}
	start := r.query.Get("start-after")
	after := start
	token, resumed := r.query["continuation-token"]
	if resumed {
		if after, err = openToken(r.bucket, token[0]); err != nil {
			return err
		}
	}
	p, err := s.page(r, l, after, "Contents", r.query.Get("fetch-owner") == "true")
	defer p.free()
	if err != nil {
		return err
	}
	x := newXML(512)
	x.root("ListBucketResult")
	x.text("Name", r.bucket)
	x.text("Prefix", l.name(l.prefix))
	if resumed {
		x.text("ContinuationToken", token[0])
	}
	if p.more {
		x.text("NextContinuationToken", sealToken(r.bucket, p.last))
	}
	x.optional("StartAfter", l.name(start))
	x.int("KeyCount", int64(p.count))
	x.int("MaxKeys", int64(l.max))
	x.optional("Delimiter", l.name(l.delimiter))
	x.encoding(l)
	x.bool("IsTruncated", p.more)
	return r.listed(x, p, "ListBucketResult")
}

func (x *xmlWriter) encoding(l listing) {
	if l.url {
		x.text("EncodingType", "url")
	}
}

// listObjects serves ListObjects, version 1.
func (s *Server) listObjects(r *request) error {
	l, err := r.listing("max-keys")
	if err != nil {
		return err
	}
	marker := r.query.Get("marker")
	p, err := s.page(r, l, marker, "Contents", true)
	defer p.free()
	if err != nil {
		return err
	}
	x := newXML(512)
	x.root("ListBucketResult")
	x.text("Name", r.bucket)
	x.text("Prefix", l.name(l.prefix))
	x.text("Marker", l.name(marker))
	if p.more { // S3 leaves it out without a delimiter; clients then go on from the last key, which is the same name
		x.text("NextMarker", l.name(p.last))
	}
	x.int("MaxKeys", int64(l.max))
	x.optional("Delimiter", l.name(l.delimiter))
	x.encoding(l)
	x.bool("IsTruncated", p.more)
	return r.listed(x, p, "ListBucketResult")
}

// listObjectVersions serves ListObjectVersions of a bucket that never had versioning: each object is its version null.
func (s *Server) listObjectVersions(r *request) error {
	l, err := r.listing("max-keys")
	if err != nil {
		return err
	}
	marker, version := r.query.Get("key-marker"), r.query.Get("version-id-marker")
	if version != "" && marker == "" {
		return invalidArgument("version-id-marker", version, "A version-id marker cannot be specified without a key marker.")
	}
	p, err := s.page(r, l, marker, "Version", true)
	defer p.free()
	if err != nil {
		return err
	}
	x := newXML(512)
	x.root("ListVersionsResult")
	x.text("Name", r.bucket)
	x.text("Prefix", l.name(l.prefix))
	x.text("KeyMarker", l.name(marker))
	x.text("VersionIdMarker", version)
	if p.more {
		x.text("NextKeyMarker", l.name(p.last))
		x.text("NextVersionIdMarker", "null")
	}
	x.int("MaxKeys", int64(l.max))
	x.optional("Delimiter", l.name(l.delimiter))
	x.encoding(l)
	x.bool("IsTruncated", p.more)
	return r.listed(x, p, "ListVersionsResult")
}

// sealToken makes a continuation token: the last name of a page and a checksum that binds it to its bucket, so that a
// token from elsewhere is refused instead of starting somewhere. It protects nothing: the name is the client's to choose.
func sealToken(bucket, last string) string {
	b := binary.BigEndian.AppendUint32(nil, tokenSum(bucket, last))
	return base64.RawURLEncoding.EncodeToString(append(b, last...))
}

func tokenSum(bucket, last string) uint32 {
	return crc32.ChecksumIEEE([]byte(bucket + "\x00" + last))
}

// openToken returns the name in a token of sealToken. Errors: InvalidArgument.
func openToken(bucket, token string) (string, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) < 4 || binary.BigEndian.Uint32(b) != tokenSum(bucket, string(b[4:])) {
		return "", invalidArgument("continuation-token", token, "The continuation token provided is incorrect")
	}
	return string(b[4:]), nil
}
