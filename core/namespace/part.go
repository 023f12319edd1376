package namespace

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/ufs"
)

// PutPart implements core.Uploads.
func (n *Namespace) PutPart(ctx context.Context, p core.Path, id string, number int, size int64) (core.Writer, error) {
	if err := n.grows(); err != nil {
		return nil, err
	}
	if number < 1 || number > maxParts {
		return nil, errs.New("namespace.PutPart", p.String(), errs.Invalid, fmt.Sprintf("a part's number lies between 1 and %d", maxParts))
	}
	u, err := n.upload(ctx, p, id)
	if err != nil {
		return nil, err
	}
	m, composer, err := n.uploadStore(u)
	if err != nil {
		return nil, err
	}
	fid, err := n.draw(ctx, &n.ids)
	if err != nil {
		return nil, err
	}
	rev, err := n.draw(ctx, &n.revs)
	if err != nil {
		return nil, err
	}
	w := &partWriter{n: n, ctx: ctx, u: u, number: number, size: size, id: fid, rev: rev, composer: composer}
	if cmp.Or(core.WriteType(u.entry.Extra["write_type"]), n.policies(m, u.path).WriteType) != core.Through {
		w.cache = n.o.Cache.NewWriter(n.allocatedContent(meta.Extent{ID: fid, Rev: rev}))
	}
	return w, nil
}

// partWriter implements core.Writer for one part. A part of known length streams to the store as it comes, except for its
// end, which is held back until Commit has judged the whole; one of unknown length is spooled first, because stores want
// to know.
type partWriter struct {
	n        *Namespace
	ctx      context.Context
	u        *upload
	number   int
	size     int64
	id, rev  uint64
	composer ufs.Composer

	cache *page.Writer
	md5   md5Sum
	n0    int64 // bytes written
	held  []byte
	pipe  *io.PipeWriter
	done  chan struct{} // closed when the store has answered
	etag  string
	serr  error
	spool spool
	ended bool
}

// heldBack is how many bytes at a part's end wait for Commit.
const heldBack = 32 << 10

// Write implements io.Writer.
func (w *partWriter) Write(p []byte) (int, error) {
	if w.ended {
		return 0, errs.New("namespace.PutPart", w.u.path.String(), errs.Invalid, "the writer has ended")
	}
	if w.size >= 0 && w.n0+int64(len(p)) > w.size {
		return 0, errs.New("namespace.PutPart", w.u.path.String(), errs.Invalid, fmt.Sprintf("more bytes than the %d announced", w.size))
	}
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	if err := w.send(p); err != nil {
		return 0, err
	}
	w.n0 += int64(len(p))
	w.md5.write(p)
	if w.cache != nil {
		w.cache.Write(p)
	}
	return len(p), nil
}

func (w *partWriter) send(p []byte) error {
	if w.size < 0 {
		_, err := w.spool.Write(p)
		return err
	}
	if len(w.held)+len(p) <= heldBack {
		w.held = append(w.held, p...)
		return nil
	}
	w.start()
	if over := len(w.held) + len(p) - heldBack; over >= len(w.held) {
		if err := w.forward(w.held); err != nil {
			return err
		}
		cut := over - len(w.held)
		w.held = append(w.held[:0], p[cut:]...)
		return w.forward(p[:cut])
	} else if err := w.forward(w.held[:over]); err != nil {
		return err
	} else {
		w.held = append(w.held[:copy(w.held, w.held[over:])], p...)
	}
	return nil
}

// forward hands bytes to the store.
func (w *partWriter) forward(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := w.pipe.Write(p); err != nil {
		<-w.done
		if w.serr != nil {
			return w.serr
		}
		return err
	}
	return nil
}

// start begins the store's request, if it has not begun.
func (w *partWriter) start() {
	if w.pipe != nil {
		return
	}
	r, pw := io.Pipe()
	w.pipe, w.done = pw, make(chan struct{})
	w.put(r, w.size)
}

func (w *partWriter) put(r *io.PipeReader, size int64) {
	go func() {
		defer close(w.done)
		w.etag, w.serr = w.composer.PutPart(w.ctx, w.u.entry.Extra["key"], w.u.entry.Extra["store_id"], w.number, size, r)
		err := w.serr
		if err == nil {
			err = io.ErrClosedPipe
		}
		r.CloseWithError(err)
	}()
}

// Abort implements core.Writer.
func (w *partWriter) Abort() error {
	if w.ended {
		return nil
	}
	w.ended = true
	w.md5.stop()
	if w.cache != nil {
		w.cache.Drop()
	}
	w.spool.Close()
	if w.pipe != nil {
		w.pipe.CloseWithError(errs.New("namespace.PutPart", w.u.path.String(), errs.Invalid, "the part was given up"))
		<-w.done
	}
	return nil
}

// Commit implements core.Writer.
func (w *partWriter) Commit(ctx context.Context, o core.CommitOptions) (core.Info, error) {
	defer w.Abort()
	if w.ended {
		return core.Info{}, errs.New("namespace.PutPart", w.u.path.String(), errs.Invalid, "the writer has ended")
	}
	if err := context.Cause(w.ctx); err != nil {
		return core.Info{}, err
	}
	if w.size >= 0 && w.n0 != w.size {
		return core.Info{}, errs.New("namespace.PutPart", w.u.path.String(), errs.Invalid, fmt.Sprintf("%d bytes were announced and %d came", w.size, w.n0))
	}
	sum := w.md5.sum()
	if o.MD5 != nil && !bytes.Equal(sum, o.MD5) {
		return core.Info{}, errs.E("namespace.PutPart", w.u.path.String(), errs.BadDigest, nil)
	}
	n := w.n
	unlock, err := n.locks.lock(ctx, uploadLock(w.u.id, w.number))
	if err != nil {
		return core.Info{}, err
	}
	defer unlock()
	if _, err := n.upload(ctx, w.u.path, w.u.id); err != nil {
		return core.Info{}, err
	}
	if err := w.finish(); err != nil {
		return core.Info{}, err
	}
	e := meta.Entry{
		Class: meta.Note, ID: w.id, Rev: w.rev, Size: w.n0, ETag: hex.EncodeToString(sum), Version: w.etag,
		MTime: time.Now().UnixNano(), Checksums: encodeChecksums(o.Checksums),
	}
	info := core.Info{Path: w.u.path, Size: w.n0, ETag: e.ETag, ModTime: time.Unix(0, e.MTime), Checksums: o.Checksums}
	set := meta.Op{Kind: meta.Set, Dir: w.u.dir, Edge: partEdge(w.number), Entry: e}
	if _, err := n.commit(ctx, append(n.answered(core.CallOf(ctx), info), set)...); err != nil {
		return core.Info{}, err
	}
	w.ended = true
	w.spool.Close()
	return info, nil
}

// finish gives the store the rest and waits for its answer.
func (w *partWriter) finish() error {
	if w.cache != nil {
		w.cache.Finish()
	}
	if w.size < 0 {
		r, err := w.spool.Reader()
		if err != nil {
			return err
		}
		w.etag, err = w.composer.PutPart(w.ctx, w.u.entry.Extra["key"], w.u.entry.Extra["store_id"], w.number, w.n0, r)
		return err
	}
	w.start()
	if err := w.forward(w.held); err != nil {
		return err
	}
	w.pipe.Close()
	<-w.done
	return w.serr
}

// spool keeps bytes until their number is known: some in memory, more in a temporary file.
type spool struct {
	buf  bytes.Buffer
	file *os.File
}

// spoolMemory is how many bytes a spool keeps in memory.
const spoolMemory = 1 << 20

// Write implements io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	if s.file == nil && s.buf.Len()+len(p) > spoolMemory {
		f, err := os.CreateTemp("", "sluice-part-*")
		if err != nil {
			return 0, errs.E("namespace.spool", "", errs.NoSpace, err)
		}
		os.Remove(f.Name()) // it lives as long as it is open
		s.file = f
		if _, err := s.buf.WriteTo(f); err != nil {
			return 0, errs.E("namespace.spool", "", errs.NoSpace, err)
		}
	}
	if s.file == nil {
		return s.buf.Write(p)
	}
	k, err := s.file.Write(p)
	if err != nil {
		err = errs.E("namespace.spool", "", errs.NoSpace, err)
	}
	return k, err
}

// Reader returns a reader of all that was written.
func (s *spool) Reader() (io.Reader, error) {
	if s.file == nil {
		return &s.buf, nil
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return s.file, err
}

// Close frees the spool.
func (s *spool) Close() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}
