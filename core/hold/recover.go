package hold

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// recover finds what is held, by the files alone.
func (s *Store) recover() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var logs, files []name
	notes := map[string]bool{}
	for _, e := range entries {
		if n, ok := parseName(e.Name(), logPrefix); ok {
			logs = append(logs, n)
		} else if n, ok = parseName(e.Name(), filePrefix); ok {
			files = append(files, n)
		} else if log, ok := strings.CutSuffix(e.Name(), freedSuffix); ok {
			notes[log] = true
		}
	}
	older := func(a, b name) int { return cmp.Compare(a.number, b.number) }
	slices.SortFunc(logs, older)
	for i, n := range logs {
		delete(notes, n.of(logPrefix))
		if err := s.recoverLog(n, i >= len(logs)-2); err != nil {
			return err
		}
	}
	for _, n := range files {
		if err := s.recoverFile(n); err != nil {
			return err
		}
	}
	for log := range notes {
		if err := removeIfThere(filepath.Join(s.dir, log+freedSuffix)); err != nil {
			return err
		}
	}
	for g := range s.sealed {
		if _, err := s.removeEmpty(g); err != nil {
			return err
		}
	}
	slices.SortFunc(s.oldest, func(a, b *attempt) int { return a.at.Compare(b.at) })
	if d, t := s.damaged.Load(), s.torn.Load(); d > 0 {
		s.log.Error("held bytes are damaged on the disk and are not served", "dir", s.dir, "places", d, "torn", t)
	}
	return nil
}

// recoverLog finds what is held in a log. What is torn at the end of the last ones was never synced, and is cut off.
func (s *Store) recoverLog(n name, last bool) (err error) {
	g := &segment{name: n, path: filepath.Join(s.dir, n.of(logPrefix))}
	s.number = max(s.number, n.number)
	f, err := os.OpenFile(g.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	g.size = info.Size()
	notes, err := os.ReadFile(g.path + freedSuffix)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	gone := decodeFreed(notes, n.nonce)
	damaged, torn, err := scan(io.NewSectionReader(readerAt{s, f}, 0, g.size), n.nonce, last, func(h header, off int64) {
		g.end = off + recordBytes(h.size)
		if !gone[off] {
			s.add(&attempt{id: h.id, size: h.size, at: h.at, log: g, off: off})
		}
	})
	if err != nil {
		return err
	}
	if last { // it may not have been retired
		if end := roundUp(g.end, sector); end < g.size {
			if err := f.Truncate(end); err != nil {
				return err
			}
			g.size = end
		}
		if err := s.sync(f); err != nil {
			return err
		}
		if torn {
			s.torn.Add(1)
		}
	} else if torn {
		damaged++
	}
	s.damaged.Add(damaged)
	s.used += g.size
	s.sealed[g] = true
	return nil
}

// readerAt reads through the device.
type readerAt struct {
	s *Store
	f *os.File
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return r.s.dev.pread(r.f, p, off) }

// scan calls found for the records of a log, those alone whose bodies are whole if verify says so. damaged is in how many places
// there is something else before the last of them, and torn whether there is after it.
func scan(r io.Reader, nonce uint64, verify bool, found func(h header, off int64)) (damaged int64, torn bool, err error) {
	in := bufio.NewReaderSize(r, 256<<10)
	var blank [headerBytes]byte
	chunk := make([]byte, chunkBytes+sumBytes)
	for off := int64(0); ; {
		b, err := in.Peek(headerBytes)
		if errors.Is(err, io.EOF) {
			return damaged, torn || len(bytes.Trim(b, "\x00")) > 0, nil
		}
		if err != nil {
			return damaged, torn, err
		}
		h, ok := decodeHeader(b, nonce)
		if !ok {
			torn = torn || !bytes.Equal(b, blank[:])
			in.Discard(headerBytes)
			off += headerBytes
			continue
		}
		n := recordBytes(h.size)
		if verify {
			in.Discard(headerBytes)
			ok, err = wholeBody(in, h, chunk)
			if err == nil {
				_, err = in.Discard(int(n - headerBytes - bodyBytes(h.size)))
			}
		} else {
			_, err = in.Discard(int(n))
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return damaged, torn, err
		}
		if !ok || err != nil {
			torn = true
		} else {
			if torn {
				damaged++
			}
			torn = false
			found(h, off)
		}
		off += n
	}
}

// wholeBody reads a body and reports whether it is whole.
func wholeBody(in io.Reader, h header, chunk []byte) (bool, error) {
	seed, ok := seedOf(h.id), true
	for no, left := int64(0), h.size; left > 0; no++ {
		n := min(chunkBytes, left)
		b := chunk[:n+sumBytes]
		if _, err := io.ReadFull(in, b); err != nil {
			return false, io.EOF
		}
		ok = ok && whole(b, seed, no)
		left -= n
	}
	return ok, nil
}

// recoverFile finds what is held in a file of its own, or removes it if it was not finished.
func (s *Store) recoverFile(n name) (err error) {
	s.number = max(s.number, n.number)
	path := filepath.Join(s.dir, n.of(filePrefix))
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	var h header
	ok := false
	if err == nil && info.Size() >= headerBytes {
		var b [headerBytes]byte
		if _, err = s.dev.pread(f, b[:], info.Size()-headerBytes); err == nil {
			h, ok = decodeHeader(b[:], n.nonce)
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errs.E("hold.Open", path, errs.Unavailable, err)
	}
	if !ok || bodyBytes(h.size)+headerBytes != info.Size() || s.held[h.id] != nil {
		s.torn.Add(1)
		return os.Remove(path)
	}
	s.used += info.Size()
	s.add(&attempt{id: h.id, size: h.size, at: h.at, file: n})
	return nil
}
