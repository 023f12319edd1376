package ufs

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/sluicefs/sluice/core/errs"
)

// CheckFile reports errs.Invalid unless name can be the name of a file on a store with the features f.
func CheckFile(f Features, op, name string) error {
	if name == "" || strings.HasSuffix(name, "/") {
		return errs.New(op, name, errs.Invalid, `a file's name is needed: not empty, without "/" at the end`)
	}
	return check(f, op, name)
}

// CheckDir reports errs.Invalid unless name can be the name of a directory on a store with the features f.
func CheckDir(f Features, op, name string) error {
	if name == "" {
		return nil
	}
	if !strings.HasSuffix(name, "/") {
		return errs.New(op, name, errs.Invalid, `a directory's name is needed: empty or with "/" at the end`)
	}
	return check(f, op, name)
}

// CheckName reports errs.Invalid unless name can name a file or a directory on a store with the features f.
func CheckName(f Features, op, name string) error {
	if IsDir(name) {
		return CheckDir(f, op, name)
	}
	return CheckFile(f, op, name)
}

// IsDir reports whether name is the name of a directory: the root, or with a slash at its end.
func IsDir(name string) bool { return name == "" || strings.HasSuffix(name, "/") }

// TooLong reports whether name is longer than a store with the features f holds.
func (f Features) TooLong(name string) bool {
	if f.Buckets {
		_, name, _ = strings.Cut(name, "/")
	}
	return f.MaxKey > 0 && len(name) > f.MaxKey
}

// Staged reports whether name lies in the staging area, which no method may touch and no listing shows.
func Staged(name string) bool {
	return strings.HasPrefix(name, Staging) || name == strings.TrimSuffix(Staging, "/")
}

// DotEnd reports whether a segment of name ends in a dot, which some services drop.
func DotEnd(name string) bool { return strings.HasSuffix(name, ".") || strings.Contains(name, "./") }

func check(f Features, op, name string) error {
	invalid := func(why string) error { return errs.New(op, name, errs.Invalid, why) }
	switch {
	case Staged(name):
		return invalid(`".sluice" is reserved for unfinished writes`)
	case !utf8.ValidString(name):
		return invalid("the name is not UTF-8")
	case strings.IndexByte(name, 0) >= 0:
		return invalid("the name has a NUL byte")
	case strings.ContainsAny(name, f.NoChars):
		seg := name[:strings.IndexAny(name, f.NoChars)]
		seg = strings.SplitN(name[strings.LastIndexByte(seg, '/')+1:], "/", 2)[0]
		return invalid(fmt.Sprintf("the segment %.40q has one of the characters %q, which this store cannot hold", seg, f.NoChars))
	case f.NoDotEnd && DotEnd(name):
		return invalid("this store cannot hold a segment that ends in a dot")
	case f.TooLong(name):
		return invalid(fmt.Sprintf("the name has %d bytes, the store holds %d", len(name), f.MaxKey))
	}
	if f.OddNames && f.MaxName == 0 {
		return nil
	}
	for seg := range strings.SplitSeq(strings.TrimSuffix(name, "/"), "/") {
		if !f.OddNames && (seg == "" || seg == "." || seg == "..") {
			return invalid(fmt.Sprintf("this store cannot hold the segment %q", seg))
		}
		if f.MaxName > 0 && len(seg) > f.MaxName {
			return invalid(fmt.Sprintf("the segment %.40q… has %d bytes, the store holds %d", seg, len(seg), f.MaxName))
		}
	}
	return nil
}

// Span clamps the n bytes from off (n < 0: to the end) to a file of size bytes. Errors: errs.Range if off lies beyond
// the end.
func Span(op, name string, off, n, size int64) (int64, error) {
	if off < 0 {
		return 0, errs.New(op, name, errs.Invalid, fmt.Sprintf("the offset %d is negative", off))
	}
	if off > size {
		return 0, errs.New(op, name, errs.Range, fmt.Sprintf("the offset %d lies beyond the %d bytes of the file", off, size))
	}
	if n < 0 || n > size-off {
		n = size - off
	}
	return n, nil
}
