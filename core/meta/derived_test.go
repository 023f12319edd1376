package meta

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// names are the names that TestDerivedModel looks at: few, so that changes and flights meet.
var names = []string{"a", "a/", "a/x", "a/y", "a/b/", "a/b/x", "a/b/y", "a/b/c/", "a/b/c/x", "b", "b/", "b/x", "c", "c/", "c/d/", "c/d/x", "d/", "d/x"}

// pendingChange is one change of the model: its store step lies somewhere between Begin and End.
type pendingChange struct {
	name   string
	before map[string]*Row // what the store had at and below name when it began
	done   bool
	row    *Row
}

// pendingFlight is one request: its answer is drawn somewhere between Sent and Done.
type pendingFlight struct {
	f    *Flight
	tell func()
}

type derivedModel struct {
	r       *rand.Rand
	st      *simStore
	d       *Derived
	now     time.Time
	seq     uint64
	version int
	changes []*pendingChange
	flights []*pendingFlight
	log     []string
}

func (m *derivedModel) note(format string, args ...any) {
	m.log = append(m.log, fmt.Sprintf(format, args...))
}

func rowNames(rows []NamedRow) (names []string) {
	for _, r := range rows {
		names = append(names, r.Name)
	}
	return names
}

func related(a, b string) bool {
	return a == b || isDir(a) && strings.HasPrefix(b, a) || isDir(b) && strings.HasPrefix(a, b)
}

// begin starts a change of a name that no other change is about.
func (m *derivedModel) begin() {
	name := pick(m.r, names)
	for _, c := range m.changes {
		if related(c.name, name) {
			return
		}
	}
	c := &pendingChange{name: name, before: map[string]*Row{}}
	for _, n := range names {
		if related(name, n) {
			c.before[n] = m.st.stat(n)
		}
	}
	m.changes = append(m.changes, c)
	m.note("begin %s", name)
	m.d.Begin(name)
}

// work does the store's step of a pending change.
func (m *derivedModel) work() {
	if len(m.changes) == 0 {
		return
	}
	c := pick(m.r, m.changes)
	if c.done {
		return
	}
	c.done = true
	m.version++
	if m.r.IntN(5) < 2 {
		m.st.remove(c.name)
	} else {
		m.st.put(c.name, Row{Full: m.r.IntN(2) == 0, Version: fmt.Sprint(m.version)})
	}
	c.row = m.st.stat(c.name)
	m.note("work %s: there %v", c.name, c.row != nil)
}

func (m *derivedModel) end() {
	if len(m.changes) == 0 {
		return
	}
	i := m.r.IntN(len(m.changes))
	c := m.changes[i]
	m.changes = slices.Delete(m.changes, i, i+1)
	m.seq++
	row, known := m.st.stat(c.name), m.r.IntN(4) > 0
	m.note("end %s at %d: there %v, known %v", c.name, m.seq, row != nil, known)
	m.d.End(c.name, m.seq, row, known)
}

// send starts a flight; its answer is drawn at once or just before it is told.
func (m *derivedModel) send() {
	m.now = m.now.Add(time.Millisecond)
	f := m.d.Sent(m.seq, m.now)
	m.note("sent %d", f.tick)
	name := pick(m.r, names)
	var draw func() func()
	switch m.r.IntN(3) {
	case 0:
		draw = func() func() {
			row := m.st.stat(name)
			return func() { m.note("stat %s of %d: there %v", name, f.tick, row != nil); f.Stat(name, row) }
		}
	default:
		dir, _ := split(name)
		flat := m.st.flat && m.r.IntN(2) == 0
		after, max := "", 1+m.r.IntN(9)
		if m.r.IntN(2) == 0 {
			after = pick(m.r, names)
			if !strings.HasPrefix(after, dir) {
				after = ""
			}
		}
		draw = func() func() {
			rows, complete, ok := m.st.list(dir, after, flat, max)
			if !ok {
				return func() { f.Stat(dir, nil) }
			}
			if flat {
				return func() {
					m.note("flat %q after %q of %d: %v %v", dir, after, f.tick, rowNames(rows), complete)
					f.ListFlat(dir, after, "", rows, complete)
				}
			}
			return func() {
				m.note("list %q after %q of %d: %v %v", dir, after, f.tick, rowNames(rows), complete)
				f.List(dir, after, "", rows, complete)
			}
		}
	}
	p := &pendingFlight{f: f}
	if m.r.IntN(2) == 0 {
		p.tell = draw()
	} else {
		p.tell = func() { draw()() }
	}
	m.flights = append(m.flights, p)
}

func (m *derivedModel) land() {
	if len(m.flights) == 0 {
		return
	}
	i := m.r.IntN(len(m.flights))
	p := m.flights[i]
	m.flights = slices.Delete(m.flights, i, i+1)
	p.tell()
	p.f.Done()
}

// check compares all that is said with what is true: the store as it is, or for a name with a change pending as it was.
func (m *derivedModel) check(t *testing.T, step int) {
	t.Helper()
	for _, n := range names {
		want, near := m.st.stat(n), false
		for _, c := range m.changes {
			if before, ok := c.before[n]; ok && (n == c.name || !isDir(n) || strings.HasPrefix(n, c.name)) && related(c.name, n) {
				want = before
				near = !strings.HasPrefix(n, c.name) // a directory above a pending change may be there or not
			} else if related(c.name, n) {
				near = true
			}
		}
		got := m.d.Lookup(n)
		if got.State == Unknown || near {
			continue
		}
		if (got.State == Present) != (want != nil) || want != nil && !isDir(n) && got.Row.Version != want.Version {
			t.Fatalf("step %d: %s is %+v, want %+v (flat %v)\n%s", step, n, got, want, m.st.flat, strings.Join(m.log, "\n"))
		}
		if want != nil && isDir(n) && got.Row.Full && got.Row.Marker != want.Marker {
			t.Fatalf("step %d: marker of %s is %+v, want %+v\n%s", step, n, got, want, strings.Join(m.log, "\n"))
		}
	}
}

// TestDerivedModel runs flights and changes in random order against a store that only they change: whatever is said to be
// known must be true, and an answer older than a change must not be heard.
func TestDerivedModel(t *testing.T) {
	r := seed(t)
	for range 1500 {
		flat := r.IntN(2) == 0
		m := &derivedModel{r: r, st: newSimStore(flat), now: time.Now(),
			d: NewDerived(DerivedOptions{Flat: flat, MaxRows: pick(r, []int{0, 8})})}
		for range 6 {
			m.st.put(pick(r, names), Row{Version: "0"})
		}
		for step := range 80 {
			switch r.IntN(8) {
			case 0:
				m.begin()
			case 1:
				m.work()
			case 2:
				m.end()
			case 3, 4:
				m.send()
			case 5, 6:
				m.land()
			case 7:
				if r.IntN(10) == 0 {
					name := pick(r, names)
					m.note("forget %s", name)
					m.d.Forget(name)
				}
			}
			m.check(t, step)
		}
		for len(m.flights) > 0 {
			m.land()
		}
		for len(m.changes) > 0 {
			m.end()
		}
		m.check(t, -1)
		if s := m.d.Stats(); s.Flights != 0 || s.Changes != 0 {
			t.Fatalf("flights or changes are left over: %+v", s)
		}
		m.d.Forget("")
		if s := m.d.Stats(); s.Rows != 0 || s.Dirs != 0 {
			t.Fatalf("facts are left over: %+v", s)
		}
	}
}

func mustLookup(t *testing.T, d *Derived, name string, want State) Fact {
	t.Helper()
	f := d.Lookup(name)
	if f.State != want {
		t.Fatalf("%s is %d, want %d", name, f.State, want)
	}
	return f
}

func TestDerivedFullRowSurvivesListing(t *testing.T) {
	d := NewDerived(DerivedOptions{Flat: true})
	f := d.Sent(1, time.Now())
	defer f.Done()
	f.Stat("a", &Row{Full: true, Version: "1", Mode: 0o600, User: map[string]string{"k": "v"}})
	f.List("", "", "", []NamedRow{{"a", Row{Version: "1"}}, {"b", Row{Version: "1"}}}, true)
	if row := mustLookup(t, d, "a", Present).Row; !row.Full || row.Mode != 0o600 || row.User["k"] != "v" {
		t.Errorf("a listing of the same version took the attributes: %+v", row)
	}
	f.List("", "", "", []NamedRow{{"a", Row{Version: "2"}}}, true)
	if row := mustLookup(t, d, "a", Present).Row; row.Full || row.Version != "2" {
		t.Errorf("another version kept the attributes: %+v", row)
	}
	mustLookup(t, d, "b", Absent)
}

func TestDerivedAbsence(t *testing.T) {
	for _, flat := range []bool{false, true} {
		d := NewDerived(DerivedOptions{Flat: flat})
		now := time.Now()
		f := d.Sent(1, now)
		f.Stat("b", nil)
		mustLookup(t, d, "b/x", Unknown)
		mustLookup(t, d, "b/", Unknown)
		f.Stat("b/", nil)
		if at := mustLookup(t, d, "b/c/x", Absent).At; !at.Equal(now) {
			t.Errorf("learnt at %v, want %v", at, now)
		}
		f.Stat("b/c/x", &Row{Version: "1"})
		mustLookup(t, d, "b/c/x", Present)
		mustLookup(t, d, "b/", Present)
		mustLookup(t, d, "", Present)
		f.List("", "", "c", []NamedRow{{"c", Row{}}}, false)
		mustLookup(t, d, "b/c/x", Absent)
		mustLookup(t, d, "a", Absent)
		mustLookup(t, d, "c/", Unknown)
		f.Done()
	}
}

func TestDerivedOlderAnswerIsNotHeard(t *testing.T) {
	d := NewDerived(DerivedOptions{})
	now := time.Now()
	older, newer := d.Sent(1, now), d.Sent(1, now.Add(time.Second))
	newer.List("", "", "b", []NamedRow{{"b", Row{Version: "new"}}}, false)
	older.List("", "", "", []NamedRow{{"a", Row{}}, {"b", Row{Version: "old"}}, {"c", Row{}}}, true)
	older.Stat("b", nil)
	mustLookup(t, d, "a", Absent)
	mustLookup(t, d, "c", Present)
	mustLookup(t, d, "d", Absent)
	if v := mustLookup(t, d, "b", Present).Row.Version; v != "new" {
		t.Errorf("version %s", v)
	}
	older.Done()
	newer.Done()
}

// TestDerivedEmptied has a file go from a directory that was listed long before, while a listing is under way that shows another in it.
func TestDerivedEmptied(t *testing.T) {
	for what, parent := range map[string]time.Duration{"parent listed before": -time.Hour, "parent listed after": time.Second} {
		d := NewDerived(DerivedOptions{Flat: true})
		now := time.Now()
		list := func(f *Flight, dir string, names ...string) {
			rows := make([]NamedRow, len(names))
			for i, name := range names {
				rows[i] = NamedRow{name, Row{Version: "1", Dir: isDir(name)}}
			}
			f.List(dir, "", "", rows, true)
			f.Done()
		}
		list(d.Sent(1, now), "d/e/", "d/e/x")
		list(d.Sent(1, now.Add(parent)), "d/", "d/e/", "d/f")
		older, newer := d.Sent(1, now.Add(2*time.Second)), d.Sent(1, now.Add(3*time.Second))
		newer.Stat("d/e/x", nil)
		newer.Done()
		if f := d.Lookup("d/e/"); f.State == Absent && f.At.After(now) {
			t.Errorf("%s: the directory is absent as of %v, and its listing of %v", what, f.At, now)
		}
		list(older, "d/e/", "d/e/x", "d/e/y")
		mustLookup(t, d, "d/e/y", Present)
		mustLookup(t, d, "d/e/x", Absent)
		mustLookup(t, d, "d/e/", Present)
		mustLookup(t, d, "d/g", Absent)
	}
}

func TestDerivedNestedChanges(t *testing.T) {
	d := NewDerived(DerivedOptions{})
	before := d.Sent(5, time.Now())
	d.Begin("a")
	d.Begin("a")
	settled := d.Settled("a")
	d.End("a", 9, &Row{Version: "9"}, true)
	select {
	case <-settled:
		t.Error("settled with a change pending")
	default:
	}
	d.End("a", 8, nil, true)
	<-settled
	<-d.Settled("a")
	if v := mustLookup(t, d, "a", Present).Row.Version; v != "9" {
		t.Errorf("the change with the lower sequence decided: %s", v)
	}
	before.Stat("a", &Row{Version: "5"})
	before.List("", "", "", nil, true)
	if v := mustLookup(t, d, "a", Present).Row.Version; v != "9" {
		t.Errorf("an answer older than the change was heard: %s", v)
	}
	before.Done()
	after := d.Sent(9, time.Now())
	after.Stat("a", nil)
	after.Done()
	mustLookup(t, d, "a", Absent)
}

func TestDerivedSubtreeChange(t *testing.T) {
	d := NewDerived(DerivedOptions{Flat: true})
	f := d.Sent(1, time.Now())
	f.ListFlat("", "", "", []NamedRow{{"a/b/x", Row{Version: "1"}}, {"a/y", Row{Version: "1"}}, {"c/z", Row{}}}, true)
	d.Begin("a/")
	f.Stat("a/n", &Row{})
	mustLookup(t, d, "a/n", Absent)
	d.End("a/", 2, nil, true)
	f.ListFlat("", "", "", []NamedRow{{"a/b/x", Row{Version: "1"}}}, true)
	for _, n := range []string{"a/", "a/b/", "a/b/x", "a/y", "c/z", "c/"} {
		mustLookup(t, d, n, Absent)
	}
	f.Done()
}

// TestDerivedForgetsFlightsNotDone keeps a flight open for longer than changes are remembered.
func TestDerivedForgetsFlightsNotDone(t *testing.T) {
	d := NewDerived(DerivedOptions{})
	f := d.Sent(1, time.Now())
	for i := range maxPast + 10 {
		name := fmt.Sprintf("n%d", i)
		d.Begin(name)
		d.End(name, uint64(i+2), nil, true)
	}
	if s := d.Stats(); s.Changes > maxPast {
		t.Errorf("%d changes are remembered", s.Changes)
	}
	f.Stat("n0", &Row{})
	mustLookup(t, d, "n0", Absent)
	f.Done()
}

func TestDerivedEvicts(t *testing.T) {
	d := NewDerived(DerivedOptions{MaxRows: 100})
	f := d.Sent(1, time.Now())
	defer f.Done()
	rows := make([]NamedRow, 30)
	for i := range 10 {
		dir := fmt.Sprintf("d%d/", i)
		for j := range rows {
			rows[j] = NamedRow{fmt.Sprintf("%sf%02d", dir, j), Row{}}
		}
		f.List(dir, "", "", rows, true)
		mustLookup(t, d, "d0/f00", Present) // in use all the time
	}
	if s := d.Stats(); s.Rows > 100 || s.Evicted == 0 {
		t.Errorf("%+v", s)
	}
	mustLookup(t, d, "d9/f29", Present)
	mustLookup(t, d, "d2/f00", Unknown)
	// A directory larger than the limit is kept in pieces.
	after := ""
	for i := range 10 {
		for j := range rows {
			rows[j] = NamedRow{fmt.Sprintf("big/%d%02d", i, j), Row{}}
		}
		f.List("big/", after, "", rows, false)
		after = rows[len(rows)-1].Name
		mustLookup(t, d, after, Present)
	}
	if s := d.Stats(); s.Rows > 140 {
		t.Errorf("%+v", s)
	}
	mustLookup(t, d, "big/000", Unknown)
}
