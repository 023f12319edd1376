package hold

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sluicefs/sluice/core/errs"
)

// reader reads a part of an attempt, chunk by chunk, and looks at every chunk before it hands out any of it.
type reader struct {
	s    *Store
	ctx  context.Context
	a    *attempt
	path string
	body int64 // where it begins in the file

	file *os.File
	off  int64 // of the next byte in the attempt
	left int64
	buf  []byte // a chunk and its checksum
	have []byte // what of it is to be read
	err  error
}

func (r *reader) open(off, n int64) (err error) {
	r.off, r.left = off, n
	r.file, err = os.Open(r.path)
	return err
}

// Read implements io.Reader. Errors: errs.Corrupt, errs.Unavailable.
func (r *reader) Read(p []byte) (int, error) {
	if len(r.have) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.have)
	r.have = r.have[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *reader) WriteTo(w io.Writer) (n int64, err error) {
	for {
		if len(r.have) == 0 {
			if err := r.next(); err == io.EOF {
				return n, nil
			} else if err != nil {
				return n, err
			}
		}
		k, err := w.Write(r.have)
		n, r.have = n+int64(k), r.have[k:]
		if err != nil {
			return n, err
		}
	}
}

// next reads the chunk that has the next byte.
func (r *reader) next() error {
	switch {
	case r.err != nil:
		return r.err
	case r.left == 0:
		return io.EOF
	case r.ctx.Err() != nil:
		return context.Cause(r.ctx)
	}
	no := r.off / chunkBytes
	data := min(chunkBytes, r.a.size-no*chunkBytes)
	if r.buf == nil {
		r.buf = make([]byte, data+sumBytes, min(chunkBytes, r.a.size)+sumBytes)
	}
	r.buf = r.buf[:data+sumBytes]
	if _, err := r.s.dev.pread(r.file, r.buf, r.body+no*(chunkBytes+sumBytes)); err != nil && !errors.Is(err, io.EOF) {
		r.err = errs.E("hold.Read", r.s.dir, errs.Unavailable, err)
		return r.err
	} else if err != nil || !whole(r.buf, seedOf(r.a.id), no) {
		r.s.damage(r.a)
		r.err = errs.New("hold.Read", r.s.dir, errs.Corrupt, fmt.Sprintf("chunk %d of the held bytes does not match its checksum", no))
		return r.err
	}
	r.have = r.buf[r.off-no*chunkBytes : data]
	r.have = r.have[:min(int64(len(r.have)), r.left)]
	r.off, r.left = r.off+int64(len(r.have)), r.left-int64(len(r.have))
	return nil
}

// damage notes that a is damaged. It is no longer among what is held, but for Held, which says so.
func (s *Store) damage(a *attempt) {
	s.mu.Lock()
	first := !a.bad
	a.bad = true
	s.mu.Unlock()
	if first {
		s.damaged.Add(1)
		s.log.Error("held bytes are damaged on the disk and are not served", "dir", s.dir, "bytes", a.size)
	}
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.have, r.left = nil, 0
	return r.file.Close()
}
