package nstest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
)

// listModelTests compare listings of random trees with S3's rules spelled out over a sorted list of names. ModelTime and
// ModelSeed are theirs too.
var listModelTests = []entry{
	{name: "random listings agree with a sorted list", with: synced(0), test: func(f *fixture) {
		length, seed := 2*time.Second, uint64(time.Now().UnixNano())
		if d, err := time.ParseDuration(os.Getenv(ModelTime)); err == nil {
			length = d
		}
		if n, err := strconv.ParseUint(os.Getenv(ModelSeed), 10, 64); err == nil {
			seed = n
		}
		trees, listings := 0, 0
		for end := time.Now().Add(length); ; seed++ {
			g := f.another(f.T, synced(0))
			trees, listings = trees+1, listings+g.listRandomTree(seed)
			if g.Failed() || time.Now().After(end) {
				f.Logf("%d listings of %d trees", listings, trees)
				return
			}
		}
	}},
}

// listModel is a random tree. S3 keys are its files, the directories that are marked, and those that exist of themselves with
// nothing below them.
type listModel struct {
	*model
	markers map[string]bool

	keys, all []string // while it stays as it is: its keys and its directories, "" among them
}

// segments are what names are made of: what sorts before and after a slash, what a delimiter can be, characters of all
// lengths, the last of those below U+10000 and of all.
var segments = []string{"a", "a-", "a.", "ab", "a b", "b", "é", "\uffff", "😀", "\U0010ffff", "z\uffff"}

// delimiters are whole characters or several, and what no key holds.
var delimiters = []string{"", "", "/", "/", "/", "-", "a", "é", "\uffff", "😀", "//", "-/", "/a", "b/é", "?"}

// listRandomTree makes a tree and lists it in many ways, while the tree changes. It returns how often.
func (f *fixture) listRandomTree(seed uint64) (listings int) {
	m := &listModel{model: &model{fixture: f, rnd: rand.New(rand.NewPCG(seed, 2)), files: map[string]string{}, dirs: map[string]bool{}}, markers: map[string]bool{}} //nolint:gosec // reproducible by its seed
	if m.Mounted {
		for range m.rnd.IntN(25) { // before anything is known of the store
			if name := m.name(); m.fits(name) {
				m.storePut(name, "x")
				m.set(name, "x")
			}
		}
	}
	for range 8 {
		for range m.rnd.IntN(12) {
			m.change()
		}
		if f.Failed() {
			break
		}
		m.look()
		for range 200 {
			m.list()
			listings++
		}
		if f.Failed() {
			break
		}
	}
	if f.Failed() {
		f.Fatalf("%s=%d; the tree was made by:\n%s", ModelSeed, seed, strings.Join(m.log, "\n"))
	}
	return listings
}

// name draws the name of a file, of which some lie in others' directories.
func (m *listModel) name() string {
	of := segments
	if m.Store.Features().OddNames {
		of = append([]string{"", ".", ".."}, of...)
	}
	var all []string
	for range 1 + m.rnd.IntN(4) {
		all = append(all, of[m.rnd.IntN(min(len(of), 3+m.rnd.IntN(len(of))))])
	}
	if last := len(all) - 1; all[last] == "" {
		all[last] = "a"
	}
	return strings.Join(all, "/")
}

// some draws one of names, or what else returns.
func (m *listModel) some(names []string, or func() string) string {
	if len(names) == 0 || m.rnd.IntN(8) == 0 {
		return or()
	}
	return names[m.rnd.IntN(len(names))]
}

func (m *listModel) anyFile() string { return m.some(slices.Sorted(maps.Keys(m.files)), m.name) }

// anyDir draws a directory, "" among them.
func (m *listModel) anyDir() string {
	m.look()
	return m.all[m.rnd.IntN(len(m.all))]
}

// look notes what there is.
func (m *listModel) look() {
	full := map[string]bool{} // directories, and whether anything is below them
	above := func(name string) {
		for d := parentOf(name); d != "" && !full[d]; d = parentOf(d) {
			full[d] = true
		}
	}
	for n := range m.files {
		above(n)
	}
	for n := range m.dirs {
		full[n] = full[n] || false
		above(n)
	}
	m.all, m.keys = append(slices.Collect(maps.Keys(full)), ""), slices.Collect(maps.Keys(m.files))
	for n := range m.dirs {
		if m.markers[n] || !full[n] {
			m.keys = append(m.keys, n)
		}
	}
	sort.Strings(m.all)
	sort.Strings(m.keys)
}

// change makes one random change through the namespace.
func (m *listModel) change() {
	switch m.rnd.IntN(10) {
	case 0:
		m.mark()
	case 1:
		name := m.anyFile()
		m.did(m.has(name), m.removeErr(name, core.RemoveOptions{}), "remove %q", name)
		delete(m.files, name)
	case 2:
		dir := m.anyDir()
		if dir == "" {
			return
		}
		m.did(true, m.removeErr(dir, core.RemoveOptions{Recursive: true}), "remove tree %q", dir)
		m.forget(dir)
		maps.DeleteFunc(m.markers, func(n string, _ bool) bool { return strings.HasPrefix(n, dir) })
	case 3:
		from, to := m.anyFile(), m.name()
		ok := m.has(from) && m.isDir(parentOf(to)) && m.fits(to) && (from == to || !m.has(to))
		if m.did(ok, m.renameErr(from, to, false), "rename %q %q", from, to); ok {
			delete(m.files, from)
			m.set(to, "x")
		}
	case 4:
		m.moveDir()
	case 5:
		m.log = append(m.log, "restart")
		m.restart()
	default:
		name := m.name()
		ok := m.fits(name)
		_, err := m.write(name, "x", core.CreateOptions{Size: 1, MakeParents: true})
		if m.did(ok, err, "put %q", name); ok {
			m.set(name, "x")
		}
	}
	m.log = m.log[max(0, len(m.log)-100):]
}

// mark makes a directory a key.
func (m *listModel) mark() {
	name := m.name() + "/"
	ok := m.fits(name)
	_, err := m.Mkdir(m.ctx(), m.path(name), core.MkdirOptions{MakeParents: true, Marker: true})
	if m.did(ok, err, "mark %q", name); ok {
		m.dirs[name], m.markers[name] = true, true
		if m.real() {
			m.keep(name)
		}
	}
}

func (m *listModel) moveDir() {
	from, to := m.anyDir(), m.name()+"/"
	if from == "" || from == to {
		return
	}
	ok := m.isDir(parentOf(to)) && m.fits(to) && !strings.HasPrefix(to, from) && !m.isDir(to)
	if m.did(ok, m.renameErr(from, to, false), "rename %q %q", from, to); !ok {
		return
	}
	move(m.files, from, to)
	move(m.dirs, from, to)
	move(m.markers, from, to)
}

// move renames what is below from.
func move[V any](all map[string]V, from, to string) {
	for n, v := range maps.Clone(all) {
		if rest, in := strings.CutPrefix(n, from); in {
			delete(all, n)
			all[to+rest] = v
		}
	}
}

// list makes one random listing, whole or page by page.
func (m *listModel) list() {
	m.Helper()
	dir := m.all[m.rnd.IntN(len(m.all))]
	keys := m.keysBelow(dir)
	part := func() string {
		if k := m.some(keys, m.name); k != "" {
			return k[:m.rnd.IntN(len(k)+1)] // in the middle of a character too
		}
		return ""
	}
	o := core.ListOptions{Limit: []int{0, 0, 1, 2, 3, 7}[m.rnd.IntN(6)]}
	if m.rnd.IntN(2) == 0 {
		o.Prefix = part()
	}
	if m.rnd.IntN(3) == 0 {
		o.After = m.some(keys, part)
	}
	want := func(o core.ListOptions) []string { return listRules(keys, o) }
	if o.Children = m.rnd.IntN(4) == 0; o.Children {
		o.HideShadowed = m.rnd.IntN(2) == 0
		names := m.childrenOf(dir, o.HideShadowed)
		want = func(o core.ListOptions) []string { return listRules(names, o) } // a delimiter is not asked for
	} else {
		o.Delimiter = m.pick(delimiters...)
	}
	f := m.fresh([]int64{0, -1, -1, -1}[m.rnd.IntN(4)]) // checked with the store, or what is known
	if o.Limit == 0 || m.rnd.IntN(2) == 0 {
		f.wantNames(dir, o, want(o)...)
		return
	}
	all := []string{}
	first := o
	for {
		page, err := f.names(dir, o)
		if err != nil || len(page) > o.Limit || len(all) > len(m.keys)+len(m.all) {
			m.Errorf("list %q with %+v: got %q, %v", dir, o, page, err)
			return
		}
		all = append(all, page...)
		if len(page) < o.Limit {
			break
		}
		o.After = page[len(page)-1]
		if i := len(o.After) - 1; o.Delimiter != "" && o.After[0] == '[' && m.rolled(o.After[1:i], o) {
			o.After = o.After[1:i]
		}
	}
	first.Limit = 0
	if whole := want(first); fmt.Sprintf("%q", all) != fmt.Sprintf("%q", whole) {
		m.Errorf("list %q page by page with %+v, %d at a time: got %q, want %q", dir, first, o.Limit, all, whole)
	}
}

// rolled reports whether name is a common prefix; no segment begins with a bracket.
func (m *listModel) rolled(name string, o core.ListOptions) bool {
	rest, ok := strings.CutPrefix(name, o.Prefix)
	return ok && strings.HasSuffix(rest, o.Delimiter)
}

// keysBelow returns the S3 keys below dir, relative to it, sorted.
func (m *listModel) keysBelow(dir string) (keys []string) {
	for _, k := range m.keys {
		if rest, in := strings.CutPrefix(k, dir); in && rest != "" {
			keys = append(keys, rest)
		}
	}
	return keys
}

// childrenOf returns the entries of dir, sorted.
func (m *listModel) childrenOf(dir string, hide bool) (names []string) {
	for n := range m.files {
		if rest, in := strings.CutPrefix(n, dir); in && !strings.Contains(rest, "/") && !(hide && slices.Contains(m.all, n+"/")) {
			names = append(names, rest)
		}
	}
	for _, n := range m.all {
		if n != "" && parentOf(n) == dir {
			names = append(names, n[len(dir):])
		}
	}
	sort.Strings(names)
	return names
}
