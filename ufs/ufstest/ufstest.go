// Package ufstest is the definition of ufs.Store as tests: one entry for each sentence of the interface's comments, in
// their order. Every driver and every decorator passes it. A fault found in one driver becomes an entry here.
package ufstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Deviation is a test that a service behind a driver is known to fail for a reason of its own. No driver or decorator has
// one.
type Deviation struct {
	Test   string // "Group/entry"
	Reason string
}

// Run checks the stores that open returns. Each call of open makes a fresh, empty store and registers its clean-up with t.
func Run(t *testing.T, open func(t *testing.T) ufs.Store, known ...Deviation) {
	reasons := map[string]string{}
	for _, d := range known {
		reasons[d.Test] = d.Reason
	}
	for _, g := range []struct {
		name  string
		tests []entry
	}{
		{"Names", nameTests}, {"Stat", statTests}, {"List", listTests}, {"Open", openTests}, {"Create", createTests},
		{"Remove", removeTests}, {"Staging", stagingTests}, {"Rename", renameTests}, {"Mkdir", mkdirTests},
		{"Trash", trashTests}, {"Copy", copyTests}, {"Append", appendTests}, {"SetAttr", setAttrTests},
		{"Compose", composeTests}, {"Probe", probeTests}, {"Mark", markTests}, {"Helpers", helperTests}, {"Model", modelTests},
	} {
		t.Run(g.name, func(t *testing.T) {
			for _, e := range g.tests {
				t.Run(e.name, func(t *testing.T) {
					if why, ok := reasons[g.name+"/"+e.name]; ok {
						t.Skip("known deviation: ", why)
					}
					s := open(t)
					if e.needs != nil && !e.needs(s.Features()) {
						t.Skipf("the %s store has not this ability", s.Features().Kind)
					}
					e.test(fixture{T: t, s: s})
				})
			}
		})
	}
}

// entry is one sentence of the contract.
type entry struct {
	name  string
	needs func(ufs.Features) bool // nil: every store
	test  func(fixture)
}

// fixture is a store under test with the verbs of the tests. Verbs fail the test where the store fails.
type fixture struct {
	*testing.T
	s ufs.Store
}

func (f fixture) ctx() context.Context { return f.Context() }

// large is a number of bytes that no driver keeps in memory: those of object stores collect up to 8 MiB.
func (f fixture) large() int {
	if k := f.s.Features().Kind; k == "s3" || k == "azure" || k == "gcs" {
		return 9<<20 + 7
	}
	return 2<<20 + 7
}

func (f fixture) put(name, data string) ufs.Info {
	f.Helper()
	return f.putWith(name, data, ufs.CreateOptions{})
}

func (f fixture) putWith(name, data string, o ufs.CreateOptions) ufs.Info {
	f.Helper()
	in, err := ufs.WriteFile(f.ctx(), f.s, name, []byte(data), o)
	if err != nil {
		f.Fatalf("write %q: %v", name, err)
	}
	return in
}

func (f fixture) get(name string) string {
	f.Helper()
	got, err := f.read(name, 0, -1, "")
	if err != nil {
		f.Fatalf("read %q: %v", name, err)
	}
	return got
}

func (f fixture) read(name string, off, n int64, version string) (string, error) {
	r, err := f.s.Open(f.ctx(), name, off, n, version)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	return string(b), errors.Join(err, r.Close())
}

func (f fixture) stat(name string) ufs.Info {
	f.Helper()
	in, err := f.s.Stat(f.ctx(), name)
	if err != nil {
		f.Fatalf("stat %q: %v", name, err)
	}
	return in
}

// mkdir makes a directory on a store with directories, and is no more than a comment on others.
func (f fixture) mkdir(name string) {
	f.Helper()
	if !f.s.Features().Mkdir {
		return
	}
	if _, err := ufs.Mkdir(f.ctx(), f.s, name, ufs.Attr{}); err != nil {
		f.Fatalf("mkdir %q: %v", name, err)
	}
}

func (f fixture) list(dir, after string, flat bool) []string {
	f.Helper()
	names := []string{}
	var turns Turns
	defer turns.Want(f, 0, "after a listing")
	for in, err := range f.s.List(turns.Context(f.ctx()), dir, after, flat) {
		turns.Want(f, 0, "while a name is yielded")
		if err != nil {
			f.Fatalf("list %q after %q: %v", dir, after, err)
		}
		if in.Dir != strings.HasSuffix(in.Name, "/") {
			f.Errorf("list %q: %q has Dir %v", dir, in.Name, in.Dir)
		}
		names = append(names, in.Name)
	}
	return names
}

func (f fixture) wantList(dir, after string, flat bool, want ...string) {
	f.Helper()
	if got := f.list(dir, after, flat); fmt.Sprint(got) != fmt.Sprint(want) {
		f.Errorf("list %q after %q flat %v: got %q, want %q", dir, after, flat, got, want)
	}
}

func (f fixture) wantData(name, want string) {
	f.Helper()
	if got := f.get(name); got != want {
		f.Errorf("%q holds %.40q (%d bytes), want %.40q (%d bytes)", name, got, len(got), want, len(want))
	}
}

func (f fixture) wantGone(name string) {
	f.Helper()
	_, err := f.s.Stat(f.ctx(), name)
	f.wantErr("stat "+name, err, errs.NotExist)
}

func (f fixture) wantErr(what string, err error, kinds ...errs.Kind) {
	f.Helper()
	for _, k := range kinds {
		if errors.Is(err, k) {
			return
		}
	}
	f.Errorf("%s: got error %v, want kind %q", what, err, kinds)
}

// create returns a writer that holds data and is not committed. It is aborted when the test ends.
func (f fixture) create(name, data string, size int64, o ufs.CreateOptions) ufs.Writer {
	f.Helper()
	w, err := f.s.Create(f.ctx(), name, size, o)
	if err != nil {
		f.Fatalf("create %q: %v", name, err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		f.Fatalf("write %q: %v", name, err)
	}
	f.Cleanup(func() { _ = w.Abort() })
	return w
}

func (f fixture) commit(w ufs.Writer) ufs.Info {
	f.Helper()
	in, err := w.Commit(f.ctx())
	if err != nil {
		f.Fatalf("commit: %v", err)
	}
	return in
}

func dirs(f ufs.Features) bool    { return f.Dirs }
func noDirs(f ufs.Features) bool  { return !f.Dirs }
func flat(f ufs.Features) bool    { return f.Flat }
func attrs(f ufs.Features) bool   { return f.Attrs }
func odd(f ufs.Features) bool     { return f.OddNames }
func plain(f ufs.Features) bool   { return !f.OddNames }
func renames(f ufs.Features) bool { return f.AtomicRename }
func mkdirs(f ufs.Features) bool  { return f.Mkdir }
func trashes(f ufs.Features) bool { return f.Trash }
func copies(f ufs.Features) bool  { return f.Copy }
func appends(f ufs.Features) bool { return f.Append }
func sets(f ufs.Features) bool    { return f.SetAttr }
func composes(f ufs.Features) bool {
	return f.Compose
}
func probes(f ufs.Features) bool { return f.Probe }
func marks(f ufs.Features) bool  { return f.Mark }

func and(fs ...func(ufs.Features) bool) func(ufs.Features) bool {
	return func(x ufs.Features) bool {
		for _, f := range fs {
			if !f(x) {
				return false
			}
		}
		return true
	}
}
