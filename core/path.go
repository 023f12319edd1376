package core

import (
	"strings"
	"unicode/utf8"

	"github.com/sluicefs/sluice/core/errs"
)

// MaxPath is the longest path in bytes: the 1,024 bytes of an S3 key after a bucket name, with room for a bucket alias
// that points deep into the tree.
const MaxPath = 4096

// Path names one edge of the namespace. It is byte-exact: no part is cleaned, unescaped or case-folded.
//
// A path is "/" followed by segments. Every segment but the last ends in its "/"; the last ends in "/" exactly if the
// path names a directory edge. So "/b/a" is the file edge "a" and "/b/a/" the directory edge "a/" of the directory "/b/",
// which may both exist on an object store. Empty segments ("/b//x") and the literal segments "." and ".." are ordinary
// edges; whether a store can hold them is the namespace's to decide. The zero Path is not a name.
//
// A path made with ParseEither is ambiguous as a file system's paths are: it names the directory edge if that exists, else
// the file edge. Only the namespace resolves it.
type Path struct {
	s      string
	either bool
}

// Root is the directory "/".
var Root = Path{s: "/"}

// ParsePath returns the path named exactly by s, a directory edge if s ends in "/".
// Errors: errs.Invalid if s does not start with "/", holds a NUL byte, is longer than MaxPath or is not UTF-8.
func ParsePath(s string) (Path, error) {
	switch {
	case s == "" || s[0] != '/':
		return Path{}, errs.New("core.ParsePath", s, errs.Invalid, "a path starts with /")
	case len(s) > MaxPath:
		return Path{}, errs.New("core.ParsePath", "", errs.Invalid, "the path is longer than 4096 bytes")
	case strings.IndexByte(s, 0) >= 0:
		return Path{}, errs.New("core.ParsePath", "", errs.Invalid, "the path holds a NUL byte")
	case !utf8.ValidString(s):
		return Path{}, errs.New("core.ParsePath", "", errs.Invalid, "the path is not UTF-8")
	}
	return Path{s: s}, nil
}

// ParseEither returns the ambiguous path of s: directory if one is there, else file. One or more trailing slashes are
// dropped and repeated ones collapse, as file systems do. The other rules and errors are ParsePath's.
func ParseEither(s string) (Path, error) {
	if strings.Contains(s, "//") {
		var b strings.Builder
		for i := 0; i < len(s); i++ {
			if s[i] != '/' || i == 0 || s[i-1] != '/' {
				b.WriteByte(s[i])
			}
		}
		s = b.String()
	}
	p, err := ParsePath(s)
	if err != nil || p.IsRoot() {
		return p, err
	}
	return Path{s: strings.TrimSuffix(p.s, "/"), either: true}, nil
}

// String returns the path's bytes. An ambiguous path has no trailing slash.
func (p Path) String() string { return p.s }

// IsZero reports whether p is the zero Path.
func (p Path) IsZero() bool { return p.s == "" }

// IsRoot reports whether p is "/".
func (p Path) IsRoot() bool { return p.s == "/" }

// IsDir reports whether p names a directory edge. It is false for an ambiguous path.
func (p Path) IsDir() bool { return strings.HasSuffix(p.s, "/") }

// Either reports whether p is ambiguous.
func (p Path) Either() bool { return p.either }

// Dir returns the directory edge of the same name; p itself if it already is one.
func (p Path) Dir() Path {
	if p.IsDir() {
		return p
	}
	return Path{s: p.s + "/"}
}

// File returns the file edge of the same name. The root has none and is returned as it is.
func (p Path) File() Path {
	if p.IsRoot() {
		return p
	}
	return Path{s: strings.TrimSuffix(p.s, "/")}
}

// Parent returns the directory that holds p. The root is its own parent.
func (p Path) Parent() Path { d, _ := p.Split(); return d }

// Split returns the parent directory and the last edge, with its slash if p is a directory edge. The root gives Root, "".
func (p Path) Split() (dir Path, edge string) {
	if p.IsRoot() || p.s == "" {
		return p, ""
	}
	i := strings.LastIndexByte(p.s[:len(p.s)-1], '/')
	return Path{s: p.s[:i+1]}, p.s[i+1:]
}

// Name returns the last segment without a trailing slash; "" for the root.
func (p Path) Name() string {
	_, e := p.Split()
	return strings.TrimSuffix(e, "/")
}

// Edges returns the edges from the root down; none for the root.
func (p Path) Edges() []string {
	if p.IsRoot() || p.s == "" {
		return nil
	}
	rest := p.s[1:]
	edges := make([]string, 0, strings.Count(rest, "/")+1)
	for rest != "" {
		i := strings.IndexByte(rest, '/')
		if i < 0 {
			return append(edges, rest)
		}
		edges = append(edges, rest[:i+1])
		rest = rest[i+1:]
	}
	return edges
}

// Join returns the path name below the directory p; name may hold slashes and is taken as it is.
// p must be a directory edge. Errors: errs.Invalid as for ParsePath.
func (p Path) Join(name string) (Path, error) { return ParsePath(p.Dir().s + name) }

// Child returns the edge below the directory p. The edge must be one that the namespace returned.
func (p Path) Child(edge string) Path { return Path{s: p.Dir().s + edge} }

// Below returns the path s, which is the directory p followed by edges that the namespace returned.
func (p Path) Below(s string) Path { return Path{s: s} }

// Contains reports whether q is p or lies below the directory p.
func (p Path) Contains(q Path) bool {
	d := p.Dir().s
	return strings.HasPrefix(q.s, d) || q.s+"/" == d
}

// Rel returns q's name relative to the directory p; ok is false if q is not below p.
func (p Path) Rel(q Path) (name string, ok bool) { return strings.CutPrefix(q.s, p.Dir().s) }
