package localufs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// look are the flags that open a name to look at it: no waiting for a pipe's other end, no controlling terminal.
const look = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC

// Stat implements ufs.Store.
func (s *Store) Stat(ctx context.Context, name string) (ufs.Info, error) {
	const op = "localufs.Stat"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	return s.stat(op, name)
}

func (s *Store) stat(op, name string) (ufs.Info, error) {
	fd, err := s.open(name, look)
	readable := !errors.Is(err, unix.EACCES)
	if !readable {
		fd, err = s.open(name, unix.O_PATH)
	}
	if err != nil {
		return ufs.Info{}, missing(op, name, err)
	}
	defer closeFD(fd)
	return s.describe(op, name, fd, readable)
}

// describe returns the facts of the open file fd, which must be of the kind name asks for.
func (s *Store) describe(op, name string, fd int, readable bool) (ufs.Info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ufs.Info{}, classify(op, name, err)
	}
	if !isKind(&st, ufs.IsDir(name)) {
		return ufs.Info{}, errs.E(op, name, errs.NotExist, nil)
	}
	if !readable {
		return s.info(name, &st, ufs.Attr{}, false), nil
	}
	a, full := readAttr(fd, &st)
	return s.info(name, &st, a, full), nil
}

func isKind(st *unix.Stat_t, dir bool) bool {
	if dir {
		return st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	return st.Mode&unix.S_IFMT == unix.S_IFREG
}

// List implements ufs.Store. It reads the names of the directory at once and the facts of each as it is yielded.
func (s *Store) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	const op = "localufs.List"
	return func(yield func(ufs.Info, error) bool) {
		if err := s.list(ctx, op, dir, after, flat, func(in ufs.Info) bool { return yield(in, nil) }); err != nil {
			yield(ufs.Info{}, err)
		}
	}
}

func (s *Store) list(ctx context.Context, op, dir, after string, flat bool, yield func(ufs.Info) bool) error {
	if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
		return err
	}
	if flat {
		return errs.New(op, dir, errs.Unsupported, "a store with directories has no flat listing")
	}
	fd, err := s.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return missing(op, dir, err)
	}
	// The name lets ReadDir find the kind of an entry on file systems that do not tell it.
	d := os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	defer d.Close() //nolint:errcheck // only read
	entries, err := d.ReadDir(-1)
	if err != nil {
		return classify(op, dir, err)
	}
	for _, name := range s.children(op, dir, after, entries) {
		if err := ctx.Err(); err != nil {
			return err
		}
		in, err := s.child(op, fd, dir, name)
		switch {
		case errors.Is(err, errs.NotExist), errors.Is(err, errs.Permission):
			continue // removed meanwhile, or a link that leads nowhere or outside
		case err != nil:
			return err
		case !yield(in):
			return nil
		}
	}
	return nil
}

// children returns the full names greater than after of those entries that are files and directories, in order.
func (s *Store) children(op, dir, after string, entries []fs.DirEntry) []string {
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		name := dir + e.Name()
		if ufs.Staged(name) {
			continue
		}
		if !utf8.ValidString(name) {
			s.skipped.Add(1)
			continue
		}
		switch e.Type() {
		case 0:
		case fs.ModeDir:
			name += "/"
		case fs.ModeSymlink:
			if _, err := s.stat(op, name+"/"); err == nil {
				name += "/"
			}
		default:
			continue
		}
		if name > after {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names
}

// child describes the entry name of the directory dir, which is open as fd.
func (s *Store) child(op string, fd int, dir, name string) (ufs.Info, error) {
	_, base := split(name)
	var c int
	err := retry(func() (e error) {
		c, e = unix.Openat(fd, base, look|unix.O_NOFOLLOW, 0)
		return e
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EACCES) {
		return s.stat(op, name)
	}
	if err != nil {
		return ufs.Info{}, missing(op, name, err)
	}
	defer closeFD(c)
	return s.describe(op, name, c, true)
}

// Open implements ufs.Store. The reader is a ufs.Checker.
func (s *Store) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	const op = "localufs.Open"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	r, err := s.openFile(op, name, version)
	if err != nil {
		return nil, err
	}
	if n, err = ufs.Span(op, name, off, n, r.st.Size); err != nil {
		_ = r.Close()
		return nil, err
	}
	r.ctx, r.off, r.end = ctx, off, off+n
	return r, nil
}

// openFile opens the given version of name; the span and the ctx are the caller's to set.
func (s *Store) openFile(op, name, want string) (*reader, error) {
	fd, err := s.open(name, look)
	if err != nil {
		return nil, missing(op, name, err)
	}
	r := &reader{s: s, name: name, f: os.NewFile(uintptr(fd), name)}
	switch err := unix.Fstat(fd, &r.st); {
	case err != nil:
		_ = r.Close()
		return nil, classify(op, name, err)
	case !isKind(&r.st, false):
		_ = r.Close()
		return nil, errs.E(op, name, errs.NotExist, nil)
	case want != "" && r.s.versionOf(&r.st) != want:
		_ = r.Close()
		return nil, errs.New(op, name, errs.Precondition, "the file is another version")
	}
	return r, nil
}

// reader reads a span of an open file. It ends with the ctx it was opened with.
type reader struct {
	s        *Store
	ctx      context.Context
	name     string
	f        *os.File
	st       unix.Stat_t // at opening
	off, end int64
}

// Read reads on. A file that was written to while it was read fails with errs.Precondition instead of io.EOF.
func (r *reader) Read(p []byte) (int, error) {
	const op = "localufs.Read"
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.off == r.end {
		if err := r.Check(); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), r.end-r.off)], r.off)
	r.off += int64(n)
	if n > 0 || err == nil {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		return 0, errs.New(op, r.name, errs.Precondition, "the file was cut while it was read")
	}
	return 0, classify(op, r.name, err)
}

// Check implements ufs.Checker. A file that was unlinked or replaced while open is still whole: its ctime changes with its
// link count. So is one that this store has renamed or given other attributes.
func (r *reader) Check() error {
	const op = "localufs.Check"
	var st unix.Stat_t
	if err := unix.Fstat(int(r.f.Fd()), &st); err != nil {
		return classify(op, r.name, err)
	}
	changed := errs.New(op, r.name, errs.Precondition, "the file was changed while it was read")
	if !sameFile(&r.st, &st) {
		return changed
	}
	if st.Ctim == r.st.Ctim || st.Nlink < r.st.Nlink {
		return nil
	}
	i := inodeOf(&st)
	r.s.await(i.mark())
	if err := unix.Fstat(int(r.f.Fd()), &st); err != nil || !sameFile(&r.st, &st) || !r.s.own.joins(i, r.st.Ctim, st.Ctim) {
		return changed
	}
	return nil
}

func (r *reader) Close() error { return r.f.Close() }
