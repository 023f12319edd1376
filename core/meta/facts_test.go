package meta

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFacts holds facts to a map: what is put in, in order and not, changed and taken out.
func TestFacts(t *testing.T) {
	r := seed(t)
	for range 60 {
		var f facts
		model := map[string]fact{}
		edge := func() string {
			switch r.IntN(4) {
			case 0:
				return randomName(r, r.IntN(2) == 0, true)
			case 1:
				return strings.Repeat("long", 50) + fmt.Sprint(r.IntN(300))
			}
			return fmt.Sprintf("part-%08d.parquet", r.IntN(600))
		}
		row := func() fact {
			size := r.IntN(40)
			if r.IntN(50) == 0 { // one that makes its block full alone
				size = factWeight
			}
			return fact{[]byte(strings.Repeat("r", size)), r.Int64()}
		}
		next := 0
		for step := range 1500 {
			e := edge()
			if r.IntN(3) == 0 { // a listing in its order
				next++
				e = fmt.Sprintf("part-%08d.parquet", next)
			}
			old, ok := model[e]
			var there, was bool
			if r.IntN(5) == 0 || step > 1200 && r.IntN(2) == 0 {
				if all := keys(model); step > 1200 && len(all) > 0 {
					e = pick(r, all)
					old, ok = model[e]
				}
				there, was = f.delete(e)
				delete(model, e)
			} else {
				model[e] = row()
				there, was = f.set(e, model[e])
			}
			if was != ok || there != old.there() || f.len() != len(model) {
				t.Fatalf("step %d: %q was there %v, known %v, want %v, %v; %d facts, want %d", step, e, there, was, old.there(), ok, f.len(), len(model))
			}
			if e = edge(); r.IntN(2) == 0 {
				e += "\x00"
			}
			got, ok := f.get(e)
			if want, known := model[e]; ok != known || string(got.row) != string(want.row) || got.at != want.at {
				t.Fatalf("step %d: %q is %v %v, want %v %v", step, e, got, ok, want, known)
			}
			if r.IntN(100) > 0 {
				continue
			}
			from, all := e, keys(model)
			at, _ := slices.BinarySearch(all, from)
			f.ascend(from, &Text{}, func(edge string, k fact) bool {
				if at == len(all) || edge != all[at] || string(k.row) != string(model[edge].row) || k.at != model[edge].at {
					t.Fatalf("step %d: from %q on number %d is %q %v, of %q", step, from, at, edge, k, all)
				}
				at++
				return true
			})
			if at != len(all) {
				t.Fatalf("step %d: from %q on it ends with number %d of %d", step, from, at, len(all))
			}
		}
		for e := range model {
			f.delete(e)
		}
		if f.len() != 0 || len(f.blocks) != 0 {
			t.Fatalf("%d facts, %d blocks are left", f.len(), len(f.blocks))
		}
	}
}

func keys(m map[string]fact) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// TestRowPacker packs rows of all stores, and strange ones.
func TestRowPacker(t *testing.T) {
	md5 := strings.Repeat("0123456789abcdef", 2)
	now := time.Date(2026, 3, 4, 5, 6, 7, 89, time.UTC).UnixNano()
	x := rowPacker{shapes: newShapes()}
	var kept []Row
	var packed [][]byte
	for _, etag := range []string{"", md5, md5 + "-12", md5 + "-012", strings.ToUpper(md5), "0x8DB", `W/"a"`, "é\xff"} {
		for _, version := range []string{"", etag, etag + "|1772600767", etag + "|x", "1.2.3.4.5", fmt.Sprintf("fd00.1a2b3c.64.%x.%x", now, now+5), "17\x00\xff"} {
			for _, row := range []Row{
				{}, {Dir: true}, {Dir: true, Marker: true, Full: true}, {Racy: true, Size: 100, MTime: now}, {Full: true, Size: -1, MTime: -now},
				{Size: 1 << 62, MTime: 1, Owner: "o", Group: "g", Mode: 0o1777},
				{Full: true, Size: 100, MTime: now, Headers: map[string]string{"Content-Type": "a/b"}, User: map[string]string{"k": "v", "": ""}, Checksums: `[{"a":"b"}]`},
			} {
				row.ETag, row.Version = etag, version
				kept, packed = append(kept, row), append(packed, slices.Clone(x.pack(&row)))
			}
		}
	}
	for _, text := range []*Text{nil, {}} {
		for i, want := range kept {
			b := slices.Clone(packed[i])
			var got Row
			if x.unpack(b, &got, text); !reflect.DeepEqual(got, want) {
				t.Fatalf("%+v became %+v", want, got)
			}
			if x.full(b) != want.Full {
				t.Errorf("%+v: full is %v", want, x.full(b))
			}
			x.pack(&kept[(i+1)%len(kept)])
			if string(b) != string(packed[i]) {
				t.Fatalf("packing wrote over the row %+v", want)
			}
		}
	}
	// The shapes there is no number for are kept whole.
	whole := rowPacker{shapes: shapes{number: map[shape]uint32{}, list: make([]*shape, maxShapes)}}
	for _, want := range kept {
		b := slices.Clone(whole.pack(&want))
		var got Row
		if whole.unpack(b, &got, nil); !reflect.DeepEqual(got, want) || whole.full(b) != want.Full {
			t.Fatalf("%+v became %+v", want, got)
		}
	}
	usual := Row{Size: 123_456_789, MTime: now / 1e9 * 1e9, ETag: md5, Version: md5 + "|1772600767"}
	if n := len(x.pack(&usual)); n > 32 {
		t.Errorf("a usual row of an object store takes %d bytes", n)
	}
}

// TestFactsDescending has edges told from the last to the first behind a full block.
func TestFactsDescending(t *testing.T) {
	var f facts
	for i := range factMax {
		f.set(fmt.Sprintf("a%08d", i), fact{at: 1})
	}
	const n = 20_000
	for i := n; i > 0; i-- {
		f.set(fmt.Sprintf("z%08d", i), fact{at: 1})
	}
	if f.len() != n+factMax || len(f.blocks) > n/8 {
		t.Errorf("%d facts in %d blocks", f.len(), len(f.blocks))
	}
	last, order := "", true
	f.ascend("", &Text{}, func(edge string, _ fact) bool {
		order = order && last < edge
		last = edge
		return true
	})
	if !order {
		t.Error("they are not in their order")
	}
}
