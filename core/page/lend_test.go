package page_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

// lockingDir is a directory on a disk from which pages are lent. The root of a container may be none.
func lockingDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		t.Skip("nothing is lent on overlayfs")
	}
	return dir
}

// view maps what a loan is in, as a borrower does.
func view(t *testing.T, l page.Loan) *page.View {
	t.Helper()
	v, err := page.OpenView(l.File)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// lentBytes reads the loans.
func lentBytes(t *testing.T, v *page.View, loans []page.Loan) []byte {
	t.Helper()
	var got bytes.Buffer
	for _, l := range loans {
		if !v.Has(l.Off, l.Len) {
			t.Fatalf("[%d,+%d) lies outside the file", l.Off, l.Len)
		}
		if n, lost, err := v.Send(&got, l.Off, l.Len); int64(n) != l.Len || lost || err != nil {
			t.Fatalf("Send = %d, %v, %v", n, lost, err)
		}
	}
	return got.Bytes()
}

// churn puts more pages than the store has room for, twice.
func churn(t *testing.T, s page.Store, pages int) {
	t.Helper()
	for i := range 2 * pages {
		mustPut(t, s, pagetest.Key(1000+i/pages, i), page.Size)
	}
}

func TestLoans(t *testing.T) {
	for medium, dir := range map[string]func(testing.TB) string{"tmpfs": tmpfsDir, "disk": lockingDir} {
		t.Run(medium, func(t *testing.T) {
			const pages = 48
			s := openSegments(t, dir(t), pages*page.ChunkStride)
			c := newCache(t, s, page.CacheOptions{})
			src := newSource(4*page.Size + 77777)
			readAll(t, c, src, 0, 3*page.Size, true)
			readAll(t, c, src, 4*page.Size, 77777, true)
			c.Settle()

			before := c.Stats()
			loans, err := c.Lend(t.Context(), src.content(), 100, int64(len(src.data)-100), 60)
			if err != nil || len(loans) != 3 { // one page is not here
				t.Fatalf("lent %d pages: %v", len(loans), err)
			}
			if now := c.Stats(); now.Hits != before.Hits+3 || now.HitBytes != before.HitBytes+3*page.Size-100 || now.Tiers[0].Lent != 3 || now.Tiers[0].Pinned != 0 {
				t.Errorf("got %+v", now)
			}
			if last, err := c.Lend(t.Context(), src.content(), 4*page.Size+5, 77777-5, 1); err != nil || len(last) != 1 || last[0].Len != 77777-5 {
				t.Fatalf("the last page: %+v, %v", last, err)
			} else {
				loans = append(loans, last...)
			}
			v := view(t, loans[0])
			defer v.Close()
			want := append(bytes.Clone(src.data[100:3*page.Size]), src.data[4*page.Size+5:]...)
			c.Drop(src.content()) // its slots would be the first to be used again
			churn(t, s, pages)
			if !bytes.Equal(lentBytes(t, v, loans), want) {
				t.Error("what is lent has changed")
			}
			for _, l := range loans {
				l.GiveBack()
				l.GiveBack()
			}
			if n := s.Stats().Lent; n != 0 {
				t.Errorf("%d pages are lent", n)
			}
			churn(t, s, pages)
			if bytes.Equal(lentBytes(t, v, loans[:3]), want[:3*page.Size-100]) {
				t.Error("what was given back is not used again")
			}
		})
	}
}

// TestLoansCannotBeWritten tries to change a segment file by the descriptor of a loan.
func TestLoansCannotBeWritten(t *testing.T) {
	c := newCache(t, openSegments(t, lockingDir(t), 20*page.ChunkStride), page.CacheOptions{})
	src := newSource(page.Size)
	readAll(t, c, src, 0, page.Size, true)
	c.Settle()
	loans, err := c.Lend(t.Context(), src.content(), 0, page.Size, 1)
	if err != nil || len(loans) != 1 {
		t.Fatalf("lent %d pages: %v", len(loans), err)
	}
	defer loans[0].GiveBack()
	if n, err := loans[0].File.WriteAt([]byte("x"), loans[0].Off); err == nil {
		t.Errorf("%d bytes were written", n)
	}
	if m, err := unix.Mmap(int(loans[0].File.Fd()), 0, page.Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		unix.Munmap(m)
		t.Error("it was mapped to be written")
	}
	readAll(t, c, src, 0, page.Size, true)
}

// TestLoansAreBounded borrows until no more is lent. The store still takes pages then.
func TestLoansAreBounded(t *testing.T) {
	s := openSegments(t, lockingDir(t), 64*page.ChunkStride)
	c := newCache(t, s, page.CacheOptions{})
	src := newSource(32 * page.Size)
	readAll(t, c, src, 0, 32*page.Size, true)
	c.Settle()
	loans, err := c.Lend(t.Context(), src.content(), 0, 32*page.Size, 60)
	if err != nil || len(loans) != 8 {
		t.Fatalf("lent %d of 64 pages: %v", len(loans), err)
	}
	churn(t, s, 64)
	for _, l := range loans {
		l.GiveBack()
	}
}

// TestLoanOutlivesItsLender closes a store while a borrower reads, as a process that ends does, and opens the directory again. The
// borrower's bytes stay what they are, however the successor uses the directory; without borrowers it has the pages again.
func TestLoanOutlivesItsLender(t *testing.T) {
	for medium, dir := range map[string]func(testing.TB) string{"tmpfs": tmpfsDir, "disk": lockingDir} {
		for _, k := range []struct {
			name       string
			reads      bool // still, when the successor starts
			letsGoLate bool
			kept       bool // the successor has the pages
		}{{"reads on", true, false, false}, {"lets go meanwhile", true, true, true}, {"has let go", false, false, true}} {
			t.Run(medium+" "+k.name, func(t *testing.T) {
				const pages = 20
				o := page.SegmentOptions{Dir: dir(t), Quota: pages * page.ChunkStride, LetGo: time.Now().Add(50 * time.Millisecond)}
				if k.letsGoLate {
					o.LetGo = time.Now().Add(time.Minute)
				}
				first, err := page.OpenSegments(o)
				if err != nil {
					t.Fatal(err)
				}
				c := page.NewCache(first, page.CacheOptions{})
				src := newSource(2 * page.Size)
				readAll(t, c, src, 0, 2*page.Size, true)
				c.Settle()
				loans, err := c.Lend(t.Context(), src.content(), 0, 2*page.Size, 2)
				if err != nil || len(loans) != 2 {
					t.Fatalf("lent %d pages: %v", len(loans), err)
				}
				v := view(t, loans[0])
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				if err := first.Close(); err != nil { // it does not wait for what is lent
					t.Error(err)
				}
				loans[0].GiveBack() // comes too late to mean anything
				var letting sync.WaitGroup
				if !k.reads {
					v.Close()
				} else if k.letsGoLate {
					time.AfterFunc(30*time.Millisecond, func() { letting.Done() })
					letting.Add(1)
					done := make(chan struct{})
					go func() { defer close(done); letting.Wait(); v.Close() }()
					defer func() { <-done }()
				}
				second, err := page.OpenSegments(o)
				if err != nil {
					t.Fatal(err)
				}
				defer second.Close()
				if has := second.Has(page.Key{ID: src.content().ID, Rev: 1}); has != k.kept {
					t.Errorf("the successor has the pages: %v", has)
				}
				churn(t, second, pages)
				if k.reads && !k.letsGoLate {
					if !bytes.Equal(lentBytes(t, v, loans), src.data) {
						t.Error("what was lent by a process that is gone has changed")
					}
					v.Close()
				}
			})
		}
	}
}

// TestLoansNeedLocks lends where locks do not do what a loan needs: it is lent nothing, which is said once, and the successor has the pages.
func TestLoansNeedLocks(t *testing.T) {
	type call = func(*os.File, int) error
	var failures atomic.Int64
	for _, k := range []struct {
		name   string
		flock  func(do call, f *os.File, how int) error
		lent   [3]int // at each attempt
		warned int
	}{
		{"a lock that ends with its descriptors", func(do call, f *os.File, how int) error {
			if how == unix.LOCK_EX|unix.LOCK_NB {
				return nil
			}
			return do(f, how)
		}, [3]int{}, 1},
		{"no locks", func(call, *os.File, int) error { return unix.ENOSYS }, [3]int{}, 1},
		{"a failure that passes", func(do call, f *os.File, how int) error {
			if how&unix.LOCK_SH != 0 && failures.Add(1) == 1 {
				return unix.ENOLCK
			}
			return do(f, how)
		}, [3]int{0, 2, 2}, 0},
	} {
		t.Run(k.name, func(t *testing.T) {
			var log bytes.Buffer
			o := page.SegmentOptions{Dir: lockingDir(t), Quota: 20 * page.ChunkStride, Logger: slog.New(slog.NewTextHandler(&log, nil))}
			s, err := page.OpenLocking(o, k.flock)
			if err != nil {
				t.Fatal(err)
			}
			c := page.NewCache(s, page.CacheOptions{})
			src := newSource(2 * page.Size)
			readAll(t, c, src, 0, 2*page.Size, true)
			c.Settle()
			for i, want := range k.lent {
				loans, err := c.Lend(t.Context(), src.content(), 0, 2*page.Size, 2)
				if err != nil || len(loans) != want {
					t.Errorf("attempt %d: %d pages are lent, want %d; %v", i, len(loans), want, err)
				}
				for _, l := range loans {
					l.GiveBack()
				}
			}
			if n := bytes.Count(log.Bytes(), []byte("not lent")); n != k.warned {
				t.Errorf("it is said %d times, want %d: %s", n, k.warned, &log)
			}
			if err := errors.Join(c.Close(), s.Close()); err != nil {
				t.Error(err)
			}
			again, err := page.OpenLocking(o, k.flock)
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			if !again.Has(page.Key{ID: src.content().ID, Rev: 1}) {
				t.Error("the successor does not have the pages")
			}
		})
	}
}

// TestNothingIsLentOnOverlayfs lends from an overlay of the disk, which it mounts in a process of its own, with whose mounts it ends.
func TestNothingIsLentOnOverlayfs(t *testing.T) {
	const inside = "SLUICE_TEST_OVERLAY"
	below := os.Getenv(inside)
	if below == "" {
		if os.Geteuid() != 0 {
			t.Skip("only root can mount")
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // which makes all mounts private
		out, err := cmd.CombinedOutput()
		switch {
		case errors.Is(err, unix.EPERM):
			t.Skip("no mounts can be made: ", err)
		case err != nil:
			t.Errorf("%v: %s", err, out)
		case bytes.Contains(out, []byte("--- SKIP")):
			t.Skipf("%s", out)
		}
		return
	}
	var dirs [4]string
	for i := range dirs {
		dirs[i] = filepath.Join(below, strconv.Itoa(i))
		if err := os.Mkdir(dirs[i], 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("overlay", dirs[3], "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dirs[0], dirs[1], dirs[2])); err != nil {
		t.Skip("no overlay can be mounted: ", err)
	}
	c := newCache(t, openSegments(t, dirs[3], 20*page.ChunkStride), page.CacheOptions{})
	src := newSource(page.Size)
	readAll(t, c, src, 0, page.Size, true)
	c.Settle()
	if loans, err := c.Lend(t.Context(), src.content(), 0, page.Size, 1); err != nil || len(loans) > 0 {
		t.Errorf("%d pages are lent: %v", len(loans), err)
	}
}

// TestUnknownLockIsALoan opens a directory where it cannot be known whether anybody still reads what was lent.
func TestUnknownLockIsALoan(t *testing.T) {
	o := page.SegmentOptions{Dir: t.TempDir(), Quota: 20 * page.ChunkStride}
	first, err := page.OpenSegments(o)
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, first, pagetest.Key(1, 0), page.Size)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := page.OpenLocking(o, func(func(*os.File, int) error, *os.File, int) error { return unix.ENOLCK })
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Has(pagetest.Key(1, 0)) || again.Stats().Off != "" {
		t.Errorf("the file is used: %+v", again.Stats())
	}
	mustPut(t, again, pagetest.Key(1, 1), page.Size)
}

// TestViewOfAFileThatIsNone maps what no lender passes, and reads what was cut off.
func TestViewOfAFileThatIsNone(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int64{0, 1, page.ChunkStride + 1} {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if v, err := page.OpenView(f); err == nil {
			v.Close()
			t.Errorf("%d bytes: mapped", size)
		}
	}
	if err := f.Truncate(2 * page.ChunkStride); err != nil {
		t.Fatal(err)
	}
	v, err := page.OpenView(f)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for _, k := range [][2]int64{{-1, 1}, {0, -1}, {2 * page.ChunkStride, 1}, {1 << 62, 1 << 62}} {
		if v.Has(k[0], k[1]) {
			t.Errorf("[%d,+%d) is said to lie in the file", k[0], k[1])
		}
	}
	if err := f.Truncate(page.ChunkStride); err != nil {
		t.Fatal(err)
	}
	if n, err := v.Copy(make([]byte, 10), page.ChunkStride+4096*2); err == nil {
		t.Errorf("%d bytes were copied of what is cut off", n)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go io.Copy(io.Discard, r)
	if n, lost, err := v.Send(w, page.ChunkStride-4096, 3*4096); n > 2*4096 || !lost || err == nil {
		t.Errorf("Send = %d, %v, %v", n, lost, err)
	}
	w.Close()
}
