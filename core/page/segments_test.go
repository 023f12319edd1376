package page_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

func openSegments(t testing.TB, dir string, quota int64) *page.Segments {
	t.Helper()
	s, err := page.OpenSegments(page.SegmentOptions{Dir: dir, Quota: quota})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSegments(t *testing.T) {
	pagetest.Run(t, func(t *testing.T) page.Store { return openSegments(t, t.TempDir(), 90<<20) })
}

func TestSegmentsOnTmpfs(t *testing.T) {
	pagetest.Run(t, func(t *testing.T) page.Store { return openSegments(t, tmpfsDir(t), 90<<20) })
}

func TestTiered(t *testing.T) {
	pagetest.Run(t, func(t *testing.T) page.Store {
		s := page.NewTiered(openSegments(t, tmpfsDir(t), 20<<20), openSegments(t, t.TempDir(), 60<<20))
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func mustPut(t testing.TB, s page.Store, k page.Key, n int) {
	t.Helper()
	if err := s.Put(k, pagetest.Data(k, n)); err != nil {
		t.Fatalf("Put(%v) = %v", k, err)
	}
}

// look reports whether the page is here, and fails the test if it is here with other bytes.
func look(t testing.TB, s page.Store, k page.Key, n int) bool {
	t.Helper()
	h, ok := s.Get(k)
	if !ok {
		return false
	}
	defer h.Release()
	if !bytes.Equal(h.Bytes(), pagetest.Data(k, n)) {
		t.Fatalf("Get(%v): WRONG BYTES", k)
	}
	return true
}

func sizeOf(i int) int { return []int{100, 4096, 5000, 70000, 333333, page.Size}[i%6] }

func TestReopenFindsThePages(t *testing.T) {
	dir := t.TempDir()
	s := openSegments(t, dir, 100<<20)
	for i := range 60 {
		mustPut(t, s, pagetest.Key(1, i), sizeOf(i))
	}
	s.Drop(pagetest.Key(1, 0), 10, 12)
	used := s.Stats().Used
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openSegments(t, dir, 100<<20)
	for i := range 60 {
		if got, want := look(t, s, pagetest.Key(1, i), sizeOf(i)), i != 10 && i != 11; got != want {
			t.Errorf("page %d here: %v, want %v", i, got, want)
		}
	}
	if st := s.Stats(); st.Used != used || st.Corrupt != 0 {
		t.Errorf("used %d, corrupt %d, want %d, 0", st.Used, st.Corrupt, used)
	}
	for i := range 300 { // and goes on as a store
		mustPut(t, s, pagetest.Key(2, i), sizeOf(i))
	}
}

func TestReopenWithASmallerQuota(t *testing.T) {
	dir := t.TempDir()
	s := openSegments(t, dir, 200<<20)
	for i := range 190 {
		mustPut(t, s, pagetest.Key(1, i), page.Size)
	}
	s.Close()
	s = openSegments(t, dir, 80<<20)
	if files, _ := filepath.Glob(filepath.Join(dir, "segment-*")); len(files) != 1 {
		t.Errorf("%d files, want 1", len(files))
	}
	here := 0
	for i := range 190 {
		if look(t, s, pagetest.Key(1, i), page.Size) {
			here++
		}
	}
	if here != 64 {
		t.Errorf("%d pages, want the 64 of the first file", here)
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	dir := t.TempDir()
	openSegments(t, dir, 10<<20)
	if _, err := page.OpenSegments(page.SegmentOptions{Dir: dir, Quota: 10 << 20}); !errors.Is(err, errs.Busy) {
		t.Errorf("second open = %v, want Busy", err)
	}
}

func TestBadOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []page.SegmentOptions{{Dir: t.TempDir(), Quota: 1 << 20}, {Dir: t.TempDir(), Quota: 1 << 60}, {Dir: file, Quota: 10 << 20}} {
		if s, err := page.OpenSegments(o); err == nil {
			s.Close()
			t.Errorf("%+v opened", o)
		} else {
			t.Log(err)
		}
	}
}

// segmentFile returns the bytes of the directory's only segment file, and writes them back.
func segmentFile(t *testing.T, dir string) (data []byte, save func()) {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(dir, "segment-*"))
	if len(names) != 1 {
		t.Fatalf("%d segment files, want 1", len(names))
	}
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	return data, func() {
		if err := os.WriteFile(names[0], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamage damages a directory between two processes in every way a disk or a person may, and wants the true bytes or a
// counted miss.
func TestDamage(t *testing.T) {
	const quota, chunks, pages = 8 << 20, 7, 30
	data := func(i int) int { return chunks*page.ChunkTable + i }
	r := rand.New(rand.NewPCG(1, 2))
	type file = []byte
	for _, d := range []struct {
		name  string
		harm  func(f file)
		least int // pages lost at least; each loss must be counted, but that of a page that was just written over
	}{
		{"nothing", func(file) {}, 0},
		{"a bit of every chunk's first data", func(f file) {
			for c := range chunks {
				f[data(c*page.Size+50)] ^= 1
			}
		}, 4},
		{"a bit of every header", func(f file) {
			for i := range chunks * page.ChunkTable / page.HeaderBytes {
				if f[i*page.HeaderBytes] != 0 {
					f[i*page.HeaderBytes+r.IntN(page.HeaderBytes)] ^= 1 << r.IntN(8)
				}
			}
		}, pages},
		{"chunks swapped with their tables", func(f file) {
			a, b := f[:page.ChunkTable], f[page.ChunkTable:2*page.ChunkTable]
			swap(a, b)
			swap(f[data(0):data(page.Size)], f[data(page.Size):data(2*page.Size)])
		}, 0},
		{"tables swapped", func(f file) { swap(f[:page.ChunkTable], f[page.ChunkTable:2*page.ChunkTable]) }, 2},
		{"headers of a chunk swapped", func(f file) {
			for c := range chunks {
				t := f[c*page.ChunkTable:]
				swap(t[:page.HeaderBytes], t[page.HeaderBytes:2*page.HeaderBytes])
			}
		}, 2},
		{"headers of another chunk's size", func(f file) {
			for c := 1; c < chunks; c++ {
				copy(f[c*page.ChunkTable+3*page.HeaderBytes:], f[:page.HeaderBytes])
			}
		}, 4},
		{"data torn: the second half of every 8 KiB is zeros", func(f file) {
			for i := data(4096); i < len(f); i += 8192 {
				clear(f[i:min(len(f), i+4096)])
			}
		}, 8},
		{"all data zeros", func(f file) { clear(f[data(0):]) }, pages},
		{"tables of noise", func(f file) {
			for i := range data(0) {
				f[i] = byte(r.Uint32())
			}
		}, pages},
		{"one header in every slot", func(f file) {
			for i := 1; i < data(0)/page.HeaderBytes; i++ {
				copy(f[i*page.HeaderBytes:], f[:page.HeaderBytes])
			}
		}, pages - 1},
	} {
		t.Run(d.name, func(t *testing.T) {
			dir := t.TempDir()
			s := openSegments(t, dir, quota)
			for i := range pages {
				mustPut(t, s, pagetest.Key(1, i), sizeOf(i%5))
			}
			s.Close()
			f, save := segmentFile(t, dir)
			d.harm(f)
			save()
			s = openSegments(t, dir, quota)
			lost := 0
			for i := range pages {
				if !look(t, s, pagetest.Key(1, i), sizeOf(i%5)) {
					lost++
				}
			}
			if corrupt := s.Stats().Corrupt; lost < d.least || lost > 0 && corrupt == 0 && d.least != pages-1 {
				t.Errorf("%d pages lost (want %d at least), %d counted", lost, d.least, corrupt)
			}
			for i := range 100 { // the store works on
				mustPut(t, s, pagetest.Key(2, i), sizeOf(i))
				if !look(t, s, pagetest.Key(2, i), sizeOf(i)) {
					t.Fatal("page just put is not here")
				}
			}
		})
	}
}

func swap(a, b []byte) {
	old := slices.Clone(a)
	copy(a, b)
	copy(b, old)
}

func TestSegmentCutShort(t *testing.T) {
	dir := t.TempDir()
	s := openSegments(t, dir, 8<<20)
	mustPut(t, s, pagetest.Key(1, 0), page.Size)
	s.Close()
	name := filepath.Join(dir, "segment-000000")
	if err := os.Truncate(name, 3<<20); err != nil {
		t.Fatal(err)
	}
	s = openSegments(t, dir, 8<<20)
	if look(t, s, pagetest.Key(1, 0), page.Size) {
		t.Error("here")
	}
	mustPut(t, s, pagetest.Key(1, 0), page.Size)
}

// TestCrash kills the process, so to speak, after each of its writes.
func TestCrash(t *testing.T) {
	killed := errors.New("killed")
	for after := range 60 {
		dir := t.TempDir()
		left := after
		s, err := page.OpenFaulty(page.SegmentOptions{Dir: dir, Quota: 3 << 20}, nil, func() error {
			if left--; left < 0 {
				return killed
			}
			return nil
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var kept []int
		for i := range 20 {
			if s.Put(pagetest.Key(1, i), pagetest.Data(pagetest.Key(1, i), sizeOf(i%5))) == nil {
				kept = append(kept, i)
			}
			if i%5 == 4 {
				s.Drop(pagetest.Key(1, 0), uint32(i), uint32(i)+1)
			}
		}
		s.Crash()
		again := openSegments(t, dir, 3<<20)
		for i := range 20 {
			here := look(t, again, pagetest.Key(1, i), sizeOf(i%5))
			if here && !slices.Contains(kept, i) {
				t.Errorf("after %d writes: page %d is here, and was not put", after, i)
			}
		}
		again.Close()
		s.Close()
	}
}

func TestFullFileSystem(t *testing.T) {
	full := false
	hook := func() error {
		if full {
			return unix.ENOSPC
		}
		return nil
	}
	s, err := page.OpenFaulty(page.SegmentOptions{Dir: tmpfsDir(t), Quota: 200 << 20}, nil, hook, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 10 {
		mustPut(t, s, pagetest.Key(1, i), 5000)
	}
	full = true
	for range 5 {
		if err := s.Put(pagetest.Key(2, 1), pagetest.Data(pagetest.Key(2, 1), 5000)); !errors.Is(err, errs.NoSpace) {
			t.Errorf("Put = %v, want NoSpace", err)
		}
	}
	left := 0
	for i := range 10 {
		if look(t, s, pagetest.Key(1, i), 5000) {
			left++
		}
	}
	if left != 9 || look(t, s, pagetest.Key(2, 1), 5000) {
		t.Errorf("%d of 10 pages are left, want all but one that made room in vain", left)
	}
	if s.Stats().Off == "" {
		t.Error("Stats do not tell")
	}
}

// TestFullAtOnce has several Puts find the file system full at the same time. That says no more than one of them does: the next
// page takes the room of another at once.
func TestFullAtOnce(t *testing.T) {
	var full atomic.Bool
	var writing sync.WaitGroup
	hook := func() error {
		if full.Load() {
			writing.Done()
			writing.Wait()
			return unix.ENOSPC
		}
		return nil
	}
	s, err := page.OpenFaulty(page.SegmentOptions{Dir: tmpfsDir(t), Quota: 200 << 20}, nil, hook, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 10 {
		mustPut(t, s, pagetest.Key(1, i), 5000)
	}
	full.Store(true)
	writing.Add(3)
	var puts sync.WaitGroup
	for i := range 3 {
		puts.Go(func() {
			if err := s.Put(pagetest.Key(2, i), pagetest.Data(pagetest.Key(2, i), 5000)); !errors.Is(err, errs.NoSpace) {
				t.Errorf("Put = %v, want NoSpace", err)
			}
		})
	}
	puts.Wait()
	full.Store(false)
	mustPut(t, s, pagetest.Key(3, 0), 5000)
	left := 0
	for i := range 10 {
		if look(t, s, pagetest.Key(1, i), 5000) {
			left++
		}
	}
	if left != 9 || !look(t, s, pagetest.Key(3, 0), 5000) {
		t.Errorf("%d of 10 pages are left, want all but one", left)
	}
}

// TestFullTmpfs has a quota three times what its file system has room for. Readers get every byte, and what was read last is
// here: pages take the room of others.
func TestFullTmpfs(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("sluice-test", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s, err := page.OpenSegments(page.SegmentOptions{Dir: dir, Quota: 192 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := page.NewCache(s, page.CacheOptions{})
	defer c.Close()
	for _, n := range []int{page.Size, 70000, 4096} { // 64 MiB hold 63 of 1 MiB
		src := newSource(120 * n)
		pageOf := func(i int) (*source, int64) { // each a content of its own
			one := &source{data: src.data[i*n:][:n]}
			return one, int64(n)
		}
		for i := range 120 {
			one, n := pageOf(i)
			readNumbered(t, c, one, i, n)
		}
		c.Settle()
		here := 0
		for i := 100; i < 120; i++ {
			if s.Has(page.Key{ID: pagetest.Key(i, n).ID, Rev: uint64(n)}) {
				here++
			}
		}
		st := s.Stats()
		t.Logf("%d bytes: %d of the last 20 pages are here, %d put failures, %d bytes used: %s", n, here, c.Stats().PutFailed, st.Used, st.Off)
		if here < 15 {
			t.Errorf("%d of the 20 pages of %d bytes that were read last are here", here, n)
		}
	}
	if st := s.Stats(); st.Off == "" || st.Corrupt != 0 || st.Used > 64<<20 || st.Used < 40<<20 {
		t.Errorf("%+v", st)
	}
}

// readNumbered reads a content of one page, whose key has the number i.
func readNumbered(t *testing.T, c *page.Cache, src *source, i int, n int64) {
	t.Helper()
	of := page.Content{ID: pagetest.Key(i, int(n)).ID, Rev: uint64(n), Len: n}
	r := c.NewReader(t.Context(), of, 0, n, src)
	defer r.Close()
	var got bytes.Buffer
	if _, err := r.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), src.data) {
		t.Fatalf("content %d: %d bytes, %v", i, got.Len(), err)
	}
}

// TestBadDirectoryAtStart takes a directory whose disk fails out, with the reason, and has the other tier work.
func TestBadDirectoryAtStart(t *testing.T) {
	dir := t.TempDir()
	s := openSegments(t, dir, 10<<20)
	mustPut(t, s, pagetest.Key(1, 0), 5000)
	s.Close()
	bad, err := page.OpenFaulty(page.SegmentOptions{Dir: dir, Quota: 10 << 20}, func() error { return unix.EIO }, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	tiers := page.NewTiered(bad, openSegments(t, t.TempDir(), 10<<20))
	mustPut(t, tiers, pagetest.Key(1, 1), 5000)
	if !look(t, tiers, pagetest.Key(1, 1), 5000) || look(t, tiers, pagetest.Key(1, 0), 5000) {
		t.Error("want the page of the second tier, and not that of the first")
	}
	if st := tiers.Stats(); st[0].Off == "" || st[1].Off != "" {
		t.Errorf("%+v", st)
	}
	if err := tiers.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if s = openSegments(t, dir, 10<<20); !look(t, s, pagetest.Key(1, 0), 5000) {
		t.Error("the page is gone once the disk works again")
	}
}

// TestDirectoryThatVanished removes a directory that is in use: readers do not notice.
func TestDirectoryThatVanished(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tier")
	s := openSegments(t, dir, 200<<20)
	c := newCache(t, s, page.CacheOptions{})
	src := newSource(3 * page.Size)
	readAll(t, c, src, 0, 3*page.Size, true)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for i := range 70 { // beyond the first file
		readNumbered(t, c, &source{data: src.data[:page.Size]}, i, page.Size)
	}
	readAll(t, c, src, 0, 3*page.Size, true)
	if s.Stats().Off == "" {
		t.Error("Stats do not tell")
	}
}

func TestGrowthStopsWhereTheDiskIsFull(t *testing.T) {
	calls := 0
	s, err := page.OpenFaulty(page.SegmentOptions{Dir: t.TempDir(), Quota: 1 << 30}, nil, nil, func() error {
		if calls++; calls == 2 {
			return unix.ENOSPC
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 100 {
		mustPut(t, s, pagetest.Key(1, i), page.Size)
	}
	if st := s.Stats(); st.Quota != 64*page.ChunkStride || st.Pages != 64 {
		t.Errorf("quota %d, %d pages, want one file's", st.Quota, st.Pages)
	}
}

func TestFailingDisk(t *testing.T) {
	var readErr, writeErr error
	open := func() *page.Segments {
		readErr, writeErr = nil, nil
		s, err := page.OpenFaulty(page.SegmentOptions{Dir: t.TempDir(), Quota: 80 << 20},
			func() error { return readErr }, func() error { return writeErr }, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	t.Run("writes", func(t *testing.T) {
		s := open()
		mustPut(t, s, pagetest.Key(1, 0), 5000)
		writeErr = unix.EROFS
		for range 2 {
			if err := s.Put(pagetest.Key(1, 1), []byte("x")); !errors.Is(err, errs.Unavailable) {
				t.Errorf("Put = %v, want Unavailable", err)
			}
			writeErr = nil // once off, off
		}
		if !look(t, s, pagetest.Key(1, 0), 5000) {
			t.Error("a page that can be read is not")
		}
		if s.Stats().Off == "" {
			t.Error("Stats do not tell")
		}
	})
	t.Run("reads", func(t *testing.T) {
		s := open()
		mustPut(t, s, pagetest.Key(1, 0), 5000)
		readErr = unix.EIO
		if look(t, s, pagetest.Key(1, 0), 5000) || s.Has(pagetest.Key(1, 0)) {
			t.Error("here")
		}
		if err := s.Put(pagetest.Key(1, 1), []byte("x")); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Put = %v, want Unavailable", err)
		}
	})
	t.Run("another tier takes over", func(t *testing.T) {
		first, second := open(), openSegments(t, t.TempDir(), 80<<20)
		s := page.NewTiered(first, second)
		mustPut(t, s, pagetest.Key(1, 0), 5000)
		writeErr = unix.EIO
		mustPut(t, s, pagetest.Key(1, 1), 5000)
		if !look(t, s, pagetest.Key(1, 0), 5000) || !look(t, second, pagetest.Key(1, 1), 5000) {
			t.Error("pages are not where they should be")
		}
	})
}

// TestFileCutWhileMapped cuts a file that is in use: the mapping faults, the process lives.
func TestFileCutWhileMapped(t *testing.T) {
	dir := t.TempDir()
	s := openSegments(t, dir, 8<<20)
	src := newSource(page.Size)
	c := newCache(t, s, page.CacheOptions{})
	readAll(t, c, src, 0, page.Size, true)
	c.Settle()
	var readers [3]*page.Reader
	for i := range readers {
		readers[i] = c.NewReader(t.Context(), src.content(), 0, page.Size, src)
		defer readers[i].Close()
		if _, err := readers[i].Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	read, write, send := readers[0], readers[1], readers[2]
	if err := os.Truncate(filepath.Join(dir, "segment-000000"), page.ChunkTable*7); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(onlyReader{read}); err != nil || !bytes.Equal(got, src.data[1:]) {
		t.Errorf("read %d bytes, %v, want the rest of the page from the source", len(got), err)
	}
	if got, err := overPipe(t, send); err != nil || !bytes.Equal(got, src.data[1:]) {
		t.Errorf("wrote %d bytes, %v, want the rest of the page from the source", len(got), err)
	}
	if _, err := write.WriteTo(onlyWriter{new(bytes.Buffer)}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("WriteTo = %v, want Unavailable", err)
	}
	readAll(t, c, src, 0, page.Size, true) // the next reader is served from the source
}

type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

// overPipe returns what r writes to a pipe of the kernel.
func overPipe(t *testing.T, r io.WriterTo) (got []byte, err error) {
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err = r.WriteTo(to)
		to.Close()
	})
	got, rerr := io.ReadAll(from)
	wg.Wait()
	return got, errors.Join(err, rerr)
}

// TestPutOfLostPage puts bytes of a mapping whose file was cut: that is not the fault of the directory they were to go to.
func TestPutOfLostPage(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "lost"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(page.Size); err != nil {
		t.Fatal(err)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, page.Size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(data)
	if err := f.Truncate(page.Size / 2); err != nil {
		t.Fatal(err)
	}
	s := openSegments(t, t.TempDir(), 2*page.ChunkStride)
	for range 3 { // in more slots than there are
		if err := s.Put(pagetest.Key(1, 0), data); !errors.Is(err, unix.EFAULT) || !errors.Is(err, errs.Unavailable) {
			t.Errorf("Put = %v, want EFAULT", err)
		}
	}
	if off := s.Stats().Off; off != "" {
		t.Errorf("the directory is turned off: %s", off)
	}
	for i := range 2 {
		mustPut(t, s, pagetest.Key(1, i), page.Size)
	}
	if st := s.Stats(); st.Pages != 2 || !look(t, s, pagetest.Key(1, 0), page.Size) {
		t.Errorf("%+v", st)
	}
}

func TestDemotion(t *testing.T) {
	fast, slow := openSegments(t, tmpfsDir(t), 10<<20), openSegments(t, t.TempDir(), 100<<20)
	s := page.NewTiered(fast, slow)
	for i := range 60 {
		mustPut(t, s, pagetest.Key(1, i), sizeOf(i))
	}
	for i := range 60 {
		if !look(t, s, pagetest.Key(1, i), sizeOf(i)) {
			t.Errorf("page %d is lost", i)
		}
	}
	if st := s.Stats(); st[0].Demoted == 0 || st[0].Pages+st[1].Pages != 60 || st[0].Used > 10<<20 {
		t.Errorf("%+v", st)
	}
}

// TestDemotionsAreFew has many pages be evicted at once from a tier that reads slowly: few are read for the next tier at a time.
func TestDemotionsAreFew(t *testing.T) {
	var reading, most atomic.Int64
	slowly := func() error {
		n := reading.Add(1)
		defer reading.Add(-1)
		for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
		}
		for range 200 { // others come meanwhile
			runtime.Gosched()
		}
		return nil
	}
	fast, err := page.OpenFaulty(page.SegmentOptions{Dir: tmpfsDir(t), Quota: 10 << 20}, slowly, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := page.NewTiered(fast, openSegments(t, t.TempDir(), 100<<20))
	t.Cleanup(func() { s.Close() })
	const size, each = 4096, 60
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			for i := range each {
				k := pagetest.Key(1+g, i)
				if err := s.Put(k, pagetest.Data(k, size)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if st := s.Stats(); most.Load() > 4 || st[0].Demoted == 0 {
		t.Errorf("%d pages were read at a time, and %d moved", most.Load(), st[0].Demoted)
	}
}

// TestDemotionDoesNotLaunder damages a page in the first tier: it must not get a fresh checksum in the second.
func TestDemotionDoesNotLaunder(t *testing.T) {
	dir := tmpfsDir(t)
	s := page.NewTiered(openSegments(t, dir, 3<<20), openSegments(t, t.TempDir(), 80<<20))
	mustPut(t, s, pagetest.Key(1, 0), page.Size)
	f, err := os.OpenFile(filepath.Join(dir, "segment-000000"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("damage"), 2*page.ChunkTable+500); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 10; i++ {
		mustPut(t, s, pagetest.Key(1, i), page.Size)
	}
	if look(t, s, pagetest.Key(1, 0), page.Size) || s.Stats()[0].Corrupt != 1 {
		t.Errorf("damaged page: %+v", s.Stats())
	}
}

// TestScanResistance reads a hot set over and over while a scan ten times the cache goes through it.
func TestScanResistance(t *testing.T) {
	s := openSegments(t, tmpfsDir(t), 100*page.ChunkStride)
	n := 5000
	touch := func(content, i int) bool {
		if look(t, s, pagetest.Key(content, i), n) {
			return true
		}
		mustPut(t, s, pagetest.Key(content, i), n)
		return false
	}
	const hot = 50 * 128 // half of the 8 KiB slots
	for range 4 {
		for i := range hot {
			touch(1, i)
		}
	}
	for i := range 10 * 100 * 128 / 4 {
		if err := s.Put(pagetest.Key(2, i), make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	left := 0
	for i := range hot {
		if s.Has(pagetest.Key(1, i)) {
			left++
		}
	}
	if left < hot*9/10 {
		t.Errorf("%d of %d hot pages survived the scan", left, hot)
	}
}

func TestPagesAreNotFiles(t *testing.T) {
	for _, quota := range []int64{5 << 30, 100 << 30, 1 << 40} {
		if n := page.SegmentFiles(quota); n > 200 {
			t.Errorf("%d GiB take %d files", quota>>30, n)
		}
	}
}

func TestIndexMemory(t *testing.T) {
	if page.SlotSize > 56 {
		t.Errorf("a slot takes %d bytes", page.SlotSize)
	}
	const pages = 20000
	s := openSegments(t, tmpfsDir(t), 100<<20)
	mustPut(t, s, pagetest.Key(2, 0), 1) // what is of a fixed size is there
	before := heap()
	for i := range pages {
		if err := s.Put(pagetest.Key(1, i), []byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	per := float64(heap()-before) / pages
	if n := s.Stats().Pages; n != pages+1 {
		t.Fatalf("%d pages, want %d", n, pages+1)
	}
	t.Logf("%.0f bytes of index per page", per)
	if per > 90 {
		t.Errorf("%.0f bytes of index per page, want about 70", per)
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func FuzzOpen(f *testing.F) {
	f.Add([]byte("SLP1"), uint16(0))
	f.Fuzz(func(t *testing.T, table []byte, at uint16) {
		dir := t.TempDir()
		file := make([]byte, page.ChunkStride)
		copy(file[int(at)%page.ChunkTable:page.ChunkTable], table)
		if err := os.WriteFile(filepath.Join(dir, "segment-000000"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openSegments(t, dir, page.ChunkStride)
		for i := range 10 {
			mustPut(t, s, pagetest.Key(1, i), sizeOf(i))
		}
		if !look(t, s, pagetest.Key(1, 9), sizeOf(9)) {
			t.Error("not here")
		}
	})
}
