package meta

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"strings"
)

/*
How an entry is packed. What many entries have in common is their shape: the class, owner, group, mode, which values they
have at all, and how their ETag and version are written. The rest is a few numbers and 16 bytes of an MD5. An entry in
memory is the number of its shape, followed by the values that the shape says it has, in the order of the columns:

	column   holds                                  as
	dir      Entry.Dir                              number
	id       Entry.ID                               number
	rev      Entry.Rev - Entry.ID                   number
	size     Entry.Size                             number
	mtime    Entry.MTime - epoch                    number
	etag     the 32 hexadecimal digits of the ETag  16 bytes
	parts    n of an ETag "<32 digits>-n"           number
	inode    the second number of a local version   number
	ctime    the fifth one - Entry.MTime            number
	rest     the other fields, as appendFields      length:uvarint bytes

A version may also be "ETag|seconds", as that of an S3 store; then ctime holds the seconds less those of Entry.MTime. A number
is a zigzag varint. The same columns, stored one after the other over many entries, are a checkpoint page (page.go).
A version is local if it is "device.inode.size.mtime.ctime" in hexadecimal, with the entry's own size and mtime.
*/

// column is one kind of value of an entry.
type column uint8

// The columns, in their order.
const (
	colDir column = iota
	colID
	colRev
	colSize
	colMTime
	colETag
	colParts
	colInode
	colCTime
	colRest
	columns
)

// epoch makes times short: nanoseconds of 2026-01-01 UTC. It is part of the stored format of a page.
const epoch = 1767225600 * 1e9

// The flags of a shape.
const (
	flagExplicit = 1 << iota
	flagMarker
	flagMount
	flagWhole // Extents is one extent that is the whole file: {ID, Rev, 0, Size}
	flagATime // ATime is MTime
	flagsEnd
)

// The forms of a shape's ETag and version. Other text is in the rest.
const (
	textNone   = iota // empty, or in the rest
	etagMD5           // 32 hexadecimal digits
	etagParts         // 32 hexadecimal digits, "-", a number
	textSame          // a version that is the ETag
	textLocal         // a version of a local file
	textStamp         // a version "ETag|seconds"
	textFormed        // the number of forms
)

// shape is what entries have in common.
type shape struct {
	class         Class
	flags         uint8
	etag, version uint8  // forms
	has           uint16 // one bit per column
	mode          uint32
	replication   int32
	blockSize     int64
	device        uint64 // of a local version
	owner, group  string
}

// values are what an entry has beside its shape.
type values struct {
	num  [columns]int64
	etag [16]byte
	rest []byte
}

// put notes the number n of a column, unless it is zero.
func (s *shape) put(v *values, c column, n int64) {
	if n != 0 {
		s.has |= 1 << c
		v.num[c] = n
	}
}

// split takes e apart.
func (v *values) split(e *Entry) shape {
	s := shape{class: e.Class, mode: e.Mode, replication: e.Replication, blockSize: e.BlockSize, owner: e.Owner, group: e.Group}
	rest := present(e) & (fBase | fStoreKey | fHeaders | fUser | fChecksums | fParts | fHDFSSum | fExtra | fHold)
	for _, f := range []struct {
		is   bool
		flag uint8
	}{{e.Explicit, flagExplicit}, {e.Marker, flagMarker}, {e.Mount, flagMount}} {
		if f.is {
			s.flags |= f.flag
		}
	}
	s.put(v, colDir, int64(e.Dir))
	s.put(v, colID, int64(e.ID))
	s.put(v, colRev, int64(e.Rev-e.ID))
	s.put(v, colSize, e.Size)
	if e.MTime != 0 {
		s.has |= 1 << colMTime
		v.num[colMTime] = e.MTime - epoch
	}
	switch {
	case len(e.Extents) == 1 && e.Extents[0] == (Extent{e.ID, e.Rev, 0, e.Size}):
		s.flags |= flagWhole
	case len(e.Extents) > 0:
		rest |= fExtents
	}
	switch e.ATime {
	case 0:
	case e.MTime:
		s.flags |= flagATime
	default:
		rest |= fATime
	}
	if !s.splitETag(v, e.ETag) {
		rest |= fETag
	}
	if !s.splitVersion(v, e) {
		rest |= fVersion
	}
	if rest != 0 {
		s.has |= 1 << colRest
		v.rest = appendFields(v.rest[:0], e, rest)
	}
	return s
}

func (s *shape) splitETag(v *values, etag string) bool {
	if etag == "" {
		return true
	}
	if len(etag) < 32 || !lowerHex(etag[:32]) {
		return false
	}
	if len(etag) > 32 {
		n, err := strconv.ParseUint(etag[33:], 10, 32)
		if etag[32] != '-' || err != nil || n == 0 || etag[33:] != strconv.FormatUint(n, 10) {
			return false
		}
		s.etag = etagParts
		s.put(v, colParts, int64(n))
	} else {
		s.etag = etagMD5
	}
	s.has |= 1 << colETag
	for i := range v.etag {
		v.etag[i] = nibble(etag[2*i])<<4 | nibble(etag[2*i+1])
	}
	return true
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func nibble(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

func (s *shape) splitVersion(v *values, e *Entry) bool {
	switch {
	case e.Version == "":
		return true
	case e.Version == e.ETag:
		s.version = textSame
		return true
	}
	if n := len(e.ETag); n > 0 && len(e.Version) > n && e.Version[:n] == e.ETag && e.Version[n] == '|' {
		stamp := e.Version[n+1:]
		n, err := strconv.ParseInt(stamp, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != stamp {
			return false
		}
		s.version = textStamp
		s.put(v, colCTime, n-e.MTime/1e9)
		return true
	}
	return s.splitLocal(v, e)
}

func (s *shape) splitLocal(v *values, e *Entry) bool {
	var n [5]uint64
	text := e.Version
	for i := range n {
		digits := 0
		for ; digits < len(text) && text[digits] != '.'; digits++ {
			n[i] = n[i]<<4 | uint64(nibble(text[digits]))
		}
		canonical := digits > 0 && digits <= 16 && lowerHex(text[:digits]) && (text[0] != '0' || digits == 1)
		if more := digits < len(text); !canonical || more != (i < 4) {
			return false
		} else if more {
			digits++
		}
		text = text[digits:]
	}
	if n[2] != uint64(e.Size) || n[3] != uint64(e.MTime) {
		return false
	}
	s.version, s.device = textLocal, n[0]
	s.put(v, colInode, int64(n[1]))
	s.put(v, colCTime, int64(n[4])-e.MTime)
	return true
}

// pack appends the values that s has, with their columns one after the other.
func (v *values) pack(b []byte, s *shape) []byte {
	for c := range columns {
		if s.has&(1<<c) == 0 {
			continue
		}
		switch c {
		case colETag:
			b = append(b, v.etag[:]...)
		case colRest:
			b = binary.AppendUvarint(b, uint64(len(v.rest)))
			b = append(b, v.rest...)
		default:
			b = binary.AppendVarint(b, v.num[c])
		}
	}
	return b
}

// unpack reads what pack wrote. The values keep parts of b.
func (v *values) unpack(b []byte, s *shape) { v.read(b, s.has) }

// read is unpack for the columns of has, the first ones that b has.
func (v *values) read(b []byte, has uint16) {
	v.num = [columns]int64{}
	for ; has != 0; has &= has - 1 {
		switch c := column(bits.TrailingZeros16(has)); c {
		case colETag:
			b = b[copy(v.etag[:], b):]
		case colRest:
			n, size := binary.Uvarint(b)
			v.rest = b[size : size+int(n)]
			b = b[size+int(n):]
		default:
			v.num[c], b = number(b)
		}
	}
}

// box is an entry with room for its only extent.
type box struct {
	Entry
	whole [1]Extent
}

// join puts an entry together again, in x, which is empty. Its text is new: it keeps nothing of v.
func (v *values) join(s *shape, x *box) *Entry {
	e := &x.Entry
	v.fill(s, e)
	if s.flags&flagWhole != 0 {
		x.whole[0] = Extent{e.ID, e.Rev, 0, e.Size}
		e.Extents = x.whole[:]
	}
	v.joinText(s, s.version, e, nil)
	return e
}

// brief is join for who needs neither Version nor Extents. The text is in t if that is not nil.
func (v *values) brief(s *shape, e *Entry, t *Text) {
	v.fill(s, e)
	v.joinText(s, textNone, e, t)
}

// fill puts everything into e, which is empty, that is neither in the text nor the only extent.
func (v *values) fill(s *shape, e *Entry) {
	e.Class, e.Mode, e.Replication, e.BlockSize, e.Owner, e.Group = s.class, s.mode, s.replication, s.blockSize, s.owner, s.group
	e.Explicit, e.Marker, e.Mount = s.flags&flagExplicit != 0, s.flags&flagMarker != 0, s.flags&flagMount != 0
	e.Dir, e.ID, e.Size = DirID(v.num[colDir]), uint64(v.num[colID]), v.num[colSize]
	e.Rev = e.ID + uint64(v.num[colRev])
	if s.has&(1<<colMTime) != 0 {
		e.MTime = v.num[colMTime] + epoch
	}
	if s.flags&flagATime != 0 {
		e.ATime = e.MTime
	}
	if s.has&(1<<colRest) != 0 {
		d := decoder{b: v.rest}
		d.fields(e) // what is packed has been checked
	}
}

// joinText writes the ETag and the version, which has the form version, into one piece of memory.
func (v *values) joinText(s *shape, version uint8, e *Entry, t *Text) {
	if s.etag == textNone && version == textNone {
		return
	}
	var array [160]byte
	b, n := v.appendText(array[:0], s, version, e)
	written := ""
	if t != nil {
		written = t.Keep(b)
	} else {
		written = string(b)
	}
	if s.etag != textNone {
		e.ETag = written[:n]
	}
	if version == textSame {
		e.Version = e.ETag
	} else if version != textNone {
		e.Version = written[n:]
	}
}

// appendText appends the ETag, of n bytes, and the version, as far as they have a form. b is empty; what e has otherwise is filled in.
func (v *values) appendText(b []byte, s *shape, version uint8, e *Entry) (text []byte, n int) {
	if s.etag != textNone {
		b = appendMD5(b, &v.etag)
		if s.etag == etagParts {
			b = strconv.AppendInt(append(b, '-'), v.num[colParts], 10)
		}
	}
	n = len(b)
	switch version {
	case textLocal:
		for i, x := range [...]uint64{s.device, uint64(v.num[colInode]), uint64(e.Size), uint64(e.MTime), uint64(v.num[colCTime] + e.MTime)} {
			if i > 0 {
				b = append(b, '.')
			}
			b = AppendHex(b, x)
		}
	case textStamp:
		if s.etag == textNone { // it is in the rest
			b = append(b, e.ETag...)
		} else {
			b = append(b, b...)
		}
		b = strconv.AppendInt(append(b, '|'), v.num[colCTime]+e.MTime/1e9, 10)
	}
	return b, n
}

// appendMD5 appends the hexadecimal digits of sum.
func appendMD5(b []byte, sum *[16]byte) []byte {
	b = append(b, make([]byte, 32)...)
	to := b[len(b)-32:]
	for i := range 4 {
		x := uint64(binary.BigEndian.Uint32(sum[4*i:])) // eight digits at once, each of which gets a byte
		x = (x | x<<16) & 0x0000ffff0000ffff
		x = (x | x<<8) & 0x00ff00ff00ff00ff
		x = (x | x<<4) & 0x0f0f0f0f0f0f0f0f
		letters := (x + 0x0606060606060606) >> 4 & 0x0101010101010101
		binary.BigEndian.PutUint64(to[8*i:], x+0x3030303030303030+letters*('a'-'0'-10))
	}
	return b
}

const hexDigits = "0123456789abcdef"

// AppendHex appends x in hexadecimal digits, as strconv does, in less time.
func AppendHex(b []byte, x uint64) []byte {
	for shift := (max(bits.Len64(x), 1) - 1) &^ 3; shift >= 0; shift -= 4 {
		b = append(b, hexDigits[x>>shift&15])
	}
	return b
}

// shapes are the shapes of a tree's entries. They are numbered from 1 on and are never forgotten; an entry whose shape there
// is no number for is kept whole, as number 0.
type shapes struct {
	number map[shape]uint32
	list   []*shape
	text   int64 // bytes of their owners and groups
}

const (
	// maxShapes bounds the memory of shapes: owners, groups and modes are what clients say.
	maxShapes = 1 << 16
	// shapeBytes is what a shape takes in memory, in the list and in the map.
	shapeBytes = 240
)

func newShapes() shapes {
	return shapes{number: map[shape]uint32{}, list: []*shape{{}}}
}

func (x *shapes) bytes() int64 { return int64(len(x.list))*shapeBytes + x.text }

// numberOf returns the number of s, 0 if it can have none.
func (x *shapes) numberOf(s *shape) uint32 {
	n, ok := x.number[*s]
	if ok || len(x.list) >= maxShapes {
		return n
	}
	kept := *s
	kept.owner, kept.group = strings.Clone(s.owner), strings.Clone(s.group)
	n = uint32(len(x.list))
	x.list = append(x.list, &kept)
	x.number[kept] = n
	x.text += int64(len(kept.owner) + len(kept.group))
	return n
}

// pack appends e. v is for its use.
func (x *shapes) pack(b []byte, v *values, e *Entry) []byte {
	s := v.split(e)
	n := x.numberOf(&s)
	b = binary.AppendUvarint(b, uint64(n))
	if n == 0 {
		return appendEntry(b, e)
	}
	return v.pack(b, &s)
}

// of returns the shape of a packed entry, nil if it is kept whole, and its values.
func (x *shapes) of(packed []byte) (*shape, []byte) {
	n, size := binary.Uvarint(packed)
	if n == 0 {
		return nil, packed[size:]
	}
	return x.list[n], packed[size:]
}

// entry unpacks an entry.
func (x *shapes) entry(packed []byte) *Entry {
	s, b := x.of(packed)
	if s == nil {
		e := &Entry{}
		d := decoder{b: b}
		d.entry(e)
		return e
	}
	var v values
	v.unpack(b, s)
	return v.join(s, &box{})
}

// hasVersion reports whether the packed entry has the version. It costs less than entry.
func (x *shapes) hasVersion(packed []byte, version string) bool {
	s, b := x.of(packed)
	if s == nil {
		return x.entry(packed).Version == version
	}
	var v values
	var e Entry
	v.unpack(b, s)
	v.fill(s, &e)
	var array [160]byte
	text, n := v.appendText(array[:0], s, s.version, &e)
	switch {
	case s.version == textNone:
		return e.Version == version
	case s.version != textSame:
		return string(text[n:]) == version
	case s.etag == textNone:
		return e.ETag == version
	}
	return string(text) == version
}

// A File is an entry that is a Persisted file. What most files have is in its fields, and what nearly all of them share is told by
// its methods; where that is not all, it is not Plain, and Brief has the rest. It is good for ever.
type File struct {
	ID, Rev            uint64
	Size, MTime, ATime int64

	etag  [16]byte
	parts int64
	shape *shape // nil: not plain

	packed []byte
	known  []*shape
}

// Plain reports whether the fields and methods say all that an entry of the file would, but for Version and Extents.
func (f *File) Plain() bool { return f.shape != nil }

// Owner returns Entry's Owner, Group and Mode of a plain file.
func (f *File) Owner() (owner, group string, mode uint32) {
	return f.shape.owner, f.shape.group, f.shape.mode
}

// Blocks returns Entry's BlockSize and Replication of a plain file.
func (f *File) Blocks() (size int64, replication int32) {
	return f.shape.blockSize, f.shape.replication
}

// AppendETag appends Entry's ETag of a plain file.
func (f *File) AppendETag(b []byte) []byte {
	switch f.shape.etag {
	case etagMD5:
		b = appendMD5(b, &f.etag)
	case etagParts:
		b = strconv.AppendInt(append(appendMD5(b, &f.etag), '-'), f.parts, 10)
	}
	return b
}

// Brief puts the entry into e, whether the file is plain or not. Version and Extents may be missing.
func (f *File) Brief(e *Entry) {
	var v values
	x := shapes{list: f.known}
	x.brief(f.packed, &v, e, nil)
}

// file unpacks a Persisted file into f, and returns the class of what is packed.
func (x *shapes) file(packed []byte, f *File) Class {
	f.packed, f.known = packed, x.list
	s, b := x.of(packed)
	if f.shape = nil; s == nil {
		class, _ := x.peek(packed)
		return class
	}
	if s.class != Persisted || s.has&(1<<colDir|1<<colRest) != 0 {
		return s.class
	}
	f.shape = s
	var id, rev, mtime int64
	if s.has&(1<<colID) != 0 {
		id, b = number(b)
	}
	if s.has&(1<<colRev) != 0 {
		rev, b = number(b)
	}
	if f.Size = 0; s.has&(1<<colSize) != 0 {
		f.Size, b = number(b)
	}
	if s.has&(1<<colMTime) != 0 {
		mtime, b = number(b)
		mtime += epoch
	}
	if s.has&(1<<colETag) != 0 {
		b = b[copy(f.etag[:], b):]
	}
	if f.parts = 0; s.has&(1<<colParts) != 0 {
		f.parts, _ = number(b)
	}
	f.ID, f.Rev, f.MTime, f.ATime = uint64(id), uint64(id)+uint64(rev), mtime, 0
	if s.flags&flagATime != 0 {
		f.ATime = mtime
	}
	return s.class
}

// number reads a zigzag varint, and returns what follows it. It does what binary.Varint does in less time where b is long enough
// and the number is not: how many bytes a number has cannot be guessed.
func number(b []byte) (int64, []byte) {
	if len(b) >= 8 {
		x := binary.LittleEndian.Uint64(b)
		if last := ^x & 0x8080808080808080; last != 0 {
			x &= last ^ (last - 1)                             // the bytes up to the first one without its highest bit,
			x = x&0x007f007f007f007f | x&0x7f007f007f007f00>>1 // whose other bits are brought together in twos,
			x = x&0x00003fff00003fff | x&0x3fff00003fff0000>>2 // fours
			x = x&0x000000000fffffff | x&0x0fffffff00000000>>4 // and eights
			return int64(x>>1) ^ -int64(x&1), b[bits.TrailingZeros64(last)/8+1:]
		}
	}
	n, size := binary.Varint(b)
	return n, b[size:]
}

// appendNumber appends the zigzag varint that number reads. It does what binary.AppendVarint does in less time.
func appendNumber(b []byte, n int64) []byte {
	x := uint64(n)<<1 ^ uint64(n>>63)
	if x < 0x80 {
		return append(b, byte(x))
	}
	if x >= 1<<56 {
		return binary.AppendUvarint(b, x)
	}
	size := (bits.Len64(x) + 6) / 7
	x = x&0x000000000fffffff | x&0x00fffffff0000000<<4 // as number, the other way round
	x = x&0x00003fff00003fff | x&0x0fffc0000fffc000<<2
	x = x&0x007f007f007f007f | x&0x3f803f803f803f80<<1
	x |= 0x8080808080808080 & (1<<(8*(size-1)) - 1)
	b = binary.LittleEndian.AppendUint64(b, x)
	return b[:len(b)-8+size]
}

// brief unpacks what an entry has but for Version and Extents, which may be missing, into e. The text is in t if that is not nil.
func (x *shapes) brief(packed []byte, v *values, e *Entry, t *Text) {
	*e = Entry{}
	s, b := x.of(packed)
	if s == nil {
		d := decoder{b: b}
		d.entry(e)
		return
	}
	has := s.has
	if has&(1<<colRest) == 0 {
		has &= 1<<colInode - 1 // what follows is of the Version alone
	}
	v.read(b, has)
	v.brief(s, e, t)
}

// hop unpacks what a Hop has.
func (x *shapes) hop(packed []byte) Hop {
	s, b := x.of(packed)
	if s == nil || s.class == Directory && s.has&(1<<colRest) != 0 { // it may have a base
		e := x.entry(packed)
		return Hop{e.Class, e.Dir, e.Base, e.Mount, e.Owner, e.Group, e.Mode}
	}
	h := Hop{Class: s.class, Mount: s.flags&flagMount != 0, Owner: s.owner, Group: s.group, Mode: s.mode}
	if s.has&(1<<colDir) != 0 {
		dir, _ := binary.Varint(b)
		h.Dir = DirID(dir)
	}
	return h
}

// peek returns the class of a packed entry and the directory it leads to.
func (x *shapes) peek(packed []byte) (Class, DirID) {
	s, b := x.of(packed)
	if s == nil {
		e := x.entry(packed)
		return e.Class, e.Dir
	}
	if s.has&(1<<colDir) == 0 {
		return s.class, 0
	}
	dir, _ := binary.Varint(b)
	return s.class, DirID(dir)
}
