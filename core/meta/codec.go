package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/s2"

	"github.com/sluicefs/sluice/core/errs"
)

/*
The journal record, version 1. This is a stored format: what is written here is read by every later Sluice.

	record  = version:byte seq:uvarint term:uvarint time:varint n:uvarint body crc:4 bytes
	body    = the n operations, one after the other, as one S2 block (github.com/klauspost/compress/s2, a superset of
	          Snappy's block format, which starts with the uncompressed length)
	crc     = CRC-32C (Castagnoli) of all bytes before it, little-endian
	time    = when the record was made, nanoseconds since 1970; for people, nothing depends on it

	uvarint = unsigned LEB128, as encoding/binary; varint = the same, zigzag
	string  = length:uvarint bytes
	strmap  = count:uvarint (key:string value:string)…, keys ascending

	op      = 's' dir:uvarint edge:string entry      Set
	        | 'd' dir:uvarint edge:string            Del
	        | 'x' dir:uvarint                        DropDir
	        | 'c' name:string value:uvarint          Counter

	entry   = class:byte present:uvarint field…

present has one bit per field of Entry; the fields whose bits are set follow in the order of their bits. A field that is
not present is zero. A bit without a meaning is an error, so that nothing is dropped unseen.

	bit  field        encoding            bit  field        encoding
	  0  Dir          uvarint              13  ATime        varint
	  1  Explicit     none: the bit        14  Owner        string
	  2  Marker       none: the bit        15  Group        string
	  3  Mount        none: the bit        16  Mode         uvarint
	  4  Base         kind:byte            17  BlockSize    varint
	                  store:string         18  Replication  varint
	                  prefix:string        19  Headers      strmap
	  5  ID           uvarint              20  User         strmap
	  6  Rev          uvarint              21  Checksums    string
	  7  Extents      count:uvarint then   22  Parts        count:uvarint then
	                  ID:uvarint Rev:              count × varint
	                  uvarint Off:varint   23  HDFSSum      string
	                  Len:varint each      24  Extra        strmap
	  8  Size         varint
	  9  ETag         string
	 10  StoreKey     string
	 11  Version      string
	 12  MTime        varint               25  Hold         ID:16 bytes Workers:count
	                                                       string… Write:string Base:string
	                                                       Since:varint Refused:string

Nil and empty maps and lists are the same and are read as nil. Fields that an operation's kind does not use are not kept.
*/

const (
	recordVersion = 1
	maxHeader     = 1 + 4*binary.MaxVarintLen64
	crcSize       = 4

	// MaxRecord is the greatest length of a journal record in bytes.
	MaxRecord = 1 << 20
	// MaxRecordOps is the greatest number of operations in a record. It bounds what a reader allocates for one.
	MaxRecordOps = 1 << 16
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what a record says of itself.
type header struct {
	seq  uint64
	term int64
	time int64 // nanoseconds since 1970
	ops  int
}

// appendRecord appends the record of the n encoded operations ops to dst, which it may grow.
func appendRecord(dst []byte, h header, ops []byte) []byte {
	start := len(dst)
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, h.seq)
	dst = binary.AppendUvarint(dst, uint64(h.term))
	dst = binary.AppendVarint(dst, h.time)
	dst = binary.AppendUvarint(dst, uint64(h.ops))
	room := s2.MaxEncodedLen(len(ops))
	dst = slices.Grow(dst, room+crcSize)
	block := s2.Encode(dst[len(dst):len(dst)+room], ops)
	dst = dst[:len(dst)+len(block)]
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// recordSize returns the greatest length that a record of n bytes of operations can have; negative if it has none.
func recordSize(n int) int {
	size := s2.MaxEncodedLen(n)
	if size < 0 {
		return size
	}
	return maxHeader + size + crcSize
}

// decodeRecord reads a record. Errors: errs.Corrupt, whatever the bytes are.
func decodeRecord(b []byte) (header, []Op, error) {
	h, ops, err := readRecord(b)
	if err != nil {
		return header{}, nil, errs.E("meta.decodeRecord", "", errs.Corrupt, err)
	}
	return h, ops, nil
}

func readRecord(b []byte) (header, []Op, error) {
	if len(b) < 1+crcSize || len(b) > MaxRecord {
		return header{}, nil, fmt.Errorf("a record of %d bytes", len(b))
	}
	if b[0] != recordVersion {
		return header{}, nil, fmt.Errorf("a record of version %d; this Sluice reads version %d", b[0], recordVersion)
	}
	body, sum := b[:len(b)-crcSize], binary.LittleEndian.Uint32(b[len(b)-crcSize:])
	if crc32.Checksum(body, castagnoli) != sum {
		return header{}, nil, errors.New("the record's checksum does not match its bytes")
	}
	d := decoder{b: body[1:]}
	h := header{seq: d.uvarint(), term: int64(d.uvarint()), time: d.varint(), ops: d.count(0, MaxRecordOps)}
	if d.err != nil {
		return header{}, nil, d.err
	}
	if n, err := s2.DecodedLen(d.b); err != nil || n > MaxRecord {
		return header{}, nil, fmt.Errorf("the record's body does not decompress: length %d, %v", n, err)
	}
	raw, err := s2.Decode(nil, d.b)
	if err != nil {
		return header{}, nil, fmt.Errorf("the record's body does not decompress: %w", err)
	}
	d = decoder{b: raw}
	ops := make([]Op, 0, min(h.ops, len(raw)/2))
	for range h.ops {
		ops = append(ops, d.op())
		if d.err != nil {
			return header{}, nil, d.err
		}
	}
	if len(d.b) > 0 {
		return header{}, nil, fmt.Errorf("%d bytes after the record's last operation", len(d.b))
	}
	return h, ops, nil
}

// appendOp appends the encoding of op. Errors: errs.Invalid for a kind that has none.
func appendOp(b []byte, op *Op) ([]byte, error) {
	b = append(b, byte(op.Kind))
	switch op.Kind {
	case Set:
		b = binary.AppendUvarint(b, uint64(op.Dir))
		b = appendString(b, op.Edge)
		return appendEntry(b, &op.Entry), nil
	case Del:
		b = binary.AppendUvarint(b, uint64(op.Dir))
		return appendString(b, op.Edge), nil
	case DropDir:
		return binary.AppendUvarint(b, uint64(op.Dir)), nil
	case Counter:
		b = appendString(b, op.Name)
		return binary.AppendUvarint(b, op.Value), nil
	}
	return nil, errs.New("meta.appendOp", "", errs.Invalid, fmt.Sprintf("operation of unknown kind %q", byte(op.Kind)))
}

// The bits of an entry's fields, in the order in which they are stored.
const (
	fDir = 1 << iota
	fExplicit
	fMarker
	fMount
	fBase
	fID
	fRev
	fExtents
	fSize
	fETag
	fStoreKey
	fVersion
	fMTime
	fATime
	fOwner
	fGroup
	fMode
	fBlockSize
	fReplication
	fHeaders
	fUser
	fChecksums
	fParts
	fHDFSSum
	fExtra
	fHold
	fEnd
)

// present returns the bits of e's fields that are not zero.
func present(e *Entry) uint64 {
	var bits uint64
	mark := func(bit uint64, is bool) {
		if is {
			bits |= bit
		}
	}
	mark(fDir, e.Dir != 0)
	mark(fExplicit, e.Explicit)
	mark(fMarker, e.Marker)
	mark(fMount, e.Mount)
	mark(fBase, e.Base != Base{})
	mark(fID, e.ID != 0)
	mark(fRev, e.Rev != 0)
	mark(fExtents, len(e.Extents) > 0)
	mark(fSize, e.Size != 0)
	mark(fETag, e.ETag != "")
	mark(fStoreKey, e.StoreKey != "")
	mark(fVersion, e.Version != "")
	mark(fMTime, e.MTime != 0)
	mark(fATime, e.ATime != 0)
	mark(fOwner, e.Owner != "")
	mark(fGroup, e.Group != "")
	mark(fMode, e.Mode != 0)
	mark(fBlockSize, e.BlockSize != 0)
	mark(fReplication, e.Replication != 0)
	mark(fHeaders, len(e.Headers) > 0)
	mark(fUser, len(e.User) > 0)
	mark(fChecksums, e.Checksums != "")
	mark(fParts, len(e.Parts) > 0)
	mark(fHDFSSum, e.HDFSSum != "")
	mark(fExtra, len(e.Extra) > 0)
	mark(fHold, e.Hold != nil)
	return bits
}

// appendEntry appends the encoding of e.
func appendEntry(b []byte, e *Entry) []byte {
	return appendFields(append(b, byte(e.Class)), e, present(e))
}

// Append appends e to b as a record has it, for who keeps an entry within another. DecodeEntry reads it.
func (e *Entry) Append(b []byte) []byte { return appendEntry(b, e) }

// DecodeEntry returns the entry that Append has made b of. It keeps nothing of b. Errors: errs.Corrupt, whatever the bytes are.
func DecodeEntry(b []byte) (e Entry, err error) {
	d := decoder{b: b}
	d.entry(&e)
	if d.err == nil && len(d.b) > 0 {
		d.fail("there are bytes after the entry")
	}
	if d.err != nil {
		return Entry{}, errs.E("meta.DecodeEntry", "", errs.Corrupt, d.err)
	}
	return e, nil
}

// appendFields appends present and the fields of e whose bits are set in it.
func appendFields(b []byte, e *Entry, bits uint64) []byte {
	b = binary.AppendUvarint(b, bits)
	for rest := bits; rest != 0; rest &= rest - 1 {
		switch rest & -rest {
		case fDir:
			b = binary.AppendUvarint(b, uint64(e.Dir))
		case fBase:
			b = append(b, byte(e.Base.Kind))
			b = appendString(b, e.Base.Store)
			b = appendString(b, e.Base.Prefix)
		case fID:
			b = binary.AppendUvarint(b, e.ID)
		case fRev:
			b = binary.AppendUvarint(b, e.Rev)
		case fExtents:
			b = appendExtents(b, e.Extents)
		case fSize:
			b = binary.AppendVarint(b, e.Size)
		case fETag:
			b = appendString(b, e.ETag)
		case fStoreKey:
			b = appendString(b, e.StoreKey)
		case fVersion:
			b = appendString(b, e.Version)
		case fMTime:
			b = binary.AppendVarint(b, e.MTime)
		case fATime:
			b = binary.AppendVarint(b, e.ATime)
		case fOwner:
			b = appendString(b, e.Owner)
		case fGroup:
			b = appendString(b, e.Group)
		case fMode:
			b = binary.AppendUvarint(b, uint64(e.Mode))
		case fBlockSize:
			b = binary.AppendVarint(b, e.BlockSize)
		case fReplication:
			b = binary.AppendVarint(b, int64(e.Replication))
		case fHeaders:
			b = appendMap(b, e.Headers)
		case fUser:
			b = appendMap(b, e.User)
		case fChecksums:
			b = appendString(b, e.Checksums)
		case fParts:
			b = appendParts(b, e.Parts)
		case fHDFSSum:
			b = appendString(b, e.HDFSSum)
		case fExtra:
			b = appendMap(b, e.Extra)
		case fHold:
			b = appendHold(b, e.Hold)
		}
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendExtents(b []byte, extents []Extent) []byte {
	b = binary.AppendUvarint(b, uint64(len(extents)))
	for _, x := range extents {
		b = binary.AppendUvarint(b, x.ID)
		b = binary.AppendUvarint(b, x.Rev)
		b = binary.AppendVarint(b, x.Off)
		b = binary.AppendVarint(b, x.Len)
	}
	return b
}

func appendParts(b []byte, parts []int64) []byte {
	b = binary.AppendUvarint(b, uint64(len(parts)))
	for _, n := range parts {
		b = binary.AppendVarint(b, n)
	}
	return b
}

func appendHold(b []byte, h *Hold) []byte {
	b = append(b, h.ID[:]...)
	b = binary.AppendUvarint(b, uint64(len(h.Workers)))
	for _, w := range h.Workers {
		b = appendString(b, w)
	}
	b = appendString(appendString(b, h.Write), h.Base)
	return appendString(binary.AppendVarint(b, h.Since), h.Refused)
}

func appendMap(b []byte, m map[string]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(m)))
	if len(m) == 1 {
		for k, v := range m {
			return appendString(appendString(b, k), v)
		}
	}
	var few [16]string // as many as most have, without memory of their own
	keys := few[:0]
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b = appendString(appendString(b, k), m[k])
	}
	return b
}

// decoder takes values off the front of b. After the first error every value is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err = errors.New(why)
		d.b = nil
	}
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("the record ends within a value")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := uint64(d.b[0])
		d.b = d.b[1:]
		return v
	}
	return d.longUvarint()
}

// longUvarint is uvarint for numbers of several bytes, and for none.
func (d *decoder) longUvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("the record ends within a number, or the number is too long")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	if len(d.b) >= 8 {
		if x := binary.LittleEndian.Uint64(d.b); ^x&0x8080808080808080 != 0 { // it ends among them
			var v int64
			v, d.b = number(d.b)
			return v
		}
	}
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("the record ends within a number, or the number is too long")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads the number of things that follow, each of which takes at least size bytes, so that no more is allocated
// than the bytes at hand can fill. It is at most most.
func (d *decoder) count(size, most int) int {
	n := d.uvarint()
	if n > uint64(most) || n*uint64(size) > uint64(len(d.b)) {
		d.fail("a count is greater than what follows")
		return 0
	}
	return int(n)
}

func (d *decoder) string() string {
	n := d.count(1, MaxRecord)
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) strmap() map[string]string {
	n := d.count(2, MaxRecord)
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := d.string()
		m[k] = d.string()
	}
	return m
}

func (d *decoder) extents() []Extent {
	n := d.count(4, MaxRecord)
	if n == 0 {
		return nil
	}
	extents := make([]Extent, n)
	for i := range extents {
		extents[i] = Extent{ID: d.uvarint(), Rev: d.uvarint(), Off: d.varint(), Len: d.varint()}
	}
	return extents
}

func (d *decoder) parts() []int64 {
	n := d.count(1, MaxRecord)
	if n == 0 {
		return nil
	}
	parts := make([]int64, n)
	for i := range parts {
		parts[i] = d.varint()
	}
	return parts
}

func (d *decoder) hold() *Hold {
	h := &Hold{}
	for i := range h.ID {
		h.ID[i] = d.byte()
	}
	if n := d.count(1, MaxRecord); n > 0 {
		h.Workers = make([]string, n)
		for i := range h.Workers {
			h.Workers[i] = d.string()
		}
	}
	h.Write, h.Base, h.Since, h.Refused = d.string(), d.string(), d.varint(), d.string()
	return h
}

func (d *decoder) op() Op {
	op := Op{Kind: OpKind(d.byte())}
	switch op.Kind {
	case Set:
		op.Dir, op.Edge = DirID(d.uvarint()), d.string()
		d.entry(&op.Entry)
	case Del:
		op.Dir, op.Edge = DirID(d.uvarint()), d.string()
	case DropDir:
		op.Dir = DirID(d.uvarint())
	case Counter:
		op.Name, op.Value = d.string(), d.uvarint()
	default:
		d.fail("an operation of an unknown kind")
	}
	return op
}

func (d *decoder) entry(e *Entry) {
	e.Class = Class(d.byte())
	d.fields(e)
}

// fields reads what appendFields wrote.
func (d *decoder) fields(e *Entry) {
	bits := d.uvarint()
	if bits >= fEnd {
		d.fail("an entry with a field that this Sluice does not know; it was written by a later one")
		return
	}
	for rest := bits; rest != 0; rest &= rest - 1 {
		switch rest & -rest {
		case fDir:
			e.Dir = DirID(d.uvarint())
		case fExplicit:
			e.Explicit = true
		case fMarker:
			e.Marker = true
		case fMount:
			e.Mount = true
		case fBase:
			e.Base = Base{Kind: BaseKind(d.byte()), Store: d.string(), Prefix: d.string()}
		case fID:
			e.ID = d.uvarint()
		case fRev:
			e.Rev = d.uvarint()
		case fExtents:
			e.Extents = d.extents()
		case fSize:
			e.Size = d.varint()
		case fETag:
			e.ETag = d.string()
		case fStoreKey:
			e.StoreKey = d.string()
		case fVersion:
			e.Version = d.string()
		case fMTime:
			e.MTime = d.varint()
		case fATime:
			e.ATime = d.varint()
		case fOwner:
			e.Owner = d.string()
		case fGroup:
			e.Group = d.string()
		case fMode:
			e.Mode = uint32(d.uvarint())
		case fBlockSize:
			e.BlockSize = d.varint()
		case fReplication:
			e.Replication = int32(d.varint())
		case fHeaders:
			e.Headers = d.strmap()
		case fUser:
			e.User = d.strmap()
		case fChecksums:
			e.Checksums = d.string()
		case fParts:
			e.Parts = d.parts()
		case fHDFSSum:
			e.HDFSSum = d.string()
		case fExtra:
			e.Extra = d.strmap()
		case fHold:
			e.Hold = d.hold()
		}
	}
}
