package ufstest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

var modelTests = []entry{
	{"random operations agree with a map", nil, func(f fixture) {
		seed := uint64(time.Now().UnixNano())
		f.Logf("seed %d", seed)
		m := model{fixture: f, rnd: rand.New(rand.NewPCG(seed, 1)), files: map[string]string{}} //nolint:gosec // reproducible by its seed
		for i := range 250 {
			m.step()
			if i%25 == 24 {
				m.compare()
			}
			if f.Failed() {
				f.Fatalf("failed at step %d of seed %d; the last steps were:\n%s", i, seed, strings.Join(m.log, "\n"))
			}
		}
	}},
}

// model is what a store must hold: its files. Directories follow from them, but for the empty ones of real directories.
type model struct {
	fixture
	rnd   *rand.Rand
	files map[string]string
	log   []string
}

// name returns one of few names, so that operations meet. A segment is either always a file or always a directory, for
// stores that cannot hold both.
func (m *model) name() string {
	var b strings.Builder
	for range m.rnd.IntN(3) {
		b.WriteString([]string{"a/", "b-/", "c.d/"}[m.rnd.IntN(3)])
	}
	return b.String() + []string{"f", "f-", "g.x", "h h"}[m.rnd.IntN(4)]
}

func (m *model) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
	if len(m.log) > 20 {
		m.log = m.log[1:]
	}
}

func (m *model) step() {
	name := m.name()
	old, exists := m.files[name]
	switch m.rnd.IntN(10) {
	case 0, 1, 2:
		data := pattern(m.rnd.IntN(2000))
		m.note("put %q %d", name, len(data))
		m.put(name, data)
		m.files[name] = data
	case 3:
		m.note("put new %q", name)
		_, err := ufs.WriteFile(m.ctx(), m.s, name, []byte("new"), ufs.CreateOptions{IfNew: true})
		if exists {
			m.wantErr("create new", err, errs.Exist)
		} else if err != nil {
			m.Error(err)
		} else {
			m.files[name] = "new"
		}
	case 4:
		m.note("abort %q", name)
		_ = m.create(name, "never", -1, ufs.CreateOptions{}).Abort()
	case 5:
		m.note("remove %q", name)
		err := m.s.Remove(m.ctx(), name, "")
		if !exists {
			m.wantErr("remove", err, errs.NotExist)
		} else if err != nil {
			m.Error(err)
		}
		delete(m.files, name)
	case 6:
		m.copy(name, m.name())
	case 7:
		m.note("replace %q", name)
		if exists {
			m.putWith(name, old+"+", ufs.CreateOptions{IfVersion: m.stat(name).Version})
			m.files[name] = old + "+"
		}
	case 8:
		m.rename(name, m.name())
	case 9:
		m.note("read %q", name)
		got, err := m.read(name, 0, -1, "")
		if !exists {
			m.wantErr("read", err, errs.NotExist)
		} else if got != old || err != nil {
			m.Errorf("read %q: got %d bytes, %v, want %d", name, len(got), err, len(old))
		}
	}
}

func (m *model) copy(from, to string) {
	m.note("copy %q %q", from, to)
	data, exists := m.files[from]
	_, err := ufs.CopyFile(m.ctx(), m.s, from, "", to, nil)
	if !exists {
		m.wantErr("copy", err, errs.NotExist)
	} else if err != nil {
		m.Error(err)
	} else {
		m.files[to] = data
	}
}

func (m *model) rename(from, to string) {
	data, exists := m.files[from]
	if !m.s.Features().AtomicRename || from == to {
		return
	}
	m.note("rename %q %q", from, to)
	err := ufs.Rename(m.ctx(), m.s, from, to, true)
	if !exists {
		m.wantErr("rename", err, errs.NotExist)
	} else if err != nil {
		m.Error(err)
	} else {
		delete(m.files, from)
		m.files[to] = data
	}
}

// compare walks the store and compares all of it with the model.
func (m *model) compare() {
	m.Helper()
	var got []string
	m.walk("", &got)
	if want := slices.Sorted(maps.Keys(m.files)); !slices.Equal(got, want) {
		m.Errorf("the store holds %q, want %q", got, want)
	}
	for name, data := range m.files {
		m.wantData(name, data)
	}
	if m.s.Features().Flat {
		if flat := m.list("", "", true); !slices.Equal(flat, got) {
			m.Errorf("flat list %q, walk %q", flat, got)
		}
	}
	m.compareAfter(got)
}

// compareAfter lists from a random place on.
func (m *model) compareAfter(all []string) {
	after := m.name()
	var want []string
	for _, n := range all {
		top, _, below := strings.Cut(n, "/")
		if below {
			top += "/"
		}
		if top > after && !slices.Contains(want, top) {
			want = append(want, top)
		}
	}
	got := slices.DeleteFunc(m.list("", after, false), func(n string) bool {
		return ufs.IsDir(n) && !slices.Contains(want, n) // an empty directory
	})
	if !slices.Equal(got, want) {
		m.Errorf("list after %q: got %q, want %q", after, got, want)
	}
}

func (m *model) walk(dir string, names *[]string) {
	for _, n := range m.list(dir, "", false) {
		if n == dir {
			continue
		}
		if ufs.IsDir(n) {
			m.walk(n, names)
		} else {
			*names = append(*names, n)
		}
	}
}
