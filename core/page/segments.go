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
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/dirlock"
	"github.com/sluicefs/sluice/core/errs"
)

const (
	minQuota                = chunkStride       // bytes
	maxQuota                = chunkStride << 24 // bytes: slot numbers have 24 bits for the chunk
	minSegment              = 64                // chunks: 65 MiB of file
	segmentsAtQuota         = 100               // about how many files a full directory has, beyond 100 × minSegment
	defaultHigh, defaultLow = 0.97, 0.94        // shares of the quota
	fullPause               = 5 * time.Second
	sayFullEvery            = time.Minute
	whyFull                 = "the file system of the directory is full"
	verifyBytes             = 128 << 10 // read at once while a page is verified
	maxSkips                = 64        // victims tried whose chunk holds pinned pages
)

// SegmentOptions describe one directory of pages.
type SegmentOptions struct {
	Dir    string // made if it is missing; used by one process at a time
	Quota  int64  // bytes of segment files at most; from 1,064,960 (one page and its table) to 16 TiB
	Medium string // for people: MEM, SSD, HDD
	Policy Policy // "": S3FIFO
	// High and Low are shares of the quota. While Run runs and more than High is used, pages leave until it is no more than Low,
	// so that a Put finds room. 0: 0.97 and 0.94.
	High, Low float64
	// TTL is how long a page stays that is not read, since it was put or the process began; Run drops it. 0: for ever.
	TTL time.Duration
	// VerifyAlways has the checksum of a page computed each time it is handed out, and not only the first time in this process.
	VerifyAlways  bool
	ScrubInterval time.Duration // from one verification of all pages by Run to the next; 0: none
	ScrubRate     int64         // bytes per second that it reads at most; 0: 32 MiB
	Logger        *slog.Logger  // nil: none
	// LetGo is until when OpenSegments waits for processes that still read what an earlier process has lent them, see Loan. Directories that are
	// opened one after the other have the same. Zero: for LentPatience.
	LetGo time.Time

	device device // zero: the system's
}

// Segments is a Store in the segment files of one directory. It survives restarts: OpenSegments finds the pages again.
//
// A directory that fails, when it is opened or later, turns itself off and says so in Stats and one log line: after a failed
// write it takes no pages but serves those it has; after a failed read it does neither. It is used again after a restart of the
// process: what made a disk fail, or a file system read-only, needs a look before pages are trusted to it.
//
// A full file system is not a failure. Its pages take the room of those that leave, and every five seconds one is tried in new
// room; while even that fails Put answers errs.NoSpace. A directory on a disk takes its room when its files grow; where there
// is none, its quota is what there was until the next start.
//
// Memory: 56 bytes of slot and 7 to 13 of index for a page, whatever its size, and 4 to 8 in the ghost queue; besides 512 KiB for
// what became of the last pages that came or left, once for all tiers.
type Segments struct {
	dir, medium string
	quota       int64
	log         *slog.Logger
	dev         device
	tmpfs       bool
	lock        *os.File
	seed        maphash.Seed
	demote      func(k Key, data []byte) error // set by NewTiered before use; called without mu
	demotions   *semaphore.Weighted            // set with it: bounds the calls of it
	buffers     sync.Pool                      // *[verifyBytes]byte

	o         SegmentOptions
	began     time.Time
	high, low int64         // watermarks, bytes of pages
	crowded   chan struct{} // capacity 1: more than high bytes are used

	lending    sync.Mutex // taken before mu
	probed     bool       // a lock on a file lasts as long as a mapping of it
	neverLends error      // why it does not

	off              atomic.Pointer[failure]
	scrubbed, scrubs atomic.Int64
	corrupt          atomic.Int64
	demoted          atomic.Int64
	promoted         atomic.Int64
	trail            *trail // set by NewTiered before use

	mu         sync.Mutex
	change     sync.Cond // an outstanding handle or Put ended, or growing or converting did
	closed     bool
	closeErr   error
	growing    bool
	converting [15]bool  // a chunk is becoming one of the class
	active     int       // Puts and Drops running
	hopeful    int       // Puts among them that began before the file system was known to be full
	fullTill   time.Time // the file system is full: pages take the room of others till then
	refuseTill time.Time // and not even they can be written
	saidFull   time.Time
	credit     int64 // bytes given back to a full file system
	segs       []*segment
	chunks     []chunk
	idle       []uint32 // chunks without a class
	room       [15][]uint32
	index      index
	pins       map[contentKey]struct{} // contents whose pages stay
	fifo       fifo
	used       int64
	pinned     int64 // pins of Handles
	lent       int64 // pins of loans
	lentBytes  int64 // of their slots
	nextFile   int
	evicted    [reasons]int64
}

type failure struct {
	err   error
	reads bool // reading is off too
}

// OpenSegments opens the directory and finds the pages in it. Files beyond the quota are removed. A directory whose disk fails,
// is full or is read-only is returned turned off. Errors: errs.Invalid; errs.Busy if another process uses the directory; the
// kinds of io/fs errors, else errs.Unavailable.
func OpenSegments(o SegmentOptions) (*Segments, error) {
	const op = "page.OpenSegments"
	if o.Quota > maxQuota {
		return nil, errs.New(op, o.Dir, errs.Invalid, fmt.Sprintf("a quota of %d bytes is too large; divide it into directories of %d at most", o.Quota, int64(maxQuota)))
	}
	if o.Quota < minQuota {
		return nil, errs.New(op, o.Dir, errs.Invalid, fmt.Sprintf("a quota of %d bytes holds no page; it takes %d at least", o.Quota, minQuota))
	}
	if o.Policy != "" && o.Policy != S3FIFO && o.Policy != LRU {
		return nil, errs.New(op, o.Dir, errs.Invalid, fmt.Sprintf("%q is no eviction policy; it is %s or %s", o.Policy, S3FIFO, LRU))
	}
	if o.High < 0 || o.High > 1 || o.Low < 0 || cmp.Or(o.Low, defaultLow) > cmp.Or(o.High, defaultHigh) {
		return nil, errs.New(op, o.Dir, errs.Invalid, fmt.Sprintf("watermarks of %v and %v; the low one is at most the high one, and that at most 1", o.Low, o.High))
	}
	s := newSegments(o)
	err := s.open()
	if err == nil {
		return s, nil
	}
	for _, g := range s.segs {
		err = errors.Join(err, g.close())
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	if failing(err) {
		s = newSegments(o)
		s.turnOff(err, true)
		return s, nil
	}
	return nil, errs.E(op, o.Dir, cmp.Or(errs.KindOf(err), errs.Unavailable), err)
}

// failing reports whether err is of a disk, and no mistake of who named the directory.
func failing(err error) bool {
	for _, e := range []error{unix.EIO, unix.EROFS, unix.ENOSPC, unix.EDQUOT, unix.ENODEV, unix.ENXIO, unix.ESTALE, unix.ETIMEDOUT,
		unix.ENOTCONN, unix.EUCLEAN, unix.ENOMEDIUM, unix.EREMOTEIO} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func newSegments(o SegmentOptions) *Segments {
	s := &Segments{dir: o.Dir, medium: o.Medium, quota: o.Quota, log: o.Logger, dev: o.device, seed: maphash.MakeSeed(),
		o: o, began: time.Now(), crowded: make(chan struct{}, 1), trail: newTrail()}
	capacity := float64(s.quota / chunkStride * chunkBytes)
	s.high, s.low = int64(cmp.Or(o.High, defaultHigh)*capacity), int64(cmp.Or(o.Low, defaultLow)*capacity)
	s.change.L = &s.mu
	s.buffers.New = func() any { return new([verifyBytes]byte) }
	s.index.at, s.index.hash = s.slot, s.hash
	s.pins = map[contentKey]struct{}{}
	s.fifo = newFIFO(s.slot, s.slotBytes, o.Policy)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.dev.pread == nil {
		s.dev = systemDevice()
	}
	return s
}

func (s *Segments) open() (err error) {
	if err = os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if s.lock, err = dirlock.Take(s.dir, lockName); err != nil {
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
	var why error
	if ok {
		why = g.borrowed(cmp.Or(s.o.LetGo, s.began.Add(LentPatience)))
	}
	if why != nil {
		s.log.Warn("a file of the page cache is given up", "file", name, "err", why)
	}
	if !ok || why != nil || s.fileBytes()+segmentBytes(g.chunks) > s.quota {
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
	c.written = int64(len(c.slots)) * c.slotBytes()
	for i := range c.slots {
		sl, h, slotNo := &c.slots[i], found[i], no<<8|uint32(i)
		sl.dirty = true
		if h.length == 0 {
			continue
		}
		hash := s.hash(h.key)
		if s.index.find(h.key, hash) != none {
			continue
		}
		sl.become(h.key, h.length)
		s.index.add(h.key, hash, slotNo)
		s.fifo.push(slotNo, main)
		s.used += c.slotBytes()
	}
	s.fifo.ghost.grow(s.index.pages)
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
	s.fifo.read(no)
	sl.readAt = s.now()
	verified, uses := sl.verified && !s.o.VerifyAlways, sl.freq
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
	return &mapped{store: s, no: no, uses: uses, data: c.data(i, int(length))}, true
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
	if s.slot(no).in != nowhere { // else it was dropped meanwhile
		why := WhyDamaged
		if err != nil {
			why = WhyUnread
		}
		s.trail.note(s.slot(no).key(), why)
	}
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
	no := s.index.find(k, s.hash(k))
	return no, no != none
}

// Put implements Store.
func (s *Segments) Put(k Key, data []byte) error { return s.put(k, data, false) }

// put is Put. loose: the page may be evicted, whether or not its content is pinned.
func (s *Segments) put(k Key, data []byte, loose bool) error {
	const op = "page.Put"
	switch {
	case len(data) == 0:
		return errs.New(op, "", errs.Invalid, "a page has at least one byte")
	case len(data) > Size:
		return errs.New(op, "", errs.TooLarge, "a page has at most 1 MiB")
	}
	no, at, err := s.reserve(k, classOf(len(data)), loose)
	if err != nil || no == none {
		return err
	}
	err = s.write(no, k, data)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	if !at.full {
		s.hopeful--
	}
	s.publish(no, k, len(data), err == nil, loose)
	s.change.Broadcast()
	if errors.Is(err, unix.EFAULT) {
		return errs.E(op, s.dir, errs.Unavailable, err) // data is a page of another directory, whose disk cannot read it
	}
	if err != nil {
		return errs.E(op, s.dir, s.failed(err, at.full && at.alone), err)
	}
	return nil
}

// write fills a slot that is held by the caller.
func (s *Segments) write(no uint32, k Key, data []byte) error {
	s.mu.Lock()
	c, dirty := s.chunks[no>>8], s.slot(no).dirty
	i, size := int(no&255), c.slotBytes()
	if !dirty {
		s.slot(no).dirty = true
		s.chunks[no>>8].written += size
	}
	s.mu.Unlock()
	if dirty {
		if err := c.seg.writeHeader(c.n, i, [headerBytes]byte{}); err != nil {
			return err
		}
		if err := c.seg.detach(c.dataOff(i), size); err != nil {
			return err
		}
	}
	_, err := s.dev.pwrite(c.seg.file, data, c.dataOff(i))
	if err == nil {
		h := header{key: k, blocks: classes()[c.class], length: uint32(len(data)), sum: xxh3.Hash(data)}
		err = c.seg.writeHeader(c.n, i, h.encode())
	}
	if outOfRoom(err) && c.seg.detach(c.dataOff(i), size) == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.slot(no).dirty = false // no room goes with it
		s.chunks[no>>8].written -= size
	}
	return err
}

func outOfRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// publish ends the writing of a slot: it becomes the page k, which stays if its content is pinned, unless loose, or is free again if
// it is not whole or k came meanwhile. mu must be held.
func (s *Segments) publish(no uint32, k Key, length int, whole, loose bool) {
	hash := s.hash(k)
	if !whole || s.closed || s.index.find(k, hash) != none {
		s.free(no)
		return
	}
	sl := s.slot(no)
	sl.become(k, uint32(length))
	sl.verified, sl.readAt = true, s.now()
	s.index.add(k, hash, no)
	s.trail.note(k, "")
	s.fifo.ghost.grow(s.index.pages)
	if s.keeps(k) && !loose {
		s.fifo.push(no, kept) // held, from now on, by the queue
	} else {
		s.chunks[no>>8].held--
		s.fifo.add(no, hash)
	}
	if s.used += s.slotBytes(no); s.used > s.high {
		select {
		case s.crowded <- struct{}{}:
		default:
		}
	}
}

// failed classifies a failed write and draws the consequence. hopeless: what failed was to go where bytes had been before, and
// nobody else was taking room. mu must be held.
func (s *Segments) failed(err error, hopeless bool) errs.Kind {
	if outOfRoom(err) {
		now := time.Now()
		if now.Sub(s.saidFull) > sayFullEvery {
			s.saidFull = now
			s.log.Warn("page cache directory is on a full file system; pages take the room of others", "dir", s.dir, "used", s.used, "quota", s.quota, "err", err)
		}
		if hopeless {
			s.refuseTill = now.Add(fullPause)
		}
		s.fullTill, s.credit = now.Add(fullPause), 0
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
	for from < to {
		from = s.drop(k, from, to, WhyFreed)
	}
}

// moved drops a page that is in another tier.
func (s *Segments) moved(k Key) { s.drop(k, k.Index, k.Index+1, "") }

// dropStep is how many pages are looked for under the lock at once.
const dropStep = 4096

// drop is Drop for some of the pages, for the reason why; "" if they are elsewhere. It returns where to go on.
func (s *Segments) drop(k Key, from, to uint32, why Why) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return to
	}
	if int64(to)-int64(from) <= int64(s.index.pages) { // else one look at every slot is less work
		to = from + min(dropStep, to-from)
	}
	var slots []uint32
	take := func(no uint32) {
		if why != "" {
			s.trail.note(s.slot(no).key(), why)
		}
		s.forget(no)
		if s.slot(no).pins == 0 {
			s.chunks[no>>8].held++
			slots = append(slots, no)
		}
	}
	s.each(k, from, to, take)
	s.retire(slots)
	return to
}

// each calls f with the slot of every page that is here of the content (k.ID, k.Rev) with an index in [from, to). mu must be
// held.
func (s *Segments) each(k Key, from, to uint32, f func(no uint32)) {
	if int64(to)-int64(from) <= int64(s.index.pages) {
		for k.Index = from; k.Index < to; k.Index++ {
			if no := s.index.find(k, s.hash(k)); no != none {
				f(no)
			}
		}
		return
	}
	for i := range s.chunks {
		for j := range s.chunks[i].slots {
			if sl := &s.chunks[i].slots[j]; sl.in != nowhere && sl.id == k.ID && sl.rev == k.Rev && sl.index >= from && sl.index < to {
				f(uint32(i)<<8 | uint32(j))
			}
		}
	}
}

// Close implements Store. It does not wait for loans: their borrowers have mappings of their own, and after Close no slot is used
// again.
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
	if s.lock != nil {
		s.closeErr = errors.Join(s.closeErr, s.lock.Close())
	}
	return s.closeErr
}

// Stats returns the store's numbers.
func (s *Segments) Stats() TierStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := TierStats{
		Dir: s.dir, Medium: s.medium, Quota: s.quota, Used: s.used, Pages: int64(s.index.pages), Pinned: s.pinned, Lent: s.lent, KeptBytes: s.fifo.queues[kept].bytes,
		Scrubbed: s.scrubbed.Load(), Scrubs: s.scrubs.Load(),
		Evicted: map[string]int64{}, Corrupt: s.corrupt.Load(), Demoted: s.demoted.Load(), Promoted: s.promoted.Load(),
	}
	for r := range reasons {
		t.Evicted[r.String()] = s.evicted[r]
	}
	if f := s.off.Load(); f != nil {
		t.Off = f.err.Error()
	} else if s.full() {
		t.Off = whyFull
	}
	return t
}
