package namespace

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"hash/crc32"
	"strconv"
	"sync"

	"github.com/sluicefs/sluice/core"
)

// md5Sum computes an MD5 beside the writer: MD5 is the slowest thing on a write's way (0.8 GB/s on a core), so bytes beyond
// the first are hashed on a goroutine of their own while the next are received.
type md5Sum struct {
	h    hash.Hash
	n    int // bytes hashed by the writer itself
	in   chan *sumBuffer
	free chan *sumBuffer
	done chan struct{}
	buf  *sumBuffer // being filled
}

const (
	sumChunk  = 64 << 10 // three of them are what a slow upload holds
	sumInline = 64 << 10 // what is hashed in less time than a goroutine and its buffers are worth
)

type sumBuffer struct {
	n int
	b [sumChunk]byte
}

var sumBuffers = sync.Pool{New: func() any { return new(sumBuffer) }}

// write adds p, which the caller may reuse at once.
func (s *md5Sum) write(p []byte) {
	if s.h == nil {
		s.h = md5.New()
	}
	if s.in == nil {
		if s.n += len(p); s.n <= sumInline {
			s.h.Write(p)
			return
		}
		s.start()
	}
	for len(p) > 0 {
		if s.buf == nil {
			s.buf = <-s.free
			s.buf.n = 0
		}
		k := copy(s.buf.b[s.buf.n:], p)
		s.buf.n += k
		if p = p[k:]; s.buf.n == sumChunk {
			s.flush()
		}
	}
}

func (s *md5Sum) start() {
	s.in, s.free, s.done = make(chan *sumBuffer, 2), make(chan *sumBuffer, 3), make(chan struct{})
	for range 3 {
		s.free <- sumBuffers.Get().(*sumBuffer)
	}
	go func() {
		defer close(s.done)
		for b := range s.in {
			s.h.Write(b.b[:b.n])
			s.free <- b
		}
	}()
}

func (s *md5Sum) flush() {
	s.in <- s.buf
	s.buf = nil
}

// sum ends the computation and returns the MD5.
func (s *md5Sum) sum() []byte {
	if s.h == nil {
		s.h = md5.New()
	}
	s.stop()
	return s.h.Sum(nil)
}

// stop ends the goroutine after it hashed what it was given.
func (s *md5Sum) stop() {
	if s.in == nil {
		return
	}
	if s.buf != nil {
		s.flush()
	}
	close(s.in)
	<-s.done
	for range 3 { // all are free now
		sumBuffers.Put(<-s.free)
	}
	s.in, s.n = nil, 0
}

// hdfsSum computes HDFS's file checksum: CRC32C of every 512 bytes, MD5 of those of a block, MD5 of the blocks' MD5s.
// Source: org.apache.hadoop.hdfs.server.datanode.BlockChecksumHelper and FileChecksumHelper, as the reference describes.
type hdfsSum struct {
	blockSize int64
	size      int64
	crc       uint32
	blocks    []byte // MD5 of each whole block
	block     hash.Hash
	crcs      []byte // of the block, not yet in its MD5
}

const bytesPerCRC = 512

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newHDFSSum(blockSize int64) *hdfsSum { return &hdfsSum{blockSize: blockSize} }

func (s *hdfsSum) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(int64(len(p)), bytesPerCRC-s.size%bytesPerCRC, s.blockSize-s.size%s.blockSize)
		s.crc = crc32.Update(s.crc, castagnoli, p[:k])
		s.size += k
		p = p[k:]
		if s.size%bytesPerCRC == 0 || s.size%s.blockSize == 0 {
			s.endChunk()
		}
		if s.size%s.blockSize == 0 {
			s.endBlock()
		}
	}
	return n, nil
}

func (s *hdfsSum) endChunk() {
	s.crcs = binary.BigEndian.AppendUint32(s.crcs, s.crc)
	s.crc = 0
	if len(s.crcs) >= 4096 {
		s.flush()
	}
}

func (s *hdfsSum) flush() {
	if s.block == nil {
		s.block = md5.New()
	}
	s.block.Write(s.crcs)
	s.crcs = s.crcs[:0]
}

func (s *hdfsSum) endBlock() {
	s.flush()
	s.blocks = s.block.Sum(s.blocks)
	s.block = nil
}

// sum returns the checksum of what was written.
func (s *hdfsSum) sum() core.FileChecksum {
	crcPerBlock := int64(0)
	if s.size > s.blockSize {
		crcPerBlock = s.blockSize / bytesPerCRC
	}
	if rest := s.size % s.blockSize; rest > 0 {
		if rest%bytesPerCRC != 0 {
			s.endChunk()
		}
		s.endBlock()
	}
	perCRC, kind := int32(bytesPerCRC), "CRC32C"
	if s.size == 0 {
		perCRC, kind = 0, "CRC32"
	}
	padded := 32 // the blocks' MD5s are hashed in a buffer that grows by doubling
	for padded < len(s.blocks) {
		padded *= 2
	}
	whole := md5.Sum(append(s.blocks, make([]byte, padded-len(s.blocks))...))
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+8+len(whole)), uint32(perCRC))
	b = binary.BigEndian.AppendUint64(b, uint64(crcPerBlock))
	return core.FileChecksum{
		Algorithm: "MD5-of-" + strconv.FormatInt(crcPerBlock, 10) + "MD5-of-" + strconv.Itoa(int(perCRC)) + kind,
		Bytes:     append(b, whole[:]...),
	}
}

func packHDFSSum(s core.FileChecksum) string { return s.Algorithm + ":" + hex.EncodeToString(s.Bytes) }
