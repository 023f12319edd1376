package localufs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// However its path is written, a directory has one identity.
func TestRootIdentity(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "x")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Symlink("x", filepath.Join(base, "link"))); err != nil {
		t.Fatal(err)
	}
	t.Chdir(base)
	want, err := Root(dir)
	if err != nil || !strings.HasPrefix(want, "file:/") || !strings.HasSuffix(want, "/x/") {
		t.Fatalf("Root: got %q, %v", want, err)
	}
	for _, path := range []string{dir + "/", base + "//x", base + "/./y/../x", base + "/link", "x", "link/../x"} {
		s, err := Open(path, Options{})
		if err != nil && !strings.Contains(path, "/y/") {
			t.Errorf("Open(%q): %v", path, err)
			continue
		}
		got, err := Root(path)
		if s != nil {
			got = s.Features().Root
			s.Close()
		}
		if got != want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", path, got, err, want)
		}
	}
	if got, err := Root(base + "/link/new/er"); got != want+"new/er/" || err != nil {
		t.Errorf("what is not there yet: got %q, %v, want %q", got, err, want+"new/er/")
	}
	if got, err := Root("/"); got != "file:/" || err != nil {
		t.Errorf("/: got %q, %v", got, err)
	}
}

// A root that is gone, or another directory in its place, is an outage: no name of it is missing, and nothing is written.
func TestRootGone(t *testing.T) {
	for name, lose := range map[string]func(dir string) error{
		"removed": os.RemoveAll,
		"moved":   func(dir string) error { return os.Rename(dir, dir+".moved") },
		"another": func(dir string) error { return errors.Join(os.Rename(dir, dir+".moved"), os.Mkdir(dir, 0o755)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "root")
			s, err := Open(dir, Options{Create: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Mkdir(t.Context(), "d/", ufs.Attr{}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Stat(t.Context(), "no"); !errors.Is(err, errs.NotExist) {
				t.Fatalf("Stat before: got %v, want %v", err, errs.NotExist)
			}
			if err := lose(dir); err != nil {
				t.Fatal(err)
			}
			list := func() error {
				for _, err := range s.List(t.Context(), "", "", false) {
					return err
				}
				return nil
			}
			_, stat := s.Stat(t.Context(), "no")
			_, below := s.Stat(t.Context(), "no/no")
			_, open := s.Open(t.Context(), "no", 0, -1, "")
			_, mkdir := s.Mkdir(t.Context(), "new/", ufs.Attr{})
			for call, err := range map[string]error{
				"Stat": stat, "Stat below": below, "Open": open, "List": list(), "Mkdir": mkdir,
				"Remove": s.Remove(t.Context(), "no", ""), "Rename": s.Rename(t.Context(), "no", "on", false),
				"Trash": s.Trash(t.Context(), "no/"), "Probe": s.Probe(t.Context(), false),
			} {
				if !errors.Is(err, errs.Unavailable) {
					t.Errorf("%s: got %v, want %v", call, err, errs.Unavailable)
				}
			}
			if w, err := s.Create(t.Context(), "new", 1, ufs.CreateOptions{}); err == nil {
				_, _ = w.Write([]byte("x"))
				if _, err := w.Commit(t.Context()); !errors.Is(err, errs.Unavailable) {
					t.Errorf("Commit: got %v, want %v", err, errs.Unavailable)
				}
			} else if !errors.Is(err, errs.Unavailable) {
				t.Errorf("Create: got %v, want %v", err, errs.Unavailable)
			}
		})
	}
}

// A store that is closed leaves nothing of its own, and nothing that is not its own goes.
func TestLeaves(t *testing.T) {
	dir := t.TempDir()
	write := func(more func(s *Store)) {
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		w, err := s.Create(t.Context(), "a", 1, ufs.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte("x"))
		if _, err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		more(s)
	}
	left := func() bool { _, err := os.Stat(filepath.Join(dir, ufs.Staging)); return err == nil }
	write(func(s *Store) {
		if _, err := s.Mkdir(t.Context(), "d/", ufs.Attr{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Trash(t.Context(), "d/"); err != nil {
			t.Fatal(err)
		}
		if !left() {
			t.Error("nothing was staged, so that this test shows nothing")
		}
	})
	if left() {
		t.Error("the staging directories are left behind")
	}
	write(func(s *Store) {
		if _, err := s.Create(t.Context(), "b", 1, ufs.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	if !left() {
		t.Error("what an open writer staged was removed")
	}
}

// A version that one host tells holds on every other that has the file system mounted, where its device has another number.
func TestVersionAcrossHosts(t *testing.T) {
	lustre := int64(0x0bd00bd0)
	for name, c := range map[string]struct {
		fsType int64
		same   bool
	}{
		"ext4": {unix.EXT4_SUPER_MAGIC, false}, "xfs": {unix.XFS_SUPER_MAGIC, false}, "tmpfs": {unix.TMPFS_MAGIC, false},
		"nfs": {unix.NFS_SUPER_MAGIC, true}, "smb": {unix.SMB2_SUPER_MAGIC, true}, "cifs": {int64(unix.CIFS_SUPER_MAGIC), true},
		"cifs in 32 bits": {int64(int32(-(1<<32 - unix.CIFS_SUPER_MAGIC))), true},
		"ceph":            {unix.CEPH_SUPER_MAGIC, true}, "fuse": {unix.FUSE_SUPER_MAGIC, true}, "9p": {unix.V9FS_MAGIC, true},
		"lustre": {lustre, true},
	} {
		s, err := Open(t.TempDir(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.suit(c.fsType, Options{})
		here := unix.Stat_t{Dev: 40, Ino: 7, Size: 3, Mtim: unix.Timespec{Sec: 5}, Ctim: unix.Timespec{Sec: 6}}
		there, other := here, here
		there.Dev, other.Ino = 41, 8
		if got := s.versionOf(&here) == s.versionOf(&there); got != c.same {
			t.Errorf("%s: the same version on another device: %v, want %v", name, got, c.same)
		}
		if s.versionOf(&here) == s.versionOf(&other) {
			t.Errorf("%s: another inode has the same version", name)
		}
		if slow := s.Features().Racy >= time.Second; slow != c.same {
			t.Errorf("%s: versions are racy for %v", name, s.Features().Racy)
		}
	}
}
