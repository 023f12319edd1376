package page

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"
)

// SlotSize is the memory of one slot in bytes.
const SlotSize = unsafe.Sizeof(slot{})

// The places of the format, for tests that damage files.
const (
	HeaderBytes = headerBytes
	ChunkTable  = chunkTable
	ChunkStride = chunkStride
)

// Settle waits until no fill is running.
func (c *Cache) Settle() { c.fills.Wait() }

// LockMisses takes what remembers misses, and what became of pages, until unlock.
func (c *Cache) LockMisses() (unlock func()) {
	c.last.mu.Lock()
	c.trail.mu.Lock()
	return func() { c.trail.mu.Unlock(); c.last.mu.Unlock() }
}

// RoomLeft reports whether all memory of fills and writes is given back.
func (c *Cache) RoomLeft() bool {
	if !c.room.TryAcquire(c.maxRoom) {
		return false
	}
	c.room.Release(c.maxRoom)
	if !c.writeRoom.TryAcquire(c.maxRoom) {
		return false
	}
	c.writeRoom.Release(c.maxRoom)
	return true
}

// SegmentFiles returns how many files a full directory of the quota has.
func SegmentFiles(quota int64) (files int) {
	s := &Segments{quota: quota}
	for n := s.growth(); n > 0; n = s.growth() {
		s.chunks = append(s.chunks, make([]chunk, n)...)
		files++
	}
	return files
}

// OpenFaulty opens a directory whose calls fail with what the hooks return; nil hooks and nil errors change nothing.
func OpenFaulty(o SegmentOptions, pread, pwrite, allocate func() error) (*Segments, error) {
	d := systemDevice()
	o.device = d
	o.device.pread = func(f *os.File, p []byte, off int64) (int, error) {
		if err := call(pread); err != nil {
			return 0, err
		}
		return d.pread(f, p, off)
	}
	o.device.pwrite = func(f *os.File, p []byte, off int64) (int, error) {
		if err := call(pwrite); err != nil {
			return 0, err
		}
		return d.pwrite(f, p, off)
	}
	o.device.allocate = func(f *os.File, mode uint32, off, n int64) error {
		if err := call(allocate); err != nil {
			return err
		}
		return d.allocate(f, mode, off, n)
	}
	return OpenSegments(o)
}

// OpenLocking opens a directory whose files are locked by flock in place of the system's call, which it is given.
func OpenLocking(o SegmentOptions, flock func(call func(*os.File, int) error, f *os.File, how int) error) (*Segments, error) {
	d := systemDevice()
	o.device = d
	o.device.flock = func(f *os.File, how int) error { return flock(d.flock, f, how) }
	return OpenSegments(o)
}

func call(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

// Crash ends the use of the store as a killed process does: nothing is finished, nothing is waited for. The mappings stay.
func (s *Segments) Crash() { s.lock.Close() }

// MoveAll moves what waits to be moved to the first tier, in place of Run.
func (t *Tiered) MoveAll() {
	for len(t.ascent.next) > 0 {
		k := <-t.ascent.next
		t.raise(k)
		t.ascent.done(k)
	}
}

// PagesPerChunk is how many pages of 4 KiB there are in a chunk.
const PagesPerChunk = chunkSlots

// WriteHeaders makes the files of a directory of the quota with n pages of 4 KiB, of which there are only the headers.
func WriteHeaders(dir string, quota int64, n int, key func(i int) Key) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s := &Segments{quota: quota}
	for file, at := 0, 0; at < n; file++ {
		chunks := s.growth()
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf(segmentName, file)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		tables := make([]byte, chunks*chunkTable)
		for i := 0; i < chunks*chunkSlots && at < n; i++ {
			h := header{key: key(at), blocks: 1, length: blockBytes}.encode()
			copy(tables[i*headerBytes:], h[:])
			at++
		}
		_, err = f.Write(tables)
		if err = errors.Join(err, f.Truncate(segmentBytes(chunks)), f.Close()); err != nil {
			return err
		}
		s.chunks = append(s.chunks, make([]chunk, chunks)...)
	}
	return nil
}
