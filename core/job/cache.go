package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/wait"
)

const (
	filesAtOnce  = 8
	blocksAtOnce = 4 // of one file
	// window is how many bytes of a file are asked for at a time: their tickets must not expire before they are used.
	window = 1 << 30
	// tries is how often a worker is asked to load, another if one does not answer, and tryAgain the time between.
	tries    = 3
	tryAgain = time.Second
	// settling is how long after its last change a file may be too young to be cached: more than a store's clock granularity.
	settling = 3 * time.Second
	// settled is how long after its last change no file is too young any more: what then is not to be cached will not be.
	settled = 10 * time.Minute
	// maxHopeless bounds the versions that are remembered not to be.
	maxHopeless = 1 << 16
)

// CacheOptions are what a Cache is made of.
type CacheOptions struct {
	Namespace core.Namespace
	Placer    core.Placer
	Caches    core.Caches
	Facts     Facts
	// Own is the cache that this process itself reads through, if it is none of Caches, and OwnName its name. May be nil.
	Own     core.Tender
	OwnName string
}

// Cache does what concerns the caches of workers. It implements core.CacheCare. It is safe for concurrent use.
type Cache struct {
	o        CacheOptions
	found    found
	hopeless hopeless
}

var _ core.CacheCare = (*Cache)(nil)

// NewCache returns a Cache.
func NewCache(o CacheOptions) *Cache { return &Cache{o: o} }

// Kinds returns the jobs that a Cache does.
func (c *Cache) Kinds() map[core.JobKind]Func {
	return map[core.JobKind]Func{
		core.JobLoad:  func(ctx context.Context, s core.JobSpec, p *Progress) error { return c.job(ctx, s, p, c.load) },
		core.JobFree:  c.free,
		core.JobPin:   c.pin,
		core.JobUnpin: c.unpin,
	}
}

// Check reports whether there is what a job is to be about.
func (c *Cache) Check(ctx context.Context, s core.JobSpec) error {
	if s.Kind == core.JobUnpin { // what is pinned may be there no more
		_, _, err := c.pinAt(ctx, s.Path)
		return err
	}
	if s.Kind == core.JobSync { // what is there is what it is to find out
		return nil
	}
	_, err := c.o.Namespace.Stat(ctx, s.Path)
	return err
}

// walk calls visit for the file p, or for every file below the directory p, until it returns an error.
func (c *Cache) walk(ctx context.Context, p core.Path, flat bool, visit func(i *core.Info) error) error {
	info, err := c.o.Namespace.Stat(ctx, p)
	if err != nil {
		return err
	}
	if !info.Dir {
		return visit(&info)
	}
	for i, err := range c.o.Namespace.List(ctx, info.Path, core.ListOptions{Children: flat}) {
		if err != nil {
			return err
		}
		if i.Dir {
			continue
		}
		if err := visit(&i); err != nil {
			return err
		}
	}
	return nil
}

// job does do with every file of s.
func (c *Cache) job(ctx context.Context, s core.JobSpec, p *Progress, do func(ctx context.Context, file core.Path, moved func(int64)) error) error {
	if len(c.o.Caches.Workers()) == 0 {
		return noWorker("Cache")
	}
	var files, bytes int64
	if err := c.walk(ctx, s.Path, s.Flat, func(i *core.Info) error { files++; bytes += i.Size; return nil }); err != nil {
		return err
	}
	p.Expect(files, bytes)
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(filesAtOnce)
	err := c.walk(gctx, s.Path, s.Flat, func(i *core.Info) error {
		file := i.Path
		group.Go(func() error {
			err := do(gctx, file, p.Moved)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if errors.Is(err, errs.NotExist) {
				err = nil // it was removed since it was counted
			}
			p.Did(file, err)
			return nil
		})
		return gctx.Err()
	})
	return errors.Join(group.Wait(), err)
}

func noWorker(op string) error {
	return errs.New("job."+op, "", errs.Unsupported, "there is no worker, and so no cache; start one, or look why those there are do not answer (sluice node ls)")
}

// runs calls use for what the file p consists of, window by window.
func (c *Cache) runs(ctx context.Context, p core.Path, use func(at int64, runs []core.Run) error) (core.Info, error) {
	var first core.Info
	for off := int64(0); ; {
		placed, err := c.o.Placer.Place(ctx, p, core.Range{Off: off, Len: window})
		if err != nil {
			return first, err
		}
		if off == 0 {
			first = placed.Info
		} else if placed.Info.Version != first.Version {
			return first, errs.New("job.Cache", p.String(), errs.Conflict, "the file was replaced meanwhile; run it again")
		}
		if err := use(off, placed.Runs); err != nil {
			return first, err
		}
		if off += placed.Len; placed.Len == 0 || off >= placed.Info.Size {
			return first, nil
		}
	}
}

// load reads all pages of a file into the caches.
func (c *Cache) load(ctx context.Context, file core.Path, moved func(int64)) error {
	return c.have(ctx, core.LoadPages, file, false, moved)
}

// have has the caches load or pin a file. ruled: only one that is kept without a pin; others are errNotKept.
func (c *Cache) have(ctx context.Context, op core.PageOp, file core.Path, ruled bool, moved func(int64)) error {
	var done int64
	var few error // all the same, every block is kept as often as can be
	var mu sync.Mutex
	for try := 1; ; try++ {
		few = nil
		info, err := c.runs(ctx, file, func(at int64, runs []core.Run) error {
			if ruled && len(runs) > 0 && runs[0].Copies.Min == 0 {
				return errNotKept
			}
			group, gctx := errgroup.WithContext(ctx)
			group.SetLimit(blocksAtOnce)
			for _, run := range runs {
				for off := run.Off; off < run.Off+run.Len; {
					from := off
					_, end := c.o.Caches.Keepers(run, off)
					group.Go(func() error {
						short, err := c.haveBlock(gctx, op, run, from, end-from)
						if err != nil {
							return err
						}
						mu.Lock()
						done += end - from
						few = cmp.Or(few, short)
						mu.Unlock()
						moved(end - from)
						return nil
					})
					off = end
				}
			}
			return group.Wait()
		})
		// What a store has just changed is not cached before a later look at it shows that it has not changed again; and what
		// is known of a file may be older than the file.
		young := errors.Is(err, errs.Precondition)
		if !young && !errors.Is(err, errs.Conflict) || try == tries {
			return cmp.Or(err, few)
		}
		if young && ruled { // which comes again every other minute: one look at the store does, and one at what has settled
			if c.hopeless.is(file, info.Version) {
				return err
			}
			if try > 1 {
				c.hopeless.add(file, &info)
				return err
			}
		}
		moved(-done) // it is begun anew
		done = 0
		if age := time.Since(info.ModTime); young && age < settling {
			if err := wait.For(ctx, settling-age); err != nil {
				return err
			}
		}
		ctx = core.WithMaxAge(ctx, core.MaxAge{Set: true})
	}
}

// hopeless are files that rules have be kept, and the versions of them that are not to be cached.
type hopeless struct {
	mu          sync.Mutex
	now, before map[core.Path]string // found in this pass and in the last
}

func (h *hopeless) is(file core.Path, version string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.now[file]
	if !ok {
		if v, ok = h.before[file]; ok && v == version {
			h.note(file, version)
		}
	}
	return ok && v == version
}

// add notes that a look at its store has shown the file, and that it is not to be cached.
func (h *hopeless) add(file core.Path, i *core.Info) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(i.ModTime) > settled {
		h.note(file, i.Version)
	}
}

func (h *hopeless) note(file core.Path, version string) {
	if h.now == nil {
		h.now = map[core.Path]string{}
	}
	if len(h.now) < maxHopeless {
		h.now[file] = version
	}
}

// pass begins a pass.
func (h *hopeless) pass() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now, h.before = nil, h.now
}

// haveBlock has those that keep the block load or pin the bytes [off, off+n) of it. few says that these are fewer than are to.
func (c *Cache) haveBlock(ctx context.Context, op core.PageOp, run core.Run, off, n int64) (few, err error) {
	have := map[string]bool{}
	for try := 1; ; try++ {
		keepers, _ := c.o.Caches.Keepers(run, off)
		if len(keepers) == 0 {
			return nil, noWorker("Load")
		}
		err = nil
		for _, worker := range keepers { // the first before the others, which have it from there
			if have[worker] {
				continue
			}
			werr := c.haveOn(ctx, worker, op, &run, off, n)
			if have[worker] = werr == nil; err == nil {
				err = werr
			}
		}
		if n := len(keepers); err == nil && op == core.PinPages && n < run.Copies.Min {
			few = errs.New("job.Pin", "", errs.Unavailable, fmt.Sprintf(
				"replication_min is %d, and the workers that answer are in %d failure domains: so many copies are kept; start workers in others, or look at their domain settings", run.Copies.Min, n))
		}
		if k := errs.KindOf(err); err == nil || ctx.Err() != nil || try == tries || k != errs.Unavailable && k != errs.Other {
			return few, err
		}
		if err := wait.For(ctx, tryAgain); err != nil {
			return nil, err
		}
	}
}

// haveOn has the worker load or pin the bytes [off, off+n) of the run's content.
func (c *Cache) haveOn(ctx context.Context, worker string, op core.PageOp, run *core.Run, off, n int64) error {
	report, err := c.o.Caches.Tend(ctx, worker, run.Ticket, op, off, n)
	if err != nil {
		return err
	}
	if missing := count(report.Pages, 0); missing > 0 {
		return errs.New("job.Load", worker, errs.NoSpace, fmt.Sprintf("the worker's cache has not kept %d of %d pages: it has no room for them", missing, len(report.Pages)))
	}
	return nil
}

func count(pages []byte, tier byte) (n int) {
	for _, t := range pages {
		if t == tier {
			n++
		}
	}
	return n
}

// free is the job that drops all pages of files from all caches. What is pinned would come back at once.
func (c *Cache) free(ctx context.Context, s core.JobSpec, p *Progress) error {
	pins, err := c.o.Facts.Pins(ctx)
	if err != nil {
		return err
	}
	return c.job(ctx, s, p, func(ctx context.Context, file core.Path, moved func(int64)) error {
		if by, pinned := pinnedBy(pins, file, core.Path{}); pinned {
			return errs.New("job.Free", file.String(), errs.Busy, "it is pinned; unpin it first: sluice cache unpin "+by.String())
		}
		return c.everywhere(ctx, core.DropPages, file, moved)
	})
}

// keptByRule returns errs.Busy if the run's file is kept whatever is asked for here.
func keptByRule(op core.PageOp, file core.Path, run *core.Run) error {
	if op != core.DropPages || run.Copies.Min == 0 {
		return nil
	}
	return errs.New("job.Free", file.String(), errs.Busy, fmt.Sprintf(
		"replication_min, which is %d there, would have it come back; sluice path-rule ls PATH says what sets it", run.Copies.Min))
}

// everywhere has all caches drop or unpin a file.
func (c *Cache) everywhere(ctx context.Context, op core.PageOp, file core.Path, moved func(int64)) error {
	_, err := c.runs(ctx, file, func(_ int64, runs []core.Run) error {
		for _, run := range runs {
			if err := keptByRule(op, file, &run); err != nil {
				return err
			}
			if op == core.UnpinPages && run.Copies.Min > 0 { // it stays all the same
				moved(run.Len)
				continue
			}
			for _, w := range c.o.Caches.Workers() {
				if err := c.letGo(ctx, op, w, run); err != nil {
					return err
				}
			}
			moved(run.Len)
		}
		return nil
	})
	return err
}

// letGo has a worker drop or unpin the pages of a run. One that is dropped may have been on its way from one tier to the next.
func (c *Cache) letGo(ctx context.Context, op core.PageOp, worker string, run core.Run) error {
	for try := 1; ; try++ {
		report, err := c.o.Caches.Tend(ctx, worker, run.Ticket, op, run.Off, run.Len)
		if err != nil {
			return fmt.Errorf("worker %s: %w", worker, err)
		}
		left := len(report.Pages) - count(report.Pages, 0)
		if left == 0 || op != core.DropPages {
			return nil
		}
		if try == tries {
			return errs.New("job.Free", worker, errs.Busy, fmt.Sprintf("%d pages are in the worker's cache again; they are being read or loaded", left))
		}
	}
}

// Residency implements core.CacheCare.
func (c *Cache) Residency(ctx context.Context, p core.Path, flat bool) (core.Residency, error) {
	if err := allowed(ctx, "Residency"); err != nil {
		return core.Residency{}, err
	}
	if len(c.o.Caches.Workers()) == 0 {
		return core.Residency{}, noWorker("Residency")
	}
	t := &tally{workers: map[string]*core.WorkerPages{}}
	for _, name := range c.o.Caches.Workers() {
		t.workers[name] = &core.WorkerPages{Worker: name}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(filesAtOnce)
	err := c.walk(gctx, p, flat, func(i *core.Info) error {
		file := i.Path
		group.Go(func() error {
			err := c.look(gctx, file, t)
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			if err != nil && !errors.Is(err, errs.NotExist) {
				t.fail(file, err)
			}
			return nil
		})
		return gctx.Err()
	})
	if err := errors.Join(group.Wait(), err); err != nil {
		return core.Residency{}, err
	}
	return t.sum(), nil
}

// tally sums up what workers have.
type tally struct {
	mu      sync.Mutex
	all     core.Residency
	workers map[string]*core.WorkerPages
}

func (t *tally) fail(file core.Path, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all.Failures++; len(t.all.Failed) < maxFailures {
		t.all.Failed = append(t.all.Failed, core.Failure{Path: file, Err: err})
	}
}

func (t *tally) sum() core.Residency {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.all
	for _, w := range t.workers {
		r.Workers = append(r.Workers, *w)
	}
	slices.SortFunc(r.Workers, func(a, b core.WorkerPages) int { return strings.Compare(a.Worker, b.Worker) })
	return r
}

// add counts the pages of a run. It returns whether all of them are cached.
func (t *tally) add(run *core.Run, keepers [][]string, reports map[string]core.PageReport) (whole bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	whole = true
	for i, keepers := range keepers {
		_, n := pageOf(run, i)
		t.all.Pages++
		here, there, kept := false, false, 0
		for name, report := range reports {
			if tier := tierOf(report, i); tier >= 0 {
				at := slices.Index(keepers, name)
				here, there = here || at == 0, true
				if at >= 0 {
					kept++
				}
				countPage(t.workers[name], report.Media, tier, n)
			}
		}
		if kept < run.Copies.Min {
			t.all.Short++
		}
		switch {
		case here:
			t.all.Cached++
			t.all.CachedBytes += n
		case there:
			t.all.Elsewhere++
		}
		whole = whole && here
	}
	return whole
}

// tierOf returns the tier that the i-th page of a report is in, -1 if it is not there.
func tierOf(r core.PageReport, i int) int {
	if i >= len(r.Pages) {
		return -1
	}
	return int(r.Pages[i]) - 1
}

// countPage counts a page of n bytes in a tier of w.
func countPage(w *core.WorkerPages, media []string, tier int, n int64) {
	for len(w.Tiers) <= tier {
		medium := ""
		if len(w.Tiers) < len(media) {
			medium = media[len(w.Tiers)]
		}
		w.Tiers = append(w.Tiers, core.TierPages{Medium: medium})
	}
	w.Pages++
	w.Bytes += n
	w.Tiers[tier].Pages++
	w.Tiers[tier].Bytes += n
}

// pageOf returns where the i-th page of a run begins in the content, within the run, and how many of its bytes the run has.
func pageOf(run *core.Run, i int) (off, n int64) {
	first := run.Off / page.Size
	from := max(run.Off, (first+int64(i))*page.Size)
	return from, min(run.Off+run.Len, (first+int64(i)+1)*page.Size) - from
}

// keepers returns for each page of a run who is to have it, the one that is asked for it first.
func (c *Cache) keepers(run *core.Run) (all [][]string) {
	var last []string
	for i, end := 0, int64(0); ; i++ {
		off, n := pageOf(run, i)
		if n <= 0 {
			return all
		}
		if i == 0 || off >= end {
			last, end = c.o.Caches.Keepers(*run, off)
		}
		all = append(all, last)
	}
}

func first(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// reports asks all workers for the pages of a run that they have. failed is called for those that do not say.
func (c *Cache) reports(ctx context.Context, run *core.Run, failed func(worker string, err error)) map[string]core.PageReport {
	all := map[string]core.PageReport{}
	for _, name := range c.o.Caches.Workers() {
		report, err := c.o.Caches.Tend(ctx, name, run.Ticket, core.LookPages, run.Off, run.Len)
		if err != nil {
			failed(name, err)
			continue
		}
		all[name] = report
	}
	return all
}

// look counts the pages of a file.
func (c *Cache) look(ctx context.Context, file core.Path, t *tally) error {
	whole := true
	info, err := c.runs(ctx, file, func(_ int64, runs []core.Run) error {
		for i := range runs {
			reports := c.reports(ctx, &runs[i], t.silent)
			for name := range reports {
				t.know(name)
			}
			whole = t.add(&runs[i], c.keepers(&runs[i]), reports) && whole
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all.Files++
	t.all.Bytes += info.Size
	if whole {
		t.all.Whole++
	}
	return nil
}

// know makes room for the numbers of a worker, which may have come since the counting began.
func (t *tally) know(worker string) *core.WorkerPages {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.workers[worker] == nil {
		t.workers[worker] = &core.WorkerPages{Worker: worker}
	}
	return t.workers[worker]
}

// silent notes that a worker did not say what it has.
func (t *tally) silent(worker string, err error) {
	w := t.know(worker)
	t.mu.Lock()
	defer t.mu.Unlock()
	w.Err = err
}

// Where implements core.CacheCare.
func (c *Cache) Where(ctx context.Context, p core.Path, most int) ([]core.Stretch, error) {
	const op = "Where"
	if err := allowed(ctx, op); err != nil {
		return nil, err
	}
	if len(c.o.Caches.Workers()) == 0 {
		return nil, noWorker(op)
	}
	var all []core.Stretch
	var problem error
	full := errors.New("enough")
	_, err := c.runs(ctx, p, func(at int64, runs []core.Run) error {
		for i := range runs {
			run := &runs[i]
			reports := c.reports(ctx, run, func(_ string, err error) { problem = err })
			for i, keepers := range c.keepers(run) {
				off, n := pageOf(run, i)
				next := core.Stretch{Off: at + off - run.Off, Len: n, Owner: first(keepers), Keepers: keepers, Copies: run.Copies, Places: places(reports, i)}
				if l := len(all) - 1; l >= 0 && slices.Equal(all[l].Keepers, keepers) && all[l].Copies == run.Copies && slices.Equal(all[l].Places, next.Places) {
					all[l].Len += n
				} else if len(all) == most {
					return full
				} else {
					all = append(all, next)
				}
			}
			at += run.Len
		}
		return problem
	})
	if errors.Is(err, full) {
		err = nil
	}
	return all, err
}

// LastMiss implements core.CacheCare.
func (c *Cache) LastMiss(ctx context.Context, p core.Path) ([]core.WorkerMisses, error) {
	const op = "LastMiss"
	if err := allowed(ctx, op); err != nil {
		return nil, err
	}
	workers := c.o.Caches.Workers()
	if len(workers) == 0 && c.o.Own == nil {
		return nil, noWorker(op)
	}
	placed, err := c.o.Placer.Place(ctx, p, core.Range{Len: 1})
	if err != nil || len(placed.Runs) == 0 {
		return nil, err
	}
	run := &placed.Runs[0] // any of the file: its ticket names it
	all := make([]core.WorkerMisses, len(workers), len(workers)+1)
	var group errgroup.Group
	group.SetLimit(filesAtOnce)
	for i, name := range workers {
		group.Go(func() error {
			report, err := c.o.Caches.Tend(ctx, name, run.Ticket, core.MissedPages, run.Off, 0)
			all[i] = core.WorkerMisses{Worker: name, Misses: report.Misses, Err: err}
			return nil
		})
	}
	group.Wait()
	if c.o.Own != nil {
		report, err := c.o.Own.Tend(ctx, run.Ticket, core.MissedPages, run.Off, 0)
		if report.Misses.Last != nil {
			m := *report.Misses.Last
			m.Why, m.Since = core.MissAtLeader, time.Time{}
			report.Misses.Last = &m
		}
		all = append(all, core.WorkerMisses{Worker: c.o.OwnName, Misses: report.Misses, Err: err})
	}
	return all, nil
}

// places returns who has the i-th page of a run.
func places(reports map[string]core.PageReport, i int) (all []core.CachePlace) {
	for name, r := range reports {
		if tier := tierOf(r, i); tier >= 0 {
			place := core.CachePlace{Worker: name, Tier: tier}
			if tier < len(r.Media) {
				place.Medium = r.Media[tier]
			}
			all = append(all, place)
		}
	}
	slices.SortFunc(all, func(a, b core.CachePlace) int { return strings.Compare(a.Worker, b.Worker) })
	return all
}
