package job_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/job"
	"github.com/sluicefs/sluice/core/page"
)

// world is a namespace of files, and workers that have pages of them. A file's ticket is its name, a block has 4 pages.
type world struct {
	core.Namespace
	t     *testing.T
	files map[string]int64

	mu     sync.Mutex
	names  []string
	has    map[string]bool // worker/file/page
	asked  map[string]int  // op/file
	refuse func(worker, file string, op core.PageOp) error
	keeps  func(file string, page int64) bool // nil: everything
	pins   []core.Pin
	kept   map[string]time.Time // by worker and file: when it was last pinned
	copies func(file string) core.Copies
	ruled  []core.Path // what Kept returns
	age    time.Duration
	slow   time.Duration          // what it takes to pin what is not there
	rev    atomic.Int64           // of all files
	strict atomic.Int64           // how often it was asked for what is so now
	missed map[string]core.Misses // by worker
}

func newWorld(t *testing.T, workers int) *world {
	w := &world{t: t, files: map[string]int64{}, has: map[string]bool{}, asked: map[string]int{}, kept: map[string]time.Time{}}
	for i := range workers {
		w.names = append(w.names, fmt.Sprint("w", i))
	}
	return w
}

func (w *world) info(name string) core.Info {
	size, _ := w.size(name)
	return core.Info{Path: path(w.t, name).File(), Name: strings.TrimPrefix(name, "/d/"), Size: size, Version: fmt.Sprint("v", w.rev.Load()), ModTime: time.Now().Add(-w.age)}
}

func (w *world) size(name string) (int64, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	size, ok := w.files[name]
	return size, ok
}

func (w *world) Stat(_ context.Context, p core.Path) (core.Info, error) {
	if _, ok := w.size(p.String()); ok {
		return w.info(p.String()), nil
	}
	if p.File().String() == "/d" {
		return core.Info{Path: p.Dir(), Dir: true}, nil
	}
	return core.Info{}, errs.E("test.Stat", p.String(), errs.NotExist, nil)
}

func (w *world) List(_ context.Context, _ core.Path, o core.ListOptions) iter.Seq2[core.Info, error] {
	return func(yield func(core.Info, error) bool) {
		w.mu.Lock()
		names := slices.Sorted(maps.Keys(w.files))
		w.mu.Unlock()
		for _, name := range names {
			if o.Children && strings.Count(name, "/") > 2 {
				continue
			}
			if !yield(w.info(name), nil) {
				return
			}
		}
		yield(core.Info{Path: path(w.t, "/d/sub").Dir(), Dir: true}, nil)
	}
}

func (w *world) Place(ctx context.Context, p core.Path, r core.Range) (core.Placed, error) {
	if core.MaxAgeOf(ctx) == (core.MaxAge{Set: true}) {
		w.strict.Add(1)
	}
	size, ok := w.size(p.String())
	if !ok {
		return core.Placed{}, errs.E("test.Place", p.String(), errs.NotExist, nil)
	}
	placed := core.Placed{Info: w.info(p.String()), Off: r.Off, Len: min(r.Len, size-r.Off)}
	if placed.Len > 0 {
		placed.Runs = []core.Run{{Off: r.Off, Len: placed.Len, Ticket: []byte(p.String()), Copies: w.copiesOf(p.String())}}
	}
	return placed, nil
}

func (w *world) Stores(context.Context) ([]core.StoreSpec, error) { return nil, nil }

const block = 4 * page.Size

func (w *world) Workers() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names
}

func (w *world) copiesOf(file string) core.Copies {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.copies == nil {
		return core.Copies{}
	}
	return w.copies(file)
}

func (w *world) Kept() []core.Path {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ruled)
}

// Keepers implements core.Caches with workers in turn; each is a failure domain of its own.
func (w *world) Keepers(of core.Run, off int64) (all []string, end int64) {
	end = min(of.Off+of.Len, (off/block+1)*block)
	names := w.Workers()
	for i := range min(max(of.Copies.Min, 1), len(names)) {
		all = append(all, names[(int(off/block)+i)%len(names)])
	}
	return all, end
}

func (w *world) Tend(ctx context.Context, worker string, ticket []byte, op core.PageOp, off, n int64) (core.PageReport, error) {
	if ctx.Err() != nil {
		return core.PageReport{}, context.Cause(ctx)
	}
	if op == core.PinPages && w.slow > 0 && !w.there(worker+string(ticket)) {
		time.Sleep(w.slow)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	file := string(ticket)
	w.asked[string(op)+file]++
	if w.refuse != nil {
		if err := w.refuse(worker, file, op); err != nil {
			return core.PageReport{}, err
		}
	}
	switch op {
	case core.PinPages:
		w.kept[worker+file] = time.Now()
	case core.UnpinPages:
		delete(w.kept, worker+file)
	}
	r := core.PageReport{Media: []string{"memory", "disk"}, Misses: w.missed[worker]}
	for i := off / page.Size; i*page.Size < off+n; i++ {
		key := fmt.Sprint(worker, file, i)
		switch op {
		case core.LoadPages, core.PinPages:
			w.has[key] = w.keeps == nil || w.keeps(file, i)
		case core.DropPages:
			delete(w.has, key)
		}
		tier := byte(0)
		if w.has[key] {
			tier = 1 + byte(i%2)
		}
		r.Pages = append(r.Pages, tier)
	}
	return r, nil
}

func (w *world) there(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.has[key+"0"]
}

func (w *world) Pins(context.Context) ([]core.Pin, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.pins), nil
}

func (w *world) SetPin(_ context.Context, p core.Pin) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pins = append(w.pins, p)
	return nil
}

func (w *world) DropPin(_ context.Context, p core.Path) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pins = slices.DeleteFunc(w.pins, func(x core.Pin) bool { return x.Path == p })
	return nil
}

// run runs a job to its end.
func (w *world) run(kind core.JobKind, p string, flat bool) core.Job {
	w.t.Helper()
	c := job.NewCache(job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w})
	r := job.New(job.Options{Kinds: c.Kinds(), Reign: "1", Check: c.Check})
	ctx, cancel := context.WithCancel(w.t.Context())
	over := make(chan struct{})
	go func() { defer close(over); r.Run(ctx) }()
	defer func() { cancel(); <-over }()
	j, err := r.StartJob(root(ctx), core.JobSpec{Kind: kind, Path: path(w.t, p), Flat: flat})
	if err == nil {
		j, err = r.Job(root(ctx), j.ID, time.Hour)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

func (w *world) residency(p string) core.Residency {
	w.t.Helper()
	r, err := job.NewCache(job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w}).Residency(root(w.t.Context()), path(w.t, p), false)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// TestLoadCountFree loads a tree, counts what the workers have of it, and frees it.
func TestLoadCountFree(t *testing.T) {
	w := newWorld(t, 3)
	w.files = map[string]int64{"/d/a": 10*page.Size + 5, "/d/b": 1, "/d/empty": 0, "/d/sub/c": 2000 * page.Size}
	var bytes, pages int64
	for _, size := range w.files {
		bytes, pages = bytes+size, pages+(size+page.Size-1)/page.Size
	}
	if r := w.residency("/d"); r.Files != 4 || r.Bytes != bytes || r.Pages != pages || r.Cached != 0 || r.Whole != 1 || r.CachedBytes != 0 || len(r.Workers) != 3 {
		t.Errorf("before: %+v", r)
	}
	if j := w.run(core.JobLoad, "/d", true); j.State != core.JobDone || j.Done != 3 || j.Total != 3 {
		t.Errorf("loaded flat: %+v", j)
	}
	if r := w.residency("/d"); r.Whole != 3 || r.Cached != 12 || r.CachedBytes != 10*page.Size+6 {
		t.Errorf("loaded flat: %+v", r)
	}
	if j := w.run(core.JobLoad, "/d", false); j.State != core.JobDone || j.Done != 4 || j.Total != 4 || j.Bytes != bytes || j.TotalBytes != bytes {
		t.Errorf("loaded: %+v", j)
	}
	r := w.residency("/d")
	if r.Whole != 4 || r.Cached != pages || r.CachedBytes != bytes || r.Elsewhere != 0 || r.Failures != 0 {
		t.Errorf("loaded: %+v", r)
	}
	var sum, tiers int64
	for _, x := range r.Workers {
		sum += x.Bytes
		if len(x.Tiers) != 2 || x.Tiers[0].Medium != "memory" || x.Tiers[1].Medium != "disk" {
			t.Errorf("%+v", x)
			continue
		}
		tiers += x.Tiers[0].Bytes + x.Tiers[1].Bytes
	}
	if sum != bytes || tiers != bytes {
		t.Errorf("the workers have %d bytes, their tiers %d, of %d", sum, tiers, bytes)
	}
	// What only others have than those who are asked is not cached.
	w.has["w0/d/b0"] = false
	w.has["w2/d/b0"] = true
	if r := w.residency("/d/b"); r.Cached != 0 || r.Elsewhere != 1 || r.Whole != 0 {
		t.Errorf("elsewhere: %+v", r)
	}
	c := job.NewCache(job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w})
	all, err := c.Where(root(t.Context()), path(t, "/d/a"), 100)
	if err != nil || len(all) != 11 || all[10].Off != 10*page.Size || all[10].Len != 5 || all[4].Owner != "w1" || len(all[4].Places) != 1 || all[4].Places[0].Worker != "w1" {
		t.Errorf("where: %+v, %v", all, err)
	}
	if all, err := c.Where(root(t.Context()), path(t, "/d/a"), 3); err != nil || len(all) != 3 {
		t.Errorf("where, at most 3: %+v, %v", all, err)
	}
	if j := w.run(core.JobFree, "/d", false); j.State != core.JobDone || j.Bytes != bytes {
		t.Errorf("freed: %+v", j)
	}
	if r := w.residency("/d"); r.Cached+r.Elsewhere != 0 {
		t.Errorf("freed: %+v", r)
	}
	if all, err := c.Where(root(t.Context()), path(t, "/d/a"), 100); err != nil || len(all) != 3 || all[0].Len != block || len(all[0].Places) != 0 {
		t.Errorf("where, freed: %+v, %v", all, err)
	}
}

// TestLoadFails loads what workers do not keep or cannot read: each such file is named, and the others are loaded.
func TestLoadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.files = map[string]int64{"/d/full": 8 * page.Size, "/d/gone": page.Size, "/d/down": page.Size, "/d/young": page.Size, "/d/never": page.Size, "/d/well": 5}
		w.keeps = func(file string, i int64) bool { return file != "/d/full" || i != 5 }
		w.refuse = func(_, file string, _ core.PageOp) error {
			switch n := w.asked["r"+file]; {
			case file == "/d/gone":
				return errs.New("test.Tend", "", errs.Conflict, "gone")
			case file == "/d/down" && n < 3, file == "/d/well" && n < 2:
				return errs.New("test.Tend", "", errs.Unavailable, "silent")
			case file == "/d/young" && n < 3, file == "/d/never":
				return errs.New("test.Tend", "", errs.Precondition, "not kept")
			}
			return nil
		}
		j := w.run(core.JobLoad, "/d", false)
		var failed []string
		for _, f := range j.Failed {
			failed = append(failed, f.Path.Name()+": "+errs.KindOf(f.Err).Error())
		}
		slices.Sort(failed)
		if want := []string{"full: " + errs.NoSpace.Error(), "gone: " + errs.Conflict.Error(), "never: " + errs.Precondition.Error()}; !slices.Equal(failed, want) ||
			j.State != core.JobFailed || j.Failures != 3 || j.Done != 6 {
			t.Errorf("failed %v, want %v: %+v", failed, want, j)
		}
		w.names = nil
		if j := w.run(core.JobLoad, "/d", false); j.State != core.JobFailed || j.Why == "" {
			t.Errorf("without workers: %+v", j)
		}
	})
}

// TestSilentWorkers counts and frees where a worker does not answer: nothing is said to be free that may not be.
func TestSilentWorkers(t *testing.T) {
	w := newWorld(t, 2)
	w.files = map[string]int64{"/d/a": 8 * page.Size}
	w.run(core.JobLoad, "/d/a", false)
	silent := errs.New("test.Tend", "", errs.Unavailable, "silent")
	w.refuse = func(worker, _ string, op core.PageOp) error {
		if worker == "w1" {
			return silent
		}
		return nil
	}
	r := w.residency("/d/a")
	if r.Cached != 4 || len(r.Workers) != 2 || !errors.Is(r.Workers[1].Err, silent) || r.Workers[0].Err != nil {
		t.Errorf("%+v", r)
	}
	if j := w.run(core.JobFree, "/d/a", false); j.State != core.JobFailed || len(j.Failed) != 1 || !errors.Is(j.Failed[0].Err, errs.Unavailable) {
		t.Errorf("%+v", j)
	}
	c := job.NewCache(job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w})
	if _, err := c.Residency(t.Context(), core.Root, false); !errors.Is(err, errs.Permission) {
		t.Errorf("somebody: %v", err)
	}
	if _, err := c.Where(root(t.Context()), path(t, "/d/a"), 10); !errors.Is(err, silent) {
		t.Errorf("where: %v", err)
	}
}

// TestReplicationMin has rules say how many workers keep what is below a path. Nothing else is loaded for it, what is lost comes back on
// another worker, and it is told which pages have too few copies.
func TestReplicationMin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		w.files = map[string]int64{"/d/a": 6 * page.Size, "/d/b": 1, "/d/not": page.Size}
		var low atomic.Int64
		w.copies = func(file string) core.Copies {
			if file == "/d/not" {
				return core.Copies{Max: 3}
			}
			return core.Copies{Min: int(low.Load()), Max: 3}
		}
		low.Store(2)
		w.ruled = []core.Path{path(t, "/d").Dir()}
		if r := w.residency("/d"); r.Short != 7 || r.Cached != 0 {
			t.Errorf("before: %+v", r)
		}
		c := job.NewCache(job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w})
		ctx, stop := context.WithCancel(root(t.Context()))
		over := make(chan struct{})
		go func() { defer close(over); c.Run(ctx) }()
		time.Sleep(15 * time.Second)
		r := w.residency("/d")
		if r.Short != 0 || r.Cached != 7 || r.Pages != 8 || r.Elsewhere != 0 {
			t.Errorf("kept: %+v", r)
		}
		all, err := c.Where(root(t.Context()), path(t, "/d/b"), 10)
		if err != nil || len(all) != 1 || len(all[0].Places) != 2 || !slices.Equal(all[0].Keepers, []string{"w0", "w1"}) || all[0].Copies.Min != 2 {
			t.Errorf("where: %+v, %v", all, err)
		}
		if all, _ := c.Where(root(t.Context()), path(t, "/d/not"), 10); len(all) != 1 || len(all[0].Places) != 0 {
			t.Errorf("what no rule has be kept is there: %+v", all)
		}
		if j := w.run(core.JobFree, "/d", false); j.State != core.JobFailed || j.Failures != 2 || !errors.Is(j.Failed[0].Err, errs.Busy) {
			t.Errorf("freed what a rule has be kept: %+v", j)
		}
		// The worker goes that is asked for b; the next one and the one after it are to have it.
		w.mu.Lock()
		w.names = []string{"w1", "w2"}
		w.mu.Unlock()
		if r := w.residency("/d/b"); r.Short != 1 {
			t.Errorf("with a worker lost: %+v", r)
		}
		time.Sleep(15 * time.Second)
		if r := w.residency("/d"); r.Short != 0 || r.Cached != 7 {
			t.Errorf("after it: %+v", r)
		}
		// There are fewer failure domains than copies: as many are kept, and it is said.
		low.Store(3)
		time.Sleep(3 * time.Minute)
		pins, err := c.Pins(ctx)
		if err != nil || len(pins) != 1 || !pins[0].Rule || pins[0].Failures != 2 || !errors.Is(pins[0].Failed[0].Err, errs.Unavailable) {
			t.Errorf("%+v, %v", pins, err)
		}
		if r := w.residency("/d"); r.Short != 7 || r.Cached != 7 {
			t.Errorf("too few: %+v", r)
		}
		// Without a rule nobody asks for it again, and the workers let go of it by themselves.
		w.mu.Lock()
		low.Store(0)
		w.ruled = nil
		w.mu.Unlock()
		time.Sleep(core.PinTime)
		w.mu.Lock()
		for name, at := range w.kept {
			if time.Since(at) < core.PinTime-time.Minute {
				t.Errorf("%s was pinned %v ago", name, time.Since(at))
			}
		}
		w.mu.Unlock()
		if j := w.run(core.JobFree, "/d", false); j.State != core.JobDone {
			t.Errorf("freed: %+v", j)
		}
		stop()
		<-over
	})
}

// TestPinsDoNotLapse has more be loaded than a worker does in the time of a pin: what is there already is pinned again meanwhile.
func TestPinsDoNotLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.slow = 2 * time.Minute
		const files = 200 // 50 minutes, 8 at once
		for i := range files {
			w.files[fmt.Sprintf("/d/%03d", i)] = 1
		}
		w.copies = func(string) core.Copies { return core.Copies{Min: 1, Max: 1} }
		w.ruled = []core.Path{path(t, "/d").Dir()}
		w.pins = []core.Pin{{Path: path(t, "/d/199").File()}}
		c := job.NewCache(job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w})
		ctx, stop := context.WithCancel(root(t.Context()))
		over := make(chan struct{})
		go func() { defer close(over); c.Run(ctx) }()
		for now := range 70 {
			time.Sleep(time.Minute)
			w.mu.Lock()
			for name, at := range w.kept {
				if time.Since(at) > core.PinTime-5*time.Minute {
					t.Errorf("after %d minutes: %s was last pinned %v ago", now, name, time.Since(at))
				}
			}
			w.mu.Unlock()
			if pins, err := c.Pins(ctx); err != nil || now == 20 && !strings.Contains(pins[1].Why, "the rest follows") {
				t.Errorf("%+v, %v", pins, err)
			}
		}
		if pins, err := c.Pins(ctx); err != nil || len(pins) != 2 || pins[1].Files != files || pins[1].Why != "" || len(w.kept) != files {
			t.Errorf("%d are kept; %+v, %v", len(w.kept), pins, err)
		}
		stop()
		<-over
	})
}

// TestNeverKept has a rule have files be kept that are not to be cached: their store is asked once whether that is still so of a version.
func TestNeverKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.age = time.Hour
		w.files = map[string]int64{"/d/a": 1, "/d/b": 1}
		w.copies = func(string) core.Copies { return core.Copies{Min: 1, Max: 1} }
		w.ruled = []core.Path{path(t, "/d").Dir()}
		w.refuse = func(_, file string, _ core.PageOp) error {
			if file == "/d/a" {
				return errs.New("test.Tend", file, errs.Precondition, "it is not to be cached")
			}
			return nil
		}
		c := job.NewCache(job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w})
		ctx, stop := context.WithCancel(root(t.Context()))
		over := make(chan struct{})
		go func() { defer close(over); c.Run(ctx) }()
		for n := range int64(3) {
			time.Sleep(time.Hour)
			if got := w.strict.Load(); got != n+1 {
				t.Errorf("its store was asked %d times of %d versions", got, n+1)
			}
			w.rev.Add(1)
		}
		if pins, err := c.Pins(ctx); err != nil || len(pins) != 1 || pins[0].Failures != 1 || pins[0].Files != 2 {
			t.Errorf("%+v, %v", pins, err)
		}
		stop()
		<-over
	})
}

// TestFewDomains has a file of many blocks be kept where there are fewer failure domains than copies: all of it, as often as can be.
func TestFewDomains(t *testing.T) {
	w := newWorld(t, 2)
	const pages = 1<<10 + 9*4 // more than is asked for at a time
	w.files = map[string]int64{"/d/a": pages * page.Size}
	w.copies = func(string) core.Copies { return core.Copies{Min: 3, Max: 3} }
	j := w.run(core.JobPin, "/d/a", false)
	if j.State != core.JobFailed || j.Failures != 1 || !errors.Is(j.Failed[0].Err, errs.Unavailable) {
		t.Errorf("it was not said: %+v", j)
	}
	if len(w.has) != 2*pages {
		t.Errorf("%d pages are kept, want %d", len(w.has), 2*pages)
	}
}

// TestPins pins a tree and a file in it, and takes that back.
func TestPins(t *testing.T) {
	w := newWorld(t, 2)
	w.files = map[string]int64{"/d/a": 6 * page.Size, "/d/sub/b": 1, "/d/c": 7}
	if j := w.run(core.JobPin, "/d", false); j.State != core.JobDone || j.Done != 3 || j.Bytes != 6*page.Size+8 {
		t.Errorf("%+v", j)
	}
	w.run(core.JobPin, "/d/c", false)
	if r := w.residency("/d"); r.Cached != 8 || len(w.kept) != 4 { // a is on both workers
		t.Errorf("%+v; %v are kept", r, w.kept)
	}
	if j := w.run(core.JobFree, "/d", false); j.State != core.JobFailed || j.Failures != 3 || !errors.Is(j.Failed[0].Err, errs.Busy) {
		t.Errorf("freed what is pinned: %+v", j)
	}
	if j := w.run(core.JobUnpin, "/d", false); j.State != core.JobDone || len(w.pins) != 1 || len(w.kept) != 1 {
		t.Errorf("unpinned: %+v; pinned is %v, kept %v", j, w.pins, w.kept)
	}
	if j := w.run(core.JobFree, "/d", false); j.State != core.JobFailed || j.Failures != 1 || j.Failed[0].Path.String() != "/d/c" {
		t.Errorf("freed: %+v", j)
	}
	delete(w.files, "/d/c")
	if j := w.run(core.JobUnpin, "/d/c", false); j.State != core.JobDone || len(w.pins) != 0 {
		t.Errorf("unpinned what is gone: %+v, %v", j, w.pins)
	}
	c := job.NewCache(job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w})
	if err := c.Check(root(t.Context()), core.JobSpec{Kind: core.JobUnpin, Path: path(t, "/d")}); !errors.Is(err, errs.NotExist) {
		t.Errorf("unpin of what is not pinned: %v", err)
	}
}

// TestPinsAreKept has what is pinned be asked for again, at once of a worker that comes, and for files that come.
func TestPinsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.files = map[string]int64{"/d/a": 6 * page.Size, "/d/full": page.Size, "/d/sub/b": 1}
		w.keeps = func(file string, _ int64) bool { return file != "/d/full" }
		w.pins = []core.Pin{{Path: path(t, "/d").Dir(), Flat: true}, {Path: path(t, "/gone").File()}}
		c := job.NewCache(job.CacheOptions{Namespace: w, Placer: w, Caches: w, Facts: w})
		ctx, stop := context.WithCancel(root(t.Context()))
		over := make(chan struct{})
		go func() { defer close(over); c.Run(ctx) }()
		kept := func() (names []string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for name, at := range w.kept {
				if time.Since(at) > core.PinTime/2 {
					t.Errorf("%s was last pinned %v ago", name, time.Since(at))
				}
				names = append(names, name)
			}
			slices.Sort(names)
			return names
		}
		change := func(f func()) {
			w.mu.Lock()
			defer w.mu.Unlock()
			f()
		}
		time.Sleep(15 * time.Second)
		if got := kept(); !slices.Equal(got, []string{"w0/d/a", "w0/d/full"}) {
			t.Errorf("kept are %v", got)
		}
		pins, err := c.Pins(ctx)
		if err != nil || len(pins) != 2 || pins[0].Files != 2 || pins[0].Failures != 1 || pins[0].Failed[0].Path.Name() != "full" || pins[0].Checked.IsZero() ||
			pins[1].Why == "" {
			t.Errorf("%+v, %v", pins, err)
		}
		change(func() { w.names = []string{"w0", "w1"} })
		time.Sleep(15 * time.Second)
		if got := kept(); !slices.Equal(got, []string{"w0/d/a", "w0/d/full", "w1/d/a"}) {
			t.Errorf("with another worker, kept are %v", got)
		}
		change(func() { w.files["/d/new"] = 1 })
		time.Sleep(core.PinTime)
		if got := kept(); !slices.Contains(got, "w0/d/new") {
			t.Errorf("kept are %v", got)
		}
		stop()
		<-over
	})
}
