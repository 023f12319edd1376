package webhdfs

import (
	"context"
	"regexp"
	"strings"

	"github.com/sluicefs/sluice/core"
)

// Hadoop's Path rejects a component that holds ":" or is "", "." or "..", and one such entry fails a client's whole
// listing. Such names are spelled with percent-escapes, "%3A" for ":", and "%2F", "%2E" and "%2E." for the others; a name
// that already looks like an escape gets one more "25" after its "%". Every name has one spelling and every spelling one
// name; all other names are spelled as they are.
var (
	colons = regexp.MustCompile(`:|%(?:25)*3A`)
	wholes = regexp.MustCompile(`^%(?:25)*2(?:F|E\.?)$`)
)

// spell returns the spelling of a segment.
func spell(seg string) string {
	switch seg {
	case "":
		return "%2F"
	case ".":
		return "%2E"
	case "..":
		return "%2E."
	}
	if !strings.ContainsAny(seg, ":%") {
		return seg
	}
	if wholes.MatchString(seg) {
		return "%25" + seg[1:]
	}
	return colons.ReplaceAllStringFunc(seg, func(m string) string {
		if m == ":" {
			return "%3A"
		}
		return "%25" + m[1:]
	})
}

// unspell returns the segment that a spelling stands for.
func unspell(seg string) string {
	switch seg {
	case "%2F":
		return ""
	case "%2E":
		return "."
	case "%2E.":
		return ".."
	}
	if !strings.Contains(seg, "%") {
		return seg
	}
	if wholes.MatchString(seg) {
		return "%" + seg[len("%25"):]
	}
	return colons.ReplaceAllStringFunc(seg, func(m string) string {
		switch m {
		case ":", "%3A":
			return ":"
		}
		return "%" + m[len("%25"):]
	})
}

// parseName returns a decoded path as messages show it: with single slashes and none at the end.
// The message of a refused one is Hadoop's InvalidPathException's.
func parseName(s string) (string, error) {
	var b strings.Builder
	for seg := range strings.SplitSeq(s, "/") {
		switch {
		case seg == "":
			continue
		case seg == ".", seg == "..", strings.Contains(seg, ":"):
			return "", &remoteError{status: 400, class: classInvalidPath, msg: "Invalid path name Invalid file name: " + s}
		}
		b.WriteString("/" + seg)
	}
	if b.Len() == 0 {
		return "/", nil
	}
	return b.String(), nil
}

// resolve returns the path that a name of parseName stands for: the directory if there is one, else the file.
func (s *Server) resolve(ctx context.Context, name string) (core.Path, error) {
	if name == "/" {
		return core.Root, nil
	}
	segs := strings.Split(name[1:], "/")
	exact := false
	for i, seg := range segs {
		segs[i] = unspell(seg)
		exact = exact || segs[i] == ""
	}
	raw := "/" + strings.Join(segs, "/")
	if !exact {
		return core.ParseEither(raw)
	}
	// An ambiguous path cannot hold empty segments, so the choice is made here.
	if segs[len(segs)-1] == "" {
		raw += "/"
	}
	p, err := core.ParsePath(raw)
	if err != nil || p.IsDir() {
		return p, err
	}
	if _, err := s.ns.Stat(ctx, p.Dir()); missing(err) {
		return p, nil
	} else if err != nil {
		return p, err
	}
	return p.Dir(), nil
}

// nameOf returns the name of a path as clients spell it.
func nameOf(p core.Path) string {
	var b strings.Builder
	for _, edge := range p.Edges() {
		b.WriteString("/" + spell(strings.TrimSuffix(edge, "/")))
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// absolute parses a path in a parameter.
func (s *Server) absolute(ctx context.Context, param, v string) (string, core.Path, error) {
	if !strings.HasPrefix(v, "/") {
		return "", core.Path{}, illegalArgument(
			`Invalid value for webhdfs parameter "%s": Invalid parameter value: %s = %q is not an absolute path.`, param, param, v)
	}
	name, err := parseName(v)
	if err != nil {
		return "", core.Path{}, err
	}
	p, err := s.resolve(ctx, name)
	return name, p, err
}

// escape percent-encodes a name for a URL: all but the unreserved characters and "/", so that no client's idea of what
// may stay can change it.
func escape(name string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~/", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hex[c>>4], hex[c&15]})
	}
	return b.String()
}
