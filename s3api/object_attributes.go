package s3api

import (
	"net/http"
	"strconv"
	"strings"
)

// getObjectAttributes serves GetObjectAttributes.
func (s *Server) getObjectAttributes(r *request) error {
	want, err := wantedAttributes(r.http.Header)
	if err != nil {
		return err
	}
	limit, err := headerLimit(r.http.Header, "X-Amz-Max-Parts", maxKeys)
	if err != nil {
		return err
	}
	after, err := r.partMarker(r.http.Header.Get("X-Amz-Part-Number-Marker"))
	if err != nil {
		return err
	}
	info, err := s.statObject(r, r.path)
	if err != nil {
		return s.inBucket(r, r.dir, err)
	}
	if err := readConditions(r.http.Header).check(info); err != nil {
		return err
	}
	f := r.fields(1)
	f.set("Last-Modified", info.ModTime.UTC().Format(http.TimeFormat))
	x := newXML(512)
	x.root("GetObjectAttributesResponse")
	if want["ETag"] {
		x.text("ETag", etagOf(info)) // the one place where S3 writes it without quotes
	}
	if want["Checksum"] && len(info.Checksums) > 0 {
		x.open("Checksum")
		x.checksums(info.Checksums)
		x.close("Checksum")
	}
	if want["ObjectParts"] && len(info.Parts) > 0 {
		x.objectParts(info.Parts, after, limit)
	}
	if want["StorageClass"] {
		x.text("StorageClass", "STANDARD")
	}
	if want["ObjectSize"] {
		x.int("ObjectSize", info.Size)
	}
	x.close("GetObjectAttributesResponse")
	return r.document(x.b)
}

// wantedAttributes reads x-amz-object-attributes. Errors: InvalidRequest, InvalidArgument.
func wantedAttributes(h http.Header) (map[string]bool, error) {
	want := map[string]bool{}
	for _, line := range h.Values("X-Amz-Object-Attributes") {
		for name := range strings.SplitSeq(line, ",") {
			switch name = strings.TrimSpace(name); name {
			case "":
			case "ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize":
				want[name] = true
			default:
				return nil, invalidArgument("x-amz-object-attributes", name, "Invalid attribute name specified.")
			}
		}
	}
	if len(want) == 0 {
		return nil, invalidRequest("The x-amz-object-attributes header specifying the attributes to be retrieved is either missing or empty")
	}
	return want, nil
}

func headerLimit(h http.Header, name string, most int) (int, error) {
	v := h.Get(name)
	if v == "" {
		return most, nil
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 0 {
		return 0, invalidArgument(strings.ToLower(name), v, "Argument must be an integer between 0 and 2147483647")
	}
	return int(min(n, int64(most))), nil
}

// objectParts writes the parts numbered above after; their sizes are what is kept of them.
func (x *xmlWriter) objectParts(sizes []int64, after, limit int) {
	first := min(after, len(sizes))
	last := min(first+limit, len(sizes))
	x.open("ObjectParts")
	x.int("PartsCount", int64(len(sizes)))
	x.int("PartNumberMarker", int64(after))
	x.int("NextPartNumberMarker", int64(last))
	x.int("MaxParts", int64(limit))
	x.bool("IsTruncated", last < len(sizes))
	for i := first; i < last; i++ {
		x.open("Part")
		x.int("PartNumber", int64(i+1))
		x.int("Size", sizes[i])
		x.close("Part")
	}
	x.close("ObjectParts")
}
