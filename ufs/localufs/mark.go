package localufs

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Mark implements ufs.Marked.
func (s *Store) Mark(ctx context.Context) (string, error) {
	const op = "localufs.Mark"
	if err := ctx.Err(); err != nil {
		return "", err
	}
	fd, err := s.open(ufs.MarkName, look|unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", outside(op, ufs.MarkName, err)
	}
	f := os.NewFile(uintptr(fd), ufs.MarkName)
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, ufs.MaxMark))
	return strings.TrimSpace(string(b)), classify(op, ufs.MarkName, err)
}

// SetMark implements ufs.Marked.
func (s *Store) SetMark(ctx context.Context, mark string) error {
	const op = "localufs.SetMark"
	switch was, err := s.Mark(ctx); {
	case err != nil:
		return err
	case was != "":
		return errs.New(op, ufs.MarkName, errs.Exist, "the store is marked already")
	}
	w, err := s.stage(ctx, op, ufs.MarkName, "", int64(len(mark)), ufs.CreateOptions{})
	if err != nil {
		return err
	}
	defer w.Abort() //nolint:errcheck // CleanStaging takes what it leaves
	if _, err := w.Write([]byte(mark)); err != nil {
		return err
	}
	if err := w.s.fsync(int(w.f.Fd()), "mark"); err != nil {
		return classify(op, ufs.MarkName, err)
	}
	p, err := s.makeParent(ctx, ufs.MarkName)
	if err != nil {
		return outside(op, ufs.MarkName, err)
	}
	defer p.close()
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	if err := unix.Renameat(w.tmp, w.token, p.dir, p.base); err != nil {
		return classify(op, ufs.MarkName, err)
	}
	return s.synced(op, ufs.MarkName, p.dir, "parent of the mark")
}
