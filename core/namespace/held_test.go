package namespace_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/nstest"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// lives runs one life after the other over the same store, which it counts the changes of, and the same cache.
type lives struct {
	*testing.T
	ctx     context.Context
	store   backing
	pages   page.Store
	sync    time.Duration
	changes atomic.Int64
}

// snapshotKV copies what it holds before the transaction number at.
type snapshotKV struct {
	meta.KV
	t    *testing.T
	left atomic.Int64
	copy atomic.Pointer[memkv.KV]
}

func (k *snapshotKV) Txn(ctx context.Context, t meta.Txn) (bool, int64, error) {
	if k.left.Add(-1) == 0 {
		k.copy.Store(copyKV(k.t, k.KV))
	}
	return k.KV.Txn(ctx, t)
}

// copyKV returns a store that holds what from does.
func copyKV(t *testing.T, from meta.KV) *memkv.KV {
	to := memkv.New()
	for start := "\x00"; ; {
		p, err := from.Scan(context.Background(), start, "\xff", 1000)
		if err != nil {
			t.Error(err)
			return to
		}
		for _, kv := range p.KVs {
			if _, _, err := to.Txn(context.Background(), meta.Txn{Puts: []meta.KeyValue{kv}}); err != nil {
				t.Error(err)
			}
			start = kv.Key + "\x00"
		}
		if !p.More {
			return to
		}
	}
}

// slowKV holds up the transaction that puts the key, once it is set.
type slowKV struct {
	meta.KV
	key        atomic.Pointer[string]
	here, goOn chan struct{}
}

func (k *slowKV) Txn(ctx context.Context, t meta.Txn) (bool, int64, error) {
	for _, kv := range t.Puts {
		if key := k.key.Load(); key != nil && kv.Key == *key && k.key.CompareAndSwap(key, nil) {
			close(k.here)
			<-k.goOn
		}
	}
	return k.KV.Txn(ctx, t)
}

// begin begins a life.
func (l *lives) begin(kv meta.KV, store string, seen namespace.Seen) (*namespace.Namespace, func()) {
	l.Helper()
	s, err := l.store.open()
	if err != nil {
		l.Fatal(err)
	}
	var released atomic.Pointer[<-chan struct{}] // what waits for it changes the store at once
	counted := wrap.Observe(s, func(e wrap.Event) {
		if !e.Op.Changes() {
			return
		}
		if ch := released.Load(); ch != nil {
			select {
			case <-*ch:
				return
			default:
			}
		}
		l.changes.Add(1)
	})
	cache := page.NewCache(l.pages, page.CacheOptions{})
	ns, err := namespace.Open(l.ctx, namespace.Options{
		KV: kv, Cache: cache, Root: counted, Member: "test", SyncInterval: l.sync, Store: store, Seen: seen, WatchOpen: time.Nanosecond,
	})
	if err != nil {
		l.Fatal(err)
	}
	ch := ns.Released()
	released.Store(&ch)
	ctx, cancel := context.WithCancel(l.ctx)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- ns.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		l.Fatal(err)
	}
	return ns, func() { cancel(); <-done; ns.Close(); cache.Close() }
}

func (l *lives) path(name string) core.Path {
	l.Helper()
	return parse(l, "/"+name)
}

func (l *lives) put(ns *namespace.Namespace, name, data string) error {
	w, err := ns.Create(l.ctx, l.path(name), core.CreateOptions{MakeParents: true, Size: int64(len(data))})
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.WriteString(w, data); err != nil {
		return err
	}
	_, err = w.Commit(l.ctx, core.CommitOptions{})
	return err
}

// get returns the bytes of a file.
func (l *lives) get(ns *namespace.Namespace, name string) (string, error) {
	rd, err := ns.Open(l.ctx, l.path(name), core.All)
	if err != nil {
		return "", err
	}
	defer rd.Close()
	var b strings.Builder
	_, err = io.Copy(&b, struct{ io.Reader }{rd})
	return b.String(), err
}

// dump returns the files that a listing shows, with their bytes.
func (l *lives) dump(ns *namespace.Namespace) map[string]string {
	l.Helper()
	all := map[string]string{}
	for info, err := range ns.List(l.ctx, core.Root, core.ListOptions{}) {
		if err != nil {
			l.Fatal(err)
		}
		if info.Dir {
			continue
		}
		data, err := l.get(ns, info.Name)
		if err != nil {
			l.Errorf("read %s: %v", info.Name, err)
		}
		if int64(len(data)) != info.Size {
			l.Errorf("%s has %d bytes and is listed with %d", info.Name, len(data), info.Size)
		}
		all[info.Name] = data
	}
	return all
}

// truth returns the files that the store has.
func (l *lives) truth() map[string]string {
	l.Helper()
	s, err := l.store.open()
	if err != nil {
		l.Fatal(err)
	}
	defer s.Close()
	all := map[string]string{}
	var list func(dir string)
	list = func(dir string) {
		for info, err := range s.List(l.ctx, dir, "", false) {
			if err != nil {
				l.Fatal(err)
			}
			if info.Dir {
				if info.Name != dir {
					list(info.Name)
				}
				continue
			}
			rc, err := s.Open(l.ctx, info.Name, 0, -1, "")
			if err != nil {
				l.Fatal(err)
			}
			b, err := io.ReadAll(rc)
			rc.Close()
			if err != nil {
				l.Fatal(err)
			}
			all[info.Name] = string(b)
		}
	}
	list("")
	return all
}

// step makes one random change. Some fail, by what is there.
func (l *lives) step(r *rand.Rand, ns *namespace.Namespace, n int) {
	dirs := []string{"a/", "b/", "a/c/", ""}
	name := func() string { return dirs[r.IntN(len(dirs))] + fmt.Sprintf("f%d", r.IntN(6)) }
	switch r.IntN(10) {
	case 0, 1, 2, 3:
		_ = l.put(ns, name(), strings.Repeat(fmt.Sprint(n, " "), 1+r.IntN(50)))
	case 4, 5:
		_ = ns.Remove(l.ctx, l.path(name()), core.RemoveOptions{Prune: r.IntN(2) == 0})
	case 6:
		_ = ns.Rename(l.ctx, l.path(name()), l.path(name()), core.RenameOptions{Overwrite: true})
	case 7:
		_ = ns.Rename(l.ctx, l.path(dirs[r.IntN(3)]), l.path(fmt.Sprintf("d%d/", r.IntN(3))), core.RenameOptions{})
	case 8:
		_ = ns.Remove(l.ctx, l.path([]string{"a/", "b/", "d0/", "d1/", "d2/"}[r.IntN(5)]), core.RemoveOptions{Recursive: true})
	case 9:
		mode := uint32(0o600)
		_, _ = ns.SetAttr(l.ctx, l.path(name()), core.AttrChange{Mode: &mode})
	}
}

// refused makes every change there is and wants it refused.
func (l *lives) refused(ns *namespace.Namespace) {
	l.Helper()
	mode := uint32(0o600)
	p, q := l.path("f0"), l.path("f1")
	for name, change := range map[string]func() error{
		"Create":         func() error { return l.put(ns, "f0", "x") },
		"append":         func() error { _, err := ns.Create(l.ctx, p, core.CreateOptions{Mode: core.Append}); return err },
		"Remove":         func() error { return ns.Remove(l.ctx, p, core.RemoveOptions{}) },
		"Rename":         func() error { return ns.Rename(l.ctx, p, q, core.RenameOptions{Overwrite: true}) },
		"Mkdir":          func() error { _, err := ns.Mkdir(l.ctx, l.path("new/"), core.MkdirOptions{}); return err },
		"Copy":           func() error { _, err := ns.Copy(l.ctx, p, q, core.CopyOptions{}); return err },
		"Compose":        func() error { _, err := ns.Compose(l.ctx, p, []core.Path{q}); return err },
		"SetAttr":        func() error { _, err := ns.SetAttr(l.ctx, p, core.AttrChange{Mode: &mode}); return err },
		"CreateUpload":   func() error { _, err := ns.CreateUpload(l.ctx, p, core.CreateOptions{}); return err },
		"PutPart":        func() error { _, err := ns.PutPart(l.ctx, p, "u", 1, 1); return err },
		"AbortUpload":    func() error { return ns.AbortUpload(l.ctx, p, "u") },
		"CompleteUpload": func() error { _, err := ns.CompleteUpload(l.ctx, p, "u", nil, core.CompleteOptions{}); return err },
		"Mount": func() error {
			_, err := ns.Mount(l.ctx, core.MountSpec{Path: l.path("m/"), URI: "test://x"})
			return err
		},
	} {
		if err := change(); errs.KindOf(err) != errs.Held || !strings.Contains(err.Error(), "sluice release") {
			l.Errorf("%s while held: %v", name, err)
		}
	}
}

// TestRestored restores snapshots taken at any moment, in the middle of changes too, after which more was acknowledged.
func TestRestored(t *testing.T) {
	for _, fl := range flavours {
		for _, interval := range []time.Duration{0, -1} {
			t.Run(fmt.Sprint(fl.name, "/", interval), func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(20) {
					if t.Failed() {
						return
					}
					restored(t, fl, interval, seed)
				}
			})
		}
	}
}

func restored(t *testing.T, fl flavour, interval time.Duration, seed uint64) {
	l := &lives{T: t, store: fl.make(t), pages: mempage.New(64 << 20), sync: interval}
	l.ctx = core.WithPrincipal(context.Background(), core.Principal{User: "root", Super: true})
	r := rand.New(rand.NewPCG(seed, 1))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	kv := &snapshotKV{KV: memkv.New(), t: t}
	kv.left.Store(3 + r.Int64N(120))
	ns, stop := l.begin(kv, "c1", namespace.Seen{})
	for n := range 80 {
		l.step(r, ns, n)
		if r.IntN(5) == 0 {
			l.dump(ns) // into the cache
		}
	}
	stop()
	saved := kv.copy.Load()
	if saved == nil {
		saved = copyKV(t, kv.KV)
	}
	want := l.truth()

	l.changes.Store(0)
	ns, stop = l.begin(saved, "c2", namespace.Seen{})
	life, err := ns.Life(l.ctx)
	if err != nil || life.Held == "" {
		t.Fatalf("a restored journal is not held: %+v, %v", life, err)
	}
	if diff := cmp.Diff(want, l.dump(ns)); diff != "" {
		t.Errorf("read while held (-store +namespace):\n%s", diff)
	}
	l.refused(ns)
	stop()
	ns, stop = l.begin(saved, "c2", namespace.Seen{}) // a restart releases nothing
	if _, err := ns.Release(l.ctx, core.ReleaseOptions{DryRun: true, AcceptMissing: true}); err != nil {
		t.Fatal(err)
	}
	l.refused(ns)
	again, err := ns.Life(l.ctx)
	if err != nil || again.Held == "" || again.Incarnation != life.Incarnation {
		t.Errorf("after a restart: %+v, %v; before %+v", again, err, life)
	}
	report, err := ns.Release(l.ctx, core.ReleaseOptions{AcceptMissing: true})
	if err != nil || !report.Released {
		t.Fatal(err)
	}
	if got := l.changes.Load(); got != 0 {
		t.Errorf("%d changes of the store before it was released", got)
	}
	if diff := cmp.Diff(want, l.dump(ns)); diff != "" {
		t.Errorf("after the release (-store +namespace):\n%s", diff)
	}
	if diff := cmp.Diff(want, l.truth()); diff != "" {
		t.Errorf("the release changed the store (-before +after):\n%s", diff)
	}
	if _, err := ns.Release(l.ctx, core.ReleaseOptions{}); errs.KindOf(err) != errs.Precondition {
		t.Errorf("a second release: %v", err)
	}
	if check, err := ns.Check(l.ctx, core.CheckOptions{Stores: true}); err != nil || len(check.Findings) > 0 {
		t.Errorf("a check after the release: %+v, %v", check.Findings, err)
	}

	// It works, and what it is told lands.
	for name := range maps.Clone(want) {
		switch r.IntN(3) {
		case 0:
			want[name] = "after " + name
			if err := l.put(ns, name, want[name]); err != nil {
				t.Errorf("put %s: %v", name, err)
			}
		case 1:
			delete(want, name)
			if err := ns.Remove(l.ctx, l.path(name), core.RemoveOptions{}); err != nil {
				t.Errorf("remove %s: %v", name, err)
			}
		}
	}
	stop()
	ns, stop = l.begin(saved, "c2", namespace.Seen{Incarnation: life.Incarnation, Seq: 1})
	defer stop()
	if err := l.put(ns, "last", "x"); err != nil {
		t.Errorf("put after a restart: %v", err)
	}
	want["last"] = "x"
	if diff := cmp.Diff(want, l.dump(ns)); diff != "" {
		t.Errorf("at last (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, l.truth()); diff != "" {
		t.Errorf("at last the store (-want +got):\n%s", diff)
	}
}

// TestLives checks which journals begin a new life, and which of them are held.
func TestLives(t *testing.T) {
	l := &lives{T: t, store: flavours[0].make(t), pages: mempage.New(1 << 20)}
	l.ctx = core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	look := func(kv meta.KV, store string, seen namespace.Seen) core.Life {
		t.Helper()
		ns, stop := l.begin(kv, store, seen)
		defer stop()
		life, err := ns.Life(l.ctx)
		if err != nil {
			t.Fatal(err)
		}
		return life
	}
	kv := memkv.New()
	first := look(kv, "c1", namespace.Seen{})
	if first.Held != "" || first.Incarnation == "" {
		t.Fatalf("a new journal: %+v", first)
	}
	old := copyKV(t, kv)
	ns, stop := l.begin(kv, "c1", namespace.Seen{})
	if err := l.put(ns, "a", "x"); err != nil {
		t.Fatal(err)
	}
	seen := ns.Seen()
	stop()
	if seen.Incarnation != first.Incarnation || seen.Seq <= first.Seq {
		t.Errorf("seen %+v after %+v", seen, first)
	}
	if got := look(copyKV(t, kv), "c1", seen); got.Incarnation != first.Incarnation || got.Held != "" {
		t.Errorf("the same journal: %+v", got)
	}
	if got := look(copyKV(t, kv), "", seen); got.Held != "" {
		t.Errorf("in a store that is not known: %+v", got)
	}
	for name, c := range map[string]struct {
		kv    meta.KV
		store string
		seen  namespace.Seen
		why   string
	}{
		"another cluster": {copyKV(t, kv), "c2", namespace.Seen{}, "another etcd cluster"},
		"set back":        {copyKV(t, old), "c1", seen, "set back"},
		"lost":            {memkv.New(), "c1", seen, "no record"},
		"another life":    {copyKV(t, kv), "c1", namespace.Seen{Incarnation: "other", Seq: 1}, "does not follow"},
	} {
		got := look(c.kv, c.store, c.seen)
		if got.Incarnation == first.Incarnation || !strings.Contains(got.Held, c.why) {
			t.Errorf("%s: %+v", name, got)
		}
		if c.seen.Seq > 0 { // who has seen an earlier life knows that this one follows it
			if again := look(c.kv, c.store, c.seen); again.Incarnation != got.Incarnation {
				t.Errorf("%s, again: %+v, was %+v", name, again, got)
			}
		}
	}
}

// TestReleaseOfAnEmptyStore checks that a store that lost everything is not taken for right by itself.
func TestReleaseOfAnEmptyStore(t *testing.T) {
	l := &lives{T: t, store: flavours[0].make(t), pages: mempage.New(1 << 20)}
	l.ctx = core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	kv := memkv.New()
	ns, stop := l.begin(kv, "c1", namespace.Seen{})
	for _, name := range []string{"a", "d/b"} {
		if err := l.put(ns, name, "x"); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	l.store = flavours[0].make(t)
	ns, stop = l.begin(kv, "c2", namespace.Seen{})
	defer stop()
	if _, err := ns.Release(l.ctx, core.ReleaseOptions{}); errs.KindOf(err) != errs.Precondition || !strings.Contains(err.Error(), "none of its 2 files") {
		t.Errorf("got %v", err)
	}
	l.refused(ns)
	report, err := ns.Release(l.ctx, core.ReleaseOptions{AcceptMissing: true})
	if err != nil {
		t.Fatal(err)
	}
	gone := map[string]string{}
	for _, f := range report.Changes {
		gone[f.Name] = f.Kind
	}
	if diff := cmp.Diff(map[string]string{"/a": "gone", "/d/": "gone", "/d/b": "gone"}, gone); diff != "" {
		t.Error(diff)
	}
	if got := l.dump(ns); len(got) > 0 {
		t.Errorf("left: %v", got)
	}
}

// TestCheck plants what cannot be, and wants it found.
func TestCheck(t *testing.T) {
	l := &lives{T: t, store: flavours[0].make(t), pages: mempage.New(1 << 20)}
	l.ctx = core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	kv := memkv.New()
	ns, stop := l.begin(kv, "c1", namespace.Seen{})
	for _, name := range []string{"a", "b", "d/c"} {
		if err := l.put(ns, name, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ns.CreateUpload(l.ctx, l.path("up"), core.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	check, err := ns.Check(l.ctx, core.CheckOptions{Stores: true})
	if err != nil || len(check.Findings) > 0 || check.Proved != 3 || check.Entries < 4 || check.Incarnation == "" {
		t.Errorf("of what is right: %+v, %v", check, err)
	}
	if _, err := ns.Check(t.Context(), core.CheckOptions{}); errs.KindOf(err) != errs.Permission {
		t.Errorf("for anybody: %v", err)
	}
	s, err := l.store.open()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(l.ctx, "a", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := ufs.WriteFile(l.ctx, s, "b", []byte("theirs"), ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	check, err = ns.Check(l.ctx, core.CheckOptions{Stores: true})
	if diff := cmp.Diff(map[string]string{"/a": "missing", "/b": "other"}, kinds(check)); err != nil || diff != "" {
		t.Errorf("of what the store lost: %v\n%s", err, diff)
	}
	stop()

	plant := func(ops []meta.Op, puts ...meta.KeyValue) map[string]string {
		t.Helper()
		kv := copyKV(t, kv)
		log, err := meta.OpenLog(kv, meta.LogOptions{Group: namespace.JournalGroup, Member: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Claim(l.ctx); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(l.ctx)
		done := make(chan error, 1)
		go func() { done <- log.Run(ctx) }()
		_, err = log.Append(l.ctx, meta.Batch{Ops: ops, Puts: puts})
		cancel()
		<-done
		if err != nil {
			t.Fatal(err)
		}
		check, err := namespace.CheckJournal(l.ctx, kv)
		if err != nil {
			t.Fatal(err)
		}
		return kinds(check)
	}
	file := meta.Entry{Class: meta.Persisted, ID: 1, Rev: 1, Size: 1, Extents: []meta.Extent{{ID: 1, Rev: 1, Len: 1}}}
	bad := func(change func(*meta.Entry)) meta.Entry { e := file; change(&e); return e }
	set := func(dir meta.DirID, edge string, e meta.Entry) []meta.Op {
		return []meta.Op{{Kind: meta.Set, Dir: dir, Edge: edge, Entry: e}}
	}
	for name, c := range map[string]struct {
		got  map[string]string
		want map[string]string
	}{
		"nothing":          {plant(set(meta.RootDir, "f", file)), map[string]string{}},
		"size":             {plant(set(meta.RootDir, "f", bad(func(e *meta.Entry) { e.Size = 2 }))), map[string]string{"/f": "tree"}},
		"no number":        {plant(set(meta.RootDir, "f", bad(func(e *meta.Entry) { e.Rev = 0 }))), map[string]string{"/f": "tree"}},
		"number ahead":     {plant(set(meta.RootDir, "f", bad(func(e *meta.Entry) { e.ID = 1 << 40 }))), map[string]string{"id": "counter"}},
		"revision ahead":   {plant(set(meta.RootDir, "f", bad(func(e *meta.Entry) { e.Extents = []meta.Extent{{ID: 1, Rev: 1 << 40, Len: 1}} }))), map[string]string{"rev": "counter"}},
		"file as a folder": {plant(set(meta.RootDir, "f/", file)), map[string]string{"/f/": "tree"}},
		"stray note":       {plant(set(meta.IntentsDir, "zz", meta.Entry{Class: meta.Note})), map[string]string{"zz": "intent"}},
		"mount point":      {plant(set(meta.RootDir, "m/", meta.Entry{Class: meta.Directory, Dir: 16, Mount: true, Base: meta.Base{Kind: meta.Absolute, Store: "m9"}})), map[string]string{"/m/": "mount", "/d/": ""}},
		"mount":            {plant(nil, meta.KeyValue{Key: "sys/mounts/m9", Value: []byte(`{"id":"m9","path":"/m/"}`)}), map[string]string{"/m/": "mount"}},
		"unreadable mount": {plant(nil, meta.KeyValue{Key: "sys/mounts/m9", Value: []byte(`{`)}), map[string]string{"sys/mounts/m9": "setting"}},
		"secret":           {plant(nil, meta.KeyValue{Key: "sys/secret", Value: []byte("x")}), map[string]string{"sys/secret": "setting"}},
	} {
		delete(c.want, "/d/") // where the directory's other name is told of depends on which comes first
		delete(c.got, "/d/")
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	torn := copyKV(t, kv)
	if _, err := torn.DeleteRange(l.ctx, "g/0/j/0000000000000003", "g/0/j/0000000000000004"); err != nil {
		t.Fatal(err)
	}
	if check, err := namespace.CheckJournal(l.ctx, torn); err != nil || len(check.Findings) != 1 || check.Findings[0].Kind != "journal" {
		t.Errorf("of a journal with a gap: %+v, %v", check.Findings, err)
	}
}

func kinds(r core.CheckReport) map[string]string {
	all := map[string]string{}
	for _, f := range r.Findings {
		all[f.Name] = f.Kind
	}
	return all
}

// TestReleaseIsDurableFirst asks for changes while the record that releases them is on its way to the journal.
func TestReleaseIsDurableFirst(t *testing.T) {
	l := &lives{T: t, store: flavours[0].make(t), pages: mempage.New(1 << 20)}
	l.ctx = core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	kv := memkv.New()
	ns, stop := l.begin(kv, "c1", namespace.Seen{})
	if err := l.put(ns, "a", "x"); err != nil {
		t.Fatal(err)
	}
	stop()
	slow := &slowKV{KV: kv, here: make(chan struct{}), goOn: make(chan struct{})}
	ns, stop = l.begin(slow, "c2", namespace.Seen{})
	defer stop()
	goOn := sync.OnceFunc(func() { close(slow.goOn) })
	defer goOn()
	key, released := "sys/incarnation", make(chan error, 1)
	slow.key.Store(&key)
	go func() {
		_, err := ns.Release(l.ctx, core.ReleaseOptions{})
		released <- err
	}()
	for done := false; !done; { // beside it, for the race detector
		life, err := ns.Life(l.ctx)
		if err != nil || life.Held == "" {
			t.Fatalf("before the release is in the journal: %+v, %v", life, err)
		}
		select {
		case <-slow.here:
			done = true
		case err := <-released:
			t.Fatalf("released without a record: %v", err)
		default:
		}
	}
	life, err := ns.Life(l.ctx)
	if err != nil || life.Held == "" {
		t.Fatalf("while the release is on its way to the journal: %+v, %v", life, err)
	}
	select {
	case <-ns.Released():
		t.Error("it says that changes are accepted")
	default:
	}
	l.refused(ns)
	goOn()
	if err := <-released; err != nil {
		t.Fatal(err)
	}
	<-ns.Released()
	if err := l.put(ns, "b", "x"); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

// TestPersistFindsWhatWasNotLookedThrough persists a directory before the journal was looked through for held files, which is never
// done by itself where there are no workers.
func TestPersistFindsWhatWasNotLookedThrough(t *testing.T) {
	w := &world{
		o:  nstest.Options{Workers: nstest.NewWorkers(3), Delay: time.Hour},
		kv: memkv.New(), root: same(memufs.New(memufs.Options{Dirs: true})), byURI: map[string]backing{},
	}
	ctx := core.WithPrincipal(t.Context(), core.Principal{User: "root", Super: true})
	file := parse(t, "/a")
	ns, stop := w.start(t)
	out, err := ns.Create(ctx, file, core.CreateOptions{Size: 1, WriteType: core.AsyncThrough})
	if err == nil {
		_, err = out.Write([]byte("1"))
	}
	if err == nil {
		_, err = out.Commit(ctx, core.CommitOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	stop()
	w.o.Workers = nil
	ns, stop = w.start(t)
	defer stop()
	for _, p := range []core.Path{file, file.Parent()} {
		if done, err := ns.Persist(ctx, p, core.PersistOptions{Wait: true}); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("persist %s: %+v, %v, though nobody can give the bytes", p, done, err)
		}
	}
}
