package meta

import (
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core/errs"
)

// fill sets v to a value that is not zero, so that what a codec leaves out shows.
func fill(r *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt([]int64{1, -1, math.MaxInt32, math.MinInt32, 300}[r.IntN(5)])
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint([]uint64{1, 2, 127, 255}[r.IntN(4)])
	case reflect.String:
		v.SetString([]string{"x", "ä/\x00\xff", "a longer string with a tail"}[r.IntN(3)])
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3)+1, 3))
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.IntN(3) + 1 {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(r, k)
			fill(r, e)
			v.SetMapIndex(k, e)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem())
	default:
		panic("a field of kind " + v.Kind().String() + " needs a codec and a line here")
	}
}

func roundTrip(t *testing.T, ops []Op) {
	t.Helper()
	var raw []byte
	var err error
	for i := range ops {
		if raw, err = appendOp(raw, &ops[i]); err != nil {
			t.Fatal(err)
		}
	}
	want := header{seq: 1 << 50, term: 77, time: -5, ops: len(ops)}
	record := appendRecord([]byte("before"), want, raw)[len("before"):]
	if len(record) > recordSize(len(raw)) {
		t.Errorf("a record of %d bytes, more than recordSize's %d", len(record), recordSize(len(raw)))
	}
	h, got, err := decodeRecord(record)
	if err != nil {
		t.Fatal(err)
	}
	if h != want {
		t.Errorf("header: got %+v, want %+v", h, want)
	}
	if !reflect.DeepEqual(ops, got) { // a difference is slow to make, and fuzzing asks often
		t.Errorf("-want +got:\n%s", cmp.Diff(ops, got))
	}
}

// TestEveryFieldSurvives fills every field of an entry, alone and together with others. It fails for a field that the
// codec does not know.
func TestEveryFieldSurvives(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	n := reflect.TypeFor[Entry]().NumField()
	for i := range n {
		var e Entry
		e.Class = Directory
		fill(r, reflect.ValueOf(&e).Elem().Field(i))
		roundTrip(t, []Op{{Kind: Set, Entry: e}})
	}
	for range 300 {
		ops := make([]Op, 0, 10)
		for range r.IntN(10) {
			var e Entry
			for i := range n {
				if r.IntN(3) > 0 {
					fill(r, reflect.ValueOf(&e).Elem().Field(i))
				}
			}
			ops = append(ops, Op{Kind: Set, Dir: DirID(r.Uint64() >> 1), Edge: "edge/", Entry: e})
		}
		roundTrip(t, ops)
	}
}

// TestEntryAlone reads an entry that is kept within another, and what is left of one that is not whole.
func TestEntryAlone(t *testing.T) {
	r := seed(t)
	for range 100 {
		var e Entry
		fill(r, reflect.ValueOf(&e).Elem())
		b := e.Append([]byte("before"))[len("before"):]
		got, err := DecodeEntry(b)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%v, -want +got:\n%s", err, cmp.Diff(e, got))
		}
		for n := range len(b) {
			if _, err := DecodeEntry(b[:n]); !errors.Is(err, errs.Corrupt) {
				t.Fatalf("the first %d of %d bytes: got %v, want Corrupt", n, len(b), err)
			}
		}
		if _, err := DecodeEntry(append(b, 0)); !errors.Is(err, errs.Corrupt) {
			t.Fatalf("a byte too many: got %v, want Corrupt", err)
		}
	}
}

func TestEveryKindSurvives(t *testing.T) {
	roundTrip(t, []Op{
		{Kind: Set, Dir: math.MaxInt64, Edge: "", Entry: Entry{}},
		{Kind: Del, Dir: 17, Edge: "a\x00/"},
		{Kind: DropDir, Dir: FirstDir},
		{Kind: Counter, Name: "dir", Value: math.MaxUint64},
	})
	roundTrip(t, []Op{{Kind: Set, Entry: Entry{
		Size: math.MinInt64, MTime: math.MaxInt64, Mode: math.MaxUint32, Replication: math.MinInt32, Rev: math.MaxUint64,
	}}})
	if _, err := appendOp(nil, &Op{Kind: '?'}); !errors.Is(err, errs.Invalid) {
		t.Errorf("an unknown kind: got %v, want Invalid", err)
	}
}

// TestUnknownField refuses an entry with a bit that has no meaning.
func TestUnknownField(t *testing.T) {
	raw := []byte{byte(Set), 1, 1, 'a', byte(Persisted), 0x80, 0x80, 0x80, 0x10}
	if _, _, err := decodeRecord(appendRecord(nil, header{ops: 1}, raw)); !errors.Is(err, errs.Corrupt) {
		t.Errorf("got %v, want Corrupt", err)
	}
}

// TestEveryBitIsProtected flips each bit of a record.
func TestEveryBitIsProtected(t *testing.T) {
	raw, err := appendOp(nil, &Op{Kind: Set, Dir: 3, Edge: "name", Entry: Entry{Class: Persisted, ETag: "etag", Size: 9}})
	if err != nil {
		t.Fatal(err)
	}
	record := appendRecord(nil, header{seq: 1, term: 2, time: 3, ops: 1}, raw)
	for i := range len(record) * 8 {
		record[i/8] ^= 1 << (i % 8)
		if _, _, err := decodeRecord(record); !errors.Is(err, errs.Corrupt) {
			t.Errorf("bit %d: got %v, want Corrupt", i, err)
		}
		record[i/8] ^= 1 << (i % 8)
	}
	for n := range record {
		if _, _, err := decodeRecord(record[:n]); !errors.Is(err, errs.Corrupt) {
			t.Errorf("first %d bytes: got %v, want Corrupt", n, err)
		}
	}
}

// FuzzDecodeRecord feeds bytes that a checksum vouches for, as a record's operations and as a whole record. What decodes
// must encode to something that decodes to the same.
func FuzzDecodeRecord(f *testing.F) {
	raw, err := appendOp(nil, &Op{Kind: Set, Dir: 3, Edge: "name", Entry: Entry{
		Class: Persisted, ETag: "etag", Extents: []Extent{{1, 2, 3, 4}}, User: map[string]string{"a": "b"}, Parts: []int64{5, 6},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(1), raw)
	f.Add(uint16(1), []byte{byte(Set), 1, 1, 'a', byte(Persisted), 0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add(uint16(0), appendRecord(nil, header{seq: 1, ops: 1}, raw))
	f.Add(uint16(65535), []byte{byte(DropDir), 1})
	f.Fuzz(func(t *testing.T, n uint16, b []byte) {
		_, _, _ = decodeRecord(b)
		_, ops, err := decodeRecord(appendRecord(nil, header{ops: int(n)}, b))
		if err != nil {
			if !errors.Is(err, errs.Corrupt) {
				t.Fatalf("got %v, want Corrupt", err)
			}
			return
		}
		roundTrip(t, ops)
	})
}

// TestDecodeAllocatesLittle decodes a short record that announces as much as it can.
func TestDecodeAllocatesLittle(t *testing.T) {
	for name, raw := range map[string][]byte{
		"extents": {byte(Set), 1, 0, 'P', 0x80, 0x01, 0xff, 0xff, 0x7f},
		"string":  {byte(Set), 1, 0xff, 0xff, 0x7f},
		"map":     {byte(Set), 1, 0, 'P', 0x80, 0x80, 0x20, 0xff, 0xff, 0x7f},
	} {
		record := appendRecord(nil, header{ops: MaxRecordOps}, raw)
		const runs = 10
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			if _, _, err := decodeRecord(record); err == nil {
				t.Fatalf("%s: decoded", name)
			}
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / runs; got > 64<<10 {
			t.Errorf("%s: %d bytes allocated for a record of %d", name, got, len(record))
		}
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	op := Op{Kind: Set, Dir: 3, Edge: "image_00000001.jpg", Entry: Entry{
		Class: Persisted, ID: 1 << 40, Rev: 9, Size: 4096, ETag: "0123456789abcdef0123456789abcdef", MTime: 1 << 60, Owner: "root", Group: "root", Mode: 0o644,
	}}
	var raw []byte
	for range 1000 {
		raw, _ = appendOp(raw, &op)
	}
	record := appendRecord(nil, header{seq: 1, ops: 1000}, raw)
	b.ReportMetric(float64(len(raw))/1000, "B/op-raw")
	for b.Loop() {
		if _, _, err := decodeRecord(record); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "ops/s")
}
