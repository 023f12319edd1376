package s3api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
)

// conditions are what a client asks of the version it reads or copies. Values are as the headers have them, "" if absent.
type conditions struct {
	match, noneMatch, modified, unmodified string
}

func readConditions(h http.Header) conditions {
	return conditions{first(h, "If-Match"), first(h, "If-None-Match"), first(h, "If-Modified-Since"), first(h, "If-Unmodified-Since")}
}

// first returns the value of the header key, which is in net/http's spelling: Header.Get would look for that.
func first(h http.Header, key string) string {
	if values := h[key]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func copyConditions(h http.Header) conditions {
	const p = "X-Amz-Copy-Source-If-"
	return conditions{h.Get(p + "Match"), h.Get(p + "None-Match"), h.Get(p + "Modified-Since"), h.Get(p + "Unmodified-Since")}
}

func (c conditions) none() bool { return c == conditions{} }

// check judges c on a version, an ETag deciding over a date where both are given. It returns nil, PreconditionFailed or
// NotModified. A date that cannot be read is no condition, as RFC 9110 has it.
//
// Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
func (c conditions) check(info core.Info) error {
	tag := etagOf(info)
	changed := info.ModTime.Truncate(time.Second)
	if c.match != "" {
		if !matches(c.match, tag) {
			return errPrecondition
		}
	} else if t, ok := parseDate(c.unmodified); ok && changed.After(t) {
		return errPrecondition
	}
	if c.noneMatch != "" {
		if matches(c.noneMatch, tag) {
			return errNotModified
		}
	} else if t, ok := parseDate(c.modified); ok && !changed.After(t) {
		return errNotModified
	}
	return nil
}

// parseDate reads the value of a header that is a date. Nearly always there is none.
func parseDate(s string) (time.Time, bool) {
	if s == "" {
		return time.Time{}, false
	}
	t, err := http.ParseTime(s)
	return t, err == nil
}

// matches reports whether a list of ETags, quoted or bare, holds tag. ETags of objects are strong: W/ is ignored.
func matches(list, tag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		one = strings.TrimSpace(one)
		if one == "*" || unquote(strings.TrimPrefix(one, "W/")) == tag {
			return true
		}
	}
	return false
}

// unquote drops the quotes of an ETag.
func unquote(tag string) string {
	if len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"' {
		return tag[1 : len(tag)-1]
	}
	return tag
}

// writeCond reads the conditions a write puts on the version it replaces. Errors: NotImplemented for what S3 does not
// know of writes either.
func writeCond(h http.Header) (core.Cond, error) {
	c := core.Cond{IfMatch: unquote(h.Get("If-Match")), IfNoneMatch: unquote(h.Get("If-None-Match"))}
	switch {
	case c.IfNoneMatch != "" && c.IfNoneMatch != "*":
		return c, notImplemented("If-None-Match")
	case c.IfMatch != "" && c.IfNoneMatch != "":
		return c, notImplemented("If-None-Match")
	case strings.Contains(c.IfMatch, ","):
		return c, notImplemented("If-Match")
	}
	return c, nil
}

// parseRange reads a Range header. ok is false for what S3 ignores: several ranges, another unit, nonsense. A range that
// can never be satisfied ("bytes=-0") is errs.Range by its offset lying beyond any end.
func parseRange(s string) (r core.Range, ok bool) {
	spec, found := strings.CutPrefix(s, "bytes=")
	if !found {
		return r, false
	}
	first, last, found := strings.Cut(spec, "-")
	if !found || strings.IndexByte(spec, ',') >= 0 {
		return r, false
	}
	if first == "" {
		n, ok := parseOffset(last)
		if !ok {
			return r, false
		}
		if n == 0 {
			return core.Range{Off: maxOffset, Len: -1}, true
		}
		return core.Range{Off: -n, Len: -1}, true
	}
	off, ok := parseOffset(first)
	if !ok {
		return r, false
	}
	if last == "" {
		return core.Range{Off: off, Len: -1}, true
	}
	end, ok := parseOffset(last)
	if !ok || end < off {
		return r, false
	}
	return core.Range{Off: off, Len: min(end-off, maxOffset-1) + 1}, true
}

// maxOffset lies beyond the end of every object.
const maxOffset = 1 << 62

// parseOffset reads a decimal number without sign; one too large for an object is maxOffset.
func parseOffset(s string) (int64, bool) {
	if s == "" {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > maxOffset {
		return maxOffset, true
	}
	return n, true
}

// ifRange reports whether a Range header counts: If-Range is absent or names the version.
func ifRange(value string, info core.Info) bool {
	if value == "" {
		return true
	}
	if t, err := http.ParseTime(value); err == nil {
		return info.ModTime.Truncate(time.Second).Equal(t)
	}
	return unquote(value) == etagOf(info)
}

// emptyMD5 is the ETag of a directory that is a key: its object has no bytes.
const emptyMD5 = "d41d8cd98f00b204e9800998ecf8427e"

// etagOf returns the ETag of a file or of a directory that is a key, without quotes.
func etagOf(info core.Info) string {
	if info.ETag == "" && info.Dir {
		return emptyMD5
	}
	return info.ETag
}
