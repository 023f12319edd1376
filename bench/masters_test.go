package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/etcd"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

/*
TestMasters measures the metadata master in process:

	go test ./bench -run TestMasters -masters 1000000[,10000000] [-masters.out FILE] -timeout 2h -v

It prints a line of JSON for the machine and one for each row. It fails if an answer is wrong, not if it is slow. Rows of several
sizes are measured for each number of names; 10 million take some 2 GB. README.md says what the rows are.
*/
var (
	masterSizes = flag.String("masters", "", "measure the master with these `numbers` of names, separated by commas")
	masterOut   = flag.String("masters.out", "", "write the lines of JSON to `FILE` too")
	masterPairs = flag.Int("masters.pairs", 5, "rounds of each row of pairs")
)

// The names of the tests: files of a local store, 1,000 in a directory, 100 directories in each of those above.
const (
	namesPerDir = 1000
	firstDirID  = meta.FirstDir + 1<<40 // beyond those that the namespace draws itself
	firstTime   = 1_780_000_000 * int64(time.Second)
)

func dayOf(i int) string  { return fmt.Sprintf("day=%05d/", i/namesPerDir/100) }
func hourOf(i int) string { return fmt.Sprintf("hour=%05d/", i/namesPerDir%100) }
func nameOf(i int) string { return fmt.Sprintf("part-%08d-%08x.parquet", i, uint32(i)*2654435761) }
func keyOf(i int) string  { return dayOf(i) + hourOf(i) + nameOf(i) }

// entryOf returns a file as a local store and Sluice describe one.
func entryOf(r *rand.Rand, i int) meta.Entry {
	id, size, at := uint64(1<<20+i), r.Int64N(1<<28)+1, firstTime+int64(i)*1_000_003+r.Int64N(1000)
	return meta.Entry{
		Class: meta.Persisted, ID: id, Rev: id + 7, Size: size, ETag: fmt.Sprintf("%016x%016x", r.Uint64(), r.Uint64()),
		Version: fmt.Sprintf("801.%x.%x.%x.%x", 5_000_000+i, size, at, at+int64(r.IntN(1e6))), MTime: at, ATime: at,
		Extents: []meta.Extent{{ID: id, Rev: id + 7, Len: size}}, Owner: "alice", Group: "analysts", Mode: core.NoAccess | 0o644, BlockSize: 128 << 20, Replication: 1,
	}
}

func dirEntry(id meta.DirID) meta.Entry {
	return meta.Entry{Class: meta.Directory, Dir: id, Explicit: true, Owner: "alice", Group: "analysts", Mode: core.NoAccess | 0o755, MTime: firstTime}
}

// names yields the operations that make n names below /w/, which is all the overlay's, some thousand at a time.
func names(n int, yield func([]meta.Op)) {
	r := rand.New(rand.NewPCG(1, 1))
	id := firstDirID
	var ops []meta.Op
	mkdir := func(parent meta.DirID, edge string) meta.DirID {
		id++
		ops = append(ops, meta.Op{Kind: meta.Set, Dir: parent, Edge: edge, Entry: dirEntry(id)})
		return id
	}
	top := mkdir(meta.RootDir, "w/")
	ops[0].Entry.Base = meta.Base{Kind: meta.Opaque}
	var day meta.DirID
	for i := 0; i < n; i += namesPerDir {
		if i/namesPerDir%100 == 0 {
			day = mkdir(top, dayOf(i))
		}
		hour := mkdir(day, hourOf(i))
		for j := i; j < min(i+namesPerDir, n); j++ {
			ops = append(ops, meta.Op{Kind: meta.Set, Dir: hour, Edge: nameOf(j), Entry: entryOf(r, j)})
		}
		yield(ops)
		ops = ops[:0]
	}
}

// master is a namespace over a store in memory.
type master struct {
	ns   *namespace.Namespace
	log  *meta.Log
	stop func()
}

func startMaster(tb testing.TB, kv meta.KV, o meta.LogOptions) *master {
	tb.Helper()
	return startMasterOf(tb, kv, o, memufs.New(memufs.Options{}), &worker{all: map[core.HeldID]int64{}})
}

// startMasterOf is startMaster with the store and the worker that a master before may have used.
func startMasterOf(tb testing.TB, kv meta.KV, o meta.LogOptions, store ufs.Store, w *worker) *master {
	tb.Helper()
	o.Group = namespace.JournalGroup
	log, err := meta.OpenLog(kv, o)
	must(tb, err)
	must(tb, log.Load(tb.Context()))
	must(tb, log.Claim(tb.Context()))
	cache := page.NewCache(mempage.New(1<<20), page.CacheOptions{})
	ns, err := namespace.Open(tb.Context(), namespace.Options{Log: log, Cache: cache, Root: store, RootMode: 0o777, Holders: w})
	must(tb, err)
	ctx, cancel := context.WithCancel(tb.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- ns.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		tb.Fatal(err)
	}
	return &master{ns, log, func() {
		cancel()
		<-done
		ns.Close()
		cache.Close()
	}}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func asAlice(ctx context.Context) context.Context {
	return core.WithPrincipal(ctx, core.Principal{User: "alice", Groups: []string{"analysts"}})
}

// computed returns what the process has computed so far.
func computed(tb testing.TB) time.Duration {
	var u unix.Rusage
	must(tb, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func parsed(tb testing.TB, s string) core.Path {
	p, err := core.ParsePath(s)
	must(tb, err)
	return p
}

func filled(tb testing.TB, n int) *master {
	m := startMaster(tb, memkv.New(), meta.LogOptions{CheckpointEvery: -1})
	seq := m.log.Seq()
	names(n, func(ops []meta.Op) { seq++; m.log.Tree().Apply(seq, ops) })
	return m
}

// standing is one row.
type standing struct {
	Row     string  `json:"row"`
	Names   int     `json:"names,omitempty"`
	Unit    string  `json:"unit"`
	Value   float64 `json:"value"`
	Peer    string  `json:"peer,omitempty"`
	Against float64 `json:"against_value,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
	Target  string  `json:"target"`
	Met     bool    `json:"met"`
	CPU     float64 `json:"cpu_us,omitempty"` // processor time for one
}

// standings writes rows as they come.
type standings struct {
	tb  testing.TB
	out io.Writer
}

func (s *standings) add(r standing) {
	s.tb.Helper()
	must(s.tb, json.NewEncoder(s.out).Encode(r))
}

func TestMasters(t *testing.T) {
	if *masterSizes == "" {
		t.Skip("measures, if -masters says how many names")
	}
	s := &standings{tb: t, out: os.Stdout}
	if *masterOut != "" {
		f, err := os.Create(*masterOut)
		must(t, err)
		defer f.Close()
		s.out = io.MultiWriter(os.Stdout, f)
	}
	load, _ := os.ReadFile("/proc/loadavg")
	must(t, json.NewEncoder(s.out).Encode(map[string]any{"machine": describe(t.TempDir()), "load": string(load), "time": time.Now().UTC().Format(time.RFC3339)}))
	for _, n := range sizesOf(t) {
		inMemory(s, n)
		onDisk(s, n)
		atOnce(s, n, true)
		atOnce(s, n, false)
	}
	creates(s)
}

func sizesOf(tb testing.TB) (all []int) {
	for _, text := range strings.Split(*masterSizes, ",") {
		n, err := strconv.Atoi(text)
		must(tb, err)
		if n < 200*namesPerDir {
			tb.Fatalf("%d names are too few: at least %d", n, 200*namesPerDir)
		}
		all = append(all, n)
	}
	return all
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// inMemory measures stat and listings in a tree of n names, and its memory.
func inMemory(s *standings, n int) {
	t := s.tb
	before := heapNow()
	m := filled(t, n)
	defer m.stop()
	held := float64(heapNow()-before) / float64(n)
	s.add(standing{Row: "memory", Names: n, Unit: "bytes/entry", Value: held, Target: "<= 100", Met: held <= 100})

	const asked = 1 << 16
	keys, paths := make([][3]string, asked), make([]core.Path, asked)
	for i := range paths {
		k := rand.IntN(n)
		keys[i] = [3]string{dayOf(k), hourOf(k), nameOf(k)}
		paths[i] = parsed(t, "/w/"+keyOf(k))
	}
	tree := m.log.Tree()
	tree.UseHugePages(t.Context()) // a master does so itself, some seconds after it is up
	perCPU := func(do func(i int) bool) float64 {
		var all []float64
		for range *masterPairs {
			at := computed(t)
			for i := range asked {
				if !do(i) {
					t.Fatal("a name is not found")
				}
			}
			all = append(all, asked/(computed(t)-at).Seconds())
		}
		return median(all)
	}
	get := perCPU(func(i int) (ok bool) {
		tree.View(func(v meta.View) {
			_, dir, _ := v.Lookup(meta.RootDir, "w/")
			_, dir, _ = v.Lookup(dir, keys[i][0])
			_, dir, _ = v.Lookup(dir, keys[i][1])
			_, ok = v.Get(dir, keys[i][2])
		})
		return ok
	})
	s.add(standing{Row: "stat_tree", Names: n, Unit: "names/s of processor time", Value: get, Target: ">= 1,000,000", Met: get >= 1e6})
	ctx := asAlice(t.Context())
	stat := perCPU(func(i int) bool { _, err := m.ns.Stat(ctx, paths[i]); return err == nil })
	s.add(standing{Row: "stat_namespace", Names: n, Unit: "names/s of processor time", Value: stat, Target: ">= 1,000,000", Met: stat >= 1e6})

	dir := parsed(t, "/w/")
	for _, c := range []struct {
		name string
		of   func(i int) core.ListOptions
	}{
		{"list_after", func(i int) core.ListOptions { return core.ListOptions{After: keyOf(i)} }},
		{"list_prefix_after", func(i int) core.ListOptions { return core.ListOptions{Prefix: dayOf(i), After: keyOf(i)} }},
		{"list_delimiter", func(i int) core.ListOptions {
			return core.ListOptions{Prefix: dayOf(i) + hourOf(i), Delimiter: "/"}
		}},
	} {
		var took, used []float64
		for range 40 * *masterPairs {
			o := c.of(rand.IntN(n/100_000)*100_000 + rand.IntN(98_000))
			o.Limit = 1001
			got, cpu, at := 0, computed(t), time.Now()
			for _, err := range m.ns.List(ctx, dir, o) {
				if err != nil { // must costs more than an entry
					t.Fatal(err)
				}
				got++
			}
			took, used = append(took, time.Since(at).Seconds()*1e3), append(used, (computed(t)-cpu).Seconds()*1e3)
			if got < 1000 {
				t.Fatalf("%d names of %+v", got, o)
			}
		}
		at := median(took)
		s.add(standing{Row: c.name, Names: n, Unit: "ms for 1,000 keys; against: of processor time", Value: at, Against: median(used), Target: "<= 0.5", Met: at <= 0.5})
	}
}

// atOnce renames and removes a directory of n names whose bytes a worker holds, on an etcd that syncs. dirs: the store has directories.
func atOnce(s *standings, n int, dirs bool) {
	t := s.tb
	store, w := memufs.New(memufs.Options{Dirs: dirs}), &worker{all: map[core.HeldID]int64{}}
	server, err := etcd.Start(t.Context(), etcd.ServerOptions{Dir: t.TempDir()})
	must(t, err)
	defer server.Close()
	m := startMasterOf(t, server.KV(), meta.LogOptions{CheckpointRate: 64 << 20}, store, w)
	ctx := asAlice(t.Context())
	r := rand.New(rand.NewPCG(3, 3))
	for i := 0; i < n; i += namesPerDir {
		// The directories are what the first file in them makes of them: an object store knows nothing of them then.
		f, err := m.ns.Create(ctx, parsed(t, "/w/"+dayOf(i)+hourOf(i)+"first"), core.CreateOptions{WriteType: core.MustCache, MakeParents: true})
		must(t, err)
		_, err = f.Commit(ctx, core.CommitOptions{})
		must(t, err)
		var hour meta.DirID
		m.log.Tree().View(func(v meta.View) {
			_, dir, _ := v.Lookup(meta.RootDir, "w/")
			_, dir, _ = v.Lookup(dir, dayOf(i))
			_, hour, _ = v.Lookup(dir, hourOf(i))
		})
		var ops []meta.Op
		for j := i; j < min(i+namesPerDir, n); j++ {
			e := heldEntry(r, j)
			w.mu.Lock()
			w.all[core.HeldID{ID: e.Hold.ID, Rev: e.Rev}] = e.Size
			w.mu.Unlock()
			ops = append(ops, meta.Op{Kind: meta.Set, Dir: hour, Edge: nameOf(j), Entry: e})
		}
		_, err = m.log.Append(t.Context(), meta.Batch{Ops: ops}) // as each Create does
		must(t, err)
	}
	m.stop()
	m = startMasterOf(t, server.KV(), meta.LogOptions{CheckpointRate: 64 << 20}, store, w) // which learns what is held
	defer m.stop()
	calm := func() { // a master that has begun to lead, or has removed a directory, looks all that is held through
		for until, was := time.Now().Add(20*time.Second), computed(t); ; was = computed(t) {
			time.Sleep(500 * time.Millisecond)
			if m.log.Stats().TailOps == 0 && computed(t)-was < 50*time.Millisecond || time.Now().After(until) {
				return
			}
		}
	}
	kind := "object store"
	if dirs {
		kind = "store with directories"
	}
	measure := func(row string, names, times int, do func(i int) error) {
		calm()
		var took, records []float64
		for i := range times {
			was, at := m.log.Stats().Records, time.Now()
			must(t, do(i))
			took = append(took, time.Since(at).Seconds()*1e3)
			records = append(records, float64(m.log.Stats().Records-was))
		}
		at, made := median(took), median(records)
		s.add(standing{Row: row, Names: names, Unit: "ms, " + kind + ", journal synced; against: records", Value: at, Against: made,
			Target: "<= 2, one record", Met: at <= 2 && made == 1})
	}
	measure("rename_directory", n, 2**masterPairs+1, func(i int) error {
		from, to := parsed(t, "/w/"), parsed(t, "/moved/")
		if i%2 == 1 {
			from, to = to, from
		}
		return m.ns.Rename(ctx, from, to, core.RenameOptions{})
	})
	const day = 100 * namesPerDir
	measure("remove_directory_user", day, 1, func(int) error {
		return m.ns.Remove(ctx, parsed(t, "/moved/"+dayOf(0)), core.RemoveOptions{Recursive: true})
	})
	root := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	measure("remove_directory", n-day, 1, func(int) error {
		return m.ns.Remove(root, parsed(t, "/moved/"), core.RemoveOptions{Recursive: true})
	})
	if _, err := m.ns.Stat(ctx, parsed(t, "/moved/"+keyOf(n/2))); errs.KindOf(err) != errs.NotExist {
		t.Errorf("a name of the directory that was removed: %v", err)
	}
}

// heldEntry is entryOf of a file that no store has.
func heldEntry(r *rand.Rand, i int) meta.Entry {
	e := entryOf(r, i)
	e.Class, e.Version = meta.Local, ""
	e.Hold = &meta.Hold{ID: [16]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24), 1}, Workers: []string{"w1"}, Write: string(core.MustCache), Since: firstTime}
	return e
}

func heapNow() uint64 {
	runtime.GC()
	runtime.GC()
	var x runtime.MemStats
	runtime.ReadMemStats(&x)
	return x.HeapAlloc
}

// onDisk measures what n names take in etcd, and how long a master takes to answer from them.
func onDisk(s *standings, n int) {
	t := s.tb
	dir := t.TempDir()
	server, err := etcd.Start(t.Context(), etcd.ServerOptions{Dir: dir})
	must(t, err)
	m := startMaster(t, server.KV(), meta.LogOptions{CheckpointEvery: time.Second, CheckpointRate: 64 << 20})
	var edges []meta.Op
	r := rand.New(rand.NewPCG(5, 5))
	names(n, func(ops []meta.Op) {
		_, err := m.log.Append(t.Context(), meta.Batch{Ops: ops})
		must(t, err)
		edges = append(edges, meta.Op{Kind: meta.Set, Dir: ops[len(ops)-1].Dir, Edge: ops[len(ops)-1].Edge, Entry: entryOf(r, len(edges))})
	})
	settle := func() {
		for m.log.Stats().TailOps > 0 {
			time.Sleep(50 * time.Millisecond)
		}
	}
	report := func(row, target string, limit float64) {
		st, err := server.Status(t.Context())
		must(t, err)
		use, file := float64(st.DBInUse)/float64(n), float64(st.DBSize)/float64(n)
		s.add(standing{Row: row, Names: n, Unit: "bytes/entry in use; against: of the file", Value: use, Against: file, Target: target, Met: limit > 0 && use <= limit})
	}
	rest := func() { // until what the checkpoint replaced is compacted
		var last int64
		for since := time.Now(); time.Since(since) < 3*time.Second; time.Sleep(100 * time.Millisecond) {
			st, err := server.Status(t.Context())
			must(t, err)
			if st.DBInUse < last || last == 0 {
				last, since = st.DBInUse, time.Now()
			}
			// The database counts what a transaction has freed from the next one on.
			_, _, err = server.KV().Txn(t.Context(), meta.Txn{Puts: []meta.KeyValue{{Key: "rest"}}})
			must(t, err)
		}
	}
	settle()
	rest()
	report("etcd_first_pass", "<= 50", 50)
	for range 5 { // each pass finds changes in every tenth directory
		for i := range edges {
			if r.IntN(10) == 0 {
				_, err := m.log.Append(t.Context(), meta.Batch{Ops: edges[i : i+1]})
				must(t, err)
			}
		}
		settle()
	}
	rest()
	report("etcd_small_passes", "<= 50", 50)
	must(t, server.Defrag(t.Context()))
	report("etcd_defragmented", "<= 50", 50)
	m.stop()
	must(t, server.Close())

	var subject, peer, ratios []float64
	for range *masterPairs {
		at := time.Now()
		server, err := etcd.Start(t.Context(), etcd.ServerOptions{Dir: dir})
		must(t, err)
		from, to := "g/"+namespace.JournalGroup+"/p/", "g/"+namespace.JournalGroup+"/p0"
		for more := true; more; {
			page, err := server.KV().Scan(t.Context(), from, to, 256)
			must(t, err)
			if more = page.More; more {
				from = page.KVs[len(page.KVs)-1].Key + "\x00"
			}
		}
		scan := time.Since(at).Seconds()
		must(t, server.Close())
		at = time.Now()
		server, err = etcd.Start(t.Context(), etcd.ServerOptions{Dir: dir})
		must(t, err)
		m := startMaster(t, server.KV(), meta.LogOptions{})
		_, err = m.ns.Stat(asAlice(t.Context()), parsed(t, "/w/"+keyOf(n/2)))
		must(t, err)
		cold := time.Since(at).Seconds()
		m.stop()
		must(t, server.Close())
		subject, peer, ratios = append(subject, cold), append(peer, scan), append(ratios, cold/scan)
	}
	ratio := median(ratios)
	s.add(standing{Row: "cold_start", Names: n, Unit: "s", Value: median(subject), Peer: "etcd's open and a scan of the pages", Against: median(peer),
		Ratio: ratio, Target: "<= 2", Met: ratio <= 2})
}

// creates measures 256 callers that make files against raw appends of records of the same size, one after the other.
func creates(s *standings) {
	t := s.tb
	server, err := etcd.Start(t.Context(), etcd.ServerOptions{Dir: t.TempDir()})
	must(t, err)
	defer server.Close()
	m := startMaster(t, server.KV(), meta.LogOptions{})
	defer m.stop()
	ctx := asAlice(t.Context())
	_, err = m.ns.Mkdir(ctx, parsed(t, "/c/"), core.MkdirOptions{})
	must(t, err)
	r := rand.New(rand.NewPCG(7, 7))
	entry := entryOf(r, 1)
	create := func(how core.WriteType) func(int64) error {
		return func(i int64) error {
			w, err := m.ns.Create(ctx, parsed(t, "/c/"+string(how)+nameOf(int(i))), core.CreateOptions{WriteType: how})
			if err != nil {
				return err
			}
			info, err := w.Commit(ctx, core.CommitOptions{})
			if err == nil && how != core.CacheThrough && info.Write != how {
				return errs.New("bench.create", info.Path.String(), errs.Other, "it was written "+string(info.Write))
			}
			return err
		}
	}
	for _, c := range []struct {
		row string
		do  func(i int64) error
	}{
		{"create_journal", func(i int64) error {
			_, err := m.log.Append(ctx, meta.Batch{Ops: []meta.Op{{Kind: meta.Set, Dir: firstDirID, Edge: nameOf(int(i)), Entry: entry}}})
			return err
		}},
		{"create_held", create(core.MustCache)},
		{"create_namespace", create(core.CacheThrough)},
	} {
		var next atomic.Int64
		var rates, raws, ratios, used []float64
		for range *masterPairs + 1 {
			was, cpu := m.log.Stats(), computed(t)
			made, took := callers(t, 256, func() error { return c.do(next.Add(1)) })
			used = append(used, float64((computed(t)-cpu).Microseconds())/made)
			now := m.log.Stats()
			records := float64(now.Records - was.Records)
			value := make([]byte, int(float64(now.Bytes-was.Bytes)/records))
			rand.NewChaCha8([32]byte{}).Read(value)
			puts, rawTook := callers(t, 1, func() error {
				_, _, err := server.KV().Txn(t.Context(), meta.Txn{Puts: []meta.KeyValue{{Key: fmt.Sprintf("raw/%016x", next.Add(1)), Value: value}}})
				return err
			})
			rate, raw := made/took.Seconds(), puts/rawTook.Seconds()*made/records
			rates, raws, ratios = append(rates, rate), append(raws, raw), append(ratios, rate/raw)
		}
		ratio := median(ratios[1:]) // the first is for warming up
		s.add(standing{Row: c.row, Unit: "creates/s", Value: median(rates[1:]), CPU: median(used[1:]), Peer: "raw appends of such records", Against: median(raws[1:]),
			Ratio: ratio, Target: ">= 0.35", Met: ratio >= 0.35})
	}
}

// callers has n callers do something for a second, and returns how often it was done.
func callers(tb testing.TB, n int, do func() error) (done float64, took time.Duration) {
	tb.Helper()
	var wg sync.WaitGroup
	var count atomic.Int64
	start := time.Now()
	for range n {
		wg.Go(func() {
			for time.Since(start) < time.Second {
				if err := do(); err != nil {
					tb.Error(err)
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(count.Load()), time.Since(start)
}
