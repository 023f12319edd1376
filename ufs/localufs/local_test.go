package localufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// path returns the name of a file of s for use without s.
func path(s *Store, name string) string { return filepath.Join(s.root.Name(), name) }

func write(t *testing.T, s *Store, name, data string, o ufs.CreateOptions) ufs.Info {
	t.Helper()
	in, err := ufs.WriteFile(t.Context(), s, name, []byte(data), o)
	must(t, err)
	return in
}

func names(t *testing.T, s *Store, dir string) []string {
	t.Helper()
	var all []string
	for in, err := range s.List(t.Context(), dir, "", false) {
		must(t, err)
		all = append(all, in.Name)
	}
	return all
}

func wantKind(t *testing.T, what string, err error, want errs.Kind) {
	t.Helper()
	if errs.KindOf(err) != want || err == nil {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestPlainFiles(t *testing.T) {
	s := openTemp(t)
	write(t, s, "d/a", "bytes", ufs.CreateOptions{})
	got, err := os.ReadFile(path(s, "d/a"))
	must(t, err)
	st, err := os.Stat(path(s, "d/a"))
	must(t, err)
	if string(got) != "bytes" || st.Mode() != 0o644 {
		t.Errorf("on disk: %q %v", got, st.Mode())
	}
	must(t, os.WriteFile(path(s, "d/b"), []byte("foreign"), 0o600))
	in, err := s.Stat(t.Context(), "d/b")
	must(t, err)
	if in.ETag != "" || !in.Full || in.Mode != 0o600 || in.Size != 7 || in.Owner == "" {
		t.Errorf("a foreign file: got %+v", in)
	}
}

func TestSymlinks(t *testing.T) {
	s := openTemp(t)
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644))
	write(t, s, "d/a", "inside", ufs.CreateOptions{})
	for link, target := range map[string]string{
		"abs": outside, "up": "../" + filepath.Base(outside), "file": filepath.Join(outside, "secret"), "in": "d",
		"inner": "d/a", "loop": "loop", "dangling": "nowhere", "proc": "/proc/self/root",
	} {
		must(t, os.Symlink(target, path(s, link)))
	}
	ctx := t.Context()
	for _, name := range []string{"abs/secret", "up/secret", "file", "abs/", "up/", "proc/etc/passwd", "loop", "loop/x"} {
		_, err := s.Stat(ctx, name)
		wantKind(t, "stat "+name, err, errs.Permission)
		if ufs.IsDir(name) {
			continue
		}
		_, err = s.Open(ctx, name, 0, -1, "")
		wantKind(t, "open "+name, err, errs.Permission)
	}
	for _, name := range []string{"abs/new", "up/new", "abs/x/new", "proc/tmp/new"} {
		_, err := ufs.WriteFile(ctx, s, name, []byte("x"), ufs.CreateOptions{})
		wantKind(t, "write "+name, err, errs.Permission)
		wantKind(t, "remove "+name, s.Remove(ctx, name, ""), errs.Permission)
		wantKind(t, "rename to "+name, s.Rename(ctx, "d/a", name, true), errs.Permission)
		_, err = s.Mkdir(ctx, name+"/", ufs.Attr{})
		wantKind(t, "mkdir "+name, err, errs.Permission)
	}
	_, err := s.Stat(ctx, "dangling")
	wantKind(t, "stat of a dangling link", err, errs.NotExist)
	if got, want := names(t, s, ""), []string{"d/", "in/", "inner"}; !slices.Equal(got, want) {
		t.Errorf("list: got %q, want %q", got, want)
	}
	write(t, s, "in/b", "through the link", ufs.CreateOptions{})
	if got, want := names(t, s, "d/"), []string{"d/a", "d/b"}; !slices.Equal(got, want) {
		t.Errorf("list: got %q, want %q", got, want)
	}
	in, err := s.Stat(ctx, "inner")
	must(t, err)
	write(t, s, "inner", "replaced", ufs.CreateOptions{IfVersion: in.Version})
	if b, err := os.ReadFile(path(s, "d/a")); err != nil || string(b) != "inside" {
		t.Errorf("a write to a link changed its target: %q, %v", b, err)
	}
	must(t, s.Trash(ctx, "in/"))
	if got := names(t, s, "d/"); len(got) != 2 {
		t.Errorf("trash of a link emptied its target: %q", got)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside the root: %v, %v", left, err)
	}
}

// TestSymlinkRace swaps a directory for a link that leads outside while files are written below it.
func TestSymlinkRace(t *testing.T) {
	s := openTemp(t)
	outside := t.TempDir()
	must(t, os.Mkdir(path(s, "d"), 0o755))
	must(t, os.Symlink(outside, path(s, "x")))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = unix.Renameat2(unix.AT_FDCWD, path(s, "d"), unix.AT_FDCWD, path(s, "x"), unix.RENAME_EXCHANGE)
		}
	}()
	for i := range 300 {
		_, err := ufs.WriteFile(ctx, s, fmt.Sprintf("d/%d", i), []byte("x"), ufs.CreateOptions{IfNew: i%2 == 0})
		if err != nil && !errors.Is(err, errs.Permission) {
			t.Errorf("write: %v", err)
		}
		_ = s.Remove(ctx, fmt.Sprintf("d/%d", i), "")
	}
	cancel()
	<-done
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside the root: %v, %v", left, err)
	}
}

func TestSpecialFiles(t *testing.T) {
	s := openTemp(t)
	must(t, unix.Mkfifo(path(s, "pipe"), 0o644))
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer closeFD(sock)
	t.Chdir(s.root.Name()) // the address of a socket is short
	must(t, unix.Bind(sock, &unix.SockaddrUnix{Name: "sock"}))
	must(t, os.WriteFile(path(s, "\xff\xfe"), nil, 0o644))
	for _, name := range []string{"pipe", "sock"} {
		_, err := s.Stat(t.Context(), name)
		wantKind(t, "stat "+name, err, errs.NotExist)
		_, err = s.Open(t.Context(), name, 0, -1, "")
		wantKind(t, "open "+name, err, errs.NotExist)
		wantKind(t, "remove "+name, s.Remove(t.Context(), name, ""), errs.NotExist)
		wantKind(t, "rename "+name, s.Rename(t.Context(), name, "b", true), errs.NotExist)
	}
	if got := names(t, s, ""); len(got) > 0 || s.Skipped() != 1 {
		t.Errorf("list: got %q, %d skipped, want none and 1", got, s.Skipped())
	}
}

// TestForeignChanges checks that attributes count only for the bytes they were written with.
func TestForeignChanges(t *testing.T) {
	s := openTemp(t)
	if !s.Features().Attrs {
		t.Skip("no extended attributes here")
	}
	attr := ufs.Attr{ETag: "acknowledged", Mode: 0o640, Owner: "ann", User: map[string]string{"k": "v"}}
	stat := func() ufs.Info {
		in, err := s.Stat(t.Context(), "a")
		must(t, err)
		return in
	}
	for what, change := range map[string]func(name string){
		"rewritten in place": func(name string) { must(t, os.WriteFile(name, []byte("other"), 0o644)) },
		"appended to": func(name string) {
			f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteString("more")
			must(t, errors.Join(err, f.Close()))
		},
		"touched": func(name string) { must(t, os.Chtimes(name, time.Time{}, time.Unix(1, 0))) },
		"replaced by a copy with all its attributes": func(name string) {
			value := make([]byte, 4096)
			n, err := unix.Getxattr(name, xattr, value)
			must(t, err)
			var st unix.Stat_t
			must(t, unix.Stat(name, &st))
			must(t, os.WriteFile(name+".copy", []byte("bytes"), 0o640))
			must(t, unix.Setxattr(name+".copy", xattr, value[:n], 0))
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, name+".copy", []unix.Timespec{st.Mtim, st.Mtim}, 0))
			must(t, os.Rename(name+".copy", name))
		},
	} {
		in := write(t, s, "a", "bytes", ufs.CreateOptions{Attr: attr})
		if got := stat(); got.ETag != "acknowledged" || got.Owner != "ann" || got.Mode != 0o640 {
			t.Errorf("before: %+v", got)
		}
		change(path(s, "a"))
		if got := stat(); got.ETag != "" || got.Attr.User != nil || got.Owner == "ann" || got.Version == in.Version {
			t.Errorf("%s: got %+v", what, got)
		}
	}
	write(t, s, "a", "bytes", ufs.CreateOptions{Attr: attr})
	must(t, os.Chmod(path(s, "a"), 0o600))
	if got := stat(); got.Mode != 0o600 || got.ETag != "acknowledged" {
		t.Errorf("after chmod: got %+v", got)
	}
}

func TestReaderSeesChanges(t *testing.T) {
	s := openTemp(t)
	name := func() string { return path(s, "a") }
	for what, c := range map[string]struct {
		change func(st unix.Stat_t)
		want   errs.Kind
	}{
		"untouched":            {func(unix.Stat_t) {}, errs.Other},
		"removed":              {func(unix.Stat_t) { must(t, os.Remove(name())) }, errs.Other},
		"replaced":             {func(unix.Stat_t) { write(t, s, "a", "other", ufs.CreateOptions{}) }, errs.Other},
		"renamed by the store": {func(unix.Stat_t) { must(t, s.Rename(t.Context(), "a", "b", true)) }, errs.Other},
		"given attributes by the store": {func(unix.Stat_t) {
			_, err := s.SetAttr(t.Context(), "a", "", ufs.Attr{Mode: 0o600})
			must(t, errors.Join(err, s.Rename(t.Context(), "a", "b", true)))
		}, errs.Other},
		"renamed by another": {func(unix.Stat_t) { must(t, os.Rename(name(), name()+"2")) }, errs.Precondition},
		"changed by another, and then renamed by the store": {func(st unix.Stat_t) {
			must(t, os.Chmod(name(), 0o600))
			must(t, s.Rename(t.Context(), "a", "b", true))
		}, errs.Precondition},
		"truncated": {func(unix.Stat_t) { must(t, os.Truncate(name(), 2)) }, errs.Precondition},
		"rewritten with size and time restored": {func(st unix.Stat_t) {
			f, err := os.OpenFile(name(), os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("XXXXX"), 3)
			must(t, errors.Join(err, f.Close()))
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, name(), []unix.Timespec{st.Mtim, st.Mtim}, 0))
		}, errs.Precondition},
	} {
		in := write(t, s, "a", "0123456789", ufs.CreateOptions{})
		var st unix.Stat_t
		must(t, unix.Stat(name(), &st))
		r, err := s.Open(t.Context(), "a", 0, -1, in.Version)
		must(t, err)
		_, err = io.ReadFull(r, make([]byte, 2))
		must(t, err)
		c.change(st)
		_, err = io.ReadAll(r)
		if errs.KindOf(err) != c.want || (err == nil) != (c.want == errs.Other) {
			t.Errorf("%s: got %v, want %v", what, err, c.want)
		}
		must(t, r.Close())
	}
}

func TestCleanStaging(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	none := func(string) bool { return false }
	stage := func() *writer {
		w, err := s.stage(ctx, "test", "a", "", -1, ufs.CreateOptions{})
		must(t, err)
		return w
	}
	staged := func() int {
		all, err := os.ReadDir(path(s, tmpDir))
		must(t, err)
		return len(all)
	}
	open, crashed, named := stage(), stage(), stage()
	must(t, errors.Join(crashed.f.Close(), named.f.Close())) // as a crash would, and with it their locks
	must(t, os.MkdirAll(path(s, trashDir+"left/over"), 0o755))
	must(t, os.WriteFile(path(s, trashDir+"left/over/file"), nil, 0o644))
	other, err := Open(s.root.Name(), Options{}) // as another process would
	must(t, err)
	must(t, other.CleanStaging(ctx, func(token string) bool { return token == named.Token() }))
	if n := staged(); n != 2 {
		t.Errorf("%d staged files are left, want the open and the named one", n)
	}
	if left, err := os.ReadDir(path(s, trashDir)); err != nil || len(left) > 0 {
		t.Errorf("trash: %v, %v", left, err)
	}
	must(t, other.CleanStaging(ctx, none))
	if n := staged(); n != 1 {
		t.Errorf("%d staged files are left, want the open one", n)
	}
	_, err = open.Commit(ctx)
	must(t, err)
	must(t, other.CleanStaging(ctx, none))
	if n := staged(); n != 0 || !slices.Equal(names(t, s, ""), []string{"a"}) {
		t.Errorf("%d staged files are left; the store holds %q", n, names(t, s, ""))
	}
}

// TestNothingStays checks that no path through a write leaves a staged file.
func TestNothingStays(t *testing.T) {
	s := openTemp(t)
	in := write(t, s, "a", "x", ufs.CreateOptions{})
	write(t, s, "a", "y", ufs.CreateOptions{IfVersion: in.Version})
	for _, o := range []ufs.CreateOptions{{IfNew: true}, {IfVersion: in.Version}, {IfVersion: "1"}} {
		if _, err := ufs.WriteFile(t.Context(), s, "a", nil, o); err == nil {
			t.Errorf("%+v: the write succeeded", o)
		}
	}
	wantKind(t, "remove", s.Remove(t.Context(), "a", in.Version), errs.Precondition)
	in, err := s.Stat(t.Context(), "a")
	must(t, err)
	must(t, s.Remove(t.Context(), "a", in.Version))
	must(t, s.Probe(t.Context(), true))
	big := ufs.Attr{User: map[string]string{"k": strings.Repeat("v", 100_000)}}
	if s.Features().Attrs {
		_, err := ufs.WriteFile(t.Context(), s, "b", nil, ufs.CreateOptions{Attr: big})
		wantKind(t, "write with 100 kB of metadata", err, errs.TooLarge)
	}
	left, err := os.ReadDir(path(s, tmpDir))
	must(t, err)
	if len(left) > 0 || len(names(t, s, "")) > 0 {
		t.Errorf("left behind: %v, %q", left, names(t, s, ""))
	}
}

func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s, err := Open(dir, Options{})
	must(t, err)
	write(t, s, "a", "kept", ufs.CreateOptions{})
	_, err = ufs.WriteFile(t.Context(), s, "b", make([]byte, 2<<20), ufs.CreateOptions{})
	wantKind(t, "write", err, errs.NoSpace)
	if got := names(t, s, ""); !slices.Equal(got, []string{"a"}) {
		t.Errorf("list: got %q", got)
	}
	b, err := ufs.ReadAll(t.Context(), s, "a", "", 10)
	if err != nil || string(b) != "kept" {
		t.Errorf("read on a full disk: got %q, %v", b, err)
	}
	write(t, s, "c", strings.Repeat("x", 100<<10), ufs.CreateOptions{})
}

func TestErrnoKinds(t *testing.T) {
	for errno, want := range map[unix.Errno]errs.Kind{
		unix.ENOENT: errs.NotExist, unix.EEXIST: errs.Exist, unix.ENOSPC: errs.NoSpace, unix.EDQUOT: errs.NoSpace,
		unix.EACCES: errs.Permission, unix.EPERM: errs.Permission, unix.EROFS: errs.Permission, unix.EIO: errs.Unavailable,
		unix.ESTALE: errs.Unavailable, unix.EMFILE: errs.Unavailable, unix.ENOTEMPTY: errs.NotEmpty, unix.EFBIG: errs.TooLarge,
	} {
		if got := errs.KindOf(classify("op", "name", &os.PathError{Op: "x", Path: "y", Err: errno})); got != want {
			t.Errorf("%v: got %v, want %v", errno, got, want)
		}
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	_, err := Open(filepath.Join(dir, "none"), Options{})
	wantKind(t, "a missing root", err, errs.NotExist)
	_, err = Open(filepath.Join(dir, "file"), Options{})
	wantKind(t, "a file as root", err, errs.NotDir)
	s, err := Open(filepath.Join(dir, "made/here"), Options{Create: true})
	must(t, err)
	must(t, s.Close())
	_, err = s.Stat(t.Context(), "a")
	wantKind(t, "stat after Close", err, errs.Unavailable)

	var r ufs.Registry
	r.Register("file", OpenURI)
	for uri, want := range map[string]errs.Kind{
		"file://" + dir: errs.Other, "file://host/x": errs.Invalid, "file:relative": errs.Invalid, "nfs://x/y": errs.Invalid,
		"file://u:p4ssw0rd@h/x": errs.Invalid, ":p4ssw0rd": errs.Invalid, "file:///x?p4ssw0rd": errs.Invalid,
	} {
		_, err := r.Open(t.Context(), uri, nil)
		if errs.KindOf(err) != want || err != nil && strings.Contains(err.Error(), "p4ssw0rd") {
			t.Errorf("%s: got %v, want %v", uri, err, want)
		}
	}
	for key, value := range map[string]string{"racy": "soon", "create": "maybe", "colour": "red"} {
		_, err := OpenURI(t.Context(), &url.URL{Scheme: "file", Path: dir}, map[string]string{key: value})
		wantKind(t, key+"="+value, err, errs.Invalid)
	}
	again, err := OpenURI(t.Context(), &url.URL{Scheme: "file", Path: dir}, map[string]string{"racy": "3s"})
	must(t, err)
	if got := again.Features().Racy; got != 3*time.Second {
		t.Errorf("racy: got %v", got)
	}
}

func BenchmarkCommit4KiB(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		if _, err := ufs.WriteFile(b.Context(), s, fmt.Sprint("d/", i), data, ufs.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList10000(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	s.fsync = func(int, string) error { return nil }
	for i := range 10_000 {
		if _, err := ufs.WriteFile(b.Context(), s, fmt.Sprint(i), nil, ufs.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		n := 0
		for _, err := range s.List(b.Context(), "", "", false) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 10_000 {
			b.Fatal(n)
		}
	}
}
