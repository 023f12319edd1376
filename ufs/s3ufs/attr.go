package s3ufs

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Attr travels as S3 keeps it: content headers in their fields, user metadata as x-amz-meta-*, and what S3 has no field
// for as user metadata of these names, which are never shown in Attr.User and refused there.
const (
	metaETag      = "sluice-etag" // only where the acknowledged ETag is not the object's own
	metaOrigin    = "sluice-origin"
	metaChecksums = "sluice-checksums"
	metaMode      = "sluice-mode" // octal
	metaOwner     = "sluice-owner"
	metaGroup     = "sluice-group"
	metaHeaders   = "sluice-headers" // content headers that S3 has no field for, in JSON
)

var reserved = []string{metaETag, metaOrigin, metaChecksums, metaMode, metaOwner, metaGroup, metaHeaders}

// fields are attributes as a request carries them.
type fields struct {
	contentType, cacheControl, disposition, encoding, language *string
	expires                                                    *time.Time
	meta                                                       map[string]string
}

// encode returns a as fields. own is the ETag the object is known to get, "" if it is not known.
func encode(op, name string, a ufs.Attr, own string) (f fields, err error) {
	f.meta = make(map[string]string, len(a.User)+4)
	for k, v := range a.User {
		if slices.Contains(reserved, k) {
			return f, errs.New(op, name, errs.Invalid, fmt.Sprintf("the user metadata %q is Sluice's own", k))
		}
		f.meta[k] = encodeValue(v)
	}
	f.encodeHeaders(a.Headers)
	for k, v := range map[string]string{
		metaOrigin: a.Origin, metaChecksums: a.Checksums, metaOwner: a.Owner, metaGroup: a.Group,
	} {
		if v != "" {
			f.meta[k] = encodeValue(v)
		}
	}
	if a.ETag != "" && a.ETag != own {
		f.meta[metaETag] = a.ETag
	}
	if a.Mode != 0 {
		f.meta[metaMode] = strconv.FormatUint(uint64(a.Mode), 8)
	}
	return f, nil
}

func (f *fields) encodeHeaders(headers map[string]string) {
	own := map[string]**string{
		"Content-Type": &f.contentType, "Cache-Control": &f.cacheControl, "Content-Disposition": &f.disposition,
		"Content-Encoding": &f.encoding, "Content-Language": &f.language,
	}
	rest := map[string]string{}
	for k, v := range headers {
		if field, ok := own[k]; ok && v != "" {
			*field = &v
		} else if t, err := http.ParseTime(v); k == "Expires" && err == nil {
			f.expires = &t
		} else {
			rest[k] = v
		}
	}
	if len(rest) > 0 {
		b, _ := json.Marshal(rest) // a map of strings has no failure
		f.meta[metaHeaders] = encodeValue(string(b))
	}
}

// encodeValue makes v a header's value: S3 hands out what is not ASCII as RFC 2047 words, so it is sent as such.
func encodeValue(v string) string {
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return mime.BEncoding.Encode("UTF-8", v)
		}
	}
	return v
}

func decodeValue(v string) string {
	if !strings.Contains(v, "=?") {
		return v
	}
	if d, err := new(mime.WordDecoder).DecodeHeader(v); err == nil {
		return d
	}
	return v
}

// decode is the reverse of encode: headers are those of a HEAD's answer, by canonical name.
func decode(headers, meta map[string]string) ufs.Attr {
	a := ufs.Attr{Headers: map[string]string{}, User: map[string]string{}}
	for k, v := range headers {
		if v != "" {
			a.Headers[k] = v
		}
	}
	for k, v := range meta {
		v = decodeValue(v)
		switch k = strings.ToLower(k); k {
		case metaETag:
			a.ETag = v
		case metaOrigin:
			a.Origin = v
		case metaChecksums:
			a.Checksums = v
		case metaOwner:
			a.Owner = v
		case metaGroup:
			a.Group = v
		case metaMode:
			m, _ := strconv.ParseUint(v, 8, 32) // what is not a mode is no mode
			a.Mode = uint32(m) & 0o1777
		case metaHeaders:
			rest := map[string]string{}
			if json.Unmarshal([]byte(v), &rest) == nil {
				maps.Copy(a.Headers, rest)
			}
		default:
			a.User[k] = v
		}
	}
	return a
}
