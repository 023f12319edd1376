package remote

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

/*
An error on the wire is the tree of what it wraps, so that errors.Is and errors.AsType find in it what they found on the
other side:

	fault = 'E' kind op:string name:string (0 | 1 fault)           *errs.Error and its cause
	      | 'K' kind                                               an errs.Kind
	      | 'P' flags number size etag                             *core.PartError
	      | 'C' | 'D' | 'U'                                        context.Canceled, DeadlineExceeded, io.ErrUnexpectedEOF
	      | 'S' op:string path:string fault                        *fs.PathError
	      | 'W' text:string list of fault                          an error that wraps others
	      | 'T' text:string kind                                   any other; kind is what it means
	kind  = byte, an index of wireKinds

A tree deeper than maxDepth is cut off there, where the text and kind of what is left stand for it.
*/

// wireKinds gives each kind its number on the wire. New kinds go to the end; a number that is not known is errs.Other.
var wireKinds = [...]errs.Kind{
	errs.Other, errs.NotExist, errs.Exist, errs.IsDir, errs.NotDir, errs.NotEmpty, errs.Permission, errs.Invalid, errs.Range,
	errs.Precondition, errs.Conflict, errs.Busy, errs.TooLarge, errs.NoSpace, errs.Corrupt, errs.BadDigest, errs.Unsupported,
	errs.Unavailable, errs.Held, errs.Full, errs.Overload,
}

const (
	maxDepth   = 16
	maxWrapped = 64      // errors that one error wraps
	maxText    = 8 << 10 // bytes of one text
)

// foreign is an error of a type that does not travel: its text, what it means, and what it wrapped.
type foreign struct {
	text string
	kind errs.Kind
	all  []error
}

func (e *foreign) Error() string   { return e.text }
func (e *foreign) Unwrap() []error { return e.all }

// Is matches the kind, if one was known.
func (e *foreign) Is(target error) bool {
	if e.kind == errs.Other {
		return false
	}
	if k, ok := target.(errs.Kind); ok {
		return e.kind == k
	}
	return e.kind.Is(target)
}

func (c *coder) kind(p *errs.Kind) {
	n := byte(max(0, slices.Index(wireKinds[:], *p)))
	c.byte(&n)
	if !c.reading {
		return
	}
	*p = errs.Other
	if int(n) < len(wireKinds) {
		*p = wireKinds[n]
	}
}

// clipped codes a text of which no more than maxText bytes matter.
func (c *coder) clipped(p *string) {
	s := *p
	if !c.reading && len(s) > maxText {
		s = s[:maxText]
	}
	text(c, &s)
	if c.reading {
		*p = s
	}
}

// fault codes an error, which is not nil.
func (c *coder) fault(p *error) { c.faultAt(p, 0) }

func (c *coder) faultAt(p *error, depth int) {
	if c.reading {
		*p = c.readFault(depth)
		return
	}
	c.writeFault(*p, depth)
}

func (c *coder) writeFault(err error, depth int) {
	if depth >= maxDepth {
		c.writeForeign(err, nil, depth)
		return
	}
	switch err {
	case context.Canceled:
		c.b = append(c.b, 'C')
		return
	case context.DeadlineExceeded:
		c.b = append(c.b, 'D')
		return
	case io.ErrUnexpectedEOF:
		c.b = append(c.b, 'U')
		return
	}
	switch e := err.(type) {
	case *errs.Error:
		c.b = append(c.b, 'E')
		c.kind(&e.Kind)
		c.clipped(&e.Op)
		c.clipped(&e.Name)
		there := e.Err != nil
		c.flags(&there)
		if there {
			c.writeFault(e.Err, depth+1)
		}
	case errs.Kind:
		c.b = append(c.b, 'K')
		c.kind(&e)
	case *core.PartError:
		c.b = append(c.b, 'P')
		c.partError(e)
	case *fs.PathError:
		c.b = append(c.b, 'S')
		c.clipped(&e.Op)
		c.clipped(&e.Path)
		c.writeFault(e.Err, depth+1)
	case interface{ Unwrap() error }:
		c.writeForeign(err, []error{e.Unwrap()}, depth)
	case interface{ Unwrap() []error }:
		c.writeForeign(err, e.Unwrap(), depth)
	default:
		c.writeForeign(err, nil, depth)
	}
}

func (c *coder) writeForeign(err error, wrapped []error, depth int) {
	wrapped = slices.DeleteFunc(slices.Clone(wrapped), func(err error) bool { return err == nil })
	why := err.Error()
	if len(wrapped) == 0 {
		c.b = append(c.b, 'T')
		c.clipped(&why)
		kind := errs.KindOf(err)
		c.kind(&kind)
		return
	}
	c.b = append(c.b, 'W')
	c.clipped(&why)
	wrapped = wrapped[:min(len(wrapped), maxWrapped)]
	c.count(len(wrapped))
	for _, err := range wrapped {
		c.writeFault(err, depth+1)
	}
}

func (c *coder) partError(e *core.PartError) {
	c.flags(&e.TooSmall, &e.Order)
	c.int(&e.Number)
	c.varint(&e.Size)
	text(c, &e.ETag)
}

func (c *coder) readFault(depth int) error {
	var form byte
	c.byte(&form)
	if depth > maxDepth {
		c.fail("an error that is nested too deep")
	}
	switch form {
	case 'C':
		return context.Canceled
	case 'D':
		return context.DeadlineExceeded
	case 'U':
		return io.ErrUnexpectedEOF
	case 'E':
		e := &errs.Error{}
		c.kind(&e.Kind)
		c.clipped(&e.Op)
		c.clipped(&e.Name)
		var there bool
		c.flags(&there)
		if there {
			e.Err = c.readFault(depth + 1)
		}
		return e
	case 'K':
		var k errs.Kind
		c.kind(&k)
		return k
	case 'P':
		e := &core.PartError{}
		c.partError(e)
		return e
	case 'S':
		e := &fs.PathError{}
		c.clipped(&e.Op)
		c.clipped(&e.Path)
		e.Err = c.readFault(depth + 1)
		return e
	case 'W':
		e := &foreign{}
		c.clipped(&e.text)
		list(c, &e.all, func(c *coder, p *error) { *p = c.readFault(depth + 1) })
		return e
	case 'T':
		e := &foreign{}
		c.clipped(&e.text)
		c.kind(&e.kind)
		return e
	}
	c.fail("an error of an unknown form")
	return errors.New("an error that cannot be read")
}
