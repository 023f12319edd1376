package meta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/sluicefs/sluice/core/errs"
)

/*
The checkpoint page, version 1. This is a stored format: what is written here is read by every later Sluice.

	page   = version:byte seq:uvarint low high n:uvarint size:uvarint body crc:4 bytes
	low    = point, the first place that the page covers
	high   = point, the first place behind it that it does not cover
	point  = dir:uvarint edge:string; the point behind everything has the directory 2^64-1
	seq    = the record that was applied last when the page was made; for people, nothing depends on it
	n      = entries in the page
	size   = length of the uncompressed body
	body   = columns of the n entries, in order of directory and edge, as one Zstandard frame
	crc    = CRC-32C (Castagnoli) of all bytes before it, little-endian

	columns = shapes, then the streams dirs, index, shared, lengths, edges and those of shape.go, each length:uvarint bytes
	shapes  = count:uvarint, then for each: class:byte flags:byte etag:byte version:byte has:uvarint mode:uvarint
	          replication:varint blockSize:varint device:uvarint owner:string group:string
	dirs    = one (difference to the last directory:uvarint, entries of it in this page:uvarint) after the other
	index   = for each entry the number of its shape in shapes, from 1 on, as uvarint; 0: the entry is kept whole
	shared  = for each entry how many bytes of its edge are the start of the edge before it, as uvarint; 0 for a directory's
	          first one in the page
	lengths = for each entry the length of the rest of its edge, as uvarint
	edges   = the rests of the edges

The streams of shape.go hold what the entries' shapes say they have. Of the columns dir, id, rev, mtime and inode they hold
the difference to the value before. An entry that is kept whole is in the stream rest, as length:uvarint entry (codec.go).
*/

const (
	pageVersion = 1
	pageEntries = 256      // entries of a page
	pageWeight  = 64 << 10 // bytes of edges and entries beyond which a page is split; an entry alone may be longer
	maxPageBody = 4 << 20  // of an uncompressed body: more than the longest record can have brought
	// maxPageEntries bounds what a reader allocates.
	maxPageEntries = 1 << 12
	pageStreams    = 5 + int(columns)
)

// differences are the columns stored as differences.
const differences = 1<<colDir | 1<<colID | 1<<colRev | 1<<colMTime | 1<<colInode

// pageHeader is what a page says of itself.
type pageHeader struct {
	seq       uint64
	low, high point
	n         int
}

// pageWriter makes pages. It is for one goroutine.
type pageWriter struct {
	zstd    *zstd.Encoder
	n       int
	weight  int
	shapes  []*shape
	number  map[*shape]int
	streams [pageStreams][]byte
	prev    [columns]int64
	dir     DirID // of the last entry
	run     int   // entries of dir so far
	lastDir DirID // the one before dir
	edge    []byte
	first   point // the first entry
	raw     []byte
}

// The streams before those of the columns.
const (
	streamDirs = iota
	streamIndex
	streamShared
	streamLengths
	streamEdges
	streamColumns
)

func newPageWriter() (*pageWriter, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(128<<10), zstd.WithSingleSegment(true))
	if err != nil {
		return nil, errs.E("meta.newPageWriter", "", errs.Other, err)
	}
	return &pageWriter{zstd: z, number: map[*shape]int{}}, nil
}

// add adds the entry at (dir, edge), which comes after those added before. s is nil if packed is a whole entry.
func (w *pageWriter) add(dir DirID, edge []byte, s *shape, packed []byte) {
	if w.n == 0 || dir != w.dir {
		w.endRun()
		w.dir, w.edge = dir, w.edge[:0]
	}
	if w.n == 0 {
		w.first = point{dir, string(edge)}
	}
	w.n++
	w.run++
	w.weight += len(edge) + len(packed)
	shared := 0
	for shared < min(len(edge), len(w.edge)) && edge[shared] == w.edge[shared] {
		shared++
	}
	w.edge = append(w.edge[:0], edge...)
	w.uvarint(streamShared, uint64(shared))
	w.uvarint(streamLengths, uint64(len(edge)-shared))
	w.streams[streamEdges] = append(w.streams[streamEdges], edge[shared:]...)
	if s == nil {
		w.uvarint(streamIndex, 0)
		w.uvarint(streamColumns+int(colRest), uint64(len(packed)))
		w.streams[streamColumns+int(colRest)] = append(w.streams[streamColumns+int(colRest)], packed...)
		return
	}
	number := w.number[s]
	if number == 0 {
		w.shapes = append(w.shapes, s)
		number = len(w.shapes)
		w.number[s] = number
	}
	w.uvarint(streamIndex, uint64(number))
	w.values(s, packed)
}

// values moves an entry's values to their streams.
func (w *pageWriter) values(s *shape, packed []byte) {
	for c := range columns {
		if s.has&(1<<c) == 0 {
			continue
		}
		to := &w.streams[streamColumns+int(c)]
		switch c {
		case colETag:
			*to = append(*to, packed[:16]...)
			packed = packed[16:]
		case colRest:
			n, size := binary.Uvarint(packed)
			*to = append(*to, packed[:size+int(n)]...)
			packed = packed[size+int(n):]
		default:
			v, size := binary.Varint(packed)
			packed = packed[size:]
			if differences&(1<<c) != 0 {
				v, w.prev[c] = v-w.prev[c], v
			}
			*to = binary.AppendVarint(*to, v)
		}
	}
}

func (w *pageWriter) uvarint(stream int, v uint64) {
	w.streams[stream] = binary.AppendUvarint(w.streams[stream], v)
}

func (w *pageWriter) endRun() {
	if w.run > 0 {
		w.uvarint(streamDirs, uint64(w.dir-w.lastDir))
		w.uvarint(streamDirs, uint64(w.run))
		w.lastDir, w.run = w.dir, 0
	}
}

// finish returns the page of what was added and makes the writer empty.
func (w *pageWriter) finish(seq uint64, low, high point) []byte {
	w.endRun()
	raw := binary.AppendUvarint(w.raw[:0], uint64(len(w.shapes)))
	for _, s := range w.shapes {
		raw = appendShape(raw, s)
	}
	for i := range w.streams {
		raw = binary.AppendUvarint(raw, uint64(len(w.streams[i])))
		raw = append(raw, w.streams[i]...)
		w.streams[i] = w.streams[i][:0]
	}
	b := []byte{pageVersion}
	b = binary.AppendUvarint(b, seq)
	b = appendPoint(b, low)
	b = appendPoint(b, high)
	b = binary.AppendUvarint(b, uint64(w.n))
	b = binary.AppendUvarint(b, uint64(len(raw)))
	b = w.zstd.EncodeAll(raw, b)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	clear(w.number)
	w.raw, w.shapes, w.prev, w.n, w.weight, w.dir, w.lastDir, w.edge = raw, w.shapes[:0], [columns]int64{}, 0, 0, 0, 0, w.edge[:0]
	return b
}

func appendPoint(b []byte, p point) []byte {
	return appendString(binary.AppendUvarint(b, uint64(p.dir)), p.edge)
}

func appendShape(b []byte, s *shape) []byte {
	b = append(b, byte(s.class), s.flags, s.etag, s.version)
	b = binary.AppendUvarint(b, uint64(s.has))
	b = binary.AppendUvarint(b, uint64(s.mode))
	b = binary.AppendVarint(b, int64(s.replication))
	b = binary.AppendVarint(b, s.blockSize)
	b = binary.AppendUvarint(b, s.device)
	b = appendString(b, s.owner)
	return appendString(b, s.group)
}

func (d *decoder) shape() shape {
	s := shape{class: Class(d.byte()), flags: d.byte(), etag: d.byte(), version: d.byte()}
	has := d.uvarint()
	if has >= 1<<columns || s.flags >= flagsEnd || s.etag > etagParts || s.version != textNone && s.version < textSame || s.version >= textFormed {
		d.fail("a shape that this Sluice does not know; it was written by a later one")
	}
	s.has, s.mode, s.replication, s.blockSize, s.device = uint16(has), uint32(d.uvarint()), int32(d.varint()), d.varint(), d.uvarint()
	s.owner, s.group = d.string(), d.string()
	if hasETag := has&(1<<colETag) != 0; hasETag != (s.etag != textNone) {
		d.fail("a shape whose ETag is not where it says")
	}
	return s
}

func (d *decoder) point() point { return point{DirID(d.uvarint()), d.string()} }

// page is a decoded page.
type page struct {
	pageHeader
	shapes []shape
	runs   []run
	links  bool // an entry may be a directory
}

// run are a page's entries of one directory.
type run struct {
	dir   DirID
	items []item // packed with the numbers that the reader's intern gave
}

// pageReader reads pages. It is for one goroutine.
type pageReader struct {
	zstd *zstd.Decoder
	raw  []byte
	// text and items are what the page read last consists of.
	text  []byte
	items []item
	// intern numbers shapes. The number of one for which there is no more room is 0: its entries are kept whole.
	intern func(shapes []shape) []uint32
}

func newPageReader(intern func([]shape) []uint32) (*pageReader, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPageBody), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, errs.E("meta.newPageReader", "", errs.Other, err)
	}
	return &pageReader{zstd: z, intern: intern}, nil
}

// pageBody returns what the page b says of itself, the length of its body, and the body.
func pageBody(b []byte) (h pageHeader, size uint64, body []byte, err error) {
	if len(b) < 1+crcSize || len(b) > MaxValue {
		return h, 0, nil, fmt.Errorf("a page of %d bytes", len(b))
	}
	if b[0] != pageVersion {
		return h, 0, nil, fmt.Errorf("a page of version %d; this Sluice reads version %d", b[0], pageVersion)
	}
	body, sum := b[:len(b)-crcSize], binary.LittleEndian.Uint32(b[len(b)-crcSize:])
	if crc32.Checksum(body, castagnoli) != sum {
		return h, 0, nil, errors.New("the page's checksum does not match its bytes")
	}
	d := decoder{b: body[1:]}
	h = pageHeader{seq: d.uvarint(), low: d.point(), high: d.point(), n: int(min(d.uvarint(), maxPageBody))}
	size = d.uvarint()
	if d.err == nil && (size > maxPageBody || !h.low.less(h.high)) {
		d.fail("a page that covers nothing, or is too long")
	}
	return h, size, d.b, d.err
}

// read decodes the page b. What it returns is good until the next call. Errors: errs.Corrupt, whatever the bytes are.
func (r *pageReader) read(b []byte) (*page, error) {
	p, err := r.decode(b)
	if err != nil {
		return nil, errs.E("meta.readPage", "", errs.Corrupt, err)
	}
	return p, nil
}

func (r *pageReader) decode(b []byte) (*page, error) {
	h, size, body, err := pageBody(b)
	if err != nil {
		return nil, err
	}
	r.raw, err = r.zstd.DecodeAll(body, r.raw[:0])
	if err != nil || uint64(len(r.raw)) != size {
		return nil, fmt.Errorf("the page's body does not decompress to %d bytes: %d, %v", size, len(r.raw), err)
	}
	d := decoder{b: r.raw}
	p := &page{pageHeader: h}
	p.shapes = make([]shape, d.count(11, maxPageBody))
	for i := range p.shapes {
		p.shapes[i] = d.shape()
	}
	x := columnReader{p: p}
	for i := range x.streams {
		n := d.count(1, maxPageBody)
		x.streams[i].b, d.b = d.b[:n], d.b[n:]
	}
	if d.err == nil && len(d.b) > 0 {
		d.fail("bytes after the page's last stream")
	}
	if d.err == nil && (h.n > maxPageEntries || h.n > len(x.streams[streamLengths].b)) {
		d.fail("a page that does not have the entries that it says")
	}
	if d.err != nil {
		return nil, d.err
	}
	x.numbers = r.intern(p.shapes)
	p.links = slices.ContainsFunc(p.shapes, func(s shape) bool { return s.class == Directory })
	if cap(r.items) < h.n {
		r.items = make([]item, h.n)
	}
	x.items, x.text = r.items[:h.n], r.text[:0]
	err = x.entries()
	r.text = x.text
	return p, err
}

// columnReader puts the entries of a page together.
type columnReader struct {
	p       *page
	numbers []uint32 // of the shapes
	streams [pageStreams]decoder
	prev    [columns]int64
	edge    []byte // of the last entry
	text    []byte // what the items point to
	items   []item // that are left to be filled
}

func (x *columnReader) entries() error {
	dirs := &x.streams[streamDirs]
	var dir DirID
	for n := 0; n < x.p.n; {
		step, count := dirs.uvarint(), dirs.uvarint()
		if dirs.err != nil || count == 0 || count > uint64(x.p.n-n) || n > 0 && step == 0 || step > uint64(end.dir-dir) {
			return errors.New("a page whose directories do not add up")
		}
		dir += DirID(step)
		items := x.items[:count:count]
		x.items = x.items[count:]
		x.edge = nil
		for i := range items {
			if err := x.item(&items[i], i == 0); err != nil {
				return err
			}
		}
		first, last := point{dir, string(items[0].edge)}, point{dir, string(items[count-1].edge)}
		if first.less(x.p.low) || !last.less(x.p.high) {
			return errors.New("a page with entries that are not its own")
		}
		x.p.runs = append(x.p.runs, run{dir, items})
		n += int(count)
	}
	for i := range x.streams {
		if s := &x.streams[i]; s.err != nil || len(s.b) > 0 {
			return errors.New("a page whose columns do not fit its entries")
		}
	}
	return nil
}

// item reads the next entry, of a directory's first ones the first.
func (x *columnReader) item(to *item, first bool) error {
	shared, rest := x.streams[streamShared].uvarint(), x.streams[streamLengths].uvarint()
	edges := &x.streams[streamEdges]
	index := x.streams[streamIndex].uvarint()
	if len(x.text) > maxPageBody || shared > uint64(len(x.edge)) || rest > uint64(len(edges.b)) || index > uint64(len(x.p.shapes)) {
		return errors.New("a page with an edge or a shape that is not there")
	}
	if !first && bytes.Compare(x.edge[shared:], edges.b[:rest]) >= 0 { // they start alike
		return errors.New("a page whose entries are not in order")
	}
	at := len(x.text)
	x.text = append(append(x.text, x.edge[:shared]...), edges.b[:rest]...)
	edges.b = edges.b[rest:]
	edgeEnd := len(x.text)
	x.edge = x.text[at:edgeEnd:edgeEnd]
	if index == 0 {
		return x.whole(to, edgeEnd)
	}
	s := &x.p.shapes[index-1]
	number := x.numbers[index-1]
	if number > 0 {
		x.text = binary.AppendUvarint(x.text, uint64(number))
	}
	from := len(x.text)
	if err := x.values(s); err != nil {
		return err
	}
	if number == 0 {
		var v values
		v.unpack(x.text[from:], s)
		e := v.join(s, &box{})
		x.text = appendEntry(append(x.text[:from], 0), e)
	}
	to.edge, to.packed = x.edge, x.text[edgeEnd:len(x.text):len(x.text)]
	return nil
}

// whole reads an entry that is kept whole.
func (x *columnReader) whole(to *item, edgeEnd int) error {
	b, err := x.rest()
	if err != nil {
		return err
	}
	d := decoder{b: b}
	if d.entry(&Entry{}); d.err != nil || len(d.b) > 0 {
		return errors.New("a page with an entry that cannot be read")
	}
	x.p.links = true
	x.text = append(append(x.text, 0), b...)
	to.edge, to.packed = x.edge, x.text[edgeEnd:len(x.text):len(x.text)]
	return nil
}

// rest takes the next value of the stream rest.
func (x *columnReader) rest() ([]byte, error) {
	s := &x.streams[streamColumns+int(colRest)]
	n := s.count(1, maxPageBody)
	b := s.b[:n]
	s.b = s.b[n:]
	return b, s.err
}

// values appends the next values of the columns that s has to the text.
func (x *columnReader) values(s *shape) error {
	text := slices.Grow(x.text, int(columns)*binary.MaxVarintLen64+16) // room for all but the rest, and to write 8 bytes at once
	for has := s.has; has != 0; has &= has - 1 {
		c := bits.TrailingZeros16(has)
		from := &x.streams[streamColumns+c]
		switch b := from.b; {
		case c == int(colETag):
			if len(b) < 16 {
				return errors.New("a page with too few ETags")
			}
			text, from.b = append(text, b[:16]...), b[16:]
		case c == int(colRest):
			b, err := x.rest()
			if err != nil {
				return err
			}
			d := decoder{b: b}
			if d.fields(&Entry{}); d.err != nil || len(d.b) > 0 {
				return errors.New("a page with fields that cannot be read")
			}
			text = binary.AppendUvarint(text, uint64(len(b)))
			text = append(text, b...)
		case differences&(1<<c) != 0:
			var v int64
			if len(b) > 0 && b[0] < 0x80 { // most differences are small
				v, from.b = int64(b[0]>>1)^-int64(b[0]&1), b[1:]
			} else if v = from.varint(); from.err != nil {
				return from.err
			}
			v += x.prev[c]
			x.prev[c] = v
			text = appendNumber(text, v)
		default: // it is kept as it is stored
			if len(b) >= 8 {
				raw := binary.LittleEndian.Uint64(b)
				if last := ^raw & 0x8080808080808080; last != 0 { // it ends among them
					n := bits.TrailingZeros64(last)/8 + 1
					text = binary.LittleEndian.AppendUint64(text, raw)[:len(text)+n]
					from.b = b[n:]
					continue
				}
			}
			v := from.varint()
			if from.err != nil {
				return from.err
			}
			text = binary.AppendVarint(text, v)
		}
	}
	x.text = text
	return nil
}
