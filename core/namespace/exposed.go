package namespace

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
)

const (
	exposedNames = 20              // how many files an exposure names
	tellTime     = 5 * time.Second // how long a worker may take to say all that it has
)

// heldFile is a Local entry, and which workers have its bytes.
type heldFile struct {
	spot    spot
	id      core.HeldID
	path    core.Path
	size    int64
	workers []string
}

// exposedBelow adds to x what would be lost with which worker of the files below the directory, and what is lost. It goes by the
// journal, which has them all from the first moment, one directory after the other, and by what each worker says that it has.
func (n *Namespace) exposedBelow(ctx context.Context, x *explained) error {
	var files []heldFile
	if id, ok := x.nd.dirID(); ok && n.mayHold() {
		files, x.More = n.heldBelow(ctx, id, x.Path)
	}
	has := n.tellAll(ctx, files)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	away := map[string]bool{}
	var doubtful []*heldFile
	for i := range files {
		f := &files[i]
		for _, w := range f.workers {
			away[w] = has[w] == nil
		}
		if slices.ContainsFunc(f.workers, func(w string) bool { return !away[w] && !has[w][f.id] }) {
			doubtful = append(doubtful, f)
		}
	}
	for some := range slices.Chunk(doubtful, 256) {
		n.tree.View(func(v meta.View) {
			for _, f := range some {
				f.resolve(v, has)
			}
		})
	}
	files = slices.DeleteFunc(files, func(f heldFile) bool { return f.path.IsZero() })
	slices.SortFunc(files, func(a, b heldFile) int { return strings.Compare(a.path.String(), b.path.String()) })
	x.Exposed, x.Gone = exposed(files, away)
	return nil
}

// mayHold is false if there is certainly no Local entry in the journal.
func (n *Namespace) mayHold() bool {
	n.holds.mu.Lock()
	defer n.holds.mu.Unlock()
	return !n.holds.complete || len(n.holds.items) > 0
}

// heldBelow returns the Local entries below the directory, those found first if there are more than core.MaxExposed or ctx ends.
func (n *Namespace) heldBelow(ctx context.Context, id meta.DirID, path core.Path) (files []heldFile, more bool) {
	type door struct {
		id   meta.DirID
		path core.Path
	}
	for left := []door{{id, path}}; len(left) > 0 && !more && ctx.Err() == nil; {
		at := left[len(left)-1]
		left = left[:len(left)-1]
		n.tree.View(func(v meta.View) {
			for edge, e := range v.Locals(at.id) {
				if more = len(files) == core.MaxExposed; more {
					return
				}
				files = append(files, heldFile{spot{at.id, edge}, heldID(e), at.path.Child(edge), e.Size, e.Hold.Workers})
			}
			for edge, sub := range v.Subdirs(at.id) {
				left = append(left, door{sub, at.path.Child(edge)})
			}
		})
	}
	return files, more
}

// tellAll asks the workers of the files what they have: of the files, by worker. A worker that does not say all of it is not in it.
func (n *Namespace) tellAll(ctx context.Context, files []heldFile) map[string]map[core.HeldID]bool {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	asked, wanted := map[string]bool{}, make(map[core.HeldID]bool, len(files))
	for i := range files {
		wanted[files[i].id] = true
		for _, w := range files[i].workers {
			asked[w] = true
		}
	}
	told := map[string]map[core.HeldID]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range maps.Keys(asked) {
		h, ok := n.holder(w)
		if !ok {
			continue
		}
		wg.Go(func() {
			ids := map[core.HeldID]bool{}
			for held, err := range h.Holds(ctx) {
				if err != nil {
					return
				}
				if wanted[held.HeldID] {
					ids[held.HeldID] = true
				}
			}
			mu.Lock()
			defer mu.Unlock()
			told[w] = ids
		})
	}
	wg.Wait()
	return told
}

// resolve takes those workers from the file's that say that they have not its bytes, as the journal has it by now: a file that was
// stored, removed or moved meanwhile loses its path, and workers that it was copied to meanwhile have it for certain.
func (f *heldFile) resolve(v meta.View, has map[string]map[core.HeldID]bool) {
	e, ok := v.Get(f.spot.dir, f.spot.edge)
	if !ok || e.Class != meta.Local || heldID(e) != f.id {
		f.path = core.Path{}
		return
	}
	f.workers = slices.DeleteFunc(slices.Clone(e.Hold.Workers), func(w string) bool {
		return slices.Contains(f.workers, w) && has[w] != nil && !has[w][f.id]
	})
}

// exposed returns what would be lost of the files with each of those workers that have them, and what is lost. away are those of which
// it is not known whether they have what they should.
func exposed(files []heldFile, away map[string]bool) (all []core.Exposure, gone core.Gone) {
	by := map[string]*core.Exposure{}
	for i := range files {
		f := &files[i]
		if len(f.workers) == 0 {
			gone.Files, gone.Bytes, gone.First = gone.Files+1, gone.Bytes+f.size, first(gone.First, f.path)
		}
		reached := 0
		for _, w := range f.workers {
			if by[w] == nil {
				by[w] = &core.Exposure{Worker: w, Away: away[w]}
			}
			if !away[w] {
				reached++
			}
		}
		for _, w := range f.workers {
			e := by[w]
			if alone := !e.Away && reached == 1 || len(f.workers) == 1; !alone {
				e.Shared++
				continue
			}
			e.Files, e.Bytes, e.First = e.Files+1, e.Bytes+f.size, first(e.First, f.path)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		all = append(all, *by[name])
	}
	return all, gone
}

// first adds a path to the first ones, unless these are enough.
func first(paths []core.Path, p core.Path) []core.Path {
	if len(paths) == exposedNames {
		return paths
	}
	return append(paths, p)
}

// without returns the names that are not among the others.
func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(others, n) })
}
