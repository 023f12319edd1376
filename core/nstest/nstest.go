// Package nstest is the definition of core.Namespace and of the interfaces beside it (Attrs, Uploads, Locator, Mounts) as
// tests: one entry for each sentence of their comments in package core, in their order; then what holds while stores and
// journal fail, while others change the store, across restarts, under concurrency, and under random operations. It is not
// about protocols, and not about performance. Every implementation passes it; a fault found in one becomes an entry here.
//
// What depends on the store (odd names, a file beside a directory of its name) is decided by the store's ufs.Features.
package nstest

import (
	"context"
	"crypto/md5" //nolint:gosec // S3's ETag is an MD5
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// Tree is all that an implementation offers.
type Tree interface {
	core.Namespace
	core.Attrs
	core.Uploads
	core.Locator
	core.Mounts
}

// Options say what namespace a test needs. The zero value is an ordinary one.
type Options struct {
	Sync    *time.Duration            // sync interval of the mount at Base; nil: the implementation's choice
	Wrap    func(ufs.Store) ufs.Store // decorates every store as the namespace sees it; nil: not at all
	WrapKV  func(meta.KV) meta.KV     // decorates the journal's KV as the namespace sees it; nil: not at all
	NoCache bool                      // no byte of a file is kept: every read goes to the store
	Workers *Workers                  // hold what their store gets later; nil: nobody does
	Delay   time.Duration             // from a held write to the store
	MaxHeld int64                     // bytes that no store has yet; 0: the implementation's choice
	Care    time.Duration             // how often holders are looked after; 0: the implementation's choice
	Watch   bool                      // changes without an answer are watched for long; else they are resolved at the first look
}

// Fixture is an open namespace. Its clean-up is registered with the test it was opened for.
type Fixture struct {
	Tree
	Base    core.Path // an empty directory of the superuser, mode 0755, behind which Store's root is
	Mounted bool      // Base is a mount point with the sync interval asked for; else it is the root
	Store   ufs.Store // what is done with it is done behind the namespace's back; it is not decorated
	// Restart closes the namespace as far as a process that ends does, and opens another over the same journal and stores,
	// with an empty cache.
	Restart func(t *testing.T) Tree
	// Staged returns what unfinished writes there are in the store's staging; nil if that cannot be told.
	Staged func(t *testing.T) []string
	// Spare makes a further empty store, which the namespace can mount by its URI.
	Spare func(t *testing.T) (uri string, store ufs.Store)
}

// Run checks the namespaces that open returns. Each call of open makes a fresh one.
func Run(t *testing.T, open func(t *testing.T, o Options) Fixture) { RunGroups(t, open) }

// RunGroups is Run for the named groups of tests only, all without a name: for a combination whose parts are tested by
// themselves and that is slow to open.
func RunGroups(t *testing.T, open func(t *testing.T, o Options) Fixture, names ...string) {
	for _, g := range []struct {
		name  string
		tests []entry
	}{
		{"Stat", statTests}, {"List", listTests}, {"Open", openTests}, {"Create", createTests}, {"Append", appendTests},
		{"Compose", composeTests}, {"Copy", copyTests}, {"Mkdir", mkdirTests}, {"Rename", renameTests},
		{"Remove", removeTests}, {"Access", accessTests}, {"SetAttr", setAttrTests}, {"Uploads", uploadTests},
		{"Locator", locatorTests}, {"Mounts", mountTests}, {"Behind", behindTests}, {"Safety", safetyTests},
		{"Restart", restartTests}, {"Faults", faultTests}, {"Whole", wholeTests}, {"Races", raceTests}, {"Held", heldTests}, {"Rules", ruleTests}, {"Explain", explainTests}, {"Sync", syncTests}, {"LoadTypes", loadTypeTests}, {"Model", modelTests}, {"ListModel", listModelTests},
	} {
		if len(names) > 0 && !slices.Contains(names, g.name) {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			for _, e := range g.tests {
				t.Run(e.name, func(t *testing.T) { e.run(t, open) })
			}
		})
	}
}

// entry is one sentence of the contract.
type entry struct {
	name  string
	needs func(f *fixture) bool // nil: every namespace
	test  func(f *fixture)
	with  func(o *Options) // nil: ordinary options
}

func (e entry) run(t *testing.T, open func(t *testing.T, o Options) Fixture) {
	f := start(t, open, e.with)
	if e.needs != nil && !e.needs(f) {
		t.Skipf("not for this kind of namespace (store %q, mounted %v)", f.Store.Features().Kind, f.Mounted)
	}
	e.test(f)
}

func start(t *testing.T, open func(t *testing.T, o Options) Fixture, with func(*Options)) *fixture {
	x := &tap{}
	o := Options{Wrap: x.wrap}
	if with != nil {
		with(&o)
	}
	f := &fixture{T: t, Fixture: open(t, o), tap: x, workers: o.Workers, root: core.Principal{User: "root", Groups: []string{"supergroup"}, Super: true}}
	f.who = f.root
	f.another = func(t *testing.T, with func(*Options)) *fixture { return start(t, open, with) }
	return f
}

// Conditions of entries.

func dirs(f *fixture) bool    { return f.Store.Features().Dirs }
func flat(f *fixture) bool    { return !f.Store.Features().Dirs }
func odd(f *fixture) bool     { return f.Store.Features().OddNames }
func plain(f *fixture) bool   { return !f.Store.Features().OddNames }
func mounted(f *fixture) bool { return f.Mounted }

func synced(d time.Duration) func(*Options) { return func(o *Options) { o.Sync = &d } }
func noCache(o *Options)                    { o.NoCache = true }
func watched(o *Options)                    { o.Watch = true }

// fixture is a namespace under test with the verbs of the tests. Names are relative to Base, as they are in Store; a name
// that starts with "~" is an ambiguous path. Verbs that return no error fail the test where the namespace fails.
type fixture struct {
	*testing.T
	Fixture
	tap *tap
	// workers hold bytes if the namespace is a core.Persister, else it has none.
	workers *Workers
	root    core.Principal
	who     core.Principal
	age     core.MaxAge
	reads   core.ReadType // asked for by requests
	// another opens a further, fresh namespace.
	another func(t *testing.T, with func(*Options)) *fixture
}

// as returns the fixture acting for another principal.
func (f *fixture) as(user string, groups ...string) *fixture {
	g := *f
	g.who = core.Principal{User: user, Groups: groups}
	return &g
}

// fresh returns the fixture whose requests accept answers of the given age in seconds; negative: any.
func (f *fixture) fresh(seconds int64) *fixture {
	g := *f
	g.age = core.MaxAge{Set: true, Seconds: seconds}
	return &g
}

func (f *fixture) ctx() context.Context {
	ctx := core.WithPrincipal(f.Context(), f.who)
	if f.age.Set {
		ctx = core.WithMaxAge(ctx, f.age)
	}
	if f.reads != "" {
		ctx = core.WithReadType(ctx, f.reads)
	}
	return ctx
}

func (f *fixture) path(name string) core.Path {
	f.Helper()
	parse := core.ParsePath
	if rest, ok := strings.CutPrefix(name, "~"); ok {
		name, parse = rest, core.ParseEither
	}
	p, err := parse(f.Base.String() + name)
	if err != nil {
		f.Fatal(err)
	}
	return p
}

func (f *fixture) restart() {
	f.Helper()
	f.Tree = f.Restart(f.T)
}

// create returns a writer that holds data and is not committed.
func (f *fixture) create(name, data string, o core.CreateOptions) (core.Writer, error) {
	w, err := f.Create(f.ctx(), f.path(name), o)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(w, data); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return w, nil
}

// write is create and commit.
func (f *fixture) write(name, data string, o core.CreateOptions) (core.Info, error) {
	w, err := f.create(name, data, o)
	if err != nil {
		return core.Info{}, err
	}
	return w.Commit(f.ctx(), core.CommitOptions{})
}

func (f *fixture) put(name, data string) core.Info {
	f.Helper()
	return f.putWith(name, data, core.CreateOptions{Size: int64(len(data)), MakeParents: true})
}

func (f *fixture) putWith(name, data string, o core.CreateOptions) core.Info {
	f.Helper()
	i, err := f.write(name, data, o)
	if err != nil {
		f.Fatalf("write %q: %v", name, err)
	}
	return i
}

func (f *fixture) append(name, data string) core.Info {
	f.Helper()
	return f.putWith(name, data, core.CreateOptions{Mode: core.Append, Size: -1})
}

func (f *fixture) read(name string, r core.Range) (string, error) {
	rd, err := f.open(name, r)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(struct{ io.Reader }{rd})
	return string(b), errors.Join(err, rd.Close())
}

func (f *fixture) open(name string, r core.Range) (core.Reader, error) {
	return f.Open(f.ctx(), f.path(name), r)
}

func (f *fixture) get(name string) string {
	f.Helper()
	s, err := f.read(name, core.All)
	if err != nil {
		f.Fatalf("read %q: %v", name, err)
	}
	return s
}

func (f *fixture) stat(name string) core.Info {
	f.Helper()
	i, err := f.Stat(f.ctx(), f.path(name))
	if err != nil {
		f.Fatalf("stat %q: %v", name, err)
	}
	return i
}

func (f *fixture) statErr(name string) error {
	_, err := f.Stat(f.ctx(), f.path(name))
	return err
}

func (f *fixture) mkdir(name string) core.Info {
	f.Helper()
	i, err := f.Mkdir(f.ctx(), f.path(name), core.MkdirOptions{MakeParents: true})
	if err != nil {
		f.Fatalf("mkdir %q: %v", name, err)
	}
	return i
}

func (f *fixture) chmod(name string, mode uint32) {
	f.Helper()
	if _, err := f.SetAttr(f.ctx(), f.path(name), core.AttrChange{Mode: &mode}); err != nil {
		f.Fatalf("chmod %q: %v", name, err)
	}
}

func (f *fixture) chown(name, owner, group string) {
	f.Helper()
	if _, err := f.SetAttr(f.ctx(), f.path(name), core.AttrChange{Owner: &owner, Group: &group}); err != nil {
		f.Fatalf("chown %q: %v", name, err)
	}
}

func (f *fixture) rename(from, to string) {
	f.Helper()
	if err := f.renameErr(from, to, false); err != nil {
		f.Fatalf("rename %q to %q: %v", from, to, err)
	}
}

func (f *fixture) renameErr(from, to string, overwrite bool) error {
	return f.Rename(f.ctx(), f.path(from), f.path(to), core.RenameOptions{Overwrite: overwrite})
}

func (f *fixture) remove(name string) {
	f.Helper()
	if err := f.removeErr(name, core.RemoveOptions{}); err != nil {
		f.Fatalf("remove %q: %v", name, err)
	}
}

func (f *fixture) removeAll(name string) {
	f.Helper()
	if err := f.removeErr(name, core.RemoveOptions{Recursive: true}); err != nil {
		f.Fatalf("remove all of %q: %v", name, err)
	}
}

func (f *fixture) removeErr(name string, o core.RemoveOptions) error {
	return f.Remove(f.ctx(), f.path(name), o)
}

func (f *fixture) listing(dir string, o core.ListOptions) iter.Seq2[core.Info, error] {
	return f.List(f.ctx(), f.path(dir), o)
}

// names lists dir; a common prefix is shown in brackets.
func (f *fixture) names(dir string, o core.ListOptions) ([]string, error) {
	names := []string{}
	for i, err := range f.listing(dir, o) {
		switch {
		case err != nil:
			return names, err
		case i.CommonPrefix:
			names = append(names, "["+i.Name+"]")
		default:
			names = append(names, i.Name)
		}
	}
	return names, nil
}

func (f *fixture) wantNames(dir string, o core.ListOptions, want ...string) {
	f.Helper()
	got, err := f.names(dir, o)
	if err != nil || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		f.Errorf("list %q with %+v: got %q, %v; want %q", dir, o, got, err, want)
	}
}

// wantChildren checks the entries of dir itself.
func (f *fixture) wantChildren(dir string, want ...string) {
	f.Helper()
	f.wantNames(dir, core.ListOptions{Children: true}, want...)
}

// wantKeys checks the S3 keys below dir.
func (f *fixture) wantKeys(dir string, want ...string) {
	f.Helper()
	f.wantNames(dir, core.ListOptions{}, want...)
}

func (f *fixture) wantData(name, want string) {
	f.Helper()
	if got, err := f.read(name, core.All); err != nil || got != want {
		f.Errorf("%q holds %.60q (%d bytes), %v; want %.60q (%d bytes)", name, got, len(got), err, want, len(want))
	}
}

func (f *fixture) wantGone(name string) {
	f.Helper()
	f.wantErr("stat "+name, f.statErr(name), errs.NotExist)
}

func (f *fixture) wantErr(what string, err error, kinds ...errs.Kind) {
	f.Helper()
	for _, k := range kinds {
		if errors.Is(err, k) {
			return
		}
	}
	f.Errorf("%s: got error %v, want kind %q", what, err, kinds)
}

// wantStored checks that the store holds data at the same relative name.
func (f *fixture) wantStored(name, data string) {
	f.Helper()
	got, err := ufs.ReadAll(f.Context(), f.Store, name, "", 1<<30)
	if err != nil || string(got) != data {
		f.Errorf("the store has %.60q (%d bytes) at %q, %v; want %.60q (%d bytes)", got, len(got), name, err, data, len(data))
	}
}

// storePut writes a file behind the namespace.
func (f *fixture) storePut(name, data string) ufs.Info {
	f.Helper()
	i, err := ufs.WriteFile(f.Context(), f.Store, name, []byte(data), ufs.CreateOptions{})
	if err != nil {
		f.Fatalf("write %q to the store: %v", name, err)
	}
	return i
}

// storeRemove removes a file or an empty directory behind the namespace.
func (f *fixture) storeRemove(name string) {
	f.Helper()
	if err := f.Store.Remove(f.Context(), name, ""); err != nil {
		f.Fatalf("remove %q from the store: %v", name, err)
	}
}

func (f *fixture) storeGone(name string) {
	f.Helper()
	if _, err := f.Store.Stat(f.Context(), name); !errors.Is(err, errs.NotExist) {
		f.Errorf("the store still has %q (%v)", name, err)
	}
}

// dump describes everything below Base, one line for each name, so that two states can be compared.
func (f *fixture) dump() string {
	f.Helper()
	var b strings.Builder
	f.dumpDir(&b, "")
	keys, err := f.names("", core.ListOptions{})
	fmt.Fprintf(&b, "keys %q %v\n", keys, err)
	return b.String()
}

func (f *fixture) dumpDir(b *strings.Builder, dir string) {
	f.Helper()
	var below []string
	for i, err := range f.listing(dir, core.ListOptions{Children: true}) {
		if err != nil {
			f.Fatalf("list %q: %v", dir, err)
		}
		name := dir + i.Name
		if i.Dir {
			fmt.Fprintf(b, "%s %s:%s %o marker=%v\n", name, i.Owner, i.Group, i.Mode, i.Marker)
			below = append(below, name)
			continue
		}
		s := f.stat(name)
		data, err := f.read(name, core.All)
		sum := md5.Sum([]byte(data)) //nolint:gosec // to compare
		fmt.Fprintf(b, "%s %s:%s %o size=%d etag=%s mtime=%d id=%d headers=%v user=%v parts=%v repl=%d block=%d data=%x %v\n", name,
			s.Owner, s.Group, s.Mode, s.Size, s.ETag, s.ModTime.UnixNano(), s.ID, s.Headers, s.User, s.Parts, s.Replication, s.BlockSize, sum, err)
	}
	for _, name := range below {
		f.dumpDir(b, name)
	}
}

func etag(data string) string {
	sum := md5.Sum([]byte(data)) //nolint:gosec // S3's ETag is an MD5
	return hex.EncodeToString(sum[:])
}

// pattern returns n bytes that tell their position and the seed.
func pattern(seed, n int) string {
	b := make([]byte, 0, n+16)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%05d:%08d;", seed, i)
	}
	return string(b[:n])
}
