package meta

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/wait"
)

/*
A lookup in a large tree waits for memory, and of each wait a part is for where the memory is: the processor remembers that for some
megabytes of pages of 4 KiB, and for a thousand times as much in pages of 2 MiB. So Run asks the kernel, some time after a tree has
been loaded and again when it has grown, to have the blocks of 2 MiB that slabs fill in pages of that size. Nothing in the tree changes
by it, and where the kernel refuses, nothing does at all.
*/
const (
	hugeBlock = 2 << 20
	hugeFull  = hugeBlock / 2 // bytes of slabs in a block that is worth it; what the heap has not in use of it takes memory from then on
	hugeMin   = 32 << 20      // a tree of so many bytes has a block's worth of waits
	hugeStep  = 1024          // slabs and directories looked at while changes wait
	hugeAfter = 10 * time.Second
	hugeTries = 16 // blocks refused, and none taken, until the rest is not tried
)

// hugePages asks for huge pages now and then, until ctx ends.
func (l *Log) hugePages(ctx context.Context) error {
	if !hugeAllowed() {
		return nil
	}
	last := int64(0)
	tick := time.NewTicker(hugeAfter)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if now := l.tree.Bytes(); now >= hugeMin && now > last+last/8 {
			last = now
			start := time.Now()
			n := l.tree.UseHugePages(ctx)
			l.o.Logger.Debug("memory of the tree is in huge pages", "group", l.o.Group, "bytes", int64(n)*hugeBlock, "of", now, "took", time.Since(start))
		}
	}
}

// hugeAllowed reports whether the machine has huge pages for who asks for them.
func hugeAllowed() bool {
	how, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	return err == nil && !bytes.Contains(how, []byte("[never]"))
}

// UseHugePages has the memory that the tree's entries fill in pages of 2 MiB, as far as the kernel (Linux 6.1 or later) does that,
// and returns how many there are. It takes about a millisecond of processor time for each, and as long again in which it does
// nothing; readers and changes go on meanwhile. It ends with ctx. Run does this by itself.
func (t *Tree) UseHugePages(ctx context.Context) (blocks int) {
	refused := 0
	in := t.blocks(ctx, hugeStep)
	for _, at := range slices.Sorted(maps.Keys(in)) {
		if in[at] < hugeFull {
			continue
		}
		start := time.Now()
		_, _, err := unix.Syscall(unix.SYS_MADVISE, at, hugeBlock, unix.MADV_COLLAPSE)
		switch {
		case err == 0:
			blocks++
		case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EBUSY): // the machine has no more, or the process may not have it
			return blocks
		default: // it is at the end of the heap, or somebody holds a page of it
			if refused++; refused >= hugeTries && blocks == 0 {
				return 0
			}
		}
		if wait.For(ctx, time.Since(start)) != nil { // page faults of the whole process wait for the kernel here
			break
		}
	}
	return blocks
}

// blocks returns how many bytes of slabs are in each block that has any, by its address. The heap does not move; a block whose slabs
// are freed meanwhile is memory of something else. It looks at step slabs and directories at a time, two at least: one that moves in between may be
// counted twice, or not.
func (t *Tree) blocks(ctx context.Context, step int) map[uintptr]int {
	in := map[uintptr]int{}
	count := func(p unsafe.Pointer, n int) { // what lies in two blocks counts in the first
		in[uintptr(p)&^(hugeBlock-1)] += n
	}
	var from DirID
	at := 0 // the slab of from that is next
	for more := true; more && ctx.Err() == nil; {
		more = false
		t.View(func(v View) {
			left := step
			v.t.order.Ascend(from, func(id DirID) bool {
				if id != from {
					from, at = id, 0
				}
				if more = left <= 0; more {
					return false
				}
				left--
				n := 0 // slabs of the directory before those of the group
				for _, g := range v.t.dirs[id].groups {
					for at < n+len(g.slabs) {
						if more = left <= 0; more {
							return false
						}
						left--
						s := g.slabs[at-n]
						size := unsafe.Sizeof(slab{})
						if s.indexed {
							size = unsafe.Sizeof(indexedSlab{})
						}
						count(unsafe.Pointer(s), int(size))
						count(unsafe.Pointer(unsafe.SliceData(s.data)), len(s.data))
						at++
					}
					n += len(g.slabs)
				}
				return true
			})
		})
	}
	return in
}
