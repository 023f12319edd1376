package localufs

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// TestReserve checks that every way to add bytes leaves the reserve alone, and that what is there can be read and removed.
func TestReserve(t *testing.T) {
	s := openTemp(t)
	w, err := s.Create(t.Context(), "a", 1, ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	in, err := w.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open, err := s.Create(t.Context(), "b", -1, ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Begin(t.Context(), "c", ufs.Attr{})
	if err != nil {
		t.Fatal(err)
	}
	tag, err := s.PutPart(t.Context(), "c", id, 1, 1, strings.NewReader("c"))
	if err != nil {
		t.Fatal(err)
	}

	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(s.root.Fd()), &fs); err != nil {
		t.Fatal(err)
	}
	s.reserve = int64(fs.Blocks) * int64(fs.Bsize) //nolint:unconvert // the widths differ by architecture
	full := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, errs.NoSpace) {
			t.Errorf("%s: got %v, want NoSpace", what, err)
		}
	}
	_, err = s.Create(t.Context(), "d", 1, ufs.CreateOptions{})
	full("Create", err)
	_, err = open.Write([]byte("b"))
	full("Write", err)
	if err := open.Abort(); err != nil {
		t.Error(err)
	}
	_, err = s.Append(t.Context(), "a", in.Version, ufs.Attr{})
	full("Append", err)
	_, err = s.Copy(t.Context(), "a", in.Version, "d", nil)
	full("Copy", err)
	_, err = s.PutPart(t.Context(), "c", id, 2, 1, strings.NewReader("c"))
	full("PutPart", err)
	_, err = s.Complete(t.Context(), "c", id, []ufs.Part{{Number: 1, ETag: tag, Size: 1}}, ufs.CreateOptions{})
	full("Complete", err)
	if err := s.Cancel(t.Context(), "c", id); err != nil {
		t.Error(err)
	}
	if err := s.Remove(t.Context(), "a", in.Version); err != nil {
		t.Error(err)
	}
}
