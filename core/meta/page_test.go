package meta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core/errs"
)

// pageOf makes a page of entries at places that follow each other.
func pageOf(t testing.TB, at []point, entries []Entry, low, high point) []byte {
	t.Helper()
	w, err := newPageWriter()
	if err != nil {
		t.Fatal(err)
	}
	x, v := newShapes(), &values{}
	for i, p := range at {
		packed := x.pack(nil, v, &entries[i])
		s, b := x.of(packed)
		w.add(p.dir, []byte(p.edge), s, b)
	}
	return w.finish(7, low, high)
}

func reader(t testing.TB, x *shapes) *pageReader {
	t.Helper()
	r, err := newPageReader(func(list []shape) []uint32 {
		numbers := make([]uint32, len(list))
		for i := range list {
			numbers[i] = x.numberOf(&list[i])
		}
		return numbers
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.zstd.Close)
	return r
}

func TestPageKeepsEntries(t *testing.T) {
	r := seed(t)
	for round := range 50 {
		var at []point
		for range r.IntN(300) {
			at = append(at, point{DirID(r.Uint64N(5) + 1), randomName(r, false, true)})
		}
		at = append(at, point{end.dir - 1, "last"})
		slices.SortFunc(at, point.compare)
		at = slices.Compact(at)
		entries := make([]Entry, len(at))
		for i := range entries {
			entries[i] = randomEntry(r)
		}
		b := pageOf(t, at, entries, point{}, end)
		x := newShapes()
		if round%5 == 0 { // the reader has no numbers left
			for len(x.list) < maxShapes {
				x.list = append(x.list, &shape{})
			}
		}
		p, err := reader(t, &x).read(b)
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for _, run := range p.runs {
			for _, item := range run.items {
				if got := (point{run.dir, string(item.edge)}); got != at[i] {
					t.Fatalf("entry %d is at %v, want %v", i, got, at[i])
				}
				if diff := cmp.Diff(&entries[i], x.entry(item.packed)); diff != "" {
					t.Fatalf("entry %d (-want +got):\n%s", i, diff)
				}
				i++
			}
		}
		if i != len(at) || p.seq != 7 || p.n != i || p.high != end {
			t.Errorf("%d of %d entries, header %+v", i, len(at), p.pageHeader)
		}
	}
}

func TestPageRefuses(t *testing.T) {
	at := []point{{3, "a"}, {3, "b"}, {4, "a"}}
	entries := []Entry{{Class: Whiteout}, {Class: Persisted, ETag: "e"}, {Class: Directory, Dir: 9}}
	good := pageOf(t, at, entries, point{3, "a"}, point{4, "b"})
	x := newShapes()
	r := reader(t, &x)
	if _, err := r.read(good); err != nil {
		t.Fatal(err)
	}
	change := func(i int, c byte) []byte { b := slices.Clone(good); b[i] = c; return b }
	for name, b := range map[string][]byte{
		"empty":               nil,
		"torn":                good[:len(good)/2],
		"bit flipped":         change(len(good)/2, good[len(good)/2]^1),
		"later version":       sealed(change(0, 2)),
		"entry below low":     pageOf(t, at, entries, point{3, "aa"}, point{4, "b"}),
		"entry at high":       pageOf(t, at, entries, point{3, "a"}, point{4, "a"}),
		"covers nothing":      pageOf(t, nil, nil, point{4, "a"}, point{4, "a"}),
		"not in order":        pageOf(t, []point{{3, "b"}, {3, "a"}}, entries, point{}, end),
		"twice":               pageOf(t, []point{{3, "b"}, {3, "b"}}, entries, point{}, end),
		"directories go back": pageOf(t, []point{{4, "b"}, {3, "a"}}, entries, point{}, end),
	} {
		if _, err := r.read(b); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: got %v, want Corrupt", name, err)
		}
	}
}

// sealed gives the page b a checksum that is right.
func sealed(b []byte) []byte {
	body := b[:len(b)-crcSize]
	return binary.LittleEndian.AppendUint32(slices.Clone(body), crc32.Checksum(body, castagnoli))
}

// TestPageKeysFit requires that pages have keys of their own that a KV takes, however long their low edges are.
func TestPageKeysFit(t *testing.T) {
	long := string(make([]byte, 5000))
	seen := map[string]bool{}
	for _, edge := range []string{"", "a", long[:maxLow], long[:maxLow+1], long + "a", long + "b"} {
		key := pageKey("g/"+long[:maxGroup]+"/p/", point{1 << 62, edge})
		if err := CheckKey("test", key); err != nil {
			t.Error(err)
		}
		if seen[key] {
			t.Errorf("an edge of %d bytes has the key of another", len(edge))
		}
		seen[key] = true
	}
}

// FuzzPage requires that no bytes, with a right checksum or not, do worse than fail, and that what is read can be unpacked.
func FuzzPage(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	var at []point
	var entries []Entry
	for i := range 40 {
		at = append(at, point{DirID(3 + i/10), fmt.Sprintf("name-%02d", i)})
		entries = append(entries, randomEntry(r))
	}
	f.Add(pageOf(f, at, entries, point{}, end))
	f.Add(pageOf(f, nil, nil, point{}, end))
	f.Add(pageOf(f, at[:1], entries[:1], at[0], at[1]))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < crcSize {
			return
		}
		x := newShapes()
		p, err := reader(t, &x).read(sealed(b))
		if err != nil {
			if !errors.Is(err, errs.Corrupt) {
				t.Errorf("got %v, want Corrupt", err)
			}
			return
		}
		for _, run := range p.runs {
			for _, item := range run.items {
				x.entry(item.packed)
			}
		}
	})
}

// TestPageBodyDamage changes bytes below the compression and the checksum, which random bytes do not get through.
func TestPageBodyDamage(t *testing.T) {
	r := seed(t)
	w, err := newPageWriter()
	if err != nil {
		t.Fatal(err)
	}
	x, v := newShapes(), &values{}
	for i := range 20 {
		e := randomEntry(r)
		s, b := x.of(x.pack(nil, v, &e))
		w.add(DirID(3+i/10), fmt.Appendf(nil, "name-%02d", i), s, b)
	}
	w.finish(7, point{}, end)
	raw := slices.Clone(w.raw)
	refused := 0
	for range 5000 {
		damaged := slices.Clone(raw)
		for range r.IntN(4) + 1 {
			damaged[r.IntN(len(damaged))] = byte(r.Uint32())
		}
		b := appendPoint(appendPoint([]byte{pageVersion, 7}, point{}), end)
		b = binary.AppendUvarint(b, pick(r, []uint64{20, 20, 20, 0, 19, 1 << 40}))
		b = binary.AppendUvarint(b, uint64(len(damaged)))
		b = w.zstd.EncodeAll(damaged, b)
		x := newShapes()
		p, err := reader(t, &x).read(sealed(append(b, 0, 0, 0, 0)))
		if err != nil {
			refused++
			if !errors.Is(err, errs.Corrupt) {
				t.Fatalf("got %v, want Corrupt", err)
			}
			continue
		}
		for _, run := range p.runs {
			for _, item := range run.items {
				x.entry(item.packed)
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}
