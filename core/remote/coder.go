package remote

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

/*
The values of the protocol, version 1. Both sides are of one release or of two that follow each other; nothing is stored.

	uvarint = unsigned LEB128, as encoding/binary; varint = the same, zigzag
	string  = length:uvarint bytes
	list    = count:uvarint element…
	strmap  = count:uvarint (key:string value:string)…, keys ascending
	opt x   = 0 | 1 x
	path    = 0 (the zero Path) | 1 string (exact) | 2 string (ambiguous)
	time    = 0 (the zero time) | 1 seconds:varint nanoseconds:uvarint, since 1970
	flags   = uvarint, one bit for each bool

A struct is its bools as flags, if it has any, and its other fields, in the order of the functions in values.go. Nil and
empty maps and lists are the same and are read as nil, except where opt is said.
*/

// coder writes values to b, or reads them off the front of s. One function for each type serves both directions, so that
// they cannot differ. After the first error every value read is zero.
type coder struct {
	b []byte // what has been written

	reading bool
	own     bool   // strings read are copied, for a reader that may keep them for long
	s       string // what is still to be read
	err     error
}

// reader returns a coder that reads s. Strings read are parts of s unless own.
func reader(s string, own bool) coder { return coder{reading: true, own: own, s: s} }

// finish reports errs.Invalid unless what was read is well formed and all there is.
func (c *coder) finish() error {
	if c.err == nil && len(c.s) > 0 {
		c.fail("bytes after the last value")
	}
	if c.err == nil || errs.KindOf(c.err) != errs.Other {
		return c.err
	}
	return errs.E("remote.decode", "", errs.Invalid, c.err)
}

func (c *coder) fail(why string) {
	if c.err == nil {
		c.err = errors.New(why)
	}
	c.s = ""
}

func (c *coder) byte(p *byte) {
	if !c.reading {
		c.b = append(c.b, *p)
		return
	}
	*p = 0
	if len(c.s) == 0 {
		c.fail("the message ends within a value")
		return
	}
	*p, c.s = c.s[0], c.s[1:]
}

func (c *coder) uvarint(p *uint64) {
	if !c.reading {
		c.b = binary.AppendUvarint(c.b, *p)
		return
	}
	*p = 0
	var v uint64
	for i := 0; i < len(c.s) && i < binary.MaxVarintLen64; i++ {
		b := c.s[i]
		if i == binary.MaxVarintLen64-1 && b > 1 {
			break
		}
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			*p, c.s = v, c.s[i+1:]
			return
		}
	}
	c.fail("the message ends within a number, or the number is too long")
}

func (c *coder) varint(p *int64) {
	u := uint64(*p)<<1 ^ uint64(*p>>63)
	c.uvarint(&u)
	if c.reading {
		*p = int64(u>>1) ^ -int64(u&1)
	}
}

func (c *coder) int(p *int) {
	v := int64(*p)
	c.varint(&v)
	if c.reading {
		*p = int(v)
	}
}

func (c *coder) uint32(p *uint32) {
	v := uint64(*p)
	c.uvarint(&v)
	if !c.reading {
		return
	}
	if v > math.MaxUint32 {
		c.fail("a number is too great")
		v = 0
	}
	*p = uint32(v)
}

// flags codes the bools ps as the bits of one number, the first the lowest.
func (c *coder) flags(ps ...*bool) {
	var v uint64
	for i, p := range ps {
		if *p {
			v |= 1 << i
		}
	}
	c.uvarint(&v)
	if !c.reading {
		return
	}
	if v>>len(ps) != 0 {
		c.fail("a flag that has no meaning here; the other side is of a later release")
		v = 0
	}
	for i, p := range ps {
		*p = v>>i&1 != 0
	}
}

// count codes the number of things that follow. Each takes at least one byte, so that what is read is bounded by the
// bytes at hand.
func (c *coder) count(n int) int {
	v := uint64(n)
	c.uvarint(&v)
	if c.reading && v > uint64(len(c.s)) {
		c.fail("a count is greater than what follows")
		return 0
	}
	return int(v)
}

// raw codes bytes with their length. What is read is a part of the message and must be copied to be kept.
func (c *coder) raw(p *string) {
	n := c.count(len(*p))
	if !c.reading {
		c.b = append(c.b, *p...)
		return
	}
	*p, c.s = c.s[:n], c.s[n:]
}

func text[S ~string](c *coder, p *S) {
	s := string(*p)
	c.raw(&s)
	if !c.reading {
		return
	}
	if c.own {
		s = strings.Clone(s)
	}
	*p = S(s)
}

// bytes codes a slice whose nil and empty states are the same.
func (c *coder) bytes(p *[]byte) {
	n := c.count(len(*p))
	if !c.reading {
		c.b = append(c.b, *p...)
		return
	}
	*p = nil
	if n > 0 {
		*p, c.s = []byte(c.s[:n]), c.s[n:]
	}
}

// list codes the elements of *p with each.
func list[T any](c *coder, p *[]T, each func(c *coder, v *T)) {
	n := c.count(len(*p))
	if !c.reading {
		for i := range *p {
			each(c, &(*p)[i])
		}
		return
	}
	*p = nil
	if n == 0 {
		return
	}
	// An element may be much larger in memory than in the message: the list grows as its elements are read.
	all := make([]T, 0, min(n, 64))
	for range n {
		var v T
		each(c, &v)
		if c.err != nil {
			return
		}
		all = append(all, v)
	}
	*p = all
}

// optional codes *p or its absence.
func optional[T any](c *coder, p **T, value func(c *coder, v *T)) {
	there := *p != nil
	c.flags(&there)
	if c.reading {
		*p = nil
		if there {
			*p = new(T)
		}
	}
	if there {
		value(c, *p)
	}
}

func (c *coder) strmap(p *map[string]string) {
	n := c.count(len(*p))
	if !c.reading {
		if n == 0 {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(*p)) {
			v := (*p)[k]
			c.raw(&k)
			c.raw(&v)
		}
		return
	}
	*p = nil
	if n == 0 {
		return
	}
	m := make(map[string]string, min(n, 64))
	for range n {
		var k, v string
		text(c, &k)
		text(c, &v)
		if c.err != nil {
			return
		}
		m[k] = v
	}
	*p = m
}

func (c *coder) duration(p *time.Duration) { c.varint((*int64)(p)) }

func (c *coder) time(p *time.Time) {
	there := !p.IsZero()
	c.flags(&there)
	if !there {
		*p = time.Time{}
		return
	}
	var sec int64
	var nsec uint64
	if !c.reading {
		sec, nsec = p.Unix(), uint64(p.Nanosecond())
	}
	c.varint(&sec)
	c.uvarint(&nsec)
	if !c.reading {
		return
	}
	if nsec >= uint64(time.Second) {
		c.fail("a time with more than a second of nanoseconds")
		nsec = 0
	}
	*p = time.Unix(sec, int64(nsec))
}

// The ways in which a path is written.
const (
	noPath byte = iota
	exactPath
	eitherPath
)

func (c *coder) path(p *core.Path) {
	how := exactPath
	switch {
	case p.IsZero():
		how = noPath
	case p.Either():
		how = eitherPath
	}
	c.byte(&how)
	if how == noPath {
		*p = core.Path{}
		return
	}
	s := p.String()
	text(c, &s)
	if !c.reading || c.err != nil {
		return
	}
	var err error
	switch how {
	case exactPath:
		*p, err = core.ParsePath(s)
	case eitherPath:
		*p, err = core.ParseEither(s)
	default:
		c.fail("a path of an unknown form")
	}
	if err != nil {
		c.s, c.err = "", err
	}
}
