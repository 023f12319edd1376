package localufs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

func TestSuite(t *testing.T) {
	ufstest.Run(t, func(t *testing.T) ufs.Store { return openTemp(t) })
}

func openTemp(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A staging directory that cannot be made fails the write, and hands out no writer that a caller could take for one.
func TestNoStaging(t *testing.T) {
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, ".sluice"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Open(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if w, err := s.Create(t.Context(), "a", 1, ufs.CreateOptions{}); err == nil || w != nil {
		t.Errorf("Create: got %v, %v, want no writer and an error", w, err)
	}
	if err := os.WriteFile(filepath.Join(root, "b"), []byte("b"), 0o644); err != nil {
		t.Fatal(err)
	}
	if w, err := s.Append(t.Context(), "b", "", ufs.Attr{}); err == nil || w != nil {
		t.Errorf("Append: got %v, %v, want no writer and an error", w, err)
	}
}
