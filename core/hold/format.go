package hold

// The files of a directory
//
//	lock                      held with flock(2) by the process that uses the directory
//	log-<number>-<nonce>      many small attempts, one after the other
//	log-….freed               which of them are released
//	file-<number>-<nonce>     one large attempt
//	reigns                    who has led last, by lives of the journal
//
// Numbers have 8 hexadecimal digits or more and grow; a nonce has 16 and is random. All integers are little-endian. A header has 64 bytes:
//
//	 0  magic   "SLH1"
//	 4  zeros
//	 8  nonce   uint64    the file's, by its name
//	16  id      [16]byte  \ HeldID
//	32  rev     uint64    /
//	40  length  uint64    bytes of the attempt
//	48  at      uint64    when its header was written, in nanoseconds since 1970
//	56  zeros
//	60  crc     uint32    CRC-32C of the 60 bytes before
//
// and a body is the attempt's bytes in chunks of 64 KiB, the last one shorter, each followed by its checksum in 8 bytes: XXH3-64 with
// the seed XXH3-64(id, rev) + number of the chunk. So a chunk says of itself that it is whole, and in its place.
//
//	log   = (header body zeros to a multiple of 64)…, each batch that was written at once beginning at a multiple of 512, zeros between
//	        and after them
//	freed = (offset of a header in the log:uint64, XXH3-64 of these 8 bytes with the nonce as the seed:uint64)…
//	file  = body header
//	reigns = "SLT1" (life:8 bytes term:uint64)… crc:uint32, CRC-32C of all before
//
// Nobody outside knows the nonce, so what a client writes is never taken for a header. A log is written from its start to its end and
// never again; a sector that was synced once is not written again either, so a power failure while it writes leaves what was synced
// before. A file without a valid header at its end was not finished.

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/sluicefs/sluice/core"
)

const (
	magic       = "SLH1"
	headerBytes = 64
	chunkBytes  = 64 << 10
	sumBytes    = 8
	sector      = 512 // what a disk writes whole or not at all
	freedBytes  = 16

	lockName    = "lock"
	logPrefix   = "log-"
	filePrefix  = "file-"
	freedSuffix = ".freed"
	reignsName  = "reigns"
)

// name is what the name of a file says.
type name struct {
	number uint64
	nonce  uint64
}

func (n name) of(prefix string) string { return fmt.Sprintf("%s%08x-%016x", prefix, n.number, n.nonce) }

// parseName returns what a file's name says. ok is false if it is not one with the prefix.
func parseName(file, prefix string) (n name, ok bool) {
	rest, ok := strings.CutPrefix(file, prefix)
	if !ok {
		return name{}, false
	}
	number, nonce, _ := strings.Cut(rest, "-")
	var err, bad error
	n.number, err = strconv.ParseUint(number, 16, 64)
	n.nonce, bad = strconv.ParseUint(nonce, 16, 64)
	return n, err == nil && bad == nil && n.of(prefix) == file
}

// header is a decoded header, all but its file's nonce.
type header struct {
	id   core.HeldID
	size int64
	at   time.Time
}

func (h header) encode(nonce uint64) (b [headerBytes]byte) {
	copy(b[:], magic)
	le := binary.LittleEndian
	le.PutUint64(b[8:], nonce)
	copy(b[16:], h.id.ID[:])
	le.PutUint64(b[32:], h.id.Rev)
	le.PutUint64(b[40:], uint64(h.size))
	le.PutUint64(b[48:], uint64(h.at.UnixNano()))
	le.PutUint32(b[60:], crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// decodeHeader returns the header in b, of headerBytes bytes. ok is false if it is none of a file with that nonce.
func decodeHeader(b []byte, nonce uint64) (h header, ok bool) {
	le := binary.LittleEndian
	if string(b[:4]) != magic || le.Uint64(b[8:]) != nonce ||
		le.Uint32(b[60:]) != crc32.Checksum(b[:60], crc32.MakeTable(crc32.Castagnoli)) {
		return header{}, false
	}
	h.id = core.HeldID{ID: [16]byte(b[16:32]), Rev: le.Uint64(b[32:])}
	h.size, h.at = int64(le.Uint64(b[40:])), time.Unix(0, int64(le.Uint64(b[48:])))
	return h, h.size >= 0 && h.size < 1<<60
}

// bodyBytes returns the length of the body of an attempt of size bytes.
func bodyBytes(size int64) int64 { return size + (size+chunkBytes-1)/chunkBytes*sumBytes }

// recordBytes returns what an attempt of size bytes takes of a log.
func recordBytes(size int64) int64 { return roundUp(headerBytes+bodyBytes(size), headerBytes) }

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// seedOf returns the seed of the checksum of chunk 0.
func seedOf(id core.HeldID) uint64 {
	return xxh3.Hash(binary.LittleEndian.AppendUint64(id.ID[:], id.Rev))
}

// sum appends the checksum of chunk number n, which is the end of b from start on.
func sum(b []byte, start int, seed uint64, n int64) []byte {
	return binary.LittleEndian.AppendUint64(b, xxh3.HashSeed(b[start:], seed+uint64(n)))
}

// whole reports whether b is chunk number n and its checksum.
func whole(b []byte, seed uint64, n int64) bool {
	data := b[:len(b)-sumBytes]
	return binary.LittleEndian.Uint64(b[len(data):]) == xxh3.HashSeed(data, seed+uint64(n))
}

// freed appends the note that the record at off is released.
func freed(b []byte, off int64, nonce uint64) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint64(b, uint64(off))
	return binary.LittleEndian.AppendUint64(b, xxh3.HashSeed(b[at:], nonce))
}

// decodeFreed returns the offsets that notes name. Torn and damaged ones are passed over: what they released is held again.
func decodeFreed(b []byte, nonce uint64) map[int64]bool {
	all := map[int64]bool{}
	for ; len(b) >= freedBytes; b = b[freedBytes:] {
		if binary.LittleEndian.Uint64(b[8:]) == xxh3.HashSeed(b[:8], nonce) {
			all[int64(binary.LittleEndian.Uint64(b))] = true
		}
	}
	return all
}
