package page

// The files of a Segments directory
//
//	lock            held with flock(2) by the process that uses the directory
//	segment-000000  segment-000001 …
//
// A segment file is n chunks, n = file size / (chunkTable + chunkBytes), laid out as n tables followed by n data areas:
//
//	0                 n·16 KiB                             n·(16 KiB + 1 MiB)
//	├ table 0 ┬ … ┬ table n-1 ┼ data 0 ┬ data 1 ┬ … ┬ data n-1 ┤
//
// The data area of a chunk is cut into slots of one size, a multiple of 4 KiB named in classes, beginning at its start, so
// that every page lies on a 4 KiB boundary. What is left over at the end is not used. Entry i (64 bytes) of a chunk's table
// is the header of its slot i. All numbers are little-endian:
//
//	 0  magic   "SLP1"
//	 4  blocks  uint32    size of the slots of this chunk in blocks of 4 KiB
//	 8  length  uint32    bytes of the page, 1 to blocks·4096; they begin at the start of the slot
//	12  index   uint32    \
//	16  id      [16]byte   | Key
//	32  rev     uint64    /
//	40  sum     uint64    XXH3-64, seed 0, of the page's bytes
//	48  zeros
//	60  crc     uint32    CRC-32C of the 60 bytes before
//
// An entry that is all zeros is a free slot. Any other entry that does not decode, or that names another slot size than the
// first valid entry of its table, makes the reader distrust it (the latter: the whole chunk). A slot is written in this
// order: entry to zeros, data, entry; a chunk changes its slot size after its whole table was zeroed. Nothing is synced:
// after a power failure any of these writes may be missing, and sum tells.

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	blockBytes  = 4096
	chunkBytes  = Size
	headerBytes = 64
	chunkSlots  = chunkBytes / blockBytes  // at most, of the smallest class
	chunkTable  = chunkSlots * headerBytes // 16 KiB: 1.6 % of the data
	chunkStride = chunkTable + chunkBytes  // bytes of file per chunk
	magic       = "SLP1"
	lockName    = "lock"
	segmentName = "segment-%06d"
)

// classes returns the slot sizes in blocks: about half a power of two apart, each the largest that cuts a chunk into the
// same number of slots. A page wastes a quarter of its slot on average, and never more than half.
func classes() [15]uint32 {
	return [...]uint32{1, 2, 3, 4, 6, 8, 12, 16, 25, 32, 51, 64, 85, 128, 256}
}

// classOf returns the smallest class whose slots hold n bytes.
func classOf(n int) uint8 {
	for c, blocks := range classes() {
		if n <= int(blocks)*blockBytes {
			return uint8(c)
		}
	}
	panic("page: longer than Size")
}

// tableBytes is how much of its table a chunk of the class uses, in whole blocks.
func tableBytes(class uint8) int64 {
	headers := chunkSlots / int64(classes()[class]) * headerBytes
	return (headers + blockBytes - 1) / blockBytes * blockBytes
}

// header is the decoded entry of a slot.
type header struct {
	key    Key
	blocks uint32
	length uint32
	sum    uint64
}

func (h header) encode() [headerBytes]byte {
	var b [headerBytes]byte
	copy(b[:], magic)
	le := binary.LittleEndian
	le.PutUint32(b[4:], h.blocks)
	le.PutUint32(b[8:], h.length)
	le.PutUint32(b[12:], h.key.Index)
	copy(b[16:], h.key.ID[:])
	le.PutUint64(b[32:], h.key.Rev)
	le.PutUint64(b[40:], h.sum)
	le.PutUint32(b[60:], crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// decodeHeader returns the header in b, of headerBytes bytes. ok is false if it does not describe a page.
func decodeHeader(b []byte) (h header, ok bool) {
	le := binary.LittleEndian
	if string(b[:4]) != magic || le.Uint32(b[60:]) != crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)) {
		return header{}, false
	}
	h = header{blocks: le.Uint32(b[4:]), length: le.Uint32(b[8:]), sum: le.Uint64(b[40:])}
	h.key = Key{ID: [16]byte(b[16:32]), Rev: le.Uint64(b[32:]), Index: le.Uint32(b[12:])}
	return h, h.length > 0 && uint64(h.length) <= uint64(h.blocks)*blockBytes && h.class() >= 0
}

// class returns the index of the header's slot size in classes, -1 if there is none.
func (h header) class() int {
	for c, blocks := range classes() {
		if blocks == h.blocks {
			return c
		}
	}
	return -1
}

// decodeTable decodes the table of a chunk: the headers by slot (length 0 for a free one), the class of the slots, -1 if
// there are none, and how many entries are damaged. If the entries contradict each other none of them is believed.
func decodeTable(table []byte) (found [chunkSlots]header, class, bad int) {
	class = -1
	for i := range found {
		b := table[i*headerBytes:][:headerBytes]
		h, ok := decodeHeader(b)
		if !ok {
			if [headerBytes]byte(b) != [headerBytes]byte{} {
				bad++
			}
			continue
		}
		if class == -1 {
			class = h.class()
		}
		if h.class() != class || i >= chunkSlots/int(h.blocks) {
			return [chunkSlots]header{}, -1, bad + 1
		}
		found[i] = h
	}
	return found, class, bad
}
