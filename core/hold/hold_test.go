package hold

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/hold/holdtest"
)

func open(t *testing.T, o Options) *Store {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Quota == 0 {
		o.Quota = 128 << 20
	}
	o.Name = "w"
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestHolder(t *testing.T) {
	holdtest.Run(t, true, func(t *testing.T) core.Holder {
		s := open(t, Options{})
		if !s.Persistent() {
			t.Skip("needs a temporary directory on a disk")
		}
		return s
	})
}

func put(t *testing.T, s *Store, n, size int, durable bool) {
	t.Helper()
	if err := holdtest.Put(t.Context(), s, holdtest.ID(n), size, durable && s.Persistent()); err != nil {
		t.Fatalf("Put of %d bytes: %v", size, err)
	}
}

func release(t *testing.T, s *Store, all ...int) {
	t.Helper()
	for _, n := range all {
		if err := s.Release(t.Context(), holdtest.ID(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// check checks that s holds just what is wanted: attempts by number, with their sizes.
func check(t *testing.T, s *Store, wanted map[int]int) {
	t.Helper()
	sizes := map[core.HeldID]int64{}
	for n, size := range wanted {
		sizes[holdtest.ID(n)] = int64(size)
		if err := holdtest.Get(t.Context(), s, holdtest.ID(n), size); err != nil {
			t.Fatalf("attempt %d of %d bytes: %v", n, size, err)
		}
	}
	if got := holdtest.All(t, s); !maps.Equal(got, sizes) {
		t.Fatalf("%d attempts are held, want %d", len(got), len(sizes))
	}
}

// copyDir returns a copy of the directory of a store, as one that was killed leaves it.
func copyDir(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestRestart(t *testing.T) {
	s := open(t, Options{})
	wanted := map[int]int{}
	for i, size := range holdtest.Sizes() {
		put(t, s, i, size, i%2 == 0)
		put(t, s, i+100, size, i%2 == 0)
		wanted[i] = size
	}
	for i := range holdtest.Sizes() {
		release(t, s, i+100)
	}
	before := s.Stats()
	for range 3 {
		dir := copyDir(t, s.dir) // killed, and then closed
		s = open(t, Options{Dir: dir})
		check(t, s, wanted)
		put(t, s, 200, 5000, true)
		wanted[200] = 5000
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, Options{Dir: dir})
		check(t, s, wanted)
		release(t, s, 200)
		delete(wanted, 200)
		if st := s.Stats(); st.Damaged+st.Torn > 0 || !st.Oldest.Equal(before.Oldest) || st.Bytes != before.Bytes || st.Attempts != before.Attempts {
			t.Fatalf("numbers %+v, before %+v", st, before)
		}
	}
	for i := range holdtest.Sizes() {
		release(t, s, i)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "*-*"))
	if st := s.Stats(); err != nil || len(left) > 0 || st.Used != 0 || st.Bytes != 0 || !st.Oldest.IsZero() {
		t.Fatalf("%v is left of nothing, numbers %+v, %v", left, st, err)
	}
}

// TestReignsAreRemembered kills a store that has heard of reigns, and calls it in earlier ones.
func TestReignsAreRemembered(t *testing.T) {
	in := func(life byte, term uint64) context.Context {
		return core.WithReign(t.Context(), core.Reign{Life: [8]byte{life}, Term: term})
	}
	s := open(t, Options{})
	put(t, s, 1, 100, true)
	for _, r := range []struct {
		life byte
		term uint64
	}{{1, 5}, {2, 1 << 60}, {1, 6}, {1, 4}} { // the last is not heard
		for _, err := range s.Holds(in(r.life, r.term)) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	late := func(s *Store, life byte, term uint64) {
		t.Helper()
		if err := s.Release(in(life, term), holdtest.ID(1)); !errors.Is(err, errs.Conflict) {
			t.Errorf("Release in term %d of life %d: %v", term, life, err)
		}
	}
	s = open(t, Options{Dir: copyDir(t, s.dir)}) // killed
	late(s, 1, 5)
	late(s, 2, 1<<60-1)
	put(t, s, 2, 100, true)
	check(t, s, map[int]int{1: 100, 2: 100})
	for life := range byte(maxReigns + 10) { // in so many lives
		if err := s.Release(in(100+life, 2), holdtest.ID(99)); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, Options{Dir: copyDir(t, s.dir)})
	if len(s.reigns) != maxReigns {
		t.Errorf("%d lives are remembered", len(s.reigns))
	}
	late(s, 100+maxReigns+9, 1)
	file := filepath.Join(s.dir, reignsName)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range [][]byte{nil, whole[:len(whole)-1], append([]byte("X"), whole[1:]...), append(whole[:20:20], whole[36:]...)} {
		dir := copyDir(t, s.dir)
		if err := os.WriteFile(filepath.Join(dir, reignsName), damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, Options{Dir: dir})
		if len(again.reigns) != 0 {
			t.Errorf("of %d damaged bytes it makes %v", len(damaged), again.reigns)
		}
		if err := again.Release(in(3, 3), holdtest.ID(99)); err != nil {
			t.Fatal(err)
		}
		check(t, open(t, Options{Dir: copyDir(t, dir)}), map[int]int{1: 100, 2: 100})
		late(again, 3, 2)
	}
}

// TestReignsThatCannotBeKept has the disk refuse to remember a new reign: nothing is held for it, but its predecessors are refused.
func TestReignsThatCannotBeKept(t *testing.T) {
	dev := systemDevice()
	var fail error
	sync := dev.sync
	dev.sync = func(f *os.File) error {
		if fail != nil && strings.HasSuffix(f.Name(), ".new") {
			return fail
		}
		return sync(f)
	}
	s := open(t, Options{device: dev})
	put(t, s, 1, 100, true)
	in := func(term uint64) context.Context { return core.WithReign(t.Context(), core.Reign{Term: term}) }
	for _, k := range []struct {
		fail error
		want errs.Kind
	}{{syscall.ENOSPC, errs.NoSpace}, {syscall.EIO, errs.Unavailable}} {
		fail = k.fail
		if err := holdtest.Put(in(2), s, holdtest.ID(2), 100, false); !errors.Is(err, k.want) {
			t.Errorf("%v: Put: %v", k.fail, err)
		}
		if err := s.Release(in(1), holdtest.ID(1)); !errors.Is(err, errs.Conflict) {
			t.Errorf("%v: Release in the reign before: %v", k.fail, err)
		}
		if err := holdtest.Get(in(2), s, holdtest.ID(1), 100); err != nil {
			t.Errorf("%v: Get: %v", k.fail, err)
		}
		if off := s.Stats().Off != ""; off != (k.fail == syscall.EIO) {
			t.Errorf("%v: off is %v", k.fail, off)
		}
	}
	if err := s.Release(in(2), holdtest.ID(1)); err != nil { // what nobody needs goes all the same
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	s := open(t, Options{})
	if _, err := Open(Options{Dir: s.dir, Quota: MinQuota}); !errors.Is(err, errs.Busy) {
		t.Errorf("a second store in the directory: %v", err)
	}
	if _, err := Open(Options{Dir: t.TempDir(), Quota: MinQuota - 1}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a small quota: %v", err)
	}
	w, err := s.Hold(t.Context(), holdtest.ID(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), false); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Commit after Close: %v", err)
	}
	if _, err := s.Hold(t.Context(), holdtest.ID(2)); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Hold after Close: %v", err)
	}
	if _, err := s.Held(t.Context(), holdtest.ID(2), 0, 0); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Held after Close: %v", err)
	}
}

func TestMemoryIsNotDurable(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "sluice-hold-")
	if err != nil {
		t.Skipf("needs a tmpfs at /dev/shm: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := open(t, Options{Dir: dir})
	if err := holdtest.Put(t.Context(), s, holdtest.ID(1), 10, true); s.Persistent() || !errors.Is(err, errs.Unsupported) {
		t.Errorf("a durable Commit in memory: %v", err)
	}
	put(t, s, 1, 10, false)
	check(t, s, map[int]int{1: 10})
}

// TestTornTails cuts the last log after every few bytes of what was written last.
func TestTornTails(t *testing.T) {
	s := open(t, Options{Quota: MinQuota})
	put(t, s, 1, 3000, true)
	put(t, s, 2, 70_000, true)
	g := s.active
	end := g.end
	for _, zero := range []bool{false, true} {
		torn := 0
		for at := recordBytes(3000); at < end; at += 2741 {
			dir := copyDir(t, s.dir)
			log := filepath.Join(dir, filepath.Base(g.path))
			if err := os.Truncate(log, at); err != nil {
				t.Fatal(err)
			}
			if zero { // a preallocated file keeps its length
				if err := os.Truncate(log, g.size); err != nil {
					t.Fatal(err)
				}
			}
			r := open(t, Options{Dir: dir})
			held := map[int]int{1: 3000}
			if at > end-sector-recordBytes(0) && holdtest.Get(t.Context(), r, holdtest.ID(2), 70_000) == nil {
				held[2] = 70_000 // only zeros were cut
			} else if r.Stats().Torn == 1 {
				torn++
			}
			check(t, r, held)
			put(t, r, 3, 100, true)
			held[3] = 100
			check(t, r, held)
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if torn < 20 {
			t.Errorf("%d torn tails were counted", torn)
		}
	}
}

// TestBitFlips flips one bit at a time of the files.
func TestBitFlips(t *testing.T) {
	s := open(t, Options{Quota: MinQuota})
	sizes := []int{1, 500, 4096, 70_000, 300_000, 1<<20 + 1, 1 << 20, 40, 2000}
	all := map[int]int{}
	for i, size := range sizes {
		put(t, s, i, size, true)
		all[i] = size
	}
	if err := s.Close(); err != nil { // so that no log is the last one, which is looked through
		t.Fatal(err)
	}
	s = open(t, Options{Dir: s.dir, Quota: MinQuota})
	put(t, s, 100, 50, true)
	all[100] = 50
	const flips = 100
	refused := 0
	for range flips {
		dir := copyDir(t, s.dir)
		files, err := filepath.Glob(filepath.Join(dir, "*-*"))
		if err != nil {
			t.Fatal(err)
		}
		flip(t, files[rand.IntN(len(files))])
		r := open(t, Options{Dir: dir})
		lost := 0
		for n, size := range all {
			err := holdtest.Get(t.Context(), r, holdtest.ID(n), size)
			switch {
			case errors.Is(err, errs.NotExist), errors.Is(err, errs.Corrupt):
				lost++
				if _, there := holdtest.All(t, r)[holdtest.ID(n)]; there {
					t.Fatalf("attempt %d cannot be read and is among what is held", n)
				}
			case err != nil:
				t.Fatalf("attempt %d: %v", n, err)
			}
		}
		refused += lost
		if st := r.Stats(); int64(lost) > st.Damaged+st.Torn || lost > 1 {
			t.Fatalf("%d attempts are lost, %d places counted as damaged, %d as torn", lost, st.Damaged, st.Torn)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if refused < flips/3 {
		t.Errorf("%d attempts were refused after %d flips", refused, flips)
	}
}

func flip(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, at := make([]byte, 1), rand.Int64N(info.Size())
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1 << rand.IntN(8)
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedIsHeldAgain checks that bytes can be replaced that are damaged.
func TestDamagedIsHeldAgain(t *testing.T) {
	for _, size := range []int{5000, 2 << 20} {
		s := open(t, Options{})
		put(t, s, 1, size, true)
		files, err := filepath.Glob(filepath.Join(s.dir, "*-*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		f, err := os.OpenFile(files[0], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("damage"), 1000); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for range 2 {
			if err := holdtest.Get(t.Context(), s, holdtest.ID(1), size); !errors.Is(err, errs.Corrupt) {
				t.Fatalf("damaged bytes: %v", err)
			}
		}
		if got := s.Stats().Damaged; got != 1 {
			t.Errorf("%d are damaged, want 1", got)
		}
		put(t, s, 1, size, true)
		check(t, s, map[int]int{1: size})
	}
}

// disk is a device that fails when it is told to, and knows what a power failure would leave.
type disk struct {
	device
	mu     sync.Mutex
	synced map[string][]byte // by path
	names  map[string]bool   // that the directory had when it was synced
	fail   func(op, path string) error
	gate   chan struct{} // syncs wait for it if it is there
	held   chan struct{} // is told of each sync that waits
}

func newDisk() *disk {
	d := &disk{device: systemDevice(), synced: map[string][]byte{}, names: map[string]bool{}, held: make(chan struct{}, 1000)}
	sys := d.device
	failed := func(op, path string) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.fail == nil {
			return nil
		}
		return d.fail(op, path)
	}
	d.pread = func(f *os.File, p []byte, off int64) (int, error) {
		if err := failed("read", f.Name()); err != nil {
			return 0, err
		}
		return sys.pread(f, p, off)
	}
	d.pwrite = func(f *os.File, bufs [][]byte, off int64) error {
		if err := failed("write", f.Name()); err != nil {
			return err
		}
		return sys.pwrite(f, bufs, off)
	}
	d.allocate = func(f *os.File, n int64) error {
		if err := failed("allocate", f.Name()); err != nil {
			return err
		}
		return f.Truncate(n) // sparse, so that copies are small
	}
	d.sync = func(f *os.File) error {
		d.mu.Lock()
		gate := d.gate
		d.mu.Unlock()
		if gate != nil {
			d.held <- struct{}{}
			<-gate
		}
		if err := failed("sync", f.Name()); err != nil {
			return err
		}
		b, err := os.ReadFile(f.Name())
		if err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.synced[f.Name()] = b
		return nil
	}
	d.syncDir = func(dir *os.File) error {
		if err := failed("syncdir", dir.Name()); err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		entries, err := os.ReadDir(dir.Name())
		for _, e := range entries {
			d.names[filepath.Join(dir.Name(), e.Name())] = true
		}
		return err
	}
	return d
}

// powerFailure returns a copy of dir with only what was synced; of other bytes of the files, each sector may be there or not if some
// says so.
func (d *disk) powerFailure(t *testing.T, dir string, some bool) string {
	t.Helper()
	to := t.TempDir()
	d.mu.Lock()
	defer d.mu.Unlock()
	for path := range d.names {
		if filepath.Dir(path) != dir {
			continue
		}
		b := bytes.Clone(d.synced[path])
		if some && rand.IntN(4) > 0 {
			now, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			for at := 0; at < len(now); at += sector {
				if end := min(at+sector, len(now)); rand.IntN(3) > 0 {
					b = append(b, make([]byte, max(0, end-len(b)))...)
					copy(b[at:end], now[at:end])
				}
			}
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(path)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestPowerFailure(t *testing.T) {
	for round := range 12 {
		d := newDisk()
		s := open(t, Options{device: d.device, Quota: MinQuota})
		s.memory = false // the model of a disk is one
		durable, sizes := map[int]bool{}, map[int]int{}
		var mu sync.Mutex
		var group sync.WaitGroup
		for n := range 4 {
			random := rand.New(rand.NewPCG(uint64(round), uint64(n)))
			group.Go(func() {
				for i := range 30 {
					no, size, safe := n*1000+i, random.IntN(1<<(4+random.IntN(17))), random.IntN(3) > 0
					if i == 15 {
						size = 1<<20 + 5
					}
					err := holdtest.Put(t.Context(), s, holdtest.ID(no), size, safe)
					mu.Lock()
					if err == nil {
						sizes[no], durable[no] = size, safe
					} else if !errors.Is(err, errs.NoSpace) {
						t.Error(err)
					}
					mu.Unlock()
					if old := no - random.IntN(3); random.IntN(3) == 0 {
						mu.Lock()
						delete(durable, old)
						mu.Unlock()
						if err := s.Release(t.Context(), holdtest.ID(old)); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		group.Wait()
		r := open(t, Options{Dir: d.powerFailure(t, s.dir, round%3 > 0), Quota: MinQuota})
		kept := 0
		for no, safe := range durable {
			err := holdtest.Get(t.Context(), r, holdtest.ID(no), sizes[no])
			if kind := errs.KindOf(err); err != nil && (safe || kind != errs.NotExist && kind != errs.Corrupt) {
				t.Fatalf("round %d: attempt %d of %d bytes, durable %v: %v", round, no, sizes[no], safe, err)
			}
			if err == nil {
				kept++
			}
		}
		for e := range holdtest.All(t, r) { // others than those may be back, but whole or known to be damaged
			n := int(e.Rev-1) / 3
			if err := holdtest.Get(t.Context(), r, e, sizes[n]); err != nil && !errors.Is(err, errs.Corrupt) {
				t.Fatalf("round %d: attempt %d: %v", round, n, err)
			}
		}
		if kept < 30 {
			t.Errorf("round %d: only %d attempts were looked at", round, kept)
		}
		for _, x := range []*Store{r, s} {
			if err := x.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFailedSync checks that nothing is acknowledged by, or after, a sync that fails.
func TestFailedSync(t *testing.T) {
	for _, size := range []int{1000, 2 << 20} {
		for _, op := range []string{"sync", "write", "syncdir"} {
			if op == "syncdir" && size < maxSmall {
				continue // the log is there
			}
			t.Run(fmt.Sprint(op, " ", size), func(t *testing.T) {
				d := newDisk()
				s := open(t, Options{device: d.device})
				s.memory = false
				put(t, s, 1, 500, true)
				d.mu.Lock()
				d.fail = func(o, path string) error {
					if o == op {
						return syscall.EIO
					}
					return nil
				}
				d.mu.Unlock()
				if err := holdtest.Put(t.Context(), s, holdtest.ID(2), size, true); !errors.Is(err, errs.Unavailable) {
					t.Fatalf("Commit over a failing disk: %v", err)
				}
				d.mu.Lock()
				d.fail = nil
				d.mu.Unlock()
				if err := holdtest.Put(t.Context(), s, holdtest.ID(2), size, true); !errors.Is(err, errs.Unavailable) {
					t.Fatalf("Hold after the disk has failed: %v", err)
				}
				check(t, s, map[int]int{1: 500})
				if s.Stats().Off == "" || s.Room() != 0 {
					t.Errorf("the store does not say that it is off: %+v", s.Stats())
				}
			})
		}
	}
}

func TestFailedRead(t *testing.T) {
	d := newDisk()
	s := open(t, Options{device: d.device})
	put(t, s, 1, 500, false)
	d.mu.Lock()
	d.fail = func(op, _ string) error {
		if op == "read" {
			return syscall.EIO
		}
		return nil
	}
	d.mu.Unlock()
	if err := holdtest.Get(t.Context(), s, holdtest.ID(1), 500); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a failed read: %v", err)
	}
	if got := len(holdtest.All(t, s)); got != 1 {
		t.Errorf("%d attempts are held after a failed read, want 1", got)
	}
}

func TestFullDisk(t *testing.T) {
	d := newDisk()
	s := open(t, Options{device: d.device})
	for _, size := range []int{1000, 2 << 20} {
		d.mu.Lock()
		d.fail = func(op, path string) error {
			if op == "allocate" || op == "write" && strings.Contains(path, filePrefix) {
				return syscall.ENOSPC
			}
			return nil
		}
		d.mu.Unlock()
		if err := holdtest.Put(t.Context(), s, holdtest.ID(size), size, false); !errors.Is(err, errs.NoSpace) {
			t.Fatalf("%d bytes on a full disk: %v", size, err)
		}
		if st := s.Stats(); st.Off != "" || st.Used != 0 {
			t.Errorf("after a full disk: %+v", st)
		}
		d.mu.Lock()
		d.fail = nil
		d.mu.Unlock()
		put(t, s, size, size, false)
		release(t, s, size)
		d.mu.Lock()
		d.fail = nil
		d.mu.Unlock()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, Options{device: d.device})
	}
}

func TestQuota(t *testing.T) {
	s := open(t, Options{Quota: MinQuota})
	n, held := 0, map[int]int{}
	for size := range 2000 {
		size = 20_000 + size%7*100_000
		err := holdtest.Put(t.Context(), s, holdtest.ID(n), size, false)
		if errors.Is(err, errs.NoSpace) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		held[n] = size
		n++
	}
	if st := s.Stats(); st.Used > MinQuota || st.Bytes < MinQuota*3/4 {
		t.Fatalf("full at %+v", st)
	}
	if err := holdtest.Put(t.Context(), s, holdtest.ID(n), 3<<20, false); !errors.Is(err, errs.NoSpace) {
		t.Fatalf("beyond the quota: %v", err)
	}
	check(t, s, held)
	for i := range n { // all but every ninth: no log is empty, and each is mostly
		if i%9 != 0 {
			release(t, s, i)
			delete(held, i)
		}
	}
	s.running.Wait()
	put(t, s, n, 3<<20, false)
	held[n] = 3 << 20
	check(t, s, held)
	if st := s.Stats(); st.Used > MinQuota*2/3 {
		t.Errorf("after most was released: %+v", st)
	}
	r := open(t, Options{Dir: copyDir(t, s.dir), Quota: MinQuota})
	check(t, r, held)
}

// TestCommitsShareSyncs holds back a sync until others wait, and counts.
func TestCommitsShareSyncs(t *testing.T) {
	d := newDisk()
	s := open(t, Options{device: d.device})
	s.memory = false
	put(t, s, 1000, 10, true)
	d.mu.Lock()
	d.gate = make(chan struct{})
	d.mu.Unlock()
	const writers = 50
	before := s.Stats()
	var group sync.WaitGroup
	write := func(n int) {
		group.Go(func() {
			if err := holdtest.Put(t.Context(), s, holdtest.ID(n), 4096, true); err != nil {
				t.Error(err)
			}
		})
	}
	write(0)
	<-d.held // alone
	for n := 1; n < writers; n++ {
		write(n)
	}
	for s.enqueued() < writers-1 {
		runtime.Gosched()
	}
	close(d.gate)
	group.Wait()
	st := s.Stats()
	if syncs, commits := st.Syncs-before.Syncs, st.Commits-before.Commits; commits != writers || syncs > 3 {
		t.Errorf("%d commits took %d syncs", commits, syncs)
	}
}

// enqueued returns how many commits are in the queue.
func (s *Store) enqueued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue)
}

// TestLeftCommitsHoldNothing ends the context of commits that are being synced.
func TestLeftCommitsHoldNothing(t *testing.T) {
	for _, size := range []int{1000, 2 << 20} {
		d := newDisk()
		s := open(t, Options{device: d.device})
		s.memory = false
		put(t, s, 1, 10, true)
		gate := make(chan struct{})
		d.mu.Lock()
		d.gate = gate
		d.mu.Unlock()
		w, err := s.Hold(t.Context(), holdtest.ID(2))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(holdtest.Data(holdtest.ID(2), size)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		context.AfterFunc(ctx, func() {})
		go cancel(gone)
		if err := w.Commit(ctx, true); !errors.Is(err, gone) {
			t.Fatalf("Commit = %v", err)
		}
		close(gate)
		s.running.Wait()
		check(t, s, map[int]int{1: 10})
		put(t, s, 2, size, true)
		check(t, s, map[int]int{1: 10, 2: size})
		r := open(t, Options{Dir: copyDir(t, s.dir)})
		check(t, r, map[int]int{1: 10, 2: size})
	}
}

// TestWaitingBytesAreBounded has many attempts begin, of which none ends.
func TestWaitingBytesAreBounded(t *testing.T) {
	s := open(t, Options{Quota: 1 << 30})
	var all []core.HoldWriter
	for n := range 200 {
		w, err := s.Hold(t.Context(), holdtest.ID(n))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 900<<10)); err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	if got := s.waiting.Load(); got > maxWaiting+200*(chunkBytes+flushAt/8) {
		t.Errorf("%d bytes wait in memory", got)
	}
	for i, w := range all {
		if err := w.Abort(); i%2 == 0 && err != nil {
			t.Fatal(err)
		}
	}
	if got := s.waiting.Load(); got != 0 || s.Stats().Used != 0 {
		t.Errorf("%d bytes wait in memory, %+v", got, s.Stats())
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprint(writers), func(b *testing.B) {
			s, err := Open(Options{Name: "w", Dir: b.TempDir(), Quota: 4 << 30})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			var next sync.Mutex
			n := 0
			var group sync.WaitGroup
			b.ResetTimer()
			for range writers {
				group.Go(func() {
					data := make([]byte, 4096)
					for {
						next.Lock()
						n++
						i := n
						next.Unlock()
						if i > b.N {
							return
						}
						w, err := s.Hold(b.Context(), holdtest.ID(i))
						if err == nil {
							if _, err = w.Write(data); err == nil {
								err = w.Commit(b.Context(), true)
							}
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(s.syncs.Load())/float64(b.N), "syncs/op")
		})
	}
	b.Run("bare", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "log"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		data := make([]byte, 4096)
		for b.Loop() {
			if _, err := f.Write(data); err != nil {
				b.Fatal(err)
			}
			if err := datasync(f); err != nil {
				b.Fatal(err)
			}
		}
	})
}
