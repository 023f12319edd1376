package hadoopfs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// An upload is a directory below uploadsDir, with the attributes of Begin as its own and a file per part: its number, and
// after a dot a tag that tells one attempt at the part from another. Complete has HDFS move the parts' blocks into one file
// (concat), beside them, wholePrefix and a digest of what it was made of; from then on it stands for them. To get its name it
// is moved to tmpDir, as ID.DIGEST.ORIGIN, and from there either to the name or back: whoever completes an upload again,
// after a crash or a refusal, finds the bytes in one of the three forms.
const wholePrefix = "whole."

// beginTime is how long a new upload is kept from CleanStaging without being asked for: longer than one takes, and than a caller
// needs to note what Begin returned.
const beginTime = 2 * ufs.Settle

// Begin implements ufs.Composer.
func (s *Store) Begin(ctx context.Context, name string, attr ufs.Attr) (id string, err error) {
	const op = "hadoopfs.Begin"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	id = rand.Text()
	s.open.set(id, true) // a CleanStaging under way knows nothing of it, also when the caller has noted it
	defer func() {
		if err != nil {
			s.open.set(id, false)
			return
		}
		time.AfterFunc(beginTime, func() { s.open.set(id, false) })
	}()
	if err := s.makeStaging(ctx, op, uploadsDir+id); err != nil {
		return "", err
	}
	if s.o.NoAttrs || reflect.ValueOf(attr).IsZero() {
		return id, nil
	}
	value, err := json.Marshal(attr)
	if err == nil {
		err = s.c.SetXAttr(ctx, s.at(uploadsDir+id), xattr, value)
	}
	if errors.Is(err, errs.Invalid) {
		err = errs.New(op, name, errs.TooLarge, fmt.Sprintf("headers and metadata take %d bytes, more than HDFS keeps", len(value)))
	}
	if err != nil {
		_ = s.Cancel(context.WithoutCancel(ctx), name, id) // CleanStaging takes what stays
		return "", err
	}
	return id, nil
}

// Lost implements ufs.Composer. There are none: see CleanStaging.
func (s *Store) Lost(context.Context, string, time.Time, time.Time) ([]string, error) {
	return nil, nil
}

// upload returns the directory of an upload. Errors: errs.NotExist.
func (s *Store) upload(ctx context.Context, op, name, id string) (dir string, err error) {
	none := errs.New(op, name, errs.NotExist, "no such upload")
	if ufs.CheckFile(s.feat, op, id) != nil || strings.Contains(id, "/") {
		return "", none
	}
	dir = uploadsDir + id + "/"
	if _, err := s.c.Status(ctx, s.at(dir)); errors.Is(err, errs.NotExist) {
		return "", none
	} else if err != nil {
		return "", err
	}
	return dir, nil
}

// PutPart implements ufs.Composer.
func (s *Store) PutPart(ctx context.Context, name, id string, number int, size int64, r io.Reader) (etag string, err error) {
	const op = "hadoopfs.PutPart"
	dir, err := s.upload(ctx, op, name, id)
	if err != nil {
		return "", err
	}
	tag := rand.Text()
	part := s.at(dir + partName(number, tag))
	out, err := s.c.Create(ctx, part)
	if err != nil {
		return "", err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, io.LimitReader(r, size), make([]byte, 256<<10))
	switch {
	case err != nil:
	case n != size:
		err = errs.New(op, name, errs.Invalid, fmt.Sprintf("%d bytes were announced, %d came", size, n))
	default:
		err = ctx.Err()
	}
	if err == nil {
		if err = out.Finish(ctx); err == nil {
			return tag, nil
		}
	} else {
		out.Abort()
	}
	ctx, cancel := ufs.Detached(ctx)
	defer cancel()
	_ = s.c.Delete(ctx, part, false) // Cancel and CleanStaging take what stays
	return "", err
}

func partName(number int, tag string) string { return strconv.Itoa(number) + "." + tag }

// CopyPart implements ufs.Composer.
func (s *Store) CopyPart(
	ctx context.Context, name, id string, number int, from, version string, off, n int64,
) (etag string, err error) {
	src, err := s.Open(ctx, from, off, n, version)
	if err != nil {
		return "", err
	}
	defer src.Close() //nolint:errcheck // its bytes are checked below
	if etag, err = s.PutPart(ctx, name, id, number, src.(*reader).left, src); err == nil {
		err = src.(*reader).Check()
	}
	return etag, err
}

// originToken names an attempt in the name of a staged file.
func originToken(origin string) string {
	if origin == "" {
		return "none"
	}
	sum := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(sum[:16])
}

// wholeOf splits the name of a staged file that Complete has made.
func wholeOf(token string) (id, digest string, ok bool) {
	f := strings.Split(token, ".")
	if len(f) != 3 {
		return "", "", false
	}
	return f[0], f[1], true
}

// putBack moves what Complete has staged back to its upload. If that is gone, so is what would need it.
func (s *Store) putBack(ctx context.Context, token string) error {
	id, digest, ok := wholeOf(token)
	if !ok {
		return nil
	}
	if err := s.putReplacedBack(ctx, token); err != nil {
		return err
	}
	err := s.c.Rename(ctx, s.at(tmpDir+token), s.at(uploadsDir+id+"/"+wholePrefix+digest), false)
	if errors.Is(err, errs.NotExist) || errors.Is(err, errs.Exist) {
		err = s.c.Delete(ctx, s.at(tmpDir+token), false)
	}
	if errors.Is(err, errs.NotExist) {
		return nil
	}
	return err
}

// Complete implements ufs.Composer. The attributes are o's, or Begin's if o names none.
func (s *Store) Complete(ctx context.Context, name, id string, parts []ufs.Part, o ufs.CreateOptions) (ufs.Info, error) {
	const op = "hadoopfs.Complete"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return ufs.Info{}, err
	}
	dir, err := s.upload(ctx, op, name, id)
	if err != nil {
		return ufs.Info{}, err
	}
	upload := &s.uploads[maphash.String(s.seed, id)%uint64(len(s.uploads))]
	upload.Lock()
	defer upload.Unlock()
	s.open.set(id, true)
	defer s.open.set(id, false)
	if reflect.ValueOf(o.Attr).IsZero() && !s.o.NoAttrs {
		value, err := s.c.XAttr(ctx, s.at(dir), xattr)
		if err == nil && len(value) > 0 {
			err = json.Unmarshal(value, &o.Attr)
		}
		if err != nil {
			return ufs.Info{}, err
		}
	}
	digest, err := s.join(ctx, op, name, id, parts)
	if err != nil {
		return ufs.Info{}, err
	}
	w, err := s.stageWhole(ctx, name, id, digest, parts, o)
	if err != nil {
		return ufs.Info{}, err
	}
	in, err := w.Commit(ctx)
	if err != nil {
		return ufs.Info{}, err
	}
	ctx, cancel := ufs.Detached(ctx)
	defer cancel()
	_ = s.Cancel(ctx, name, id) // CleanStaging takes what stays
	return in, nil
}

// stageWhole moves the whole of an upload to tmpDir and returns the writer that holds it.
func (s *Store) stageWhole(ctx context.Context, name, id, digest string, parts []ufs.Part, o ufs.CreateOptions) (*writer, error) {
	w := &writer{s: s, ctx: ctx, name: name, size: -1, o: o, token: id + "." + digest + "." + originToken(o.Attr.Origin)}
	for _, p := range parts {
		w.n += p.Size
	}
	token := w.token
	w.back = func(ctx context.Context) { _ = s.putBack(ctx, token) }
	s.open.set(w.token, true)
	if err := s.c.Rename(ctx, s.at(uploadsDir+id+"/"+wholePrefix+digest), s.at(w.staged()), true); errors.Is(err, errs.NotExist) {
		if err = s.makeStaging(ctx, "hadoopfs.Complete", tmpDir); err == nil {
			err = s.c.Rename(ctx, s.at(uploadsDir+id+"/"+wholePrefix+digest), s.at(w.staged()), true)
		}
		if err != nil {
			_ = w.Abort()
			return nil, err
		}
	} else if err != nil {
		_ = w.Abort()
		return nil, err
	}
	return w, nil
}

// join sees to it that the upload's directory holds the whole of the parts, and returns its digest. Errors: errs.Invalid if a
// part is missing or differs.
func (s *Store) join(ctx context.Context, op, name, id string, parts []ufs.Part) (digest string, err error) {
	dir, sum, size := uploadsDir+id+"/", sha256.New(), int64(0)
	for _, p := range parts {
		fmt.Fprintf(sum, "%d %q %d\n", p.Number, p.ETag, p.Size)
		size += p.Size
	}
	digest = hex.EncodeToString(sum.Sum(nil)[:8])
	whole := wholePrefix + digest
	there, err := s.entries(ctx, dir)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(there, func(st Status) bool { return st.Name == whole })
	if i >= 0 && there[i].Size == size {
		return digest, nil
	}
	if i < 0 { // an earlier try may have got as far as to stage it
		staged, err := s.entries(ctx, tmpDir)
		if err != nil {
			return "", err
		}
		for _, st := range staged {
			if sid, d, ok := wholeOf(st.Name); ok && sid == id && d == digest && st.Size == size {
				return digest, s.putBack(ctx, st.Name)
			}
		}
	}
	if filled, err := s.setAside(ctx, dir, whole, size, i >= 0, there); err != nil || filled {
		return digest, err
	}
	var sources []string
	for _, p := range parts {
		part := partName(p.Number, p.ETag)
		j := slices.IndexFunc(there, func(st Status) bool { return st.Name == part })
		if j < 0 {
			return "", errs.New(op, name, errs.Invalid, fmt.Sprintf("part %d is not there, or is another one", p.Number))
		}
		if there[j].Size != p.Size {
			return "", errs.New(op, name, errs.Corrupt, fmt.Sprintf("part %d has %d bytes, not %d", p.Number, there[j].Size, p.Size))
		}
		if p.Size > 0 {
			sources = append(sources, part)
		}
	}
	return digest, s.fill(ctx, dir, whole, sources)
}

// setAside takes away a whole that was begun, if there is one, and reports whether it was filled after all, by a concat that came
// late: then it is back. In between it has another name, under which no concat can reach it.
func (s *Store) setAside(ctx context.Context, dir, whole string, size int64, begun bool, there []Status) (filled bool, err error) {
	late := "late." + whole
	if !begun && !slices.ContainsFunc(there, func(st Status) bool { return st.Name == late }) {
		return false, nil
	}
	if begun { // else an earlier try got as far
		if err := s.c.Rename(ctx, s.at(dir+whole), s.at(dir+late), false); err != nil {
			return false, err
		}
	}
	st, err := s.c.Status(ctx, s.at(dir+late))
	if err != nil {
		return false, err
	}
	if st.Size == size {
		return true, s.c.Rename(ctx, s.at(dir+late), s.at(dir+whole), false)
	}
	return false, s.c.Delete(ctx, s.at(dir+late), false)
}

// fill makes the file whole of the sources, all in dir: by moving their blocks, or, where HDFS refuses that (an encryption
// zone, a snapshot), by copying them.
func (s *Store) fill(ctx context.Context, dir, whole string, sources []string) error {
	out, err := s.c.Create(ctx, s.at(dir+whole))
	if err != nil {
		return err
	}
	if err := out.Finish(ctx); err != nil || len(sources) == 0 {
		return err
	}
	paths := make([]string, len(sources))
	for i, src := range sources {
		paths[i] = s.at(dir + src)
	}
	err = s.c.Concat(ctx, s.at(dir+whole), paths)
	if !errors.Is(err, errs.Invalid) && !errors.Is(err, errs.Unsupported) && !errors.Is(err, errs.Other) {
		return err
	}
	if err := s.c.Delete(ctx, s.at(dir+whole), false); err != nil {
		return err
	}
	if out, err = s.c.Create(ctx, s.at(dir+whole)); err != nil {
		return err
	}
	for _, p := range paths {
		if err := s.pour(ctx, out, p); err != nil {
			out.Abort()
			return err
		}
	}
	return out.Finish(ctx)
}

// pour copies the file at p to out.
func (s *Store) pour(ctx context.Context, out io.Writer, p string) error {
	st, err := s.c.Status(ctx, p)
	if err != nil {
		return err
	}
	in, err := s.c.Open(ctx, p, 0, st.Size)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, io.LimitReader(in, st.Size), make([]byte, 256<<10))
	if err == nil && n != st.Size {
		err = errs.New("hadoopfs.Complete", p, errs.Unavailable, "the store broke off a part")
	}
	return errors.Join(err, in.Close())
}

// Cancel implements ufs.Composer.
func (s *Store) Cancel(ctx context.Context, name, id string) error {
	if ufs.CheckFile(s.feat, "hadoopfs.Cancel", id) != nil || strings.Contains(id, "/") {
		return nil
	}
	err := s.c.Delete(ctx, s.at(uploadsDir+id), true)
	if errors.Is(err, errs.NotExist) {
		return nil
	}
	return err
}
