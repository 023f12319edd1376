package ufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// The functions below call an ability of a store if its Features have it, and return errs.Unsupported if not.

// Rename calls s's Renamer.
func Rename(ctx context.Context, s Store, from, to string, replace bool) error {
	r, err := ability[Renamer](s, s.Features().AtomicRename, "Rename", from)
	if err != nil {
		return err
	}
	return r.Rename(ctx, from, to, replace)
}

// Mkdir calls s's Mkdirer.
func Mkdir(ctx context.Context, s Store, name string, attr Attr) (Info, error) {
	m, err := ability[Mkdirer](s, s.Features().Mkdir, "Mkdir", name)
	if err != nil {
		return Info{}, err
	}
	return m.Mkdir(ctx, name, attr)
}

// Trash calls s's Trasher. RemoveTree falls back.
func Trash(ctx context.Context, s Store, dir string) error {
	t, err := ability[Trasher](s, s.Features().Trash, "Trash", dir)
	if err != nil {
		return err
	}
	return t.Trash(ctx, dir)
}

// Copy calls s's Copier. CopyFile falls back.
func Copy(ctx context.Context, s Store, from, version, to string, attr *Attr) (Info, error) {
	c, err := ability[Copier](s, s.Features().Copy, "Copy", from)
	if err != nil {
		return Info{}, err
	}
	return c.Copy(ctx, from, version, to, attr)
}

// Prepare calls w's Preparer, if it is one.
func Prepare(ctx context.Context, w Writer) error {
	if p, ok := w.(Preparer); ok {
		return p.Prepare(ctx)
	}
	return nil
}

// Append calls s's Appender.
func Append(ctx context.Context, s Store, name, version string, attr Attr) (Writer, error) {
	a, err := ability[Appender](s, s.Features().Append, "Append", name)
	if err != nil {
		return nil, err
	}
	return a.Append(ctx, name, version, attr)
}

// SetAttr calls s's AttrSetter.
func SetAttr(ctx context.Context, s Store, name, version string, attr Attr) (Info, error) {
	a, err := ability[AttrSetter](s, s.Features().SetAttr, "SetAttr", name)
	if err != nil {
		return Info{}, err
	}
	return a.SetAttr(ctx, name, version, attr)
}

// Discard calls s's Discarder. A store that is none has nothing that could be taken away.
func Discard(ctx context.Context, s Store, token, origin string) error {
	d, err := ability[Discarder](s, s.Features().Discard, "Discard", "")
	if err != nil {
		return nil
	}
	return d.Discard(ctx, token, origin)
}

// ComposerOf returns s as a Composer.
func ComposerOf(s Store) (Composer, error) {
	return ability[Composer](s, s.Features().Compose, "Compose", "")
}

func ability[T any](s Store, has bool, op, name string) (T, error) {
	if a, ok := s.(T); ok && has {
		return a, nil
	}
	var none T
	return none, errs.New("ufs."+op, name, errs.Unsupported, "the "+s.Features().Kind+" store has not this ability")
}

// ReadAll returns the whole file name, if it still is the given version ("": whatever it is) and has at most limit bytes.
// Errors: Open's; errs.TooLarge.
func ReadAll(ctx context.Context, s Store, name, version string, limit int64) (_ []byte, err error) {
	r, err := s.Open(ctx, name, 0, -1, version)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errs.New("ufs.ReadAll", name, errs.TooLarge, fmt.Sprintf("the file has more than %d bytes", limit))
	}
	return b, err
}

// WriteFile makes data the file name.
func WriteFile(ctx context.Context, s Store, name string, data []byte, o CreateOptions) (Info, error) {
	w, err := s.Create(ctx, name, int64(len(data)), o)
	if err != nil {
		return Info{}, err
	}
	if _, err := w.Write(data); err != nil {
		_ = w.Abort() // the write's error is the one that counts; what stays is CleanStaging's
		return Info{}, err
	}
	return w.Commit(ctx)
}

// CopyFile makes to a copy of the given version of from ("": whatever it is) on the same store: by the store itself if it
// can, else through this process. attr replaces the attributes if not nil. Errors: errs.NotExist, errs.Precondition.
func CopyFile(ctx context.Context, s Store, from, version, to string, attr *Attr) (Info, error) {
	if s.Features().Copy {
		return Copy(ctx, s, from, version, to, attr)
	}
	return Transfer(ctx, s, from, version, s, to, CreateOptions{}, attr)
}

// Transfer copies the given version of from on src ("": whatever it is) to the file to on dst, through this process. attr
// replaces the attributes if not nil. Errors: as CopyFile, and Create's by o.
func Transfer(
	ctx context.Context, src Store, from, version string, dst Store, to string, o CreateOptions, attr *Attr,
) (Info, error) {
	in, err := src.Stat(ctx, from)
	if err != nil {
		return Info{}, err
	}
	if version != "" && in.Version != version {
		return Info{}, errs.New("ufs.Transfer", from, errs.Precondition, "the source is another version")
	}
	o.Attr = in.Attr
	if attr != nil {
		o.Attr = *attr
	}
	r, err := src.Open(ctx, from, 0, -1, in.Version)
	if err != nil {
		return Info{}, err
	}
	defer r.Close() //nolint:errcheck // the bytes were checked at the reader's EOF
	w, err := dst.Create(ctx, to, in.Size, o)
	if err != nil {
		return Info{}, err
	}
	if _, err := io.Copy(w, r); err != nil {
		_ = w.Abort()
		return Info{}, err
	}
	return w.Commit(ctx)
}

// RemoveFiles removes the files that still are the given versions ("": whatever they are): in few calls if the store can,
// else one by one. What is gone, or another version, is no error.
func RemoveFiles(ctx context.Context, s Store, files []Versioned) error {
	if r, err := ability[FileRemover](s, s.Features().RemoveFiles, "RemoveFiles", ""); err == nil {
		return r.RemoveFiles(ctx, files)
	}
	for _, f := range files {
		err := s.Remove(ctx, f.Name, f.Version)
		if err != nil && !errors.Is(err, errs.NotExist) && !errors.Is(err, errs.Precondition) {
			return err
		}
	}
	return nil
}

// RemoveTree removes the directory dir ("a/") and everything below it: at once if the store is a Trasher, else name by
// name, children first, so that after a failure the tree is there in part. Errors: errs.NotExist.
func RemoveTree(ctx context.Context, s Store, dir string) error {
	if s.Features().Trash {
		return Trash(ctx, s, dir)
	}
	if _, err := s.Stat(ctx, dir); err != nil {
		return err
	}
	if s.Features().Flat {
		return removeFlat(ctx, s, dir)
	}
	for in, err := range s.List(ctx, dir, "", false) {
		switch {
		case err != nil:
			return err
		case in.Dir:
			err = RemoveTree(ctx, s, in.Name)
		default:
			err = s.Remove(ctx, in.Name, "")
		}
		if err != nil && !errors.Is(err, errs.NotExist) {
			return err
		}
	}
	return s.Remove(ctx, dir, "")
}

// removeFlat removes every key below dir, a page at a time.
func removeFlat(ctx context.Context, s Store, dir string) error {
	const page = 1000
	var files []Versioned
	for in, err := range s.List(ctx, dir, "", true) {
		if err != nil {
			return err
		}
		if files = append(files, Versioned{Name: in.Name}); len(files) == page {
			if err := RemoveFiles(ctx, s, files); err != nil {
				return err
			}
			files = files[:0]
		}
	}
	return RemoveFiles(ctx, s, files)
}

// Probe checks that s can be reached, read and, if write is set, written, and says what failed and why. A store without
// an own Probe is listed, and a write of it is begun and dropped.
func Probe(ctx context.Context, s Store, write bool) error {
	if p, err := ability[Prober](s, s.Features().Probe, "Probe", ""); err == nil {
		return p.Probe(ctx, write)
	}
	for _, err := range s.List(ctx, "", "", false) {
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		break
	}
	if !write {
		return nil
	}
	w, err := s.Create(ctx, "sluice-probe", 0, CreateOptions{IfNew: true})
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := w.Abort(); err != nil {
		return fmt.Errorf("drop the write: %w", err)
	}
	return nil
}

// MayBeSame reports whether two versions that a store of the features f told of one name may be of the same bytes: they are equal, or
// differ in nothing but when other facts of the file were changed. The latter proves nothing: whoever writes into the file
// and puts its modification time back leaves the same difference.
func MayBeSame(f Features, a, b string) bool {
	if a == b || !f.VersionTail {
		return a == b
	}
	i, j := strings.LastIndexByte(a, '.'), strings.LastIndexByte(b, '.')
	return i > 0 && j > 0 && a[:i] == b[:j]
}
