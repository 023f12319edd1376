package page

import (
	"os"
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

func call(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

// Crash ends the use of the store as a killed process does: nothing is finished, nothing is waited for. The mappings stay.
func (s *Segments) Crash() { s.lock.Close() }
