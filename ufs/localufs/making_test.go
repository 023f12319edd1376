package localufs

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// A directory keeps what tells it from another as long as it is there, wherever it is moved, and another in its place has something else.
func TestIs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "disk")
	is := func(dir string) string {
		t.Helper()
		s, err := Open(dir, Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return s.Features().Is
	}
	was := is(dir)
	if was == "" {
		t.Fatal("nothing is told")
	}
	if !strings.Contains(was, "inode=") {
		t.Skip("a file system that does not keep the numbers of inodes: " + was)
	}
	if now := is(dir); !ufs.SameRoot(was, now) {
		t.Errorf("opened again it is %q, was %q", now, was)
	}
	if err := os.Rename(dir, dir+".moved"); err != nil {
		t.Fatal(err)
	}
	if now := is(dir + ".moved"); !ufs.SameRoot(was, now) {
		t.Errorf("moved it is %q, was %q", now, was)
	}
	if now := is(dir); ufs.SameRoot(was, now) {
		t.Errorf("another directory is %q too", now)
	}
	if strings.Contains(was, "made=") { // else a number that is given again tells nothing
		if err := os.Remove(dir + ".moved"); err != nil {
			t.Fatal(err)
		}
		if now := is(dir + ".moved"); ufs.SameRoot(was, now) {
			t.Errorf("one that was made anew is %q too", now)
		}
	}
}

// The option create makes a directory where that is allowed, and nowhere else.
func TestMaking(t *testing.T) {
	base := t.TempDir()
	refused := errs.New("test", "", errs.Invalid, "it is refused")
	if err := errors.Join(os.WriteFile(base+"/file", nil, 0o644), os.Symlink("nowhere", base+"/link")); err != nil {
		t.Fatal(err)
	}
	var asked string
	open := func(dir string, m *ufs.Making) error {
		ctx := t.Context()
		if asked = ""; m != nil {
			m.Check = func(root string) error {
				if asked = root; strings.Contains(root, "refused") {
					return refused
				}
				return nil
			}
			ctx = ufs.WithMaking(ctx, *m)
		}
		s, err := OpenURI(ctx, &url.URL{Scheme: "file", Path: base + dir}, map[string]string{"create": "true"})
		if err == nil {
			err = s.Close()
		}
		return err
	}
	for _, c := range []struct {
		dir  string
		m    *ufs.Making
		want error
		made bool
	}{
		{"/a/b", nil, errs.NotExist, false},
		{"/a/b", &ufs.Making{Dry: true}, ufs.ErrWouldMake, false},
		{"/refused/b", &ufs.Making{}, refused, false},
		{"/refused/b", &ufs.Making{Dry: true}, refused, false},
		{"/file/b", &ufs.Making{Dry: true}, errs.NotDir, false},
		{"/link", &ufs.Making{Dry: true}, errs.NotExist, false},
		{"/link/b", &ufs.Making{}, errs.NotExist, false},
		{"/c/../a/b", &ufs.Making{}, nil, true},
		{"/a/b", &ufs.Making{Dry: true}, nil, true},
		{"/a/b", nil, nil, true},
	} {
		if err := open(c.dir, c.m); !errors.Is(err, c.want) {
			t.Errorf("%s with %+v: got %v, want %v", c.dir, c.m, err, c.want)
		}
		if _, err := os.Stat(base + "/a"); (err == nil) != c.made {
			t.Errorf("%s with %+v: a was made: %v, want %v", c.dir, c.m, err == nil, c.made)
		}
		if asked != "" && !strings.HasSuffix(asked, filepath.Clean(c.dir)+"/") {
			t.Errorf("%s: asked for %q", c.dir, asked)
		}
		if _, err := os.Stat(base + "/refused"); err == nil {
			t.Errorf("%s with %+v made what was refused", c.dir, c.m)
		}
	}
	if os.Getuid() != 0 {
		if err := os.Chmod(base, 0o555); err != nil {
			t.Fatal(err)
		}
		if err := open("/no", &ufs.Making{Dry: true}); !errors.Is(err, errs.Permission) {
			t.Errorf("in a directory that is not writable: %v", err)
		}
		_ = os.Chmod(base, 0o755)
	}
}
