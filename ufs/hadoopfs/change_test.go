package hadoopfs

import (
	"errors"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

var errUnsent = errs.E("fake", "", errs.Permission, ufs.ErrUnsent)

// TestHalfway has the connection go after the first step of changes that have several: what comes of them is not known.
func TestHalfway(t *testing.T) {
	f, s := newFake(t)
	in := put(t, s, "a", "data")
	gone := false
	cut := func(method, p string) {
		gone = false
		f.before = func(m, q string) error {
			if gone {
				return errUnsent
			}
			gone = m == method && q == p
			return nil
		}
	}
	if err := s.c.Mkdirs(t.Context(), s.at(removedDir)); err != nil {
		t.Fatal(err)
	}
	cut("Rename", "/a")
	rerr := s.Remove(t.Context(), "a", in.Version)
	cut("Mkdirs", "/d/")
	if f.nodes["/d"] == nil {
		cut("Mkdirs", "/d")
	}
	_, merr := s.Mkdir(t.Context(), "d/", ufs.Attr{Marker: true})
	f.before = nil
	if len(f.below("/"+removedDir)) != 1 || f.nodes["/d"] == nil {
		t.Fatalf("the first steps were not made: %q", f.below("/"))
	}
	for what, err := range map[string]error{"removal": rerr, "directory": merr} {
		if errs.KindOf(err) != errs.Unavailable || errors.Is(err, ufs.ErrUnsent) || errors.Is(err, errs.Permission) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// TestPlainRename replaces on a server that cannot rename over a file, and stops in each step.
func TestPlainRename(t *testing.T) {
	for stopAt := 1; ; stopAt++ {
		f, s := newFake(t)
		f.plain = true
		put(t, s, "d/a", "old")
		n := 0
		f.before = func(method, _ string) error {
			if method == "Status" || method == "List" {
				return nil
			}
			if n++; n >= stopAt {
				return errUnsent
			}
			return nil
		}
		_, err := ufs.WriteFile(t.Context(), s, "d/a", []byte("new"), ufs.CreateOptions{})
		f.before = nil
		if err == nil && n < stopAt {
			if stopAt < 5 {
				t.Errorf("a replacement has %d steps only", stopAt)
			}
			return
		}
		if cerr := s.CleanStaging(t.Context(), func(string) bool { return false }); cerr != nil {
			t.Fatal(cerr)
		}
		wantFile(t, s, "d/a", map[bool]string{true: "new", false: "old"}[err == nil])
		for _, p := range f.below("/.sluice/") {
			if strings.Count(p, "/") > 2 {
				t.Errorf("stopped at %d: %s stays", stopAt, p)
			}
		}
	}
}

// TestRemovedStaysRemoved removes a file after its replacement, of which the old one stayed aside.
func TestRemovedStaysRemoved(t *testing.T) {
	f, s := newFake(t)
	f.plain = true
	put(t, s, "d/a", "old")
	f.before = func(method, p string) error {
		if method == "Delete" && strings.Contains(p, replacedDir) {
			return errUnsent
		}
		return nil
	}
	put(t, s, "d/a", "new")
	f.before = nil
	if err := s.Remove(t.Context(), "d/a", ""); err != nil {
		t.Fatal(err)
	}
	if err := s.CleanStaging(t.Context(), func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "d/a"); !errors.Is(err, errs.NotExist) {
		t.Errorf("a removed file is back: %v, %q", err, f.below("/"))
	}
}

// TestPlainFeatures asks for a rename over a file where there is none in one step.
func TestPlainFeatures(t *testing.T) {
	f, s := newFake(t)
	f.plain = true
	put(t, s, "a", "one")
	put(t, s, "b", "two")
	if err := s.Rename(t.Context(), "a", "b", true); !errors.Is(err, errs.Unsupported) {
		t.Errorf("got %v", err)
	}
	if s.Features().AtomicRename {
		t.Error("renames are said to be atomic")
	}
	wantFile(t, s, "a", "one")
	wantFile(t, s, "b", "two")
}
