package localufs

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// lossy knows what of a store's directory would be left by a crash that drops everything not synced: an inode is what it
// was at its last fsync. Inodes are held open, so that a number is never used twice.
type lossy struct {
	t     *testing.T
	omit  string          // the step whose fsync is left out
	steps map[string]bool // the steps seen
	nodes map[uint64]node
}

// node is a synced inode.
type node struct {
	data  []byte            // of a file
	names map[string]uint64 // of a directory: name to inode; a directory's name has a slash
	xattr []byte            // nil if there is none
	mtime unix.Timespec
}

// newLossy makes s's syncs go to the returned lossy. The root is taken to be synced as it is.
func newLossy(t *testing.T, s *Store, omit string) *lossy {
	l := &lossy{
		t: t, omit: omit, steps: map[string]bool{}, nodes: map[uint64]node{},
	}
	s.fsync = func(fd int, why string) error {
		l.steps[why] = true
		if why != l.omit {
			l.sync(fd)
		}
		return nil
	}
	l.sync(int(s.root.Fd()))
	return l
}

func (l *lossy) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// sync records the inode of fd as it is.
func (l *lossy) sync(fd int) {
	held, err := unix.Dup(fd)
	l.must(err)
	l.t.Cleanup(func() { _ = unix.Close(held) })
	var st unix.Stat_t
	l.must(unix.Fstat(fd, &st))
	value := make([]byte, 4096)
	n, err := unix.Fgetxattr(fd, xattr, value)
	if err == unix.ENODATA {
		value, n, err = nil, 0, nil
	}
	l.must(err)
	synced := node{xattr: value[:n], mtime: st.Mtim}
	if path := fmt.Sprintf("/proc/self/fd/%d", fd); isKind(&st, true) {
		synced.names = l.readDir(fd, path+"/.")
	} else {
		synced.data, err = os.ReadFile(path)
		l.must(err)
	}
	l.nodes[st.Ino] = synced
}

func (l *lossy) readDir(fd int, path string) map[string]uint64 {
	names := map[string]uint64{}
	entries, err := os.ReadDir(path)
	l.must(err)
	for _, e := range entries {
		var st unix.Stat_t
		l.must(unix.Fstatat(fd, e.Name(), &st, unix.AT_SYMLINK_NOFOLLOW))
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		names[name] = st.Ino
	}
	return names
}

// crash returns a store on what is left.
func (l *lossy) crash(s *Store) *Store {
	l.t.Helper()
	var st unix.Stat_t
	l.must(unix.Fstat(int(s.root.Fd()), &st))
	left := l.t.TempDir()
	l.restore(left, st.Ino)
	after, err := Open(left, Options{})
	l.must(err)
	return after
}

func (l *lossy) restore(dir string, inode uint64) {
	for name, ino := range l.nodes[inode].names {
		path, n := filepath.Join(dir, name), l.nodes[ino]
		if strings.HasSuffix(name, "/") {
			l.must(os.Mkdir(path, 0o755))
			l.restore(path, ino)
		} else {
			l.must(os.WriteFile(path, n.data, 0o600))
		}
		if n.xattr == nil {
			continue
		}
		l.must(unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{n.mtime, n.mtime}, 0))
		var st unix.Stat_t
		l.must(unix.Stat(path, &st))
		var r record
		l.must(json.Unmarshal(n.xattr, &r))
		r.Inode = st.Ino // the copy stands for the inode it was made from
		value, err := json.Marshal(r)
		l.must(err)
		l.must(unix.Setxattr(path, xattr, value, 0))
	}
}

// promise is what a store has acknowledged: the files it must have, with their bytes and origin, and the directories.
type promise map[string]string

func (p promise) file(name, data string, in ufs.Info) {
	p[name] = data + " by " + in.Attr.Origin
}

// broken returns how the store s breaks the promise, "" if it keeps it.
func (p promise) broken(t *testing.T, s *Store) string {
	t.Helper()
	got := promise{}
	var walk func(dir string)
	walk = func(dir string) {
		for in, err := range s.List(t.Context(), dir, "", false) {
			if err != nil {
				t.Fatal(err)
			}
			if in.Dir {
				got[in.Name] = fmt.Sprint("directory ", in.Marker)
				walk(in.Name)
				continue
			}
			data, err := ufs.ReadAll(t.Context(), s, in.Name, "", 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			got.file(in.Name, string(data), in)
		}
	}
	walk("")
	if maps.Equal(got, p) {
		return ""
	}
	return fmt.Sprintf("got %v, want %v", got, p)
}

// history does every kind of change and returns how a crash right after one of them would break what was acknowledged,
// "" if it would not.
func history(t *testing.T, s *Store, l *lossy) string {
	p := promise{}
	attr := func(origin string) ufs.Attr { return ufs.Attr{Origin: origin} }
	write := func(name, data string, o ufs.CreateOptions) {
		o.Attr = attr("write of " + data)
		in, err := ufs.WriteFile(t.Context(), s, name, []byte(data), o)
		l.must(err)
		p.file(name, data, in)
	}
	move := func(from, to string) {
		l.must(s.Rename(t.Context(), from, to, true))
		for name, data := range maps.Clone(p) {
			if rest, ok := strings.CutPrefix(name, from); ok && (rest == "" || ufs.IsDir(from)) {
				delete(p, name)
				p[to+rest] = data
			}
		}
	}
	steps := []func(){
		func() { write("a", "one", ufs.CreateOptions{}) },
		func() { write("a", "two", ufs.CreateOptions{}) },
		func() { write("new", "three", ufs.CreateOptions{IfNew: true}) },
		func() {
			in, err := s.Stat(t.Context(), "a")
			l.must(err)
			write("a", "four", ufs.CreateOptions{IfVersion: in.Version})
		},
		func() {
			p["d/"], p["d/e/"] = "directory false", "directory false"
			write("d/e/f", "five", ufs.CreateOptions{})
		},
		func() {
			_, err := s.Mkdir(t.Context(), "m/n/", ufs.Attr{Marker: true})
			l.must(err)
			p["m/"], p["m/n/"] = "directory false", "directory true"
		},
		func() { p["r/"], p["r/s/"] = "directory false", "directory false"; move("d/e/f", "r/s/f") },
		func() { move("new", "r/new") },
		func() { p["q/"] = "directory false"; move("r/", "q/r/") },
		func() { write("q/r/g", "six", ufs.CreateOptions{}) },
		func() {
			in, err := s.SetAttr(t.Context(), "a", "", attr("set"))
			l.must(err)
			p.file("a", "four", in)
		},
		func() {
			in, err := s.Copy(t.Context(), "a", "", "c/copy", nil)
			l.must(err)
			p["c/"] = "directory false"
			p.file("c/copy", "four", in)
		},
		func() {
			in, err := s.Stat(t.Context(), "a")
			l.must(err)
			w, err := s.Append(t.Context(), "a", in.Version, attr("append"))
			l.must(err)
			_, err = w.Write([]byte("+tail"))
			l.must(err)
			in, err = w.Commit(t.Context())
			l.must(err)
			p.file("a", "four+tail", in)
		},
		func() { l.must(s.Remove(t.Context(), "c/copy", "")); delete(p, "c/copy") },
		func() { l.must(s.Remove(t.Context(), "c/", "")); delete(p, "c/") },
		func() {
			in, err := s.Stat(t.Context(), "a")
			l.must(err)
			l.must(s.Remove(t.Context(), "a", in.Version))
			delete(p, "a")
		},
		func() {
			l.must(s.Trash(t.Context(), "q/"))
			maps.DeleteFunc(p, func(name, _ string) bool { return strings.HasPrefix(name, "q/") })
		},
	}
	for i, step := range steps {
		step()
		if how := p.broken(t, s); how != "" {
			t.Fatalf("step %d, without a crash: %s", i, how)
		}
		after := l.crash(s)
		how := p.broken(t, after)
		if how == "" {
			l.must(after.CleanStaging(t.Context(), func(string) bool { return false }))
			how = p.broken(t, after)
		}
		_ = after.Close()
		if how != "" {
			return fmt.Sprintf("after step %d: %s", i, how)
		}
	}
	return ""
}

// TestCrash checks that what was acknowledged survives a crash that drops all that was not synced, and that each fsync is
// needed for it: without any one of them the same history finds a loss.
func TestCrash(t *testing.T) {
	if !openTemp(t).Features().Attrs {
		t.Skip("the temporary directory's file system keeps no extended attributes")
	}
	s := openTemp(t)
	all := newLossy(t, s, "")
	if how := history(t, s, all); how != "" {
		t.Fatal(how)
	}
	steps := slices.Sorted(maps.Keys(all.steps))
	if len(steps) < 7 {
		t.Errorf("the history syncs at %q only", steps)
	}
	for _, step := range steps {
		t.Run("without fsync of "+step, func(t *testing.T) {
			s := openTemp(t)
			if how := history(t, s, newLossy(t, s, step)); how == "" {
				t.Error("nothing was lost: the fsync is not needed, or the history does not show why")
			} else {
				t.Log("as expected: ", how)
			}
		})
	}
}

// uploads puts an upload together with a crash after each step, and returns how a crash would break it, "" if it would not.
func uploads(t *testing.T, s *Store, l *lossy) string {
	ctx := t.Context()
	id, err := s.Begin(ctx, "a", ufs.Attr{Origin: "begin"})
	l.must(err)
	complete := func(want string, parts ...ufs.Part) string {
		after := l.crash(s)
		defer after.Close() //nolint:errcheck // nothing is lost with it
		in, err := after.Complete(ctx, "a", id, parts, ufs.CreateOptions{})
		if err != nil {
			return fmt.Sprintf("complete with %d parts: %v", len(parts), err)
		}
		data, err := ufs.ReadAll(ctx, after, "a", "", 100)
		if err != nil || string(data) != want || in.Attr.Origin != "begin" {
			return fmt.Sprintf("got %q of %q, %v, want %q", data, in.Attr.Origin, err, want)
		}
		return ""
	}
	if how := complete(""); how != "" {
		return how
	}
	etag, err := s.PutPart(ctx, "a", id, 1, 4, strings.NewReader("part"))
	l.must(err)
	return complete("part", ufs.Part{Number: 1, ETag: etag, Size: 4})
}

// TestCrashOfUpload is TestCrash for the parts of a multipart upload, which are acknowledged one by one.
func TestCrashOfUpload(t *testing.T) {
	if !openTemp(t).Features().Attrs {
		t.Skip("the temporary directory's file system keeps no extended attributes")
	}
	s := openTemp(t)
	all := newLossy(t, s, "")
	if how := uploads(t, s, all); how != "" {
		t.Fatal(how)
	}
	for step := range all.steps {
		t.Run("without fsync of "+step, func(t *testing.T) {
			s := openTemp(t)
			if how := uploads(t, s, newLossy(t, s, step)); how == "" {
				t.Error("nothing was lost: the fsync is not needed, or the history does not show why")
			} else {
				t.Log("as expected: ", how)
			}
		})
	}
}

// TestCommitWaitsForParents checks that a file in a directory that another writer has just made is not acknowledged
// before the directory is durable.
func TestCommitWaitsForParents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openTemp(t)
		gate, acked := make(chan struct{}), 0
		s.fsync = func(_ int, why string) error {
			if why == "parent of a made directory" {
				<-gate
			}
			return nil
		}
		l, err := s.makeDir(t.Context(), "") // staging is there before the gate matters
		if err != nil {
			t.Fatal(err)
		}
		closeFD(l)
		if err := os.MkdirAll(filepath.Join(s.root.Name(), tmpDir), 0o755); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 2)
		for _, name := range []string{"d/first", "d/second"} {
			go func() {
				_, err := ufs.WriteFile(t.Context(), s, name, nil, ufs.CreateOptions{})
				done <- err
			}()
			synctest.Wait()
			acked += len(done)
		}
		if acked > 0 {
			t.Errorf("%d files were acknowledged before their directory was durable", acked)
		}
		close(gate)
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestSyncFails checks that a failed fsync is never taken for a success.
func TestSyncFails(t *testing.T) {
	for why, want := range map[string]errs.Kind{"file": errs.Unavailable, "parent of a file": errs.Unavailable} {
		s := openTemp(t)
		s.fsync = func(_ int, step string) error {
			if step == why {
				return unix.EIO
			}
			return nil
		}
		_, err := ufs.WriteFile(t.Context(), s, "a", []byte("x"), ufs.CreateOptions{})
		if errs.KindOf(err) != want {
			t.Errorf("fsync of %s fails: got %v, want %v", why, err, want)
		}
	}
}
