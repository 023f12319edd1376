package namespace_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// named is a remote store of every ability that says which it is.
type named struct {
	*memufs.Store
	root string
	x    *table
	key  string // secret_key that it was opened with
	is   string // Features.Is
}

// Open implements ufs.Store. It takes the key of now alone, if the table is strict.
func (s named) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	if want := s.x.strict.Load(); want != nil && *want != s.key {
		return nil, errs.New("test", name, errs.Permission, "that was the key")
	}
	return s.Store.Open(ctx, name, off, n, version)
}

// Stat implements ufs.Store.
func (s named) Stat(ctx context.Context, name string) (ufs.Info, error) {
	if s.x.looking != nil {
		s.x.looking(name)
	}
	if s.x.hangs.Load() {
		select {
		case <-ctx.Done():
			return ufs.Info{}, ctx.Err()
		case <-time.After(hanging):
		}
	}
	if s.x.mute.Load() {
		return ufs.Info{}, errs.New("test", name, errs.Unavailable, "it does not tell")
	}
	return s.Store.Stat(ctx, name)
}

// Probe implements ufs.Prober.
func (s named) Probe(ctx context.Context, write bool) error {
	if write && s.x.full.Load() {
		return errs.New("test", "", errs.NoSpace, "it is full")
	}
	return s.Store.Probe(ctx, write)
}

// List implements ufs.Store.
func (s named) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	if s.x.listing != nil {
		s.x.listing(dir)
	}
	return s.Store.List(ctx, dir, after, flat)
}

// Remove implements ufs.Store.
func (s named) Remove(ctx context.Context, name, version string) error {
	if s.x.removing != nil {
		s.x.removing(name)
	}
	return s.Store.Remove(ctx, name, version)
}

// Close implements ufs.Store.
func (s named) Close() error {
	s.x.closed.Add(1)
	return s.Store.Close()
}

func (s named) Features() ufs.Features {
	f := s.Store.Features()
	f.Remote, f.Root, f.Is = true, s.root, s.is
	return f
}

// hanging is how long a store says nothing, if who asks waits.
const hanging = 20 * time.Second

// table is a namespace over stores by name, which can be started again.
type table struct {
	*testing.T
	*namespace.Namespace
	ctx    context.Context
	kv     meta.KV
	stores map[string]*memufs.Store // by what follows test://
	keys   map[string]string        // of a store: the secret_key that it takes; "": any
	stop   func()

	workers  core.Holders           // what holds files that no store has; nil: nothing
	is       atomic.Pointer[string] // Features.Is of the stores that are opened from now on; nil: ""
	keyless  bool                   // no secret key
	down     atomic.Bool            // no store opens
	mute     atomic.Bool            // no store tells of a name
	hangs    atomic.Bool            // no store tells of a name before hanging is over
	full     atomic.Bool            // no store takes a file
	strict   atomic.Pointer[string] // the one secret_key that reads are taken with; nil: any
	cluster  string                 // the etcd cluster
	log      *slog.Logger           // nil: none
	probe    time.Duration          // Options.ProbeTimeout
	sync     namespace.SyncOptions
	looking  func(name string) // is called before a store is asked for a name
	listing  func(dir string)  // is called before a store lists a directory
	removing func(name string) // is called before a store removes a file
	opened   atomic.Int64      // stores
	closed   atomic.Int64
}

func newTable(t *testing.T, stores ...string) *table {
	x := &table{T: t, kv: memkv.New(), stores: map[string]*memufs.Store{}, keys: map[string]string{},
		ctx: core.WithPrincipal(t.Context(), core.Principal{User: "hdfs", Super: true})}
	for _, name := range stores {
		x.stores[name] = memufs.New(memufs.Options{})
	}
	x.start()
	t.Cleanup(func() { x.stop() })
	return x
}

func (x *table) start() {
	x.Helper()
	key := make([]byte, seal.KeySize)
	if x.keyless {
		key = nil
	}
	x.Namespace, x.stop = leading(x.T, 1<<20, namespace.Options{
		KV: x.kv, Root: memufs.New(memufs.Options{Dirs: true}), Member: "test", Logger: x.log, ProbeTimeout: x.probe, Sync: x.sync, Store: x.cluster, SecretKey: key, Holders: x.workers, PersistDelay: time.Hour, PersistRetry: 20 * time.Millisecond,
		OpenStore: func(ctx context.Context, m core.MountSpec) (ufs.Store, error) {
			name := strings.TrimPrefix(m.URI, "test://")
			if other := m.Options["connection_string"]; other != "" {
				name = other
			}
			s := x.stores[name]
			if x.down.Load() {
				return nil, errs.New("test", m.URI, errs.Unavailable, "it does not answer")
			}
			if s == nil && m.Options["create"] != "" {
				switch may, dry, err := ufs.MayMake(ctx, name+"/"); {
				case err != nil:
					return nil, err
				case dry:
					return nil, ufs.ErrWouldMake
				case may:
					s = memufs.New(memufs.Options{})
					x.stores[name] = s
				}
			}
			if s == nil {
				return nil, errs.New("test", m.URI, errs.NotExist, "there is no such store")
			}
			if want := x.keys[name]; want != "" && m.Options["secret_key"] != want {
				return nil, errs.New("test", m.URI, errs.Permission, "that is not the key")
			}
			x.opened.Add(1)
			is := ""
			if p := x.is.Load(); p != nil {
				is = *p
			}
			return named{s, name + "/", x, m.Options["secret_key"], is}, nil
		},
	})
}

func (x *table) path(s string) core.Path {
	x.Helper()
	return parse(x.T, s)
}

func (x *table) must(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

func (x *table) wantErr(what string, err error, kind errs.Kind, text string) {
	x.Helper()
	if errs.KindOf(err) != kind || !strings.Contains(err.Error(), text) {
		x.Errorf("%s: got %v, want %v with %q", what, err, kind, text)
	}
}

func (x *table) add(path, store string, options map[string]string) {
	x.Helper()
	never := time.Duration(-1)
	_, err := x.AddMount(x.ctx, core.MountSpec{Path: x.path(path), URI: "test://" + store, Options: options, SyncInterval: &never}, core.LifeOptions{})
	x.must(err)
}

func (x *table) put(path, text string) {
	x.Helper()
	w, err := x.Create(x.ctx, x.path(path), core.CreateOptions{MakeParents: true, Size: int64(len(text))})
	x.must(err)
	_, err = io.WriteString(w, text)
	x.must(err)
	_, err = w.Commit(x.ctx, core.CommitOptions{})
	x.must(err)
}

func (x *table) get(path string) (string, error) {
	r, err := x.Open(x.ctx, x.path(path), core.Range{Len: -1})
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

func (x *table) wantText(path, text string) {
	x.Helper()
	got, err := x.get(path)
	switch {
	case text == "-" && errs.KindOf(err) != errs.NotExist:
		x.Errorf("%s: got %q %v, want none", path, got, err)
	case text != "-" && (err != nil || got != text):
		x.Errorf("%s: got %q %v, want %q", path, got, err, text)
	}
}

// stored puts a file into a store past the namespace.
func (x *table) stored(store, name, text string) {
	x.Helper()
	w, err := x.stores[store].Create(x.ctx, name, int64(len(text)), ufs.CreateOptions{})
	x.must(err)
	_, err = io.WriteString(w, text)
	x.must(err)
	_, err = w.Commit(x.ctx)
	x.must(err)
}

func (x *table) uri(s string) *string { s = "test://" + s; return &s }

// TestSwitch checks that a mount is switched to another store at once and whole: what was known of the old one, absent names
// included, is not answered after it, here and after a restart, and what is mounted below stays.
func TestSwitch(t *testing.T) {
	x := newTable(t, "old", "new", "inner")
	x.stored("old", "seen", "old")
	x.stored("new", "seen", "other")
	x.stored("new", "late", "late")
	x.add("/m", "old", nil)
	x.add("/m/deep/n", "inner", nil)
	x.put("/m/written", "through")
	x.put("/m/deep/n/kept", "inner")
	x.must(func() error { _, err := x.Mkdir(x.ctx, x.path("/m/made/"), core.MkdirOptions{}); return err }())
	x.wantText("/m/seen", "old")
	x.wantText("/m/late", "-") // for ever, by its interval
	bound, err := x.Open(x.ctx, x.path("/m/written"), core.Range{Len: -1})
	x.must(err)
	defer bound.Close()

	r, err := x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{URI: x.uri("new")}, core.LifeOptions{DryRun: true})
	x.must(err)
	if len(r.Did) != 1 || !strings.Contains(r.Did[0], "from test://old to test://new") {
		t.Errorf("a dry run says %q", r.Did)
	}
	x.wantText("/m/seen", "old")
	_, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{URI: x.uri("none")}, core.LifeOptions{})
	x.wantErr("a store that is not there", err, errs.Invalid, "no such store")
	_, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{URI: x.uri("inner")}, core.LifeOptions{})
	x.wantErr("a store that is mounted", err, errs.Invalid, "overlaps")
	x.wantText("/m/seen", "old")

	half, err := x.Create(x.ctx, x.path("/m/half"), core.CreateOptions{Size: 1})
	x.must(err)
	_, err = io.WriteString(half, "x")
	x.must(err)
	_, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{URI: x.uri("new")}, core.LifeOptions{})
	x.must(err)
	_, err = half.Commit(x.ctx, core.CommitOptions{})
	x.wantErr("what was being written", err, errs.Conflict, "the mount changed")
	if b, err := io.ReadAll(bound); err == nil && string(b) != "through" || err != nil && errs.KindOf(err) != errs.Conflict {
		t.Errorf("a reader of before got %q, %v", b, err)
	}
	for range 2 {
		x.wantText("/m/seen", "other")
		x.wantText("/m/late", "late")
		x.wantText("/m/written", "-")
		x.wantText("/m/deep/n/kept", "inner")
		if _, err := x.Stat(x.ctx, x.path("/m/made/")); errs.KindOf(err) != errs.NotExist {
			t.Errorf("a directory of the old store: %v", err)
		}
		var names []string
		for i, err := range x.List(x.ctx, x.path("/m/"), core.ListOptions{Children: true}) {
			x.must(err)
			names = append(names, i.Name)
		}
		if want := []string{"deep/", "late", "seen"}; !slices.Equal(names, want) {
			t.Errorf("the mount shows %q, want %q", names, want)
		}
		found, err := x.Check(x.ctx, core.CheckOptions{})
		if err != nil || len(found.Findings) > 0 {
			t.Errorf("check: %v, %+v", err, found)
		}
		x.put("/m/after", "after")
		x.must(x.Remove(x.ctx, x.path("/m/after"), core.RemoveOptions{}))
		x.stop()
		x.start()
	}
	if info, err := x.stores["old"].Stat(x.ctx, "written"); err != nil || info.Size != 7 {
		t.Errorf("the old store has lost what was written: %v %v", info, err)
	}
}

// TestUnfinished checks that neither an unmount nor a switch gives up an open upload, unless it is forced to and says so.
func TestUnfinished(t *testing.T) {
	x := newTable(t, "old", "new")
	x.add("/m", "old", nil)
	id, err := x.CreateUpload(x.ctx, x.path("/m/up"), core.CreateOptions{})
	x.must(err)
	_, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{URI: x.uri("new")}, core.LifeOptions{})
	x.wantErr("a switch", err, errs.Busy, "1 multipart uploads")
	_, err = x.RemoveMount(x.ctx, x.path("/m/"), core.LifeOptions{})
	x.wantErr("an unmount", err, errs.Busy, "1 multipart uploads")
	r, err := x.RemoveMount(x.ctx, x.path("/m/"), core.LifeOptions{Force: true, DryRun: true})
	if err != nil || len(r.GaveUp) != 1 {
		t.Errorf("a forced dry run: %q, %v", r.GaveUp, err)
	}
	r, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{URI: x.uri("new")}, core.LifeOptions{Force: true})
	if err != nil || len(r.GaveUp) != 1 || !strings.Contains(r.GaveUp[0], "gave up 1 multipart") {
		t.Errorf("a forced switch: %q, %v", r.GaveUp, err)
	}
	if err := x.AbortUpload(x.ctx, x.path("/m/up"), id); errs.KindOf(err) != errs.NotExist {
		t.Errorf("the upload: %v", err)
	}
	_, err = x.RemoveMount(x.ctx, x.path("/m/"), core.LifeOptions{})
	x.must(err)
}

// TestAccess checks the modes of a mount: nobody, the superuser included, gets at what is in one without access, nor sees it in
// listings from above, and its point stays.
func TestAccess(t *testing.T) {
	x := newTable(t, "a")
	x.add("/m", "a", nil)
	x.put("/m/d/f", "1")
	set := func(a core.Access) {
		t.Helper()
		r, err := x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{Access: &a}, core.LifeOptions{})
		if err != nil || r.Mount.Access() != a || r.Mount.ReadOnly != (a != core.AccessWrite) {
			t.Errorf("set %s: %+v %v", a, r.Mount, err)
		}
	}
	keys := func() (all []string) {
		for i, err := range x.List(x.ctx, core.Root, core.ListOptions{}) {
			x.must(err)
			all = append(all, i.Name)
		}
		return all
	}
	open := keys()
	for range 2 {
		set(core.AccessNone)
		_, err := x.get("/m/d/f")
		x.wantErr("a read", err, errs.Permission, "the mount /m is noAccess")
		_, err = x.Stat(x.ctx, x.path("/m/d/f"))
		x.wantErr("a stat", err, errs.Permission, "noAccess")
		_, err = x.Create(x.ctx, x.path("/m/g"), core.CreateOptions{})
		x.wantErr("a write", err, errs.Permission, "noAccess")
		for _, err := range x.List(x.ctx, x.path("/m/"), core.ListOptions{Children: true}) {
			x.wantErr("a listing", err, errs.Permission, "noAccess")
		}
		if got := keys(); slices.ContainsFunc(got, func(k string) bool { return strings.HasPrefix(k, "m/") && k != "m/" }) {
			t.Errorf("the keys above are %q", got)
		}
		if i, err := x.Stat(x.ctx, x.path("/m/")); err != nil || !i.MountPoint {
			t.Errorf("the mount point: %+v, %v", i, err)
		}
		x.stop() // and after a start
		x.start()
	}
	set(core.AccessRead)
	x.wantText("/m/d/f", "1")
	_, err := x.Create(x.ctx, x.path("/m/g"), core.CreateOptions{})
	x.wantErr("a write", err, errs.Permission, "the mount /m is read-only")
	set(core.AccessWrite)
	x.put("/m/g", "2")
	if got := keys(); len(got) != len(open)+1 {
		t.Errorf("the keys are %q, before they were %q", got, open)
	}
	writable := false
	all := core.AccessNone
	_, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{Access: &all, MountChange: core.MountChange{ReadOnly: &writable}}, core.LifeOptions{})
	x.wantErr("both", err, errs.Invalid, "contradict")
}

// TestNamedSecret checks that mounts take options from a named secret, have its new values at once, and that its values are in no
// answer and not readable where they are kept.
func TestNamedSecret(t *testing.T) {
	x := newTable(t, "a", "b")
	x.keys["a"], x.keys["b"] = "hush-1", "hush-1"
	use := map[string]string{"secret": "lake"}
	set := func(value string, o core.LifeOptions) error {
		_, err := x.SetSecret(x.ctx, "lake", map[string]string{"secret_key": value}, o)
		return err
	}
	_, err := x.AddMount(x.ctx, core.MountSpec{Path: x.path("/a"), URI: "test://a", Options: use}, core.LifeOptions{})
	x.wantErr("no such secret", err, errs.Invalid, "no secret of the name")
	x.must(set("hush-1", core.LifeOptions{}))
	x.add("/a", "a", use)
	x.add("/b", "b", use)
	x.put("/a/f", "1")
	x.wantErr("a wrong key", set("wrong", core.LifeOptions{}), errs.Permission, "/a")
	x.keys["a"], x.keys["b"] = "hush-2", "hush-2"
	x.must(set("hush-2", core.LifeOptions{DryRun: true}))
	x.must(set("hush-2", core.LifeOptions{}))
	specs, err := x.Stores(x.ctx)
	x.must(err)
	sealer, err := seal.New(make([]byte, seal.KeySize))
	x.must(err)
	for _, s := range specs {
		got, err := sealer.Open(s.ID, s.Options)
		if err != nil || got["secret_key"] != "hush-2" || strings.Contains(s.Options["secret_key"], "hush") {
			t.Errorf("workers get %q, %v", s.Options, err)
		}
	}
	x.stop()
	x.start()
	x.put("/b/f", "1") // it opened, with the new key
	x.wantErr("in use", x.RemoveSecret(x.ctx, "lake"), errs.Busy, "/a")
	for _, bad := range []map[string]string{nil, {"endpoint": "x"}, {"secret": "x"}, {"secret_key": ""}} {
		if _, err := x.SetSecret(x.ctx, "other", bad, core.LifeOptions{}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a secret of %q: %v", bad, err)
		}
	}
	_, err = x.EditMount(x.ctx, x.path("/a/"), core.MountEdit{MountChange: core.MountChange{Options: map[string]string{"secret_key": "hush-2"}}}, core.LifeOptions{})
	x.wantErr("twice", err, errs.Invalid, "of its own")
	_, err = x.EditMount(x.ctx, x.path("/a/"), core.MountEdit{URI: x.uri("c")}, core.LifeOptions{})
	x.wantErr("a named secret for another server", err, errs.Invalid, "its option secret")
	infos, err := x.Secrets(x.ctx)
	if err != nil || len(infos) != 1 || !slices.Equal(infos[0].Options, []string{"secret_key"}) || len(infos[0].UsedBy) != 2 {
		t.Errorf("secrets: %+v, %v", infos, err)
	}
	for _, path := range []string{"/a/", "/b/"} {
		_, err := x.RemoveMount(x.ctx, x.path(path), core.LifeOptions{})
		x.must(err)
	}
	x.must(x.RemoveSecret(x.ctx, "lake"))
	x.wantErr("again", x.RemoveSecret(x.ctx, "lake"), errs.NotExist, "")
	past, err := x.MountHistory(x.ctx)
	x.must(err)
	for _, r := range past {
		if strings.Contains(r.What, "hush") {
			t.Errorf("revision %d shows a value: %s", r.Number, r.What)
		}
	}
	kept, err := x.kv.Scan(x.ctx, "\x00", "\xff", 10_000)
	x.must(err)
	for _, e := range kept.KVs {
		if strings.Contains(string(e.Value), "hush") {
			t.Errorf("%s holds a value", e.Key)
		}
	}
}

// TestRollback checks that every change is a revision and can be taken back, over a restart, and that the history is bounded.
func TestRollback(t *testing.T) {
	x := newTable(t, "a", "b", "c")
	x.keys["a"] = "hush-1"
	x.stored("a", "f", "a")
	x.stored("b", "f", "b")
	x.add("/a", "a", map[string]string{"secret_key": "hush-1", "region": "here"}) // 1
	staff, hour := "staff", time.Hour
	_, err := x.UpdateMount(x.ctx, x.path("/a/"), core.MountChange{Group: &staff}) // 2
	x.must(err)
	_, err = x.UpdateMount(x.ctx, x.path("/a/"), core.MountChange{Group: &staff}) // none: nothing changed
	x.must(err)
	_, err = x.SetPathRule(x.ctx, x.path("/a/tmp/"), core.Policies{SyncInterval: &hour}) // 3
	x.must(err)
	_, err = x.EditMount(x.ctx, x.path("/a/"), core.MountEdit{URI: x.uri("b")}, core.LifeOptions{})
	x.wantErr("a secret that was for another server", err, errs.Invalid, "secret_key")
	_, err = x.EditMount(x.ctx, x.path("/a/"), core.MountEdit{URI: x.uri("b"), MountChange: core.MountChange{Options: map[string]string{"secret_key": ""}}}, core.LifeOptions{}) // 4
	x.must(err)
	x.add("/c", "c", nil)
	x.must(x.RemovePathRule(x.ctx, x.path("/a/tmp/")))
	x.wantText("/a/f", "b")
	_, err = x.RemoveMount(x.ctx, x.path("/a/"), core.LifeOptions{})
	x.must(err)
	past, err := x.MountHistory(x.ctx)
	x.must(err)
	if len(past) != 7 || past[0].Number != 7 || past[6].By != "hdfs" || !strings.Contains(past[3].What, "switched the mount /a from test://a to test://b") {
		t.Fatalf("the history is %+v", past)
	}
	x.stop()
	x.start()
	_, err = x.RollbackMounts(x.ctx, 8, core.LifeOptions{})
	x.wantErr("a revision to come", err, errs.NotExist, "not remembered")
	did, err := x.RollbackMounts(x.ctx, 3, core.LifeOptions{DryRun: true})
	if err != nil || len(did) != 3 {
		t.Errorf("a dry run: %q, %v", did, err)
	}
	if again, err := x.MountHistory(x.ctx); err != nil || len(again) != 7 {
		t.Errorf("a dry run left %+v, %v", again, err)
	}
	did, err = x.RollbackMounts(x.ctx, 3, core.LifeOptions{})
	if err != nil || len(did) != 3 {
		t.Errorf("a rollback: %q, %v", did, err)
	}
	x.wantText("/a/f", "a")
	all, err := x.Mounts(x.ctx)
	if err != nil || len(all) != 2 || all[1].Group != "staff" || all[1].Options["region"] != "here" {
		t.Errorf("mounts after a rollback: %+v, %v", all, err)
	}
	rules, err := x.PathRules(x.ctx)
	if err != nil || len(rules) != 1 || *rules[0].SyncInterval != time.Hour {
		t.Errorf("rules after a rollback: %+v, %v", rules, err)
	}
	did, err = x.RollbackMounts(x.ctx, 7, core.LifeOptions{}) // a rollback can be taken back
	if err != nil {
		t.Errorf("the way back: %q, %v", did, err)
	}
	x.wantText("/c/f", "-")
	if all, err := x.Mounts(x.ctx); err != nil || len(all) != 2 || all[1].Path != x.path("/c/") {
		t.Errorf("mounts after the way back: %+v, %v", all, err)
	}
	x.keys["a"] = "hush-2" // what was there then cannot be had again
	_, err = x.RollbackMounts(x.ctx, 1, core.LifeOptions{})
	if !errors.Is(err, errs.Permission) {
		t.Errorf("a rollback that the store refuses: %v", err)
	}
	for i := range core.MaxRevisions + 5 {
		d := time.Duration(i+1) * time.Second
		_, err := x.SetPathRule(x.ctx, x.path("/x/"), core.Policies{SyncInterval: &d})
		x.must(err)
	}
	x.stop()
	x.start()
	if past, err := x.MountHistory(x.ctx); err != nil || len(past) != core.MaxRevisions {
		t.Errorf("%d revisions are remembered, %v", len(past), err)
	}
	_, err = x.RollbackMounts(x.ctx, 3, core.LifeOptions{})
	x.wantErr("what is forgotten", err, errs.NotExist, "not remembered")
}

// state returns how the mount at the path does.
func (x *table) state(path string) string {
	x.Helper()
	all, err := x.Mounts(x.ctx)
	x.must(err)
	for _, m := range all {
		if m.Path == x.path(path) {
			return m.State
		}
	}
	return ""
}

func (x *table) secret(value string, o core.LifeOptions) {
	x.Helper()
	_, err := x.SetSecret(x.ctx, "lake", map[string]string{"secret_key": value}, o)
	x.must(err)
}

// TestForcedSecret checks that a secret that is set while the stores do not answer leaves what is open and under way as it is: what is
// being removed does not come back once the store opens with the new value.
func TestForcedSecret(t *testing.T) {
	x := newTable(t, "a")
	x.secret("1", core.LifeOptions{})
	x.add("/a", "a", map[string]string{"secret": "lake"})
	x.stored("a", "d/g", "1")
	x.stored("a", "d/h", "1")
	x.wantText("/a/d/g", "1")
	at, gate := make(chan struct{}), make(chan struct{})
	x.removing = func(name string) {
		if name == "d/g" {
			close(at)
			<-gate
		}
	}
	done := make(chan error, 1)
	go func() { done <- x.Remove(x.ctx, x.path("/a/d/g"), core.RemoveOptions{}) }()
	<-at
	x.down.Store(true)
	x.secret("2", core.LifeOptions{Force: true})
	if s := x.state("/a/"); !strings.Contains(s, "does not open with its new options") {
		t.Errorf("the mount is %s", s)
	}
	x.wantText("/a/d/h", "1") // by the store that is open
	x.put("/a/i", "1")
	x.down.Store(false)
	for x.state("/a/") != "ready" {
		runtime.Gosched() // until the test's own deadline
	}
	seen := func() (names []string) {
		for i, err := range x.List(x.ctx, x.path("/a/d/"), core.ListOptions{Children: true}) {
			x.must(err)
			names = append(names, i.Name)
		}
		return names
	}
	seen() // asks the store, which still has the file
	close(gate)
	x.must(<-done)
	if got := seen(); !slices.Equal(got, []string{"h"}) {
		t.Errorf("after the removal there is %q", got)
	}
	x.wantText("/a/d/g", "-")
}

// TestClosedStore checks that nothing can be changed on a mount whose store does not open, that nobody is hurt who tries, and that
// nothing of it is left over.
func TestClosedStore(t *testing.T) {
	x := newTable(t, "a")
	x.add("/a", "a", nil)
	for _, p := range []string{"/a/f", "/a/g", "/a/d/f"} {
		x.put(p, "1")
	}
	_, err := x.Mkdir(x.ctx, x.path("/a/mk/"), core.MkdirOptions{Marker: true})
	x.must(err)
	x.stop()
	x.down.Store(true)
	x.start()
	write := func(p string, o core.CreateOptions) error {
		w, err := x.Create(x.ctx, x.path(p), o)
		if err != nil {
			return err
		}
		_, err = w.Commit(x.ctx, core.CommitOptions{})
		return err
	}
	for what, f := range map[string]func() error{
		"remove":    func() error { return x.Remove(x.ctx, x.path("/a/g"), core.RemoveOptions{}) },
		"rmdir":     func() error { return x.Remove(x.ctx, x.path("/a/mk/"), core.RemoveOptions{}) },
		"prune":     func() error { return x.Remove(x.ctx, x.path("/a/mk/"), core.RemoveOptions{Prune: true}) },
		"rm -r":     func() error { return x.Remove(x.ctx, x.path("/a/d/"), core.RemoveOptions{Recursive: true}) },
		"overwrite": func() error { return write("/a/f", core.CreateOptions{}) },
		"append":    func() error { return write("/a/f", core.CreateOptions{Mode: core.Append}) },
		"create":    func() error { return write("/a/x/new", core.CreateOptions{MakeParents: true}) },
		"upload": func() error {
			_, err := x.CreateUpload(x.ctx, x.path("/a/f"), core.CreateOptions{})
			return err
		},
		"mkdir":     func() error { _, err := x.Mkdir(x.ctx, x.path("/a/n/"), core.MkdirOptions{}); return err },
		"rename":    func() error { return x.Rename(x.ctx, x.path("/a/f"), x.path("/a/h"), core.RenameOptions{}) },
		"rename d":  func() error { return x.Rename(x.ctx, x.path("/a/d/"), x.path("/a/e/"), core.RenameOptions{}) },
		"copy over": func() error { _, err := x.Copy(x.ctx, x.path("/a/f"), x.path("/a/g"), core.CopyOptions{}); return err },
		"rename over": func() error {
			return x.Rename(x.ctx, x.path("/a/f"), x.path("/a/g"), core.RenameOptions{Overwrite: true})
		},
		"read": func() error { _, err := x.get("/a/f"); return err },
	} {
		if err := f(); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: got %v, want unavailable", what, err)
		}
	}
	r, err := x.RemoveMount(x.ctx, x.path("/a/"), core.LifeOptions{DryRun: true})
	if err != nil || len(r.GaveUp) > 0 {
		t.Errorf("an unmount: %+v, %v", r, err)
	}
	x.down.Store(false)
	for x.state("/a/") != "ready" {
		runtime.Gosched() // until the test's own deadline
	}
	for _, p := range []string{"/a/f", "/a/g", "/a/d/f"} {
		x.wantText(p, "1")
	}
}

// TestRollbackOptions checks a rollback of a switch of a mount that had no options.
func TestRollbackOptions(t *testing.T) {
	x := newTable(t, "a", "b")
	x.stored("a", "f", "a")
	x.add("/m", "a", nil)
	_, err := x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{URI: x.uri("b"),
		MountChange: core.MountChange{Options: map[string]string{"endpoint": "http://h", "secret_key": "k"}}}, core.LifeOptions{})
	x.must(err)
	for _, dry := range []bool{true, false} {
		if did, err := x.RollbackMounts(x.ctx, 1, core.LifeOptions{DryRun: dry}); err != nil || len(did) != 1 {
			t.Errorf("a rollback (dry run: %v): %q, %v", dry, did, err)
		}
	}
	x.wantText("/m/f", "a")
}

// TestRotatedRead checks that a reader goes on with the key of now, and that a change of options that changes nothing opens nothing.
func TestRotatedRead(t *testing.T) {
	x := newTable(t, "a")
	one, two := "1", "2"
	x.secret(one, core.LifeOptions{})
	x.add("/a", "a", map[string]string{"secret": "lake"})
	text := strings.Repeat("x", 3*page.Size)
	x.stored("a", "big", text)
	x.strict.Store(&one)
	r, err := x.Open(x.ctx, x.path("/a/big"), core.All)
	x.must(err)
	defer r.Close()
	x.strict.Store(&two)
	x.secret(two, core.LifeOptions{})
	if b, err := io.ReadAll(r); err != nil || string(b) != text {
		t.Errorf("after the key was rotated: %d bytes, %v", len(b), err)
	}
	opened := x.opened.Load()
	_, err = x.EditMount(x.ctx, x.path("/a/"), core.MountEdit{MountChange: core.MountChange{Options: map[string]string{"secret": "lake"}}}, core.LifeOptions{})
	x.must(err)
	if now := x.opened.Load(); now != opened {
		t.Errorf("the same options opened %d stores", now-opened)
	}
}

// TestRollbackOther checks that a rollback does not mount what is another store by now.
func TestRollbackOther(t *testing.T) {
	x := newTable(t, "a", "b")
	set := func(store string) {
		_, err := x.SetSecret(x.ctx, "lake", map[string]string{"connection_string": store}, core.LifeOptions{})
		x.must(err)
	}
	set("a")                                                          // 1
	x.add("/m", "any", map[string]string{"secret": "lake"})           // 2
	_, err := x.RemoveMount(x.ctx, x.path("/m/"), core.LifeOptions{}) // 3
	x.must(err)
	set("b")
	_, err = x.RollbackMounts(x.ctx, 2, core.LifeOptions{})
	x.wantErr("a rollback to another store", err, errs.Invalid, "another store")
	x.add("/m", "any", map[string]string{"secret": "lake"})
	_, err = x.RollbackMounts(x.ctx, 2, core.LifeOptions{})
	x.wantErr("a rollback over another store", err, errs.Invalid, "another store")
}

// TestRollbackOrder checks that a rollback makes room before it needs it, and that its dry run judges as it does.
func TestRollbackOrder(t *testing.T) {
	x := newTable(t, "a", "b", "c")
	x.add("/p", "a", nil) // 1
	x.add("/q", "b", nil) // 2
	for _, to := range [][2]string{{"/p/", "c"}, {"/q/", "a"}} {
		_, err := x.EditMount(x.ctx, x.path(to[0]), core.MountEdit{URI: x.uri(to[1])}, core.LifeOptions{})
		x.must(err)
	}
	_, err := x.RemoveMount(x.ctx, x.path("/p/"), core.LifeOptions{})
	x.must(err)
	x.add("/r", "c", nil)
	for _, dry := range []bool{true, false} {
		if did, err := x.RollbackMounts(x.ctx, 2, core.LifeOptions{DryRun: dry}); err != nil || len(did) != 3 {
			t.Errorf("a rollback (dry run: %v): %q, %v", dry, did, err)
		}
	}
	all, err := x.Mounts(x.ctx)
	if err != nil || len(all) != 3 || all[1].URI != "test://a" || all[2].URI != "test://b" {
		t.Errorf("mounts: %+v, %v", all, err)
	}
}

// TestNoKey checks that revisions hold no secrets where there is no key to seal them, and what a rollback makes of that.
func TestNoKey(t *testing.T) {
	x := newTable(t, "a")
	x.stop()
	x.keyless = true
	x.start()
	x.add("/m", "a", map[string]string{"secret_key": "hush"}) // 1
	staff := "staff"
	_, err := x.UpdateMount(x.ctx, x.path("/m/"), core.MountChange{Group: &staff}) // 2
	x.must(err)
	_, err = x.RollbackMounts(x.ctx, 1, core.LifeOptions{}) // 3
	x.must(err)
	x.stop()
	x.start()
	if all, err := x.Mounts(x.ctx); err != nil || all[1].Group == staff || all[1].Options["secret_key"] != "***" {
		t.Errorf("mounts: %+v, %v", all, err)
	}
	_, err = x.RemoveMount(x.ctx, x.path("/m/"), core.LifeOptions{})
	x.must(err)
	_, err = x.RollbackMounts(x.ctx, 3, core.LifeOptions{})
	x.wantErr("a mount whose secret is not remembered", err, errs.Invalid, "secret_key_file")
	all, err := x.kv.Scan(x.ctx, "\x00", "\xff", 10_000)
	x.must(err)
	revisions := 0
	for _, e := range all.KVs {
		if !strings.Contains(e.Key, "revisions/") {
			continue
		}
		revisions++
		if strings.Contains(string(e.Value), "hush") {
			t.Errorf("%s holds a secret", e.Key)
		}
	}
	if revisions < 4 {
		t.Errorf("%d revisions were looked at", revisions)
	}
}

// TestMountRefusals checks what else is refused: values that look sealed, an unmount that would give something up, and explanations of
// what nobody may look at. A dry run waits for no writer.
func TestMountRefusals(t *testing.T) {
	x := newTable(t, "a", "b")
	bad := map[string]string{"secret_key": "sealed:v1:abc"}
	_, err := x.SetSecret(x.ctx, "lake", bad, core.LifeOptions{})
	x.wantErr("a secret", err, errs.Invalid, "sealed")
	_, err = x.AddMount(x.ctx, core.MountSpec{Path: x.path("/m"), URI: "test://a", Options: bad}, core.LifeOptions{})
	x.wantErr("a mount", err, errs.Invalid, "sealed")
	x.add("/m", "a", nil)
	_, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{MountChange: core.MountChange{Options: bad}}, core.LifeOptions{})
	x.wantErr("an edit", err, errs.Invalid, "sealed")
	for _, name := range []string{strings.Repeat("a", 256), "a\nb", "\xff"} {
		_, err = x.AddMount(x.ctx, core.MountSpec{Path: x.path("/o"), URI: "test://b", Owner: name}, core.LifeOptions{})
		x.wantErr("an owner", err, errs.Invalid, "owner")
		_, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{MountChange: core.MountChange{Group: &name}}, core.LifeOptions{})
		x.wantErr("a group", err, errs.Invalid, "group")
	}
	root, err := x.EditMount(x.ctx, core.Root, core.MountEdit{DefaultSyncInterval: true}, core.LifeOptions{})
	if err != nil || *root.Mount.SyncInterval != -1 {
		t.Errorf("the root's default: %v, %v", root.Mount.SyncInterval, err)
	}
	x.put("/m/d/f", "1")
	id, err := x.CreateUpload(x.ctx, x.path("/m/up"), core.CreateOptions{})
	x.must(err)
	x.wantErr("an unmount", x.Unmount(x.ctx, x.path("/m/")), errs.Busy, "1 multipart uploads")
	x.must(x.AbortUpload(x.ctx, x.path("/m/up"), id))

	at, gate := make(chan struct{}), make(chan struct{})
	x.removing = func(name string) {
		if name == "g" {
			close(at)
			<-gate
		}
	}
	x.put("/m/g", "1")
	done := make(chan error, 1)
	go func() { done <- x.Remove(x.ctx, x.path("/m/g"), core.RemoveOptions{}) }()
	<-at
	r, err := x.RemoveMount(x.ctx, x.path("/m/"), core.LifeOptions{DryRun: true, Force: true})
	if err != nil || len(r.GaveUp) != 1 {
		t.Errorf("a dry run of an unmount: %q, %v", r.GaveUp, err)
	}
	r, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{URI: x.uri("b")}, core.LifeOptions{DryRun: true, Force: true})
	if err != nil || len(r.GaveUp) != 1 {
		t.Errorf("a dry run of a switch: %q, %v", r.GaveUp, err)
	}
	close(gate)
	x.must(<-done)

	none := core.AccessNone
	_, err = x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{Access: &none}, core.LifeOptions{})
	x.must(err)
	bob := core.WithPrincipal(t.Context(), core.Principal{User: "bob"})
	for _, p := range []string{"/m/d/f", "/m/d/none"} {
		_, err := x.Explain(bob, x.path(p), core.ExplainOptions{})
		x.wantErr("an explanation of "+p, err, errs.Permission, "noAccess")
	}
	x.must(x.Unmount(x.ctx, x.path("/m/")))
}

// changing is a SyncWatch that makes a change once, in the middle of the sync.
type changing struct {
	found
	mu     sync.Mutex
	change func()
	failed []error
}

func (c *changing) Compared(int64, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.change != nil {
		c.change()
		c.change = nil
	}
}

func (c *changing) Failed(_ core.Path, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = append(c.failed, err)
}

// TestSyncAcrossSwitch has a sync of everything, and of what has a mount in it, see another store in the middle, or none.
func TestSyncAcrossSwitch(t *testing.T) {
	x := newTable(t, "a", "b", "c")
	x.add("/other", "c", nil)
	for _, at := range []string{"/", "/m/", "/m/d/"} {
		for what, change := range map[string]func(){
			"switched": func() {
				_, err := x.EditMount(x.ctx, x.path("/m/"), core.MountEdit{URI: x.uri("b")}, core.LifeOptions{})
				x.must(err)
			},
			"removed":       func() { x.must(x.Unmount(x.ctx, x.path("/m/"))) },
			"left as it is": nil,
		} {
			x.add("/m", "a", nil)
			x.put("/m/d/f", "1")
			w := &changing{change: change}
			x.must(x.Sync(x.ctx, x.path(at), core.SyncOptions{Recursive: true}, w))
			says := errors.Join(w.failed...)
			if told := says != nil && strings.Contains(says.Error(), "changed or removed meanwhile"); told != (change != nil) {
				t.Errorf("a sync of %s during which a mount was %s: %v", at, what, says)
			}
			_ = x.Unmount(x.ctx, x.path("/m/"))
		}
	}
}

// TestRollbackTypes takes a load type, a write type and a read type back to those that were set before, and to the defaults.
func TestRollbackTypes(t *testing.T) {
	x := newTable(t, "a")
	x.add("/a", "a", nil) // 1
	type types struct {
		load  core.LoadType
		write core.WriteType
		read  core.ReadType
	}
	// What is set to what is the default anyway is the mount's own from then on.
	set := []types{{core.LoadNever, core.CacheThrough, core.CachePromote}, {core.LoadAlways, core.Through, core.NoCache}}
	for _, s := range set {
		_, err := x.UpdateMount(x.ctx, x.path("/a/"), core.MountChange{LoadType: &s.load, WriteType: &s.write, ReadType: &s.read}) // 2 and 3
		x.must(err)
	}
	for rev, want := range map[uint64]struct {
		types
		origin core.PolicyOrigin
	}{2: {set[0], core.FromMount}, 1: {types{core.LoadOnce, core.CacheThrough, core.CachePromote}, core.FromDefault}, 3: {set[1], core.FromMount}} {
		did, err := x.RollbackMounts(x.ctx, rev, core.LifeOptions{})
		x.must(err)
		all, err := x.Mounts(x.ctx)
		x.must(err)
		if got := (types{all[1].LoadType, all[1].WriteType, all[1].ReadType}); got != want.types {
			t.Errorf("back at %d the types are %q, want %q (%q)", rev, got, want.types, did)
		}
		applies, err := x.PoliciesAt(x.ctx, x.path("/a/b"))
		x.must(err)
		for _, p := range applies {
			if (p.Setting == core.SetWriteType || p.Setting == core.SetReadType) && p.Origin != want.origin {
				t.Errorf("back at %d %s is of the %s, want of the %s", rev, p.Setting, p.Origin, want.origin)
			}
		}
	}
}
