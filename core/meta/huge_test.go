package meta

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestBlocks(t *testing.T) {
	tree := realTree(rand.New(rand.NewPCG(1, 1)), 20_000, 700)
	all := tree.blocks(t.Context(), 1<<30)
	want := 0
	for _, d := range tree.dirs {
		for _, g := range d.groups {
			for _, s := range g.slabs {
				want += len(s.data)
				if s.indexed {
					want += int(unsafe.Sizeof(indexedSlab{}))
				} else {
					want += int(unsafe.Sizeof(slab{}))
				}
			}
		}
	}
	got := 0
	for at, n := range all {
		if got += n; at%hugeBlock != 0 {
			t.Errorf("a block at %#x", at)
		}
	}
	if got != want {
		t.Errorf("%d bytes of slabs in blocks, there are %d", got, want)
	}
	for _, step := range []int{2, 3, 10, 1000} {
		if some := tree.blocks(t.Context(), step); !maps.Equal(some, all) {
			t.Errorf("%d at a time: other blocks than all at once", step)
		}
	}
}

// TestUseHugePages has a tree's memory in huge pages and looks whether it is the same tree.
func TestUseHugePages(t *testing.T) {
	if !hugeAllowed() {
		t.Skip("this machine has no transparent huge pages")
	}
	const n = 100_000
	tree := realTree(rand.New(rand.NewPCG(1, 1)), n, 1000)
	was := hugeNow(t)
	blocks := tree.UseHugePages(t.Context())
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); blocks == 0 && time.Now().Before(end); <-tick.C { // the kernel refuses pages that it is busy with
		blocks = tree.UseHugePages(t.Context())
	}
	if blocks == 0 {
		if err := collapse(t); err != nil {
			t.Skip("this kernel gives nobody huge pages when asked (it is older than Linux 6.1, or has no block of 2 MiB): ", err)
		}
		t.Fatal("no block of the tree is in a huge page, and the kernel gives some")
	}
	if now := hugeNow(t); now-was < hugeBlock {
		t.Errorf("%d blocks, but %d KiB of huge pages after %d KiB", blocks, now>>10, was>>10)
	}
	tree.View(func(v View) {
		_, top, _ := v.Lookup(RootDir, "warehouse/")
		_, mid, _ := v.Lookup(top, "day=00000/")
		for i := range n {
			_, dir, _ := v.Lookup(mid, fmt.Sprintf("hour=%05d/", i/1000))
			if e, ok := v.Get(dir, realName(i)); !ok || e.Class != Persisted {
				t.Fatal(realName(i))
			}
		}
	})
}

// collapse asks the kernel for a huge page of memory that no tree has.
func collapse(t *testing.T) error {
	b, err := unix.Mmap(-1, 0, 2*hugeBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(b) //nolint:errcheck // what stays mapped ends with the test
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	at := -uintptr(unsafe.Pointer(&b[0])) & (hugeBlock - 1)
	return unix.Madvise(b[at:at+hugeBlock], unix.MADV_COLLAPSE)
}

// hugeNow returns the bytes of this process in huge pages.
func hugeNow(t *testing.T) (n int) {
	all, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(all, []byte("AnonHugePages:"))
	if _, err := fmt.Sscan(string(rest), &n); err != nil {
		t.Fatal(err)
	}
	return n << 10
}
