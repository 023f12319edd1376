// Package kvtest is the suite that defines the behaviour of a meta.KV: one test per sentence of its contract, and a random
// comparison with a plain map. It is no test of durability, which is the implementation's own.
package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// Run tests the KVs that open returns; each must be empty, and open must see to its end.
func Run(t *testing.T, open func(t *testing.T) meta.KV) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, kv meta.KV)
	}{
		{"Get", testGet},
		{"Scan", testScan},
		{"ScanBounds", testScanBounds},
		{"TxnCompares", testTxnCompares},
		{"TxnIsOneRevision", testTxnIsOneRevision},
		{"TxnLimits", testTxnLimits},
		{"TxnRace", testTxnRace},
		{"ValuesAreCopied", testValuesAreCopied},
		{"OddKeys", testOddKeys},
		{"DeleteRange", testDeleteRange},
		{"Watch", testWatch},
		{"WatchFromNow", testWatchFromNow},
		{"Compact", testCompact},
		{"Context", testContext},
		{"Model", testModel},
		{"Close", testClose},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func testGet(t *testing.T, kv meta.KV) {
	if _, err := kv.Get(t.Context(), "a"); !errors.Is(err, errs.NotExist) {
		t.Fatalf("Get of a missing key: got %v, want NotExist", err)
	}
	first := put(t, kv, "a", "1")
	put(t, kv, "b", "2")
	last := put(t, kv, "a", "3")
	got, err := kv.Get(t.Context(), "a")
	want := meta.KeyValue{Key: "a", Value: []byte("3"), CreateRev: first, ModRev: last}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("Get: %v, -want +got:\n%s", err, diff)
	}
	if last <= first {
		t.Fatalf("revisions do not grow: %d, then %d", first, last)
	}
	txn(t, kv, meta.Txn{Deletes: []string{"a"}})
	again := put(t, kv, "a", "4")
	if got, _ := kv.Get(t.Context(), "a"); got.CreateRev != again {
		t.Fatalf("CreateRev of a key made again: got %d, want %d", got.CreateRev, again)
	}
	if _, err := kv.Get(t.Context(), ""); !errors.Is(err, errs.Invalid) {
		t.Fatalf("Get of the empty key: got %v, want Invalid", err)
	}
}

func testScan(t *testing.T, kv meta.KV) {
	for _, k := range []string{"b", "a/2", "a", "a/1", "a0", "a/10"} {
		put(t, kv, k, "v"+k)
	}
	rev := put(t, kv, "c", "")
	for _, c := range []struct {
		from, to string
		limit    int
		want     []string
		more     bool
	}{
		{"a", "d", 100, []string{"a", "a/1", "a/10", "a/2", "a0", "b", "c"}, false},
		{"a/", meta.PrefixEnd("a/"), 100, []string{"a/1", "a/10", "a/2"}, false},
		{"a/", meta.PrefixEnd("a/"), 3, []string{"a/1", "a/10", "a/2"}, false},
		{"a/", meta.PrefixEnd("a/"), 2, []string{"a/1", "a/10"}, true},
		{"a/1\x00", "b", 100, []string{"a/10", "a/2", "a0"}, false},
		{"x", "y", 1, nil, false},
	} {
		p, err := kv.Scan(t.Context(), c.from, c.to, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range p.KVs {
			got = append(got, e.Key)
			if e.Key != "c" && string(e.Value) != "v"+e.Key {
				t.Errorf("value of %q: got %q", e.Key, e.Value)
			}
		}
		if !slices.Equal(got, c.want) || p.More != c.more {
			t.Errorf("Scan(%q, %q, %d): got %q, more %v; want %q, %v", c.from, c.to, c.limit, got, p.More, c.want, c.more)
		}
		if p.Revision != rev {
			t.Errorf("Scan: revision %d, want %d", p.Revision, rev)
		}
	}
}

func testScanBounds(t *testing.T, kv meta.KV) {
	for _, c := range []struct {
		from, to string
		limit    int
	}{{"", "b", 1}, {"a", "", 1}, {"b", "a", 1}, {"a", "a", 1}, {"a", "b", 0}, {"a", "b", -1}, {"a", "b", meta.MaxScan + 1}} {
		if _, err := kv.Scan(t.Context(), c.from, c.to, c.limit); !errors.Is(err, errs.Invalid) {
			t.Errorf("Scan(%q, %q, %d): got %v, want Invalid", c.from, c.to, c.limit, err)
		}
	}
}

func testTxnCompares(t *testing.T, kv meta.KV) {
	first := put(t, kv, "a", "1")
	last := put(t, kv, "a", "2")
	for _, c := range []struct {
		name string
		cmp  meta.Compare
		want bool
	}{
		{"ModRevIs", meta.ModRevIs("a", last), true},
		{"ModRevIs old", meta.ModRevIs("a", first), false},
		{"ModRevIs 0", meta.ModRevIs("a", 0), false},
		{"ModRevIs of missing", meta.ModRevIs("x", 0), true},
		{"Exists", meta.KeyExists("a"), true},
		{"Exists of missing", meta.KeyExists("x"), false},
		{"Absent", meta.KeyAbsent("a"), false},
		{"Absent of missing", meta.KeyAbsent("x"), true},
		{"CreateRev", meta.Compare{Key: "a", Created: true, Revision: first}, true},
		{"CreateRev >", meta.Compare{Key: "a", Created: true, Greater: true, Revision: first}, false},
		{"ModRev >", meta.Compare{Key: "a", Greater: true, Revision: first}, true},
	} {
		ok, _, err := kv.Txn(t.Context(), meta.Txn{If: []meta.Compare{c.cmp}, Puts: []meta.KeyValue{{Key: "done/" + c.name}}})
		if err != nil || ok != c.want {
			t.Errorf("%s: got %v, %v; want %v", c.name, ok, err, c.want)
		}
		if _, err := kv.Get(t.Context(), "done/"+c.name); (err == nil) != c.want {
			t.Errorf("%s: done is %v, want %v", c.name, err == nil, c.want)
		}
	}
	if ok, _, _ := kv.Txn(t.Context(), meta.Txn{If: []meta.Compare{meta.KeyExists("a"), meta.KeyExists("x")}, Deletes: []string{"a"}}); ok {
		t.Error("one of two compares failed and the transaction was done")
	}
}

func testTxnIsOneRevision(t *testing.T, kv meta.KV) {
	put(t, kv, "old", "")
	rev := txn(t, kv, meta.Txn{Puts: []meta.KeyValue{{Key: "a"}, {Key: "b"}}, Deletes: []string{"old", "missing"}})
	for _, k := range []string{"a", "b"} {
		if got, err := kv.Get(t.Context(), k); err != nil || got.ModRev != rev || got.CreateRev != rev {
			t.Errorf("%s: got %+v, %v; want both revisions %d", k, got, err, rev)
		}
	}
	if _, err := kv.Get(t.Context(), "old"); !errors.Is(err, errs.NotExist) {
		t.Errorf("deleted key: got %v, want NotExist", err)
	}
	if got := txn(t, kv, meta.Txn{}); got != rev {
		t.Errorf("an empty transaction changed the revision from %d to %d", rev, got)
	}
	if got := txn(t, kv, meta.Txn{Deletes: []string{"missing"}}); got != rev {
		t.Errorf("deleting what is not there changed the revision from %d to %d", rev, got)
	}
	if ok, got, err := kv.Txn(t.Context(), meta.Txn{If: []meta.Compare{meta.KeyExists("x")}, Deletes: []string{"a"}}); ok || err != nil || got != rev {
		t.Errorf("a refused transaction: got %v, %d, %v; want false, %d", ok, got, err, rev)
	}
}

func testTxnLimits(t *testing.T, kv meta.KV) {
	puts := func(n int) (kvs []meta.KeyValue) {
		for i := range n {
			kvs = append(kvs, meta.KeyValue{Key: fmt.Sprintf("k%03d", i)})
		}
		return kvs
	}
	big := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	for _, c := range []struct {
		name string
		txn  meta.Txn
		want error
	}{
		{"most operations", meta.Txn{Puts: puts(meta.MaxTxnOps - 1), Deletes: []string{"x"}}, nil},
		{"too many operations", meta.Txn{Puts: puts(meta.MaxTxnOps), Deletes: []string{"x"}}, errs.TooLarge},
		{"too many compares", meta.Txn{If: make([]meta.Compare, meta.MaxTxnOps+1)}, errs.TooLarge},
		{"longest value", meta.Txn{Puts: []meta.KeyValue{{Key: "a", Value: big(meta.MaxValue)}}}, nil},
		{"too long a value", meta.Txn{Puts: []meta.KeyValue{{Key: "a", Value: big(meta.MaxValue + 1)}}}, errs.TooLarge},
		{"most bytes", meta.Txn{Puts: []meta.KeyValue{{Key: "a", Value: big(meta.MaxValue)}, {Key: "b", Value: big(meta.MaxTxnBytes - meta.MaxValue - 2)}}}, nil},
		{"too many bytes", meta.Txn{Puts: []meta.KeyValue{{Key: "a", Value: big(meta.MaxValue)}, {Key: "b", Value: big(meta.MaxValue)}}}, errs.TooLarge},
		{"longest key", meta.Txn{Puts: []meta.KeyValue{{Key: strings.Repeat("k", meta.MaxKey)}}}, nil},
		{"too long a key", meta.Txn{Puts: []meta.KeyValue{{Key: strings.Repeat("k", meta.MaxKey+1)}}}, errs.Invalid},
		{"empty key", meta.Txn{Deletes: []string{""}}, errs.Invalid},
		{"key twice", meta.Txn{Puts: []meta.KeyValue{{Key: "a"}, {Key: "a"}}}, errs.Invalid},
		{"key put and deleted", meta.Txn{Puts: []meta.KeyValue{{Key: "a"}}, Deletes: []string{"a"}}, errs.Invalid},
	} {
		_, _, err := kv.Txn(t.Context(), c.txn)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// testTxnRace lets many writers race to make the same keys; each is made exactly once.
func testTxnRace(t *testing.T, kv meta.KV) {
	const writers, keys = 8, 20
	wins := make([]int, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for k := range keys {
				key := fmt.Sprintf("k%d", k)
				ok, _, err := kv.Txn(t.Context(), meta.Txn{If: []meta.Compare{meta.KeyAbsent(key)}, Puts: []meta.KeyValue{{Key: key}}})
				if err != nil {
					t.Error(err)
				}
				if ok {
					wins[w]++
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range wins {
		total += n
	}
	if total != keys {
		t.Fatalf("%d creations of %d keys", total, keys)
	}
}

func testValuesAreCopied(t *testing.T, kv meta.KV) {
	value := []byte("before")
	txn(t, kv, meta.Txn{Puts: []meta.KeyValue{{Key: "a", Value: value}}})
	copy(value, "after!")
	if got, err := kv.Get(t.Context(), "a"); err != nil || string(got.Value) != "before" {
		t.Fatalf("got %q, %v; want the value as it was put", got.Value, err)
	}
}

func testOddKeys(t *testing.T, kv meta.KV) {
	keys := []string{"\x00", "\x00\x00", "a\x00", "a\x00b", "a/", "ä", "a\xff", "\xff\xfe", "foo|abc", "foo", "%zz", " "}
	for _, k := range keys {
		put(t, kv, k, k)
	}
	p, err := kv.Scan(t.Context(), "\x00", "\xff\xff", 100)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	var got []string
	for _, e := range p.KVs {
		got = append(got, string(e.Value))
	}
	if !slices.Equal(got, keys) {
		t.Fatalf("got %q, want %q", got, keys)
	}
}

func testDeleteRange(t *testing.T, kv meta.KV) {
	const n = 2500
	for i := 0; i < n; i += 125 {
		var puts []meta.KeyValue
		for j := range 125 {
			puts = append(puts, meta.KeyValue{Key: fmt.Sprintf("d/%04d", i+j)})
		}
		txn(t, kv, meta.Txn{Puts: puts})
	}
	put(t, kv, "d", "")
	put(t, kv, "d0", "")
	if got, err := kv.DeleteRange(t.Context(), "d/", "d/1000"); got != 1000 || err != nil {
		t.Fatalf("DeleteRange: got %d, %v; want 1000", got, err)
	}
	if got, err := kv.DeleteRange(t.Context(), "d/", meta.PrefixEnd("d/")); got != n-1000 || err != nil {
		t.Fatalf("DeleteRange: got %d, %v; want %d", got, err, n-1000)
	}
	if got, err := kv.DeleteRange(t.Context(), "d/", meta.PrefixEnd("d/")); got != 0 || err != nil {
		t.Fatalf("DeleteRange of nothing: got %d, %v", got, err)
	}
	p, err := kv.Scan(t.Context(), "a", "z", 10)
	if err != nil || len(p.KVs) != 2 {
		t.Fatalf("the neighbours: got %+v, %v", p, err)
	}
	if _, err := kv.DeleteRange(t.Context(), "b", "a"); !errors.Is(err, errs.Invalid) {
		t.Fatalf("DeleteRange of a reversed range: got %v, want Invalid", err)
	}
}

func testWatch(t *testing.T, kv meta.KV) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	put(t, kv, "w/0", "before")
	r1 := put(t, kv, "w/a", "1")
	put(t, kv, "x", "not watched")
	r2 := txn(t, kv, meta.Txn{Deletes: []string{"w/a"}, Puts: []meta.KeyValue{{Key: "w/b", Value: []byte("2")}}})
	want := []meta.Event{
		{KeyValue: meta.KeyValue{Key: "w/a", Value: []byte("1"), CreateRev: r1, ModRev: r1}},
		{KeyValue: meta.KeyValue{Key: "w/a", ModRev: r2}, Deleted: true},
		{KeyValue: meta.KeyValue{Key: "w/b", Value: []byte("2"), CreateRev: r2, ModRev: r2}},
	}
	var got []meta.Event
	var end error
	for e, err := range kv.Watch(ctx, "w/", meta.PrefixEnd("w/"), r1) {
		if end = err; err != nil {
			break
		}
		got = append(got, e)
		switch len(got) {
		case 3:
			r3 := put(t, kv, "w/c", "3")
			want = append(want, meta.Event{KeyValue: meta.KeyValue{Key: "w/c", Value: []byte("3"), CreateRev: r3, ModRev: r3}})
		case 4:
			cancel()
		}
	}
	if !errors.Is(end, context.Canceled) {
		t.Errorf("end of the watch: got %v, want Canceled", end)
	}
	// The changes of one revision may come in any order.
	slices.SortStableFunc(got[:min(3, len(got))], func(a, b meta.Event) int {
		if a.ModRev != b.ModRev {
			return int(a.ModRev - b.ModRev)
		}
		return strings.Compare(a.Key, b.Key)
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, err := range kv.Watch(t.Context(), "b", "a", 0) {
		if !errors.Is(err, errs.Invalid) {
			t.Errorf("Watch of a reversed range: got %v, want Invalid", err)
		}
	}
}

// testWatchFromNow puts until a watch without a revision shows something: it must be a put made after the call.
func testWatchFromNow(t *testing.T, kv meta.KV) {
	before := put(t, kv, "w", "before")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				put(t, kv, "w", "after")
			}
		}
	})
	for e, err := range kv.Watch(t.Context(), "w", "w\x00", 0) {
		if err != nil || e.ModRev <= before || string(e.Value) != "after" {
			t.Fatalf("got %+v, %v; want a later put", e, err)
		}
		return
	}
}

func testCompact(t *testing.T, kv meta.KV) {
	first := put(t, kv, "a", "1")
	put(t, kv, "a", "2")
	last := put(t, kv, "a", "3")
	if err := kv.Compact(t.Context(), last+100); !errors.Is(err, errs.Precondition) {
		t.Errorf("Compact of the future: got %v, want Precondition", err)
	}
	for range 2 {
		if err := kv.Compact(t.Context(), last); err != nil {
			t.Fatalf("Compact: %v", err)
		}
	}
	if err := kv.Compact(t.Context(), first); err != nil {
		t.Errorf("Compact of the past: %v", err)
	}
	if got, err := kv.Get(t.Context(), "a"); err != nil || string(got.Value) != "3" || got.CreateRev != first {
		t.Errorf("Get after Compact: got %+v, %v", got, err)
	}
	for _, err := range kv.Watch(t.Context(), "a", "b", first) {
		if !errors.Is(err, errs.Precondition) {
			t.Errorf("Watch from a compacted revision: got %v, want Precondition", err)
		}
		break
	}
	for e, err := range kv.Watch(t.Context(), "a", "b", last) {
		if err != nil || string(e.Value) != "3" {
			t.Errorf("Watch from the revision compacted to: got %+v, %v", e, err)
		}
		break
	}
}

func testContext(t *testing.T, kv meta.KV) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]func() error{
		"Get":         func() error { _, err := kv.Get(ctx, "a"); return err },
		"Scan":        func() error { _, err := kv.Scan(ctx, "a", "b", 1); return err },
		"Txn":         func() error { _, _, err := kv.Txn(ctx, meta.Txn{Puts: []meta.KeyValue{{Key: "a"}}}); return err },
		"DeleteRange": func() error { _, err := kv.DeleteRange(ctx, "a", "b"); return err },
		"Compact":     func() error { return kv.Compact(ctx, 1) },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: got %v, want Canceled", name, err)
		}
	}
}

// testModel compares random transactions, deletions and scans with a map.
func testModel(t *testing.T, kv meta.KV) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	model := map[string]meta.KeyValue{}
	key := func() string { return fmt.Sprintf("m/%02d", r.IntN(30)) }
	for i := range 400 {
		switch r.IntN(10) {
		case 0:
			from, to := key(), key()
			if from >= to {
				continue
			}
			if _, err := kv.DeleteRange(t.Context(), from, to); err != nil {
				t.Fatal(err)
			}
			for k := range model {
				if k >= from && k < to {
					delete(model, k)
				}
			}
		case 1, 2:
			compareModel(t, kv, model, key(), r.IntN(10)+1)
		default:
			a, b := key(), key()
			if a == b {
				continue
			}
			want := r.IntN(2) == 0
			c := meta.ModRevIs(a, model[a].ModRev)
			if !want {
				c = meta.ModRevIs(a, model[a].ModRev+1)
			}
			value := []byte(fmt.Sprint(i))
			ok, rev, err := kv.Txn(t.Context(), meta.Txn{If: []meta.Compare{c}, Puts: []meta.KeyValue{{Key: a, Value: value}}, Deletes: []string{b}})
			if err != nil || ok != want {
				t.Fatalf("step %d: got %v, %v; want %v", i, ok, err, want)
			}
			if ok {
				old, made := model[a]
				if !made {
					old.CreateRev = rev
				}
				model[a] = meta.KeyValue{Key: a, Value: value, CreateRev: old.CreateRev, ModRev: rev}
				delete(model, b)
			}
		}
	}
	compareModel(t, kv, model, "m/", meta.MaxScan)
}

func compareModel(t *testing.T, kv meta.KV, model map[string]meta.KeyValue, from string, limit int) {
	t.Helper()
	var want []meta.KeyValue
	for k, v := range model {
		if k >= from {
			want = append(want, v)
		}
	}
	slices.SortFunc(want, func(a, b meta.KeyValue) int { return strings.Compare(a.Key, b.Key) })
	more := len(want) > limit
	if more {
		want = want[:limit]
	}
	got, err := kv.Scan(t.Context(), from, "m0", limit)
	if err != nil || got.More != more {
		t.Fatalf("Scan: more %v, %v; want %v", got.More, err, more)
	}
	if diff := cmp.Diff(want, got.KVs); diff != "" {
		t.Fatalf("Scan(%q, %d): -want +got:\n%s", from, limit, diff)
	}
}

func testClose(t *testing.T, kv meta.KV) {
	put(t, kv, "a", "1")
	for range 2 {
		if err := kv.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	if _, err := kv.Get(t.Context(), "a"); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Get after Close: got %v, want Unavailable", err)
	}
	if _, _, err := kv.Txn(t.Context(), meta.Txn{}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Txn after Close: got %v, want Unavailable", err)
	}
	for _, err := range kv.Watch(t.Context(), "a", "b", 0) {
		if !errors.Is(err, errs.Unavailable) {
			t.Errorf("Watch after Close: got %v, want Unavailable", err)
		}
		break
	}
}

func put(t *testing.T, kv meta.KV, key, value string) int64 {
	t.Helper()
	return txn(t, kv, meta.Txn{Puts: []meta.KeyValue{{Key: key, Value: []byte(value)}}})
}

func txn(t *testing.T, kv meta.KV, x meta.Txn) int64 {
	t.Helper()
	ok, rev, err := kv.Txn(t.Context(), x)
	if err != nil || !ok {
		t.Errorf("Txn: %v, %v", ok, err)
	}
	return rev
}
