package page

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
)

const (
	minQuota        = chunkStride       // bytes
	maxQuota        = chunkStride << 24 // bytes: slot numbers have 24 bits for the chunk
	minSegment      = 64                // chunks: 65 MiB of file
	segmentsAtQuota = 100               // about how many files a full directory has, beyond 100 × minSegment
	fullPause       = 5 * time.Second
	verifyBytes     = 128 << 10 // read at once while a page is verified
	maxSkips        = 64        // victims tried whose chunk holds pinned pages
)

// SegmentOptions describe one directory of pages.
type SegmentOptions struct {
	Dir    string       // made if it is missing; used by one process at a time
	Quota  int64        // bytes of segment files at most; from 1,064,960 (one page and its table) to 16 TiB
	Medium string       // for people: MEM, SSD, HDD
	Logger *slog.Logger // nil: none

	device device // zero: the system's
}

// Segments is a Store in the segment files of one directory. It survives restarts: OpenSegments finds the pages again.
//
// A directory that fails turns itself off and says so in Stats and one log line: after a failed write it takes no pages but
// serves those it has; after a failed read it does neither. A full file system is not a failure: Put answers errs.NoSpace
// and is tried again after five seconds.
//
// Memory: 56 bytes of slot and about 28 of map for a page, whatever its size, and 4 to 8 in the ghost queue.
type Segments struct {
	dir, medium string
	quota       int64
	log         *slog.Logger
	dev         device
	tmpfs       bool
	lock        *os.File
	seed        maphash.Seed
	demote      func(k Key, data []byte) error // set by NewTiered before use; called without mu
	buffers     sync.Pool                      // *[verifyBytes]byte

	off     atomic.Pointer[failure]
	corrupt atomic.Int64
	demoted atomic.Int64

	mu       sync.Mutex
	change   sync.Cond // an outstanding handle or Put ended, or growing did
	closed   bool
	closeErr error
	growing  bool
	active   int // Puts and Drops running
	fullTill time.Time
	segs     []*segment
	chunks   []chunk
	idle     []uint32 // chunks without a class
	room     [15][]uint32
	index    map[uint64]uint32 // hash of the key → slot
	fifo     fifo
	used     int64
	pinned   int64
	nextFile int
	evicted  [reasons]int64
}

type failure struct {
	err   error
	reads bool // reading is off too
}

// OpenSegments opens the directory and finds the pages in it. Files beyond the quota are removed.
// Errors: errs.Invalid; errs.Busy if another process uses the directory; the kinds of io/fs errors, else errs.Unavailable.
func OpenSegments(o SegmentOptions) (*Segments, error) {
	const op = "page.OpenSegments"
	if o.Quota > maxQuota {
		return nil, errs.New(op, o.Dir, errs.Invalid, fmt.Sprintf("a quota of %d bytes is too large; divide it into directories of %d at most", o.Quota, int64(maxQuota)))
	}
	if o.Quota < minQuota {
		return nil, errs.New(op, o.Dir, errs.Invalid, fmt.Sprintf("a quota of %d bytes holds no page; it takes %d at least", o.Quota, minQuota))
	}
	s := &Segments{dir: o.Dir, medium: o.Medium, quota: o.Quota, log: o.Logger, dev: o.device, seed: maphash.MakeSeed()}
	s.change.L = &s.mu
	s.buffers.New = func() any { return new([verifyBytes]byte) }
	s.index = map[uint64]uint32{}
	s.fifo = newFIFO(s.slot, s.slotBytes)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.dev.pread == nil {
		s.dev = systemDevice()
	}
	if err := s.open(); err != nil {
		for _, g := range s.segs {
			err = errors.Join(err, g.close())
		}
		if s.lock != nil {
			err = errors.Join(err, s.lock.Close())
		}
		return nil, errs.E(op, o.Dir, cmp.Or(errs.KindOf(err), errs.Unavailable), err)
	}
	return s, nil
}

func (s *Segments) open() (err error) {
	if err = os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, lockName), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err = unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return errs.New("flock", lockName, errs.Busy, "another process uses this directory; give each its own")
	} else if err != nil {
		return err
	}
	if s.tmpfs, err = onTmpfs(s.dir); err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(s.dir, "segment-*"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := s.adopt(name); err != nil {
			return err
		}
	}
	return nil
}

// adopt takes over a segment file of an earlier process, or removes it if it is damaged or beyond the quota.
func (s *Segments) adopt(name string) error {
	var n int
	if _, err := fmt.Sscanf(filepath.Base(name), segmentName, &n); err != nil {
		return nil // a stranger's
	}
	s.nextFile = max(s.nextFile, n+1)
	g, ok, err := openSegment(s.dev, name, s.tmpfs)
	if err != nil {
		return err
	}
	if !ok || s.fileBytes()+segmentBytes(g.chunks) > s.quota {
		if ok {
			err = g.close()
		}
		return errors.Join(err, os.Remove(name))
	}
	first := s.addSegment(g)
	table := make([]byte, chunkTable)
	for i := range g.chunks {
		if err := g.readTable(i, table); err != nil {
			return err
		}
		if no := first + uint32(i); !s.adoptChunk(no, table) {
			s.idle = append(s.idle, no)
		}
	}
	return nil
}

// adoptChunk indexes the pages that a chunk's table tells of, and reports whether the table is of any use. The pages' bytes
// are verified when they are first read.
func (s *Segments) adoptChunk(no uint32, table []byte) bool {
	found, class, bad := decodeTable(table)
	s.corrupt.Add(int64(bad))
	c := &s.chunks[no]
	c.stale = bad > 0 || class >= 0
	if class < 0 {
		return false
	}
	s.give(no, uint8(class))
	for i := range c.slots {
		sl, h, slotNo := &c.slots[i], found[i], no<<8|uint32(i)
		sl.dirty = true
		if h.length == 0 {
			continue
		}
		hash := s.hash(h.key)
		if _, twice := s.index[hash]; twice {
			continue
		}
		sl.key, sl.length = h.key, h.length
		s.index[hash] = slotNo
		s.fifo.push(slotNo, true)
		s.used += c.slotBytes()
	}
	s.fifo.ghost.grow(len(s.index))
	s.relist(no)
	return true
}

// Get implements Store.
func (s *Segments) Get(k Key) (Handle, bool) {
	s.mu.Lock()
	no, ok := s.find(k)
	if !ok {
		s.mu.Unlock()
		return nil, false
	}
	sl := s.slot(no)
	s.pin(no)
	sl.freq = min(maxFreq, sl.freq+1)
	verified := sl.verified
	c := s.chunks[no>>8]
	i, length := int(no&255), sl.length
	s.mu.Unlock()

	ok, err := s.check(c, i, k, length, verified)
	if !ok || !verified {
		s.checked(no, ok, err)
	}
	if !ok {
		return nil, false
	}
	return &mapped{store: s, no: no, data: c.data(i, int(length))}, true
}

// checked draws the consequence of the check of a page that is pinned for the caller.
func (s *Segments) checked(no uint32, ok bool, err error) {
	if err != nil {
		s.turnOff(err, true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok {
		s.slot(no).verified = true
		return
	}
	s.corrupt.Add(1)
	s.forget(no)
	s.unpin(no)
}

// check reports whether the slot holds the page k: by its header always, by its checksum unless verified.
func (s *Segments) check(c chunk, i int, k Key, length uint32, verified bool) (bool, error) {
	h, ok, err := c.seg.readHeader(c.n, i)
	if err != nil || !ok || h.key != k || h.length != length {
		return false, err
	}
	if verified {
		return true, nil
	}
	sum, err := s.sum(c, i, int64(length))
	return err == nil && sum == h.sum, err
}

// sum computes the checksum of a slot's page. It reads with pread(2): a page fault on a slow disk would hold up a whole
// processor of the Go scheduler, and one on a broken disk would be a signal.
func (s *Segments) sum(c chunk, i int, length int64) (uint64, error) {
	buf := s.buffers.Get().(*[verifyBytes]byte)
	defer s.buffers.Put(buf)
	hash := xxh3.New()
	off := c.dataOff(i)
	for length > 0 {
		b := buf[:min(verifyBytes, length)]
		if _, err := c.seg.dev.pread(c.seg.file, b, off); err != nil {
			return 0, err
		}
		hash.Write(b)
		off, length = off+int64(len(b)), length-int64(len(b))
	}
	return hash.Sum64(), nil
}

// Has implements Store.
func (s *Segments) Has(k Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.find(k)
	return ok
}

// find returns the slot of k. mu must be held.
func (s *Segments) find(k Key) (uint32, bool) {
	if f := s.off.Load(); s.closed || f != nil && f.reads {
		return none, false
	}
	no, ok := s.index[s.hash(k)]
	return no, ok && s.slot(no).key == k
}

// Put implements Store.
func (s *Segments) Put(k Key, data []byte) error {
	const op = "page.Put"
	switch {
	case len(data) == 0:
		return errs.New(op, "", errs.Invalid, "a page has at least one byte")
	case len(data) > Size:
		return errs.New(op, "", errs.TooLarge, "a page has at most 1 MiB")
	}
	no, err := s.reserve(k, classOf(len(data)))
	if err != nil || no == none {
		return err
	}
	err = s.write(no, k, data)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	s.publish(no, k, len(data), err == nil)
	s.change.Broadcast()
	if err != nil {
		return errs.E(op, s.dir, s.failed(err), err)
	}
	return nil
}

// write fills a slot that is held by the caller.
func (s *Segments) write(no uint32, k Key, data []byte) error {
	s.mu.Lock()
	c, dirty := s.chunks[no>>8], s.slot(no).dirty
	s.slot(no).dirty = true
	s.mu.Unlock()
	i, size := int(no&255), c.slotBytes()
	if dirty {
		if err := c.seg.writeHeader(c.n, i, [headerBytes]byte{}); err != nil {
			return err
		}
		if err := c.seg.detach(c.dataOff(i), size); err != nil {
			return err
		}
	}
	if _, err := s.dev.pwrite(c.seg.file, data, c.dataOff(i)); err != nil {
		return err
	}
	h := header{key: k, blocks: classes()[c.class], length: uint32(len(data)), sum: xxh3.Hash(data)}
	return c.seg.writeHeader(c.n, i, h.encode())
}

// publish ends the writing of a slot: it becomes the page k, or is free again if it is not whole or k came meanwhile.
// mu must be held.
func (s *Segments) publish(no uint32, k Key, length int, whole bool) {
	hash := s.hash(k)
	if _, there := s.index[hash]; there || !whole || s.closed {
		s.free(no)
		return
	}
	s.fullTill = time.Time{}
	sl := s.slot(no)
	sl.key, sl.length, sl.verified = k, uint32(length), true
	s.chunks[no>>8].held--
	s.index[hash] = no
	s.fifo.ghost.grow(len(s.index))
	s.fifo.add(no, hash)
	s.used += s.slotBytes(no)
}

// failed classifies a failed write and draws the consequence. mu must be held.
func (s *Segments) failed(err error) errs.Kind {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		if s.fullTill.IsZero() {
			s.log.Warn("page cache directory is full", "dir", s.dir, "err", err)
		}
		s.fullTill = time.Now().Add(fullPause)
		return errs.NoSpace
	}
	s.turnOff(err, false)
	return errs.Unavailable
}

// turnOff stops the use of the directory, of its pages too if reads.
func (s *Segments) turnOff(err error, reads bool) {
	old := s.off.Load()
	if old != nil && (old.reads || !reads) || !s.off.CompareAndSwap(old, &failure{err, reads}) {
		return
	}
	s.log.Error("page cache directory turned off", "dir", s.dir, "reads", reads, "err", err)
}

// Drop implements Store.
func (s *Segments) Drop(k Key, from, to uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	var slots []uint32
	take := func(no uint32) {
		s.forget(no)
		if s.slot(no).pins == 0 {
			s.chunks[no>>8].held++
			slots = append(slots, no)
		}
	}
	if int64(to)-int64(from) > int64(len(s.index)) {
		for _, no := range s.index {
			if p := s.slot(no).key; p.ID == k.ID && p.Rev == k.Rev && p.Index >= from && p.Index < to {
				take(no)
			}
		}
	} else {
		for i := from; i < to; i++ {
			if no, ok := s.index[s.hash(Key{k.ID, k.Rev, i})]; ok && s.slot(no).key == (Key{k.ID, k.Rev, i}) {
				take(no)
			}
		}
	}
	s.retire(slots)
}

// Close implements Store.
func (s *Segments) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.closeErr
	}
	s.closed = true
	for s.active > 0 || s.pinned > 0 || s.growing {
		s.change.Wait()
	}
	for _, g := range s.segs {
		s.closeErr = errors.Join(s.closeErr, g.close())
	}
	s.closeErr = errors.Join(s.closeErr, s.lock.Close())
	return s.closeErr
}

// Stats returns the store's numbers.
func (s *Segments) Stats() TierStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := TierStats{
		Dir: s.dir, Medium: s.medium, Quota: s.quota, Used: s.used, Pages: int64(len(s.index)), Pinned: s.pinned,
		Evicted: map[string]int64{}, Corrupt: s.corrupt.Load(), Demoted: s.demoted.Load(),
	}
	for r := range reasons {
		t.Evicted[r.String()] = s.evicted[r]
	}
	if f := s.off.Load(); f != nil {
		t.Off = f.err.Error()
	} else if time.Now().Before(s.fullTill) {
		t.Off = "the file system is full"
	}
	return t
}
