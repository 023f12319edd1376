package dirlock_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/dirlock"
	"github.com/sluicefs/sluice/core/errs"
)

func TestTake(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("a process that ended long ago"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := dirlock.Take(dir, "lock")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dirlock.Take(dir, "lock"); !errors.Is(err, errs.Busy) || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d;", os.Getpid())) {
		t.Errorf("taken twice: %v", err)
	}
	other, err := dirlock.Take(t.TempDir(), "lock")
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	f.Close()
	if f, err = dirlock.Take(dir, "lock"); err != nil {
		t.Fatalf("given free: %v", err)
	}
	f.Close()
	if _, err := dirlock.Take(filepath.Join(dir, "none"), "lock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not: %v", err)
	}
}
