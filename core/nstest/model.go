package nstest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// ModelTime is the environment variable that says how long the randomized test runs on each kind of namespace, as a
// duration; ModelSeed, which seed it starts from.
const (
	ModelTime = "NSTEST_MODEL_TIME"
	ModelSeed = "NSTEST_MODEL_SEED"
)

var modelTests = []entry{
	{name: "random operations agree with a map", with: synced(0), test: func(f *fixture) {
		length, seed := modelTime()
		f.simulateAll(seed, length, synced(0))
	}},
	{name: "random operations, on files that are held before they are stored, agree with a map", needs: holding, with: heldWith(atOnce), test: func(f *fixture) {
		length, seed := modelTime()
		f.simulateAll(seed, length, heldWith(atOnce, synced(0)))
	}},
}

// modelTime returns how long a model runs, and its first seed.
func modelTime() (time.Duration, uint64) {
	length, seed := 400*time.Millisecond, uint64(time.Now().UnixNano())
	if d, err := time.ParseDuration(os.Getenv(ModelTime)); err == nil {
		length = d
	}
	if n, err := strconv.ParseUint(os.Getenv(ModelSeed), 10, 64); err == nil {
		seed = n
	}
	return length, seed
}

// simulateAll runs simulate on fresh namespaces for that long, or until one fails.
func (f *fixture) simulateAll(seed uint64, length time.Duration, with func(*Options)) {
	for end := time.Now().Add(length); ; seed++ {
		g := f.another(f.T, with)
		g.simulate(seed, end)
		if g.Failed() || time.Now().After(end) {
			return
		}
	}
}

// model is what a namespace must show: its files by name, and the directories that exist of themselves. All others follow
// from the files.
type model struct {
	*fixture
	rnd   *rand.Rand
	held  bool // some files are held before they are stored
	files map[string]string
	dirs  map[string]bool
	sizes int // makes every content another length: weak versions tell them apart
	log   []string
}

// simulate makes random changes and compares what is shown, until end or a few hundred steps.
func (f *fixture) simulate(seed uint64, end time.Time) {
	m := &model{fixture: f, held: f.workers != nil, rnd: rand.New(rand.NewPCG(seed, 1)), files: map[string]string{}, dirs: map[string]bool{}} //nolint:gosec // reproducible by its seed
	for i := range 300 {
		m.step()
		if i%4 == 3 {
			m.compare()
		}
		if f.Failed() {
			f.Fatalf("step %d of %s=%d; the last steps were:\n%s", i, ModelSeed, seed, strings.Join(m.log, "\n"))
		}
		if i%50 == 49 && time.Now().After(end) {
			return
		}
	}
}

func (m *model) pick(of ...string) string { return of[m.rnd.IntN(len(of))] }

// dir returns the name of a directory, "" or one of few, so that operations meet.
func (m *model) dir(depth int) string {
	var b strings.Builder
	for range m.rnd.IntN(depth + 1) {
		b.WriteString(m.pick("a/", "b-/", "x/"))
	}
	return b.String()
}

// file returns the name of a file; "x" may be a directory's too.
func (m *model) file() string { return m.dir(3) + m.pick("f", "f-", "g h", "x") }

// existing returns a file that is there, or any name.
func (m *model) existing() string {
	if len(m.files) == 0 || m.rnd.IntN(6) == 0 {
		return m.file()
	}
	names := slices.Sorted(maps.Keys(m.files))
	return names[m.rnd.IntN(len(names))]
}

func (m *model) content() string {
	m.sizes++
	return pattern(m.sizes, m.sizes*3%5000+m.sizes)
}

func (m *model) real() bool { return m.Store.Features().Dirs }

// isDir reports whether the directory name exists.
func (m *model) isDir(name string) bool {
	if name == "" || m.dirs[name] {
		return true
	}
	for f := range m.files {
		if strings.HasPrefix(f, name) {
			return true
		}
	}
	for d := range m.dirs {
		if strings.HasPrefix(d, name) {
			return true
		}
	}
	return false
}

func (m *model) has(name string) bool { _, ok := m.files[name]; return ok }

// empty reports whether nothing is below the directory name.
func (m *model) empty(name string) bool {
	for f := range m.files {
		if strings.HasPrefix(f, name) {
			return false
		}
	}
	for d := range m.dirs {
		if d != name && strings.HasPrefix(d, name) {
			return false
		}
	}
	return true
}

// fits reports whether the store can hold name beside what is there: with real directories, no name is of two kinds.
func (m *model) fits(name string) bool {
	if !m.real() {
		return true
	}
	bare := strings.TrimSuffix(name, "/")
	if ufs.IsDir(name) && m.has(bare) || !ufs.IsDir(name) && m.isDir(name+"/") {
		return false
	}
	for i := range bare {
		if bare[i] == '/' && m.has(bare[:i]) {
			return false
		}
	}
	return true
}

func parentOf(name string) string {
	bare := strings.TrimSuffix(name, "/")
	return bare[:strings.LastIndexByte(bare, '/')+1]
}

// set makes name a file. Real directories above it stay when they become empty.
func (m *model) set(name, data string) {
	m.files[name] = data
	if m.real() {
		m.keep(parentOf(name))
	}
}

// keep makes dir and what is above it exist of themselves.
func (m *model) keep(dir string) {
	for ; dir != ""; dir = parentOf(dir) {
		m.dirs[dir] = true
	}
}

// did notes a step and judges its answer: an error exactly if the model does not let it happen.
func (m *model) did(ok bool, err error, format string, args ...any) {
	m.Helper()
	m.log = append(m.log, fmt.Sprintf(format, args...)+fmt.Sprint(" -> ", err))
	m.log = m.log[max(0, len(m.log)-25):]
	if ok != (err == nil) {
		m.Errorf("got error %v, want success %v", err, ok)
	}
	if errs.KindOf(err) == errs.Unavailable || err != nil && errs.KindOf(err) == errs.Other {
		m.Errorf("got error %v of a kind that nothing here gives rise to", err)
	}
}

func (m *model) step() {
	steps := []func(){
		m.put, m.put, m.put, m.putPlain, m.createNew, m.appendTo, m.appendTo, m.abort, m.removeFile, m.removeFile, m.removeDir, m.makeDir,
		m.renameFile, m.renameFile, m.renameDir, m.renameDir, m.copyFile, m.upload, m.compose, m.chmodAny, m.lookAny, m.reopen,
	}
	if m.Mounted {
		steps = append(steps, m.putBehind, m.putBehind, m.removeBehind, m.removeBehind)
	}
	steps[m.rnd.IntN(len(steps))]()
}

// how returns the type of a write.
func (m *model) how() core.WriteType {
	if !m.held {
		return ""
	}
	return []core.WriteType{"", core.AsyncThrough, core.AsyncThrough, core.MustCache}[m.rnd.IntN(4)]
}

// settle has the store have what workers hold: what others do to it then is not refused.
func (m *model) settle() {
	if m.held {
		m.Helper()
		m.persist("")
	}
}

func (m *model) put() {
	name, data := m.file(), m.content()
	ok, how := m.fits(name), m.how()
	_, err := m.write(name, data, core.CreateOptions{Size: int64(len(data)), MakeParents: true, WriteType: how})
	if m.did(ok, err, "put %q %d %s", name, len(data), how); ok {
		m.set(name, data)
	}
}

func (m *model) putPlain() {
	name, data := m.file(), m.content()
	ok := m.isDir(parentOf(name)) && m.fits(name)
	_, err := m.write(name, data, core.CreateOptions{Size: -1, WriteType: m.how()})
	if m.did(ok, err, "put without parents %q %d", name, len(data)); ok {
		m.set(name, data)
	}
}

func (m *model) createNew() {
	name, data := m.existing(), m.content()
	ok := !m.has(name) && m.fits(name)
	_, err := m.write(name, data, core.CreateOptions{Mode: core.CreateNew, Size: -1, MakeParents: true, WriteType: m.how()})
	if m.did(ok, err, "create new %q", name); ok {
		m.set(name, data)
	}
}

func (m *model) appendTo() {
	name, data := m.existing(), m.content()
	ok := m.has(name)
	_, err := m.write(name, data, core.CreateOptions{Mode: core.Append, Size: -1})
	if m.did(ok, err, "append %q %d", name, len(data)); ok {
		m.files[name] += data
	}
}

func (m *model) abort() {
	name := m.file()
	w, err := m.create(name, "never", core.CreateOptions{Size: -1, MakeParents: true})
	if m.did(m.fits(name), err, "abort %q", name); err == nil {
		m.must(w.Abort())
	}
}

func (m *model) removeFile() {
	name := m.existing()
	prune := !m.real() && m.rnd.IntN(2) == 0
	ok := m.has(name)
	m.did(ok, m.removeErr(name, core.RemoveOptions{Prune: prune}), "remove %q prune %v", name, prune)
	delete(m.files, name)
}

func (m *model) removeDir() {
	name, all := m.dir(2)+m.pick("a/", "x/"), m.rnd.IntN(2) == 0
	ok := m.isDir(name) && (all || m.empty(name))
	m.did(ok, m.removeErr(name, core.RemoveOptions{Recursive: all}), "remove %q recursive %v", name, all)
	if ok {
		m.forget(name)
	}
}

func (m *model) forget(dir string) {
	maps.DeleteFunc(m.files, func(n, _ string) bool { return strings.HasPrefix(n, dir) })
	maps.DeleteFunc(m.dirs, func(n string, _ bool) bool { return strings.HasPrefix(n, dir) })
}

func (m *model) makeDir() {
	name := m.dir(2) + m.pick("a/", "b-/", "x/")
	ok := !m.isDir(name) && m.fits(name)
	_, err := m.Mkdir(m.ctx(), m.path(name), core.MkdirOptions{MakeParents: true})
	if m.did(ok, err, "mkdir %q", name); ok {
		m.keep(name)
	}
}

func (m *model) renameFile() {
	from, to, over := m.existing(), m.file(), m.rnd.IntN(2) == 0
	if m.rnd.IntN(4) == 0 {
		to = m.existing()
	}
	ok := m.has(from) && m.isDir(parentOf(to)) && m.fits(to) && (from == to || over || !m.has(to))
	if m.did(ok, m.renameErr(from, to, over), "rename %q %q over %v", from, to, over); ok {
		data := m.files[from]
		delete(m.files, from)
		m.set(to, data)
	}
}

func (m *model) renameDir() {
	from, to, over := m.dir(2)+m.pick("a/", "x/"), m.dir(2)+m.pick("b-/", "x/", "n/"), m.rnd.IntN(2) == 0
	ok := m.isDir(from) && m.isDir(parentOf(to)) && m.fits(to) && !(to != from && strings.HasPrefix(to, from)) &&
		(from == to || !m.isDir(to) || over && m.empty(to))
	m.did(ok, m.renameErr(from, to, over), "rename %q %q over %v", from, to, over)
	if !ok || from == to {
		return
	}
	m.forget(to)
	for n, data := range maps.Clone(m.files) {
		if rest, in := strings.CutPrefix(n, from); in {
			delete(m.files, n)
			m.files[to+rest] = data
		}
	}
	for n := range maps.Clone(m.dirs) {
		if rest, in := strings.CutPrefix(n, from); in {
			delete(m.dirs, n)
			m.dirs[to+rest] = true
		}
	}
}

func (m *model) copyFile() {
	from, to := m.existing(), m.file()
	ok := m.has(from) && m.fits(to)
	_, err := m.Copy(m.ctx(), m.path(from), m.path(to), core.CopyOptions{MakeParents: true})
	if m.did(ok, err, "copy %q %q", from, to); ok {
		m.set(to, m.files[from])
	}
}

func (m *model) upload() {
	name, data := m.file(), m.content()
	ok := m.fits(name)
	id, err := m.CreateUpload(m.ctx(), m.path(name), core.CreateOptions{MakeParents: true})
	if m.did(ok, err, "upload %q", name); err != nil {
		return
	}
	p := m.part(name, id, 1, data)
	if m.rnd.IntN(4) == 0 {
		m.must(m.AbortUpload(m.ctx(), m.path(name), id))
		return
	}
	_, err = m.complete(name, id, p)
	m.did(true, err, "complete %q %d", name, len(data))
	m.set(name, data)
}

func (m *model) compose() {
	dst, a, b := m.existing(), m.existing(), m.existing()
	if dst == a || dst == b || a == b || !m.has(dst) {
		return
	}
	ok := m.has(a) && m.has(b)
	_, err := m.Compose(m.ctx(), m.path(dst), m.paths(a, b))
	if m.did(ok, err, "compose %q %q %q", dst, a, b); ok {
		m.files[dst] += m.files[a] + m.files[b]
		delete(m.files, a)
		delete(m.files, b)
	}
}

func (m *model) chmodAny() {
	name := m.existing()
	m.did(m.has(name), m.setAttr(name, core.AttrChange{Mode: ptr(uint32(0o600 + m.rnd.IntN(64)))}), "chmod %q", name)
}

// lookAny looks at a name, so that something is known of it when it changes.
func (m *model) lookAny() {
	name := m.existing()
	got, err := m.read(name, core.All)
	if m.did(m.has(name), err, "read %q", name); err == nil && got != m.files[name] {
		m.Errorf("%q holds %d bytes that are not the %d written", name, len(got), len(m.files[name]))
	}
	dir := m.dir(2)
	_, err = m.names(dir, core.ListOptions{Children: m.rnd.IntN(2) == 0})
	m.did(m.isDir(dir), err, "list %q", dir)
}

func (m *model) reopen() {
	if m.rnd.IntN(4) == 0 {
		m.log = append(m.log, "restart")
		m.restart()
	}
}

func (m *model) putBehind() {
	if name := m.file(); m.fits(name) {
		m.settle()
		data := m.content()
		m.log = append(m.log, fmt.Sprintf("put %q %d behind", name, len(data)))
		m.storePut(name, data)
		m.set(name, data)
	}
}

func (m *model) removeBehind() {
	if name := m.existing(); m.has(name) {
		m.settle()
		m.log = append(m.log, fmt.Sprintf("remove %q behind", name))
		m.storeRemove(name)
		delete(m.files, name)
	}
}

// compare checks every name and every byte.
func (m *model) compare() {
	m.Helper()
	want := map[string]string{}
	for n, data := range m.files {
		want[n] = data
		for d := parentOf(n); d != ""; d = parentOf(d) {
			want[d] = ""
		}
	}
	for n := range m.dirs {
		for d := n; d != ""; d = parentOf(d) {
			want[d] = ""
		}
	}
	got := map[string]string{}
	m.walk("", got)
	if diff := cmp.Diff(summary(want), summary(got)); diff != "" {
		m.Errorf("the tree differs (-want +got):\n%s", diff)
		return
	}
	keys, err := m.names("", core.ListOptions{})
	keys = slices.DeleteFunc(keys, ufs.IsDir)
	if files := slices.Sorted(maps.Keys(m.files)); err != nil || !slices.Equal(keys, files) {
		m.Errorf("the keys differ: got %q, %v; want %q", keys, err, files)
	}
	if name := m.existing(); m.has(name) {
		if m.held && m.durability(name).State != core.InStore {
			m.persist(name)
		}
		m.wantStored(name, m.files[name])
	}
}

func (m *model) walk(dir string, into map[string]string) {
	m.Helper()
	for i, err := range m.listing(dir, core.ListOptions{Children: true}) {
		if err != nil {
			m.Errorf("list %q: %v", dir, err)
			return
		}
		name := dir + i.Name
		if i.Dir {
			into[name] = ""
			m.walk(name, into)
			continue
		}
		data, err := m.read(name, core.All)
		if err != nil {
			data = err.Error()
		}
		into[name] = data
	}
}

// summary makes a tree short enough to be printed.
func summary(tree map[string]string) map[string]string {
	short := map[string]string{}
	for n, data := range tree {
		if short[n] = data; len(data) > 40 {
			short[n] = fmt.Sprintf("%d bytes, %s", len(data), etag(data)[:8])
		}
	}
	return short
}
