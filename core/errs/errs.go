// Package errs is the one error vocabulary of Sluice: a closed list of kinds that every layer speaks and every
// protocol front-end translates with one table. It is a leaf: it imports nothing of Sluice.
//
// A Kind says what the caller can do about a failure, not where it happened. Foreign errors are classified once, where
// they enter (drivers, etcd, the disk), with E; inside Sluice an error is passed up unchanged unless a fact is added,
// and is tested with errors.Is(err, errs.NotExist) or KindOf, never by its text. Context errors are never classified.
package errs

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"unicode/utf8"
)

// Kind classifies an error. A Kind is itself an error, so that errors.Is(err, errs.NotExist) works, and it matches the
// standard library's io/fs errors where they mean the same.
type Kind uint8

// The kinds. Their order is not stored anywhere and may change.
const (
	Other        Kind = iota // nothing better is known; an operator must look
	NotExist                 // the name does not exist; the caller may create it
	Exist                    // the name exists and must not
	IsDir                    // a file was needed, the name is a directory
	NotDir                   // a directory was needed, the name (or an ancestor) is a file
	NotEmpty                 // the directory has children and removal was not recursive
	Permission               // the principal may not do this
	Invalid                  // the request can never succeed as written
	Range                    // the byte range lies outside the file
	Precondition             // a condition on the current version did not hold; read again and decide
	Conflict                 // a concurrent change won; try again
	Busy                     // another writer holds the name; try later
	TooLarge                 // beyond a documented size limit
	NoSpace                  // no room in the store or the cache; free some
	Corrupt                  // stored bytes failed their checksum
	BadDigest                // received bytes do not match the digest the client sent
	Unsupported              // the protocol, store or mount cannot do this
	Unavailable              // a store or service does not answer now; try again later
	Full                     // the metadata store is full; reads and deletes go on
	Overload                 // more than can be taken in now; send less at once, and try again later
	Held                     // nothing is changed until an operator has released the restored metadata; reads go on
	kinds
)

var names = [kinds]string{
	Other: "internal error", NotExist: "does not exist", Exist: "already exists", IsDir: "is a directory",
	NotDir: "is not a directory", NotEmpty: "directory is not empty", Permission: "permission denied",
	Invalid: "invalid argument", Range: "range not satisfiable", Precondition: "precondition failed",
	Conflict: "conflicting change", Busy: "in use by another writer", TooLarge: "too large", NoSpace: "no space left",
	Corrupt: "checksum mismatch in stored data", BadDigest: "digest does not match the data received",
	Unsupported: "not supported", Unavailable: "temporarily unavailable",
	Overload: "too much at once", Full: "metadata store full", Held: "held after a restore",
}

// Kinds returns every kind, in order, for tests that must cover all of them.
func Kinds() []Kind {
	all := make([]Kind, 0, kinds)
	for k := Other; k < kinds; k++ {
		all = append(all, k)
	}
	return all
}

// Error returns the kind as a short phrase.
func (k Kind) Error() string { return names[k] }

// Is reports whether k means the same as a standard io/fs error.
func (k Kind) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return k == NotExist
	case fs.ErrExist:
		return k == Exist
	case fs.ErrPermission:
		return k == Permission
	case fs.ErrInvalid:
		return k == Invalid
	}
	return false
}

// Error is a classified failure: Op on Name failed with Kind because of Err.
type Error struct {
	Op   string // the failed operation, "localufs.Create"; no user data
	Name string // the path, key or store it was about; "" if none
	Kind Kind
	Err  error // the cause, nil if the kind says it all
}

// maxShown is how many bytes of a name are shown: no client has what it sent, of whatever length, come back to it and into the log.
const maxShown = 1 << 10

// shown returns the name as messages have it: only the beginning of a long one.
func shown(name string) string {
	if len(name) <= maxShown {
		return name
	}
	n := maxShown
	for n > maxShown-utf8.UTFMax && !utf8.RuneStart(name[n]) {
		n--
	}
	return name[:n] + "…"
}

// Error returns "op name: kind: cause", leaving out what is empty, and the rest of a long name.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Name != "" {
		b.WriteString(" " + shown(e.Name))
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Kind.Error())
	if e.Err != nil && e.Err.Error() != e.Kind.Error() {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Is matches the error's own kind and hides the kind of its cause: when a layer reclassifies a failure (the metadata
// says a file exists and the store lost it: Unavailable), no caller can take it for the cause's kind (NotExist).
func (e *Error) Is(target error) bool {
	if k, ok := target.(Kind); ok {
		return e.Kind == k
	}
	return e.Kind.Is(target)
}

// Unwrap returns the cause unless it is of another kind, which stays hidden; context errors always show.
func (e *Error) Unwrap() error {
	if e.Err == nil || errors.Is(e.Err, context.Canceled) || errors.Is(e.Err, context.DeadlineExceeded) {
		return e.Err
	}
	if k := KindOf(e.Err); k != Other && k != e.Kind {
		return nil
	}
	return e.Err
}

// E returns an *Error. A kind of Other is taken from err. E returns nil only for kind Other and a nil err; a bare
// context error is passed through unclassified.
func E(op, name string, kind Kind, err error) error {
	if kind == Other {
		if err == nil {
			return nil
		}
		if isContext(err) {
			return err
		}
		kind = KindOf(err)
	}
	return &Error{Op: op, Name: name, Kind: kind, Err: err}
}

// New returns an *Error whose cause is the sentence why.
func New(op, name string, kind Kind, why string) error {
	return &Error{Op: op, Name: name, Kind: kind, Err: errors.New(why)}
}

// KindOf returns the kind of err: the outermost *Error's or Kind's, else the io/fs error's equivalent, else Other.
// It returns Other for nil.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	if k, ok := errors.AsType[Kind](err); ok {
		return k
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return NotExist
	case errors.Is(err, fs.ErrExist):
		return Exist
	case errors.Is(err, fs.ErrPermission):
		return Permission
	case errors.Is(err, fs.ErrInvalid):
		return Invalid
	}
	return Other
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
