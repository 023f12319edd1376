package hadoopfs

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"reflect"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Remove implements ufs.Store.
func (s *Store) Remove(ctx context.Context, name, version string) error {
	const op = "hadoopfs.Remove"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return err
	}
	if name == "" {
		return errs.New(op, name, errs.Invalid, "the root of a store cannot be removed")
	}
	defer s.lock(name)()
	st, err := s.status(ctx, op, name)
	switch {
	case err != nil:
		return err
	case version != "" && versionOf(&st) != version:
		return errs.New(op, name, errs.Precondition, "the name is another version")
	case st.Dir || version == "":
		return s.c.Delete(ctx, s.at(name), false)
	}
	return s.removeVersion(ctx, op, name, &st)
}

// removeVersion moves the file name to staging and looks at what it is: only then is it certain that nobody replaced the
// awaited version in between. If it is another file it goes back, unless the name is taken again by a still newer one; then
// it stays where it is, for CleanStaging removes there only what is the version in its name.
func (s *Store) removeVersion(ctx context.Context, op, name string, awaited *Status) error {
	aside := removedDir + rand.Text() + "." + versionOf(awaited)
	err := s.c.Rename(ctx, s.at(name), s.at(aside), false)
	if errors.Is(err, errs.NotExist) {
		if err = s.makeStaging(ctx, op, removedDir); err == nil {
			err = s.c.Rename(ctx, s.at(name), s.at(aside), false)
		}
	}
	if err != nil {
		return err
	}
	out, err := s.c.Status(ctx, s.at(aside))
	if err != nil {
		return halfway(op, name, err)
	}
	if out.same(awaited) {
		// The file is gone. A failure to free it is CleanStaging's to repair, not a failure of the removal.
		_ = s.c.Delete(ctx, s.at(aside), false)
		return nil
	}
	ctx, cancel := ufs.Detached(ctx)
	defer cancel()
	if err := s.c.Rename(ctx, s.at(aside), s.at(name), false); err != nil && !errors.Is(err, errs.Exist) {
		return halfway(op, name, err)
	}
	return errs.New(op, name, errs.Precondition, "the file is another version")
}

// halfway makes of the error of a later step one of the whole change, of which others may have seen an earlier step: neither its
// kind nor ufs.ErrUnsent holds for that.
func halfway(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return errs.New(op, name, errs.Unavailable, "a part of the change was made, and then: "+err.Error())
}

// Mkdir implements ufs.Mkdirer.
func (s *Store) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	const op = "hadoopfs.Mkdir"
	if err := s.begin(ctx, op, name, ufs.CheckDir); err != nil {
		return ufs.Info{}, err
	}
	if name == "" {
		return s.describe(ctx, op, name)
	}
	defer s.lock(name)()
	there, err := s.look(ctx, op, name)
	if err != nil {
		return ufs.Info{}, err
	}
	if there == nil {
		if err := s.present(ctx, op); err != nil {
			return ufs.Info{}, err
		}
		if err := s.makeDir(ctx, op, name); err != nil {
			return ufs.Info{}, err
		}
		in, err := s.describeMade(ctx, op, name, attr)
		return in, halfway(op, name, err)
	} else if !there.Dir {
		return ufs.Info{}, errs.E(op, name, errs.NotDir, nil)
	}
	in, err := s.describe(ctx, op, name)
	if err != nil || !attr.Marker || in.Marker || !in.Full || s.o.NoAttrs {
		return in, err
	}
	attr = in.Attr
	attr.Marker = true
	return s.equip(ctx, op, name, attr)
}

// describeMade gives a directory that was just made its attributes.
func (s *Store) describeMade(ctx context.Context, op, name string, attr ufs.Attr) (ufs.Info, error) {
	if reflect.ValueOf(attr).IsZero() || s.o.NoAttrs && attr.Mode == 0 && attr.Owner == "" && attr.Group == "" {
		return s.describe(ctx, op, name)
	}
	return s.equip(ctx, op, name, attr)
}

// equip writes the attributes of a directory.
func (s *Store) equip(ctx context.Context, op, name string, attr ufs.Attr) (ufs.Info, error) {
	st, err := s.status(ctx, op, name)
	if err != nil {
		return ufs.Info{}, err
	}
	st, r, err := s.keep(ctx, op, name, st, attr)
	if err != nil {
		return ufs.Info{}, err
	}
	return s.info(name, &st, r), nil
}

// Rename implements ufs.Renamer.
func (s *Store) Rename(ctx context.Context, from, to string, replace bool) error {
	const op = "hadoopfs.Rename"
	if err := errors.Join(s.begin(ctx, op, from, ufs.CheckName), s.begin(ctx, op, to, ufs.CheckName)); err != nil {
		return err
	}
	if from == "" || to == "" {
		return errs.New(op, from, errs.Invalid, "the root of a store cannot be renamed or replaced")
	}
	defer s.lock(from, to)()
	if _, err := s.status(ctx, op, from); err != nil {
		return err
	}
	switch {
	case ufs.IsDir(from) != ufs.IsDir(to):
		return errs.New(op, to, errs.Invalid, "source and destination must both be files or both directories")
	case from == to:
		return nil
	case ufs.IsDir(from) && strings.HasPrefix(to, from):
		return errs.New(op, to, errs.Invalid, "a directory cannot be moved below itself")
	}
	there, err := s.look(ctx, op, to)
	if err == nil && there != nil {
		err = s.mayReplace(ctx, op, to, there, replace)
	}
	if err != nil {
		return err
	}
	err = s.move(ctx, op, from, to, replace, there != nil)
	if replace && errors.Is(err, errs.Unsupported) {
		s.plain.Store(true)
		return errs.New(op, to, errs.Unsupported, "the server cannot rename over what is there")
	}
	return err
}

// mayReplace judges what is where something is to be moved.
func (s *Store) mayReplace(ctx context.Context, op, to string, there *Status, replace bool) error {
	switch {
	case ufs.IsDir(to) && !there.Dir:
		return errs.E(op, to, errs.NotDir, nil)
	case !ufs.IsDir(to) && there.Dir:
		return errs.E(op, to, errs.IsDir, nil)
	case !replace:
		return errs.E(op, to, errs.Exist, nil)
	case !there.Dir:
		return nil
	}
	rows, _, err := s.c.List(ctx, s.at(to), "")
	if err == nil && len(rows) > 0 {
		return errs.E(op, to, errs.NotEmpty, nil)
	}
	return err
}

// Trash implements ufs.Trasher. HDFS takes a whole tree from view in one step.
func (s *Store) Trash(ctx context.Context, dir string) error {
	const op = "hadoopfs.Trash"
	if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
		return err
	}
	if dir == "" {
		return errs.New(op, dir, errs.Invalid, "the root of a store cannot be removed")
	}
	defer s.lock(dir)()
	if _, err := s.status(ctx, op, dir); err != nil {
		return err
	}
	return s.c.Delete(ctx, s.at(dir), true)
}

// CleanStaging implements ufs.Store.
func (s *Store) CleanStaging(ctx context.Context, live func(token string) bool) error {
	drop := func(dir, base string) error {
		if live(base) || s.open.has(base) {
			return nil
		}
		if id, _, ok := wholeOf(base); ok && (live(id) || s.open.has(id)) {
			return nil // Complete finds it
		}
		return s.c.Delete(ctx, s.at(dir+base), true)
	}
	err := s.cleanDir(ctx, replacedDir, func(_, token string) error { // what is in tmpDir says whether it goes back
		if s.open.has(token) {
			return nil
		}
		return s.putReplacedBack(ctx, token)
	})
	if err == nil {
		err = s.cleanDir(ctx, tmpDir, drop)
	}
	if err == nil {
		err = s.cleanDir(ctx, uploadsDir, drop)
	}
	if err == nil {
		err = s.cleanDir(ctx, removedDir, func(dir, base string) error {
			_, version, _ := strings.Cut(base, ".")
			st, err := s.c.Status(ctx, s.at(dir+base))
			if err != nil || versionOf(&st) != version {
				return err // somebody's file, which could not be put back
			}
			return s.c.Delete(ctx, s.at(dir+base), false)
		})
	}
	return err
}

// cleanDir calls clean for every entry of the staging directory dir.
func (s *Store) cleanDir(ctx context.Context, dir string, clean func(dir, base string) error) error {
	bases, err := s.entries(ctx, dir)
	for _, b := range bases {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = clean(dir, b.Name)
		}
		if errors.Is(err, errs.NotExist) {
			err = nil
		}
	}
	return err
}

// entries returns what is in the staging directory dir, nothing if it is missing.
func (s *Store) entries(ctx context.Context, dir string) ([]Status, error) {
	var all []Status
	for after := ""; ; {
		rows, more, err := s.c.List(ctx, s.at(dir), after)
		if errors.Is(err, errs.NotExist) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
		if !more || len(rows) == 0 {
			return all, nil
		}
		after = rows[len(rows)-1].Name
	}
}

// Discard implements ufs.Discarder: the staged file goes, and with it what a writer could rename, after what it was to replace is
// back. What Complete has staged for
// the attempt goes back to its upload.
func (s *Store) Discard(ctx context.Context, token, origin string) error {
	const op = "hadoopfs.Discard"
	if token != "" && ufs.CheckFile(s.feat, op, token) == nil && !strings.Contains(token, "/") {
		if err := s.putReplacedBack(ctx, token); err != nil {
			return err
		}
		if err := s.c.Delete(ctx, s.at(tmpDir+token), false); err != nil && !errors.Is(err, errs.NotExist) {
			return err
		}
	}
	if origin == "" {
		return nil
	}
	staged, err := s.entries(ctx, tmpDir)
	for _, st := range staged {
		if err == nil && strings.HasSuffix(st.Name, "."+originToken(origin)) {
			err = s.putBack(ctx, st.Name)
		}
	}
	return err
}

// Mark implements ufs.Marked.
func (s *Store) Mark(ctx context.Context) (string, error) {
	st, err := s.c.Status(ctx, s.at(ufs.MarkName))
	if errors.Is(err, errs.NotExist) {
		return "", s.present(ctx, "hadoopfs.Mark")
	}
	if err != nil || st.Size == 0 {
		return "", err
	}
	b := make([]byte, min(st.Size, ufs.MaxMark))
	r, err := s.c.Open(ctx, s.at(ufs.MarkName), 0, int64(len(b)))
	if err == nil {
		err = readFull(r, b)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errs.E("hadoopfs.Mark", ufs.MarkName, errs.Unavailable, err)
	}
	return strings.TrimSpace(string(b)), err
}

// SetMark implements ufs.Marked.
func (s *Store) SetMark(ctx context.Context, mark string) error {
	const op = "hadoopfs.SetMark"
	w, err := s.stage(ctx, op, ufs.MarkName, int64(len(mark)), ufs.CreateOptions{})
	if err != nil {
		return err
	}
	defer w.Abort() //nolint:errcheck // CleanStaging takes what it leaves
	if _, err := w.Write([]byte(mark)); err != nil {
		return err
	}
	if err := w.prepare(ctx, op); err != nil {
		return err
	}
	if err := s.c.Rename(ctx, s.at(w.staged()), s.at(ufs.MarkName), false); errors.Is(err, errs.Exist) {
		return errs.New(op, ufs.MarkName, errs.Exist, "the store is marked already")
	} else if err != nil {
		return err
	}
	w.end()
	return nil
}
