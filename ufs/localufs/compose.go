package localufs

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// uploadsDir holds a directory per multipart upload, with a file per part: its number, and after a dot a tag that tells
// one attempt at the part from another. A part is durable when PutPart returns.
const uploadsDir = ufs.Staging + "uploads/"

// Begin implements ufs.Composer.
func (s *Store) Begin(ctx context.Context, name string, attr ufs.Attr) (id string, err error) {
	const op = "localufs.Begin"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return "", err
	}
	id = rand.Text()
	fd, err := s.makeDir(ctx, uploadsDir+id+"/")
	if err != nil {
		return "", outside(op, name, err)
	}
	defer closeFD(fd)
	if err := s.keepAttr(fd, attr); err != nil {
		_ = s.Cancel(context.WithoutCancel(ctx), name, id) // CleanStaging takes what stays
		return "", classify(op, name, err)
	}
	return id, nil
}

// Lost implements ufs.Composer. There are none: see CleanStaging.
func (s *Store) Lost(context.Context, string, time.Time, time.Time) ([]string, error) {
	return nil, nil
}

// attrFile holds, in an upload's directory, the attributes given to Begin.
const attrFile = "attr"

func (s *Store) keepAttr(dir int, a ufs.Attr) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, attrFile, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), attrFile)
	_, err = f.Write(b)
	if err == nil {
		err = errors.Join(s.fsync(fd, "attributes of an upload"), s.fsync(dir, "parent of an upload's attributes"))
	}
	return errors.Join(err, f.Close())
}

func keptAttr(dir int) (a ufs.Attr, err error) {
	fd, err := unix.Openat(dir, attrFile, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return a, err
	}
	f := os.NewFile(uintptr(fd), attrFile)
	defer f.Close() //nolint:errcheck // only read
	err = json.NewDecoder(f).Decode(&a)
	return a, err
}

// upload opens the directory of an upload.
func (s *Store) upload(op, name, id string) (fd int, err error) {
	if ufs.CheckFile(s.feat, op, id) != nil {
		return -1, errs.New(op, name, errs.NotExist, "no such upload")
	}
	fd, err = s.open(uploadsDir+id+"/", unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return -1, errs.New(op, name, errs.NotExist, "no such upload")
	}
	return fd, outside(op, name, err)
}

// PutPart implements ufs.Composer.
func (s *Store) PutPart(ctx context.Context, name, id string, number int, size int64, r io.Reader) (etag string, err error) {
	const op = "localufs.PutPart"
	dir, err := s.upload(op, name, id)
	if err != nil {
		return "", err
	}
	defer closeFD(dir)
	if err := s.room(op, name, size); err != nil {
		return "", err
	}
	tag := rand.Text()
	part := partName(number, tag)
	fd, err := unix.Openat(dir, part, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", classify(op, name, err)
	}
	f := os.NewFile(uintptr(fd), part)
	n, err := f.ReadFrom(io.LimitReader(s.spending(op, name, r), size))
	switch {
	case err != nil:
		err = received(op, name, err)
	case n != size:
		err = errs.New(op, name, errs.Invalid, fmt.Sprintf("%d bytes were announced, %d came", size, n))
	case ctx.Err() != nil:
		err = ctx.Err()
	default:
		err = classify(op, name, errors.Join(s.fsync(fd, "part"), s.fsync(dir, "parent of a part")))
	}
	_ = f.Close() // synced before, or dropped
	if err != nil {
		_ = unix.Unlinkat(dir, part, 0) // Cancel and CleanStaging take what stays
		return "", err
	}
	return tag, nil
}

// received classifies an error of copying from a reader to the disk: the reader's own errors pass unchanged.
func received(op, name string, err error) error {
	if _, ok := errors.AsType[unix.Errno](err); ok {
		return classify(op, name, err)
	}
	return err
}

func partName(number int, tag string) string { return strconv.Itoa(number) + "." + tag }

// CopyPart implements ufs.Composer.
func (s *Store) CopyPart(
	ctx context.Context, name, id string, number int, from, version string, off, n int64,
) (etag string, err error) {
	const op = "localufs.CopyPart"
	if err := s.begin(ctx, op, from, ufs.CheckFile); err != nil {
		return "", err
	}
	src, err := s.openFile(op, from, version)
	if err != nil {
		return "", err
	}
	defer src.Close() //nolint:errcheck // only read
	if n, err = ufs.Span(op, from, off, n, src.st.Size); err != nil {
		return "", err
	}
	if _, err := src.f.Seek(off, io.SeekStart); err != nil {
		return "", classify(op, from, err)
	}
	if etag, err = s.PutPart(ctx, name, id, number, n, src.f); err == nil {
		err = src.Check()
	}
	return etag, err
}

// Complete implements ufs.Composer. The parts are copied one behind the other into a staged file, by reference where the
// file system can (XFS, btrfs), which then gets the name as any write does. The attributes are o's, or Begin's if o names
// none.
func (s *Store) Complete(ctx context.Context, name, id string, parts []ufs.Part, o ufs.CreateOptions) (ufs.Info, error) {
	const op = "localufs.Complete"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return ufs.Info{}, err
	}
	dir, err := s.upload(op, name, id)
	if err != nil {
		return ufs.Info{}, err
	}
	defer closeFD(dir)
	if reflect.ValueOf(o.Attr).IsZero() {
		if o.Attr, err = keptAttr(dir); err != nil {
			return ufs.Info{}, classify(op, name, err)
		}
	}
	var size int64
	for _, p := range parts {
		size += p.Size
	}
	if err := s.room(op, name, size); err != nil {
		return ufs.Info{}, err
	}
	w, err := s.stage(ctx, op, name, originToken(o.Attr.Origin), -1, o)
	if err != nil {
		return ufs.Info{}, err
	}
	for _, p := range parts {
		if err := w.addPart(ctx, op, dir, p); err != nil {
			_ = w.Abort() // the part's error is the one that counts
			return ufs.Info{}, err
		}
	}
	in, err := w.Commit(ctx)
	if err != nil {
		return ufs.Info{}, err
	}
	_ = s.Cancel(context.WithoutCancel(ctx), name, id) // CleanStaging takes what stays
	return in, nil
}

// originToken is the token of what is staged in one call, so that Discard finds it by the attempt: a name for any origin, ""
// for none.
func originToken(origin string) string {
	if origin == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(origin))
	return "by-" + hex.EncodeToString(sum[:16])
}

// addPart copies one part behind what is staged.
func (w *writer) addPart(ctx context.Context, op string, dir int, p ufs.Part) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, partName(p.Number, p.ETag), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return errs.New(op, w.name, errs.Invalid, fmt.Sprintf("part %d is not there, or is another one", p.Number))
	}
	if err != nil {
		return classify(op, w.name, err)
	}
	f := os.NewFile(uintptr(fd), "part")
	defer f.Close() //nolint:errcheck // only read
	n, err := w.f.ReadFrom(f)
	w.n += n
	if err == nil && n != p.Size {
		return errs.New(op, w.name, errs.Corrupt, fmt.Sprintf("part %d has %d bytes, not %d", p.Number, n, p.Size))
	}
	return classify(op, w.name, err)
}

// Cancel implements ufs.Composer.
func (s *Store) Cancel(ctx context.Context, name, id string) error {
	const op = "localufs.Cancel"
	if ufs.CheckFile(s.feat, op, id) != nil {
		return nil
	}
	dir, err := s.open(uploadsDir, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return outside(op, name, err)
	}
	defer closeFD(dir)
	err = removeAll(ctx, dir, id)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return classify(op, name, err)
}
