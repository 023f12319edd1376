package meta

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// realEntry is what a PUT of a file to a local store leaves in the overlay.
func realEntry(r *rand.Rand, i int) Entry {
	e := Entry{Class: Persisted, ID: uint64(i + 1), Rev: uint64(i + 1 + i/100), Size: r.Int64N(64 << 20),
		MTime: epoch + int64(i)*1_000_003 + r.Int64N(1e6), Owner: "alice", Group: "analysts", Mode: 0o644 | 1<<31, BlockSize: 128 << 20, Replication: 1}
	e.Extents = []Extent{{e.ID, e.Rev, 0, e.Size}}
	e.ATime = e.MTime
	e.ETag = fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64())
	e.Version = fmt.Sprintf("%x.%x.%x.%x.%x", 0x802, 5_000_000+i, e.Size, e.MTime, e.MTime+20_000+r.Int64N(2e6))
	return e
}

// randomEntry has any of the fields, with the values that packing treats apart and others.
func randomEntry(r *rand.Rand) Entry {
	e := realEntry(r, r.IntN(1000))
	maybe := func(change func()) {
		if r.IntN(4) == 0 {
			change()
		}
	}
	maybe(func() {
		e.ETag = pick(r, []string{"", "x", e.ETag + "-3", e.ETag + "-03", e.ETag + "-", "F" + e.ETag[1:], e.ETag + "-99999999999"})
	})
	maybe(func() { e.Version = "" })
	maybe(func() { e.Version = e.ETag })
	maybe(func() {
		e.Version = e.ETag + pick(r, []string{"|", "|17", "|-17", "|017", "|1790000000", "|9999999999999999999999"})
	})
	maybe(func() {
		e.Version = pick(r, []string{"1.2.3.4.5", "0.0.0.0.0", "1..2.3.4", "1.2.3.4", "01.2.3.4.5", "1.2.3.4.5.6", "11112222333344445.1.1.1.1", "A.1.1.1.1"})
	})
	maybe(func() { e.Size, e.Extents = 0, nil })
	maybe(func() { e.Extents = append(e.Extents, Extent{1, 2, 3, 4}) })
	maybe(func() { e.Extents = nil })
	maybe(func() { e.MTime = pick(r, []int64{0, -1, 1, epoch, 1 << 62, -1 << 62}) })
	maybe(func() { e.ATime = pick(r, []int64{0, e.MTime, 7}) })
	maybe(func() { e.Rev = r.Uint64() })
	maybe(func() { e.ID = r.Uint64() })
	maybe(func() { e.Owner, e.Group, e.Mode = "", "g", r.Uint32() })
	maybe(func() {
		e.Class, e.Dir, e.Explicit, e.Marker, e.Mount = Directory, DirID(r.Uint64()>>1), true, r.IntN(2) == 0, true
	})
	maybe(func() { e.Base = Base{Absolute, "s", "p/"} })
	maybe(func() { e.StoreKey, e.Checksums, e.HDFSSum = "k", "[]", "MD5:00" })
	maybe(func() {
		e.Headers, e.User, e.Extra = map[string]string{"a": "b"}, map[string]string{"c": "d", "e": ""}, map[string]string{"": "x"}
	})
	maybe(func() { e.Parts = []int64{1, -2} })
	maybe(func() {
		e.Class, e.Hold = Local, &Hold{ID: [16]byte{1, 255}, Workers: []string{"w1", "w2"}, Write: "ASYNC_THROUGH", Since: -r.Int64()}
		maybe(func() { e.Hold.Base, e.Hold.Refused = "v", "why" })
	})
	maybe(func() { e = Entry{Class: pick(r, []Class{Whiteout, Note, Directory})} })
	return e
}

func TestPack(t *testing.T) {
	r := seed(t)
	x := newShapes()
	for i := range 20_000 {
		if i == 10_000 { // what follows finds no number for its shape
			for len(x.list) < maxShapes {
				x.list = append(x.list, &shape{})
			}
		}
		e := randomEntry(r)
		packed := x.pack(nil, &values{}, &e)
		got := x.entry(packed)
		if diff := cmp.Diff(&e, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
		if class, dir := x.peek(packed); class != e.Class || dir != e.Dir {
			t.Fatalf("peek: got %c %d, want %c %d", class, dir, e.Class, e.Dir)
		}
	}
}

// TestFile requires that a look at a file says what its entry does.
func TestFile(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	x := newShapes()
	var v values
	plain := 0
	for range 20_000 {
		e := randomEntry(r)
		packed := x.pack(nil, &v, &e)
		if n := r.IntN(3) * 4; n > 0 { // whatever follows in the slab
			packed = append(packed, make([]byte, n)...)[:len(packed)]
		}
		f := File{Size: 1, ATime: 1, parts: 1, shape: &shape{}}
		if class := x.file(packed, &f); class != e.Class {
			t.Fatalf("%+v has the class %c", e, class)
		}
		if e.Class != Persisted {
			continue
		}
		var got, want Entry
		want = e
		want.Version, want.Extents = "", nil
		if f.Brief(&got); f.Plain() {
			plain++
			owner, group, mode := f.Owner()
			size, replication := f.Blocks()
			got = Entry{Class: Persisted, ID: f.ID, Rev: f.Rev, Size: f.Size, MTime: f.MTime, ATime: f.ATime, Owner: owner, Group: group, Mode: mode,
				BlockSize: size, Replication: replication, ETag: string(f.AppendETag(nil))}
		} else {
			got.Version, got.Extents = "", nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("plain: %v (-want +got)\n%s", f.Plain(), diff)
		}
	}
	if plain < 200 {
		t.Errorf("%d plain files", plain)
	}
}

func TestNumber(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	for range 100_000 {
		want := int64(r.Uint64() >> r.IntN(64))
		if r.IntN(2) == 0 {
			want = -want
		}
		b := append(binary.AppendVarint(nil, want), "followed by something"[:r.IntN(20)]...)
		n, size := binary.Varint(b)
		if got, rest := number(b); got != n || len(rest) != len(b)-size {
			t.Fatalf("% x is %d and %d bytes more, want %d and %d", b, got, len(rest), n, len(b)-size)
		}
		if got := appendNumber([]byte("x"), want); string(got[1:]) != string(b[:size]) || got[0] != 'x' {
			t.Fatalf("%d is written as % x, want % x", want, got[1:], b[:size])
		}
	}
}

func TestAppendMD5(t *testing.T) {
	for i := range 256 {
		sum := md5.Sum([]byte{byte(i)})
		sum[i%16] = byte(i)
		if got, want := string(appendMD5([]byte("x"), &sum)), "x"+hex.EncodeToString(sum[:]); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

func TestPackIsTight(t *testing.T) {
	x := newShapes()
	r := rand.New(rand.NewPCG(1, 1))
	total := 0
	for i := range 1000 {
		e := realEntry(r, 1_000_000+i)
		total += len(x.pack(nil, &values{}, &e))
	}
	if total > 50*1000 || len(x.list) > 2 {
		t.Errorf("1000 entries of a local store take %d bytes and %d shapes, want at most 50 each, and one", total, len(x.list)-1)
	}
}

// TestDirectoryModel changes one directory at random, names in order and long ones among them, and compares it with a map.
func TestDirectoryModel(t *testing.T) {
	r := seed(t)
	for range 8 {
		tree, model := NewTree(), map[string]Entry{}
		serial := 0
		name := func() string {
			switch r.IntN(4) {
			case 0:
				serial++
				return fmt.Sprintf("part-%08d", serial)
			case 1:
				return string(make([]byte, r.IntN(300))) + fmt.Sprint(r.IntN(50))
			}
			return fmt.Sprintf("%x", r.IntN(3000))
		}
		now := time.Now()
		for range 6000 {
			edge := name()
			if r.IntN(5) < 2 {
				delete(model, edge)
				tree.Apply(1, []Op{{Kind: Del, Dir: RootDir, Edge: edge}})
				continue
			}
			e := realEntry(r, r.IntN(1000))
			if r.IntN(50) == 0 {
				e.StoreKey = string(make([]byte, r.IntN(20_000)))
			}
			model[edge] = e
			tree.Apply(1, []Op{{Kind: Set, Dir: RootDir, Edge: edge, Entry: e}})
			if r.IntN(3) == 0 {
				tree.MarkChecked(RootDir, edge, e.Version, now.Add(time.Hour))
			}
		}
		got := map[string]Entry{}
		tree.View(func(v View) {
			last, first := "", true
			for edge, e := range v.Children(RootDir, "") {
				if !first && edge <= last {
					t.Fatalf("%q after %q", edge, last)
				}
				first, last = false, edge
				got[edge] = *e
				if one, ok := v.Get(RootDir, edge); !ok || one.ID != e.ID {
					t.Fatalf("Get(%q) = %v, %v", edge, one, ok)
				}
			}
		})
		if diff := cmp.Diff(model, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
		if tree.Len() != len(model) {
			t.Errorf("Len = %d, want %d", tree.Len(), len(model))
		}
		for edge := range model {
			tree.Apply(1, []Op{{Kind: Del, Dir: RootDir, Edge: edge}})
		}
		if got, want := tree.bytes.Load(), NewTree().bytes.Load(); got != want || tree.Len() != 0 {
			t.Errorf("%d bytes and %d entries after all were deleted, want %d", got, tree.Len(), want)
		}
	}
}

// TestChecksSurviveNeighbours requires that a check outlives changes of the entries beside its own.
func TestChecksSurviveNeighbours(t *testing.T) {
	tree := NewTree()
	set := func(edge string) {
		tree.Apply(1, []Op{{Kind: Set, Dir: RootDir, Edge: edge, Entry: Entry{Class: Persisted, Version: "v"}}})
	}
	set("m")
	at := time.Now().Add(time.Hour)
	tree.MarkChecked(RootDir, "m", "v", at)
	for i := range 200 {
		set(fmt.Sprintf("a%03d", i))
		set(fmt.Sprintf("z%03d", i))
	}
	for i := range 200 {
		tree.Apply(1, []Op{{Kind: Del, Dir: RootDir, Edge: fmt.Sprintf("a%03d", i)}, {Kind: Del, Dir: RootDir, Edge: fmt.Sprintf("z%03d", 199-i)}})
	}
	tree.View(func(v View) {
		if got := v.CheckedAt(RootDir, "m"); !got.Equal(at) {
			t.Errorf("checked at %v, want %v", got, at)
		}
	})
}

// TestTreeBytes holds the estimate to what the heap says.
func TestTreeBytes(t *testing.T) {
	const n = 30_000
	for _, perDir := range []int{1, 100, n} {
		r := rand.New(rand.NewPCG(1, uint64(perDir)))
		before := heap()
		tree := realTree(r, n, perDir)
		took, says := float64(heap()-before), float64(tree.Bytes())
		if says < 0.8*took || says > 1.25*took {
			t.Errorf("%d entries in a directory: Bytes says %.0f, the heap %.0f", perDir, says, took)
		}
		runtime.KeepAlive(tree)
	}
}
