package job

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
)

const (
	// keepEvery is the time between two looks at everything that is pinned; well within core.PinTime.
	keepEvery = 2 * time.Minute
	// lookEvery is the time between two looks at which workers there are: one that has come has pinned nothing.
	lookEvery = 5 * time.Second
	// loadFor is how long a look at everything goes on to what the last one did not come to: what is kept must be pinned again
	// before core.PinTime is over.
	loadFor = core.PinTime / 2
)

// Facts keeps what is pinned, so that it outlives whoever leads.
type Facts interface {
	// Pins returns what is pinned, by path, without how it was found.
	Pins(ctx context.Context) ([]core.Pin, error)
	// SetPin and DropPin have a path be pinned or not, durably.
	SetPin(ctx context.Context, p core.Pin) error
	DropPin(ctx context.Context, p core.Path) error
	// Kept returns the directories below which files may have a Copies.Min of more than 0. None lies below another.
	Kept() []core.Path
}

// found is how the files of a pin were found.
type found struct {
	mu sync.Mutex
	by map[foundAt]*core.Pin

	looked map[foundAt]int // how many of them the last look came to; Run's
}

type foundAt struct {
	path core.Path
	rule bool
}

// rules returns what is kept without a pin.
func (c *Cache) rules() (all []core.Pin) {
	for _, p := range c.o.Facts.Kept() {
		all = append(all, core.Pin{Path: p.Dir(), Rule: true})
	}
	return all
}

// covers reports whether the file is kept for the pin's sake.
func covers(p core.Pin, file core.Path) bool {
	if !p.Path.IsDir() {
		return p.Path == file
	}
	name, below := p.Path.Rel(file)
	return below && !(p.Flat && strings.Contains(name, "/"))
}

// pinnedBy returns the path for whose sake the file is kept, other than p.
func pinnedBy(pins []core.Pin, file, p core.Path) (by core.Path, ok bool) {
	for _, pin := range pins {
		if pin.Path != p && covers(pin, file) {
			return pin.Path, true
		}
	}
	return by, false
}

// pin is the job that pins.
func (c *Cache) pin(ctx context.Context, s core.JobSpec, p *Progress) error {
	info, err := c.o.Namespace.Stat(ctx, s.Path)
	if err != nil {
		return err
	}
	s.Path = info.Path
	pin := core.Pin{Path: info.Path, Flat: s.Flat, Since: time.Now(), By: core.PrincipalOf(ctx).User}
	if err := c.o.Facts.SetPin(ctx, pin); err != nil {
		return err
	}
	return c.job(ctx, s, p, func(ctx context.Context, file core.Path, moved func(int64)) error {
		return c.have(ctx, core.PinPages, file, false, moved)
	})
}

// pinAt returns the pin of the path.
func (c *Cache) pinAt(ctx context.Context, p core.Path) (core.Pin, []core.Pin, error) {
	pins, err := c.o.Facts.Pins(ctx)
	if err != nil {
		return core.Pin{}, nil, err
	}
	for _, pin := range pins {
		if pin.Path == p || p.Either() && pin.Path.File() == p.File() {
			return pin, pins, nil
		}
	}
	return core.Pin{}, nil, errs.New("job.Unpin", p.String(), errs.NotExist, "the path is not pinned; list what is")
}

// unpin is the job that takes a pin back.
func (c *Cache) unpin(ctx context.Context, s core.JobSpec, p *Progress) error {
	pin, pins, err := c.pinAt(ctx, s.Path)
	if err != nil {
		return err
	}
	if err := c.o.Facts.DropPin(ctx, pin.Path); err != nil {
		return err
	}
	err = c.job(ctx, core.JobSpec{Path: pin.Path, Flat: pin.Flat}, p, func(ctx context.Context, file core.Path, moved func(int64)) error {
		if _, other := pinnedBy(pins, file, pin.Path); other {
			return nil
		}
		return c.everywhere(ctx, core.UnpinPages, file, moved)
	})
	if errors.Is(err, errs.NotExist) {
		return nil // nothing is there any more
	}
	return err
}

// Pins implements core.CacheCare.
func (c *Cache) Pins(ctx context.Context) ([]core.Pin, error) {
	if err := allowed(ctx, "Pins"); err != nil {
		return nil, err
	}
	pins, err := c.o.Facts.Pins(ctx)
	if err != nil {
		return nil, err
	}
	pins = append(pins, c.rules()...)
	c.found.mu.Lock()
	defer c.found.mu.Unlock()
	for i, p := range pins {
		if f := c.found.by[foundAt{p.Path, p.Rule}]; f != nil {
			p.Checked, p.Files, p.Bytes, p.Failures, p.Failed, p.Why = f.Checked, f.Files, f.Bytes, f.Failures, slices.Clone(f.Failed), f.Why
			pins[i] = p
		}
	}
	return pins, nil
}

// Run has workers keep what is pinned until ctx ends, whose principal must be a superuser.
func (c *Cache) Run(ctx context.Context) {
	var seen, kept []string // workers, at the last look and when all was kept last
	var rules []core.Path   // what was kept by rules then
	var last time.Time
	for ; ; seen = c.o.Caches.Workers() {
		if wait.For(ctx, lookEvery) != nil {
			return
		}
		// While they come and go, as they do when the leader changes, blocks would be kept where they are not to stay.
		now, wanted := c.o.Caches.Workers(), c.o.Facts.Kept()
		if slices.Equal(seen, now) && (!slices.Equal(kept, now) || !slices.Equal(rules, wanted) || time.Since(last) >= keepEvery) {
			whole := c.keepAll(ctx)
			if kept, rules, last = now, wanted, time.Now(); !whole {
				last = time.Time{} // goes on where it stopped
			}
		}
	}
}

// keepAll has the files of all pins, and what rules have be kept, be kept. whole: it came to the end of all of them.
func (c *Cache) keepAll(ctx context.Context) (whole bool) {
	pins, err := c.o.Facts.Pins(ctx)
	if err != nil || len(c.o.Caches.Workers()) == 0 {
		return true // the next time
	}
	// Facts of any age do: nothing here is a reason to ask stores, and changes through this namespace are known at once.
	ctx = core.WithMaxAge(ctx, core.MaxAge{Set: true, Seconds: -1})
	all := map[foundAt]*core.Pin{}
	until, looked := time.Now().Add(loadFor), map[foundAt]int{}
	whole = true
	c.hopeless.pass()
	for _, p := range append(pins, c.rules()...) {
		at := foundAt{p.Path, p.Rule}
		state, files, end := c.keepOne(ctx, p, c.found.looked[at], until)
		if ctx.Err() != nil {
			return true
		}
		all[at], looked[at], whole = state, files, whole && end
	}
	c.found.looked = looked
	c.found.mu.Lock()
	defer c.found.mu.Unlock()
	c.found.by = all
	return whole
}

// errLater ends a look before its end.
var errLater = errors.New("not all of it is loaded yet: what is has been looked after again, and the rest follows")

// errNotKept says that no rule has a file be kept.
var errNotKept = errors.New("replication_min is 0")

// keepOne has the files of a pin be kept, as many as the last time and as many more as it comes to until then. It returns how they were
// found, how many it came to, and whether these were all.
func (c *Cache) keepOne(ctx context.Context, pin core.Pin, last int, until time.Time) (_ *core.Pin, files int, end bool) {
	var mu sync.Mutex
	state := &core.Pin{}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(filesAtOnce)
	err := c.walk(gctx, pin.Path, pin.Flat, func(i *core.Info) error {
		if files >= last && time.Now().After(until) {
			return errLater
		}
		files++
		file, size := i.Path, i.Size
		group.Go(func() error {
			err := c.have(gctx, core.PinPages, file, pin.Rule, func(int64) {})
			if errors.Is(err, errs.NotExist) || errors.Is(err, errNotKept) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			state.Files, state.Bytes = state.Files+1, state.Bytes+size
			if err == nil {
				return nil
			}
			if state.Failures++; len(state.Failed) < maxFailures {
				state.Failed = append(state.Failed, core.Failure{Path: file, Err: err})
			}
			return nil
		})
		return gctx.Err()
	})
	end = !errors.Is(err, errLater)
	if err := errors.Join(group.Wait(), err); err != nil {
		state.Why = err.Error()
	}
	state.Checked = time.Now()
	return state, files, end
}
