package hadoopfs

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// List implements ufs.Store. Rows say nothing of attributes: HDFS tells them of one name at a time.
func (s *Store) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	const op = "hadoopfs.List"
	return func(yield func(ufs.Info, error) bool) {
		if flat {
			yield(ufs.Info{}, errs.New(op, dir, errs.Unsupported, "a store with directories has no flat listing"))
			return
		}
		if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
			yield(ufs.Info{}, err)
			return
		}
		l := lister{s: s, dir: dir, after: after, yield: func(in ufs.Info) bool { return yield(in, nil) }}
		if err := l.run(ctx, op); err != nil {
			yield(ufs.Info{}, err)
		}
	}
}

// lister yields a directory in the byte order of full names. HDFS has another: it compares bytes as signed numbers, so that what
// is not ASCII sorts before what is, and a directory has no slash: "a", "ä", "a-b", "a0" where we have, if "a" is a directory,
// "a-b", "a/", "a0", "ä". A row is held back until none that follows can sort before it. It always starts at the
// beginning: what is behind a name in our order may be before it in HDFS's.
type lister struct {
	s          *Store
	dir, after string
	yield      func(ufs.Info) bool
	held       rows
	stopped    bool
}

func (l *lister) run(ctx context.Context, op string) error {
	p := l.s.at(l.dir)
	for last := ""; ; {
		page, more, err := l.page(ctx, op, p, last)
		if err != nil {
			return err
		}
		for i := range page {
			if l.row(page[i]); l.stopped {
				return nil
			}
		}
		if !more {
			break
		}
		if len(page) == 0 {
			return errs.New(op, l.dir, errs.Unavailable, "the name node says that there is more, and lists nothing")
		}
		last = page[len(page)-1].Name
	}
	for len(l.held) > 0 && !l.stopped {
		l.emit()
	}
	return nil
}

// page asks for the rows behind a segment.
func (l *lister) page(ctx context.Context, op, p, after string) ([]Status, bool, error) {
	rows, more, err := l.s.c.List(ctx, p, after)
	if errors.Is(err, errs.Permission) && l.s.belowFile(ctx, l.dir) {
		err = errs.E(op, l.dir, errs.NotExist, nil)
	}
	if err == nil && len(rows) == 1 && rows[0].Name == "" { // a file lists itself
		err = errs.E(op, l.dir, errs.NotExist, nil)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil && l.dir == "" && errors.Is(err, errs.NotExist) {
		return nil, false, errs.New(op, l.s.feat.Root, errs.Unavailable, "the store's root directory does not exist")
	}
	return rows, more, l.s.absent(ctx, op, l.dir, err)
}

// row takes the next row of HDFS's. None that follows sorts before the beginning of its name that is ASCII.
func (l *lister) row(st Status) {
	least := st.Name
	if i := strings.IndexFunc(least, func(r rune) bool { return r >= utf8.RuneSelf }); i >= 0 {
		least = least[:i]
	}
	for len(l.held) > 0 && l.held[0].key() <= least && !l.stopped {
		l.emit()
	}
	heap.Push(&l.held, st)
}

// emit yields the first of the rows held back.
func (l *lister) emit() {
	st := heap.Pop(&l.held).(Status)
	name := l.dir + st.key()
	if st.Other || name <= l.after || ufs.Staged(name) || !utf8.ValidString(name) {
		return
	}
	in := l.s.info(name, &st, nil)
	in.Full = false
	l.stopped = !l.yield(in)
}

// rows are a heap, by their names with the slash.
type rows []Status

func (s *Status) key() string {
	if s.Dir {
		return s.Name + "/"
	}
	return s.Name
}

func (r rows) Len() int           { return len(r) }
func (r rows) Less(i, j int) bool { return r[i].key() < r[j].key() }
func (r rows) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *rows) Push(x any)        { *r = append(*r, x.(Status)) }
func (r *rows) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}

// Open implements ufs.Store. The reader is a ufs.Checker. It reads the inode that was looked at, whatever the name leads to
// meanwhile, if the server tells inodes.
func (s *Store) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	const op = "hadoopfs.Open"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	st, err := s.status(ctx, op, name)
	if err != nil {
		return nil, err
	}
	if version != "" && versionOf(&st) != version {
		return nil, errs.New(op, name, errs.Precondition, "the file is another version")
	}
	if n, err = ufs.Span(op, name, off, n, st.Size); err != nil {
		return nil, err
	}
	r := &reader{s: s, ctx: ctx, name: name, st: st, left: n}
	if n == 0 {
		return r, nil
	}
	r.in, err = s.c.Open(ctx, byID(s.at(name), &st), off, n)
	if errors.Is(err, errs.NotExist) { // since it was looked at
		return nil, errs.New(op, name, errs.Precondition, "the file was replaced or removed while it was opened")
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// reader reads the bytes of one version.
type reader struct {
	s    *Store
	ctx  context.Context // of Open
	name string
	st   Status
	in   io.ReadCloser // nil if there is nothing to read
	left int64
	end  error // of the last Read, once there is nothing left
}

func (r *reader) Read(p []byte) (int, error) {
	const op = "hadoopfs.Read"
	if r.left == 0 {
		if r.end == nil {
			if r.end = r.Check(); r.end == nil {
				r.end = io.EOF
			}
		}
		return 0, r.end
	}
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.in.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case r.left == 0 || err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		err = errs.New(op, r.name, errs.Unavailable, fmt.Sprintf("the store broke off %d bytes before the end", r.left))
	case errors.Is(err, errs.NotExist):
		err = errs.New(op, r.name, errs.Precondition, "the file was replaced or removed while it was read")
	}
	return n, err
}

// Check implements ufs.Checker. A file that was moved meanwhile is still whole; of one that was removed nothing can be said.
func (r *reader) Check() error {
	const op = "hadoopfs.Check"
	now, err := r.s.c.Status(r.ctx, byID(r.s.at(r.name), &r.st))
	if errors.Is(err, errs.NotExist) || err == nil && !now.same(&r.st) {
		return errs.New(op, r.name, errs.Precondition, "the file was replaced, removed or changed while it was read")
	}
	return err
}

func (r *reader) Close() error {
	if r.in == nil {
		return nil
	}
	return r.in.Close()
}

// readFull reads b from r, and closes r.
func readFull(r io.ReadCloser, b []byte) error {
	_, err := io.ReadFull(r, b)
	return errors.Join(err, r.Close())
}
