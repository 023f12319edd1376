package hold

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// flushAt is how many bytes of an attempt with a file of its own are written at once.
const flushAt = 1 << 20

// writer implements core.HoldWriter.
type writer struct {
	s    *Store
	ctx  context.Context
	id   core.HeldID
	seed uint64

	size  int64
	buf   []byte // the body, or the end of it that has not been written to file
	chunk int    // where in buf the chunk begins that is not complete
	file  *os.File
	name  name
	off   int64 // of buf in file
	taken int64 // bytes of the quota
	waits int64 // bytes of buf that are counted as waiting
	err   error // the first
	ended bool
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (n int, err error) {
	if w.err == nil && w.ctx.Err() != nil {
		w.err = context.Cause(w.ctx)
	}
	if w.ended && w.err == nil {
		w.err = errs.New("hold.Write", w.s.dir, errs.Invalid, "the writer has ended")
	}
	for len(p) > 0 && w.err == nil {
		k := min(len(p), chunkBytes-(len(w.buf)-w.chunk))
		w.buf = append(w.buf, p[:k]...)
		w.size += int64(k)
		n, p = n+k, p[k:]
		w.count(len(w.buf))
		if len(w.buf)-w.chunk == chunkBytes {
			w.close()
		}
		crowded := w.chunk > 0 && w.s.waiting.Load() > maxWaiting
		switch {
		case w.file == nil && (w.size > maxSmall || crowded):
			w.err = w.spill()
		case w.file != nil && (w.chunk >= flushAt || crowded):
			w.err = w.flush()
		}
	}
	return n, w.err
}

// count makes n bytes of this attempt wait in memory.
func (w *writer) count(n int) {
	w.s.waiting.Add(int64(n) - w.waits)
	w.waits = int64(n)
}

// close ends a chunk.
func (w *writer) close() {
	w.buf = sum(w.buf, w.chunk, w.seed, (w.size-1)/chunkBytes)
	w.chunk = len(w.buf)
}

// spill gives the attempt a file of its own.
func (w *writer) spill() (err error) {
	if w.file, w.name, err = w.s.create(filePrefix); err != nil {
		return w.s.failed(err)
	}
	return w.flush()
}

// flush writes the complete chunks to the file.
func (w *writer) flush() error {
	n := int64(w.chunk)
	if err := w.write(w.buf[:n]); err != nil {
		return err
	}
	w.buf, w.chunk = append(w.buf[:0], w.buf[n:]...), 0
	w.count(len(w.buf))
	return nil
}

func (w *writer) write(p []byte) error {
	n := int64(len(p))
	if err := w.s.take(n, w.s.logBytes); err != nil {
		return err
	}
	w.taken += n
	if err := w.s.dev.pwrite(w.file, [][]byte{p}, w.off); err != nil {
		return w.s.failed(err)
	}
	w.off += n
	return nil
}

// Commit implements core.HoldWriter. Errors: errs.Unsupported if durable is asked of a directory in memory; errs.NoSpace;
// errs.Unavailable. With any, nothing is held, also where ctx ended first.
func (w *writer) Commit(ctx context.Context, durable bool) error {
	const op = "hold.Commit"
	if w.ended {
		return errs.New(op, w.s.dir, errs.Invalid, "the writer has ended")
	}
	if w.err == nil && durable && w.s.memory {
		w.err = errs.New(op, w.s.dir, errs.Unsupported, "the directory is in memory, and what it holds does not survive the loss of power; put the data directory on a disk")
	}
	for _, c := range []context.Context{w.ctx, ctx} {
		if w.err == nil && c.Err() != nil {
			w.err = context.Cause(c)
		}
	}
	if w.err != nil {
		return errors.Join(w.err, w.Abort())
	}
	w.ended = true
	if len(w.buf) > w.chunk {
		w.close()
	}
	c := &commit{a: &attempt{id: w.id, size: w.size, file: w.name}, durable: durable, done: make(chan error, 1)}
	if w.file == nil {
		c.body = w.buf
		defer w.count(0)
		w.s.enqueue(c)
		return w.s.await(ctx, c)
	}
	if err := w.s.background(func() { w.commitFile(c) }); err != nil {
		return errors.Join(err, w.drop())
	}
	return w.s.await(ctx, c)
}

// background runs f, for which Close waits. Errors: errs.Unavailable.
func (s *Store) background(f func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refuses(); err != nil {
		return err
	}
	s.running.Go(f)
	return nil
}

// commitFile ends a commit of an attempt with a file of its own.
func (w *writer) commitFile(c *commit) {
	s := w.s
	c.a.at = time.Now()
	head := header{w.id, w.size, c.a.at}.encode(w.name.nonce)
	err := w.write(append(w.buf, head[:]...))
	w.count(0)
	if err == nil && c.durable {
		if err = s.sync(w.file); err == nil {
			err = s.dev.syncDir(s.names)
		}
		if err != nil {
			err = s.failed(fmt.Errorf("%s: %w", w.file.Name(), err))
		}
	}
	err = errors.Join(err, w.file.Close())
	if err != nil {
		err = errors.Join(err, s.remove(w.file.Name(), w.taken))
	}
	s.end([]*commit{c}, err, nil)
}

// Abort implements core.HoldWriter. It does nothing after a Commit.
func (w *writer) Abort() error {
	if w.ended {
		return nil
	}
	w.ended = true
	return w.drop()
}

// drop gives up what was written.
func (w *writer) drop() (err error) {
	w.count(0)
	if w.file != nil {
		err = errors.Join(w.file.Close(), w.s.remove(w.file.Name(), w.taken))
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	delete(w.s.coming, w.id)
	return err
}
