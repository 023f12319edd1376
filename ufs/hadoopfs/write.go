package hadoopfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// The directories below the root that hold what is not visible.
const (
	tmpDir     = ufs.Staging + "tmp/"
	removedDir = ufs.Staging + "removed/"
	uploadsDir = ufs.Staging + "uploads/"
	// replacedDir holds, below a directory with the token of the staged file that is to have its name, and under that name, what a
	// server that cannot rename over it has had to move away. CleanStaging puts back what a crash left there, while the staged
	// file is still staged.
	replacedDir = ufs.Staging + "replaced/"
)

// writers are the tokens of what this process has staged below one root and not ended, and how many times each was set open.
type writers struct {
	mu   sync.Mutex
	open map[string]int
}

// ofRoot holds the writers of each root: a mount whose options change gets another Store, and both may be busy.
var ofRoot sync.Map

func writersOf(root string) *writers {
	w, _ := ofRoot.LoadOrStore(root, &writers{open: map[string]int{}})
	return w.(*writers)
}

func (w *writers) set(token string, open bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if open {
		w.open[token]++
	} else if w.open[token]--; w.open[token] <= 0 {
		delete(w.open, token)
	}
}

func (w *writers) has(token string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open[token] > 0
}

// writer stages one file in tmpDir.
type writer struct {
	s     *Store
	ctx   context.Context // of Create: when it ends, so does the write
	name  string
	size  int64 // bytes announced, or -1
	o     ufs.CreateOptions
	token string
	out   Stream // nil once it has finished
	n     int64  // bytes written
	st    Status // of the staged file, once it is whole
	rec   *record
	whole bool
	ended bool
	left  bool                  // what it was to replace is still in replacedDir, and goes back while the staged file is there
	back  func(context.Context) // puts the staged file where it came from, in place of removing it
}

// Create implements ufs.Store.
func (s *Store) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	const op = "hadoopfs.Create"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	w, err := s.stage(ctx, op, name, size, o)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// stage makes an empty staged file for name. The directory for it is made if it is missing.
func (s *Store) stage(ctx context.Context, op, name string, size int64, o ufs.CreateOptions) (*writer, error) {
	w := &writer{s: s, ctx: ctx, name: name, size: size, o: o, token: rand.Text()}
	s.open.set(w.token, true)
	var err error
	if w.out, err = s.c.Create(ctx, s.at(w.staged())); errors.Is(err, errs.NotExist) {
		if err = s.makeStaging(ctx, op, tmpDir); err == nil {
			w.out, err = s.c.Create(ctx, s.at(w.staged()))
		}
	}
	if err != nil {
		s.open.set(w.token, false)
		return nil, err
	}
	return w, nil
}

// makeStaging makes a directory of the staging area, if the root is there.
func (s *Store) makeStaging(ctx context.Context, op, dir string) error {
	if err := s.present(ctx, op); err != nil {
		return err
	}
	return s.c.Mkdirs(ctx, s.at(dir))
}

// staged returns the name of the staged file.
func (w *writer) staged() string { return tmpDir + w.token }

func (w *writer) Write(p []byte) (int, error) {
	const op = "hadoopfs.Write"
	if err := w.usable(op, w.ctx); err != nil {
		return 0, err
	}
	if w.size >= 0 && w.n+int64(len(p)) > w.size {
		return 0, errs.New(op, w.name, errs.Invalid, fmt.Sprintf("more than the announced %d bytes were written", w.size))
	}
	n, err := w.out.Write(p)
	w.n += int64(n)
	return n, err
}

func (w *writer) Token() string { return w.token }

func (w *writer) SetAttr(a ufs.Attr) error {
	w.o.Attr = a
	return nil
}

// Prepare implements ufs.Preparer.
func (w *writer) Prepare(ctx context.Context) error {
	err := w.prepare(ctx, "hadoopfs.Prepare")
	if err != nil { // what a failed end left out, a later one does not tell
		_ = w.Abort()
	}
	return err
}

func (w *writer) prepare(ctx context.Context, op string) error {
	if err := w.usable(op, ctx); err != nil || w.whole {
		return err
	}
	if w.size >= 0 && w.n != w.size {
		return errs.New(op, w.name, errs.Invalid, fmt.Sprintf("%d bytes were announced, %d written", w.size, w.n))
	}
	if w.out != nil {
		out := w.out
		w.out = nil
		if err := out.Finish(ctx); err != nil {
			return err
		}
	}
	st, err := w.s.c.Status(ctx, w.s.at(w.staged()))
	if err != nil {
		return w.gone(op, err)
	}
	if st.Size != w.n {
		return errs.New(op, w.name, errs.Unavailable, fmt.Sprintf("%d bytes were written, and the name node counts %d", w.n, st.Size))
	}
	if w.st, w.rec, err = w.s.keep(ctx, op, w.staged(), st, w.o.Attr); err != nil {
		return w.gone(op, err)
	}
	w.whole = true
	return nil
}

// gone says of an errs.NotExist that it is the staged file's.
func (w *writer) gone(op string, err error) error {
	if errors.Is(err, errs.NotExist) {
		return errs.New(op, w.name, errs.Conflict, "the staged bytes were taken away")
	}
	return err
}

func (w *writer) Commit(ctx context.Context) (ufs.Info, error) {
	const op = "hadoopfs.Commit"
	err := w.prepare(ctx, op)
	if err == nil {
		err = w.publish(ctx, op)
	}
	if err != nil {
		_ = w.Abort()
		return ufs.Info{}, err
	}
	w.end()
	return w.s.info(w.name, &w.st, w.rec), nil
}

// publish gives the staged file its name, under the writer's condition.
func (w *writer) publish(ctx context.Context, op string) error {
	s := w.s
	defer s.lock(w.name)()
	there, err := s.look(ctx, op, w.name)
	switch {
	case err != nil:
		return err
	case there != nil && there.Dir:
		return errs.E(op, w.name, errs.IsDir, nil)
	case there != nil && w.o.IfNew:
		return errs.E(op, w.name, errs.Exist, nil)
	case w.o.IfVersion != "" && (there == nil || versionOf(there) != w.o.IfVersion):
		return errs.New(op, w.name, errs.Precondition, "the file is another version, or gone")
	}
	err = s.move(ctx, op, w.staged(), w.name, !w.o.IfNew, there != nil)
	if !w.o.IfNew && errors.Is(err, errs.Unsupported) {
		err = w.moveOver(ctx, op)
	}
	if errors.Is(err, errs.Exist) || errors.Is(err, errs.NotDir) {
		if there, lerr := s.look(ctx, op, w.name); lerr == nil && there != nil && there.Dir {
			return errs.E(op, w.name, errs.IsDir, nil)
		}
	}
	return w.gone(op, err)
}

// look returns the facts of what has the path of name, of either kind; nil if nothing has. Errors: errs.NotDir if an ancestor
// is a file and HDFS says so.
func (s *Store) look(ctx context.Context, op, name string) (*Status, error) {
	st, err := s.c.Status(ctx, s.at(name))
	switch {
	case err == nil:
		return &st, nil
	case errors.Is(err, errs.NotExist):
		return nil, nil
	case errors.Is(err, errs.Permission) && s.belowFile(ctx, name):
		return nil, errs.E(op, name, errs.NotDir, nil)
	}
	return nil, err
}

// move renames from to to, whose parents are made if they are missing. there says that something was at to.
func (s *Store) move(ctx context.Context, op, from, to string, replace, there bool) error {
	const tries = 4 // someone may remove the parent that was just made
	var err error
	for range tries {
		err = s.c.Rename(ctx, s.at(from), s.at(to), replace)
		if there || !errors.Is(err, errs.NotExist) && !errors.Is(err, errs.NotDir) && !errors.Is(err, errs.Permission) {
			return err
		}
		// The source or the parent is missing, or an ancestor is no directory.
		if _, serr := s.c.Status(ctx, s.at(from)); serr != nil {
			return serr
		}
		if perr := s.present(ctx, op); perr != nil {
			return perr
		}
		if merr := s.makeDir(ctx, op, parent(to)); merr != nil {
			return merr
		}
		if errors.Is(err, errs.Permission) {
			return err
		}
	}
	return errs.E(op, to, errs.Unavailable, fmt.Errorf("the parent directory vanishes: %w", err))
}

// moveOver publishes in two steps, between which the name is missing: what is there is moved away first, and back if the second
// step fails.
func (w *writer) moveOver(ctx context.Context, op string) error {
	s := w.s
	aside := replacedDir + w.token + "/" + w.name
	if err := s.makeStaging(ctx, op, parent(aside)); err != nil {
		return err
	}
	err := s.c.Rename(ctx, s.at(w.name), s.at(aside), false)
	away := err == nil
	if away || errors.Is(err, errs.NotExist) { // else it went by itself
		err = s.c.Rename(ctx, s.at(w.staged()), s.at(w.name), false)
	}
	ctx, cancel := ufs.Detached(ctx)
	defer cancel()
	if err == nil {
		_ = s.c.Delete(ctx, s.at(replacedDir+w.token), true) // CleanStaging takes what stays
		return nil
	}
	w.left = s.putReplacedBack(ctx, w.token) != nil
	if away {
		err = halfway(op, w.name, err)
	}
	return err
}

// putReplacedBack gives what moveOver has left in replacedDir its name again, unless that is taken. If the staged file of the token
// is gone, so it is the name's, or was, and what it replaced is deleted.
func (s *Store) putReplacedBack(ctx context.Context, token string) error {
	dir, name := replacedDir+token+"/", ""
	rows, err := s.entries(ctx, dir)
	if err != nil {
		return err
	}
	if len(rows) > 0 {
		if _, err = s.c.Status(ctx, s.at(tmpDir+token)); err != nil && !errors.Is(err, errs.NotExist) {
			return err
		}
	}
	for err == nil && len(rows) == 1 && rows[0].Name != "" {
		if name += rows[0].Name; !rows[0].Dir {
			err = s.c.Rename(ctx, s.at(dir+name), s.at(name), false)
			if err != nil && !errors.Is(err, errs.Exist) && !errors.Is(err, errs.NotExist) {
				return err
			}
			break
		}
		name += "/"
		if rows, err = s.entries(ctx, dir+name); err != nil {
			return err
		}
	}
	if err = s.c.Delete(ctx, s.at(dir), true); errors.Is(err, errs.NotExist) {
		return nil
	}
	return err
}

// makeDir makes the directory dir and its parents. Errors: errs.NotDir if one of them is a file.
func (s *Store) makeDir(ctx context.Context, op, dir string) error {
	err := s.c.Mkdirs(ctx, s.at(dir))
	if errors.Is(err, errs.Exist) || errors.Is(err, errs.NotDir) || errors.Is(err, errs.Permission) && s.belowFile(ctx, dir) {
		return errs.E(op, dir, errs.NotDir, nil)
	}
	return err
}

// Abort drops the staged file. After Commit there is none.
func (w *writer) Abort() error {
	if w.ended {
		return nil
	}
	if w.out != nil {
		w.out.Abort()
	}
	defer w.end()
	if w.left {
		return nil // CleanStaging does both
	}
	ctx, cancel := ufs.Detached(w.ctx)
	defer cancel()
	if w.back != nil {
		w.back(ctx)
		return nil
	}
	err := w.s.c.Delete(ctx, w.s.at(w.staged()), false)
	if errors.Is(err, errs.NotExist) {
		err = nil
	}
	return err
}

func (w *writer) end() {
	w.ended = true
	w.s.open.set(w.token, false)
}

func (w *writer) usable(op string, ctx context.Context) error {
	return ufs.Usable(op, w.name, w.ended, w.ctx, ctx, nil)
}

// Append implements ufs.Appender. The bytes are copied to a staged file, through this process, and the tail follows there:
// what HDFS itself appends is seen in part while it is written, and after a crash.
func (s *Store) Append(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Writer, error) {
	const op = "hadoopfs.Append"
	in, err := s.Open(ctx, name, 0, -1, version)
	if err != nil {
		return nil, err
	}
	defer in.Close() //nolint:errcheck // its bytes were checked at EOF
	w, err := s.stage(ctx, op, name, -1, ufs.CreateOptions{Attr: attr, IfVersion: versionOf(&in.(*reader).st)})
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, in, make([]byte, 256<<10)); err != nil {
		_ = w.Abort()
		return nil, err
	}
	return w, nil
}
