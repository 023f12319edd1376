package namespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// What a release makes of the journal of a restored life, against what the stores say now:
//
//	file, directory   in its store as the journal has it → stays; another version → the store's; gone → goes
//	file held by      the store has what it had and some worker the bytes, or cannot be asked → stays; the store has just
//	workers           these bytes → they are the file; else what the store has
//	intent            put: if the store has just those bytes, they are the file. None is carried on
//	upload            stays if the store had answered when it was begun: the store alone knows whether it still is one
//
// Nothing is removed from a store, copied or renamed: what an unfinished change has left there shows, and is reported.

// The kinds of findings of a release.
const (
	foundChanged = "changed" // the store has another version
	foundGone    = "gone"    // the store has it no more
	foundHeld    = "held"    // workers that cannot be reached should have it
	foundIntent  = "intent"  // a change was under way
	foundUpload  = "upload"  // an upload was being started, or its mount is gone
	foundMount   = "mount"   // a mount point without a mount
)

const (
	proveStep     = 1000 // entries of a directory that are looked at together
	proveOneByOne = 8    // that many are asked for by name, more are listed
	proveParallel = 32   // stores' calls at once
)

// Release implements core.Care.
func (n *Namespace) Release(ctx context.Context, o core.ReleaseOptions) (core.ReleaseReport, error) {
	if err := n.operator(ctx); err != nil {
		return core.ReleaseReport{}, err
	}
	if !n.releasing.TryLock() {
		return core.ReleaseReport{}, errs.New("namespace.Release", "", errs.Busy, "the journal is being released already")
	}
	defer n.releasing.Unlock()
	was := n.life.Load()
	if was == nil || was.Held == "" {
		return core.ReleaseReport{}, errs.New("namespace.Release", "", errs.Precondition, "nothing is held: changes are accepted")
	}
	if err := n.openMoved(ctx); err != nil {
		return core.ReleaseReport{}, err
	}
	p := &proof{n: n, found: map[string]*tally{}}
	if err := p.run(ctx); err != nil {
		return core.ReleaseReport{}, err
	}
	if err := n.unmoved(ctx); err != nil { // what was proved is of what is there
		return core.ReleaseReport{}, err
	}
	if err := p.plausible(); err != nil && !o.AcceptMissing {
		return core.ReleaseReport{}, err
	}
	report := core.ReleaseReport{Proved: p.proved, Dirs: p.dirs, Changes: p.findings}
	if o.DryRun {
		return report, nil
	}
	if err := n.release(ctx, was, p); err != nil {
		return core.ReleaseReport{}, err
	}
	report.Released = true
	n.o.Logger.Info("released: changes are accepted", "incarnation", was.ID, "proved", p.proved, "changed", len(p.findings))
	return report, nil
}

// release journals what was found and then, with the last record, that changes are accepted. A crash before it leaves them
// held, and what is journaled twice is the same.
func (n *Namespace) release(ctx context.Context, was *life, p *proof) error {
	releasing := *was
	releasing.releasing = true
	n.life.Store(&releasing)
	err := p.commit(ctx)
	open := *was // nobody sees it before it is journaled
	open.Held = ""
	if err == nil {
		err = n.keepLife(ctx, &open)
	}
	if err != nil {
		n.life.Store(was)
		return err
	}
	n.life.Store(&open)
	close(n.released)
	if err := n.adoptRoot(ctx); err != nil { // the next who leads tries again, and says what to do
		n.o.Logger.Warn("the mark of the root store is not this journal's yet", "err", err)
	}
	return nil
}

// proof compares the overlay with the stores.
type proof struct {
	carried []openIntent // renames that were carried through to their stores
	n       *Namespace

	mu           sync.Mutex
	ops          []meta.Op
	foreign      []foreigner
	findings     []core.Finding
	found        map[string]*tally // by mount
	bare         []*mounted        // whose directory is another, with nothing in it
	proved, dirs int64
}

// foreigner is an entry whose bytes are no longer those of the journal.
type foreigner struct {
	dir   meta.DirID
	edge  string
	entry meta.Entry
	info  ufs.Info
}

// tally counts the files of a mount.
type tally struct{ there, gone int64 }

// branch is a directory of the overlay on the way of a proof.
type branch struct {
	id    meta.DirID
	path  core.Path
	mount *mounted
	key   string
}

// run compares everything, changing nothing.
func (p *proof) run(ctx context.Context) error {
	n := p.n
	for _, m := range n.mounts.Load().byID {
		if m.err != nil {
			return errs.New("namespace.Release", m.Path.String(), errs.Unavailable, fmt.Sprintf(
				"the store of this mount does not open (%v); bring it back, give the mount other options, or unmount it", m.err))
		}
	}
	p.notes()
	if err := p.taken(ctx); err != nil {
		return err
	}
	return p.walk(ctx, p.prove)
}

// taken reports the mounts whose directory is another than the one that was mounted, and those where it has nothing in it: that is what
// the place of a disk looks like that is not mounted.
func (p *proof) taken(ctx context.Context) error {
	for id, m := range p.n.mounts.Load().byID {
		if id == rootID || ufs.SameRoot(m.Is, m.features.Is) {
			continue
		}
		p.note(foundMount, m.Path.String(), "another directory is at "+m.URI+" than the one that was mounted; it is taken for the mount's")
		some := false
		for _, err := range m.store.List(ctx, "", "", false) {
			if err != nil && !isGone(err) {
				return errs.E("namespace.Release", m.Path.String(), errs.Unavailable, err)
			}
			some = err == nil
			break
		}
		if !some {
			p.bare = append(p.bare, m)
		}
	}
	return nil
}

// walk calls visit for runs of entries of every directory of the overlay, of several directories at once.
func (p *proof) walk(ctx context.Context, visit func(context.Context, branch, []child) ([]branch, error)) error {
	level := []branch{{meta.RootDir, core.Root, p.n.mountOf(rootID), ""}}
	for len(level) > 0 {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(proveParallel)
		var mu sync.Mutex
		var below []branch
		for _, b := range level {
			g.Go(func() error {
				for from, more := "", true; more; {
					var some []child
					some, from, more = p.children(b.id, from)
					dirs, err := visit(ctx, b, some)
					if err != nil {
						return err
					}
					mu.Lock()
					below = append(below, dirs...)
					mu.Unlock()
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		level = below
	}
	return nil
}

// child is an entry of a directory.
type child struct {
	edge  string
	entry *meta.Entry
}

// children returns the next entries of a directory, and where those after them begin.
func (p *proof) children(dir meta.DirID, from string) (some []child, next string, more bool) {
	p.n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(dir, from) {
			if len(some) == proveStep {
				next, more = edge, true
				return
			}
			some = append(some, child{edge, e})
		}
	})
	return some, next, more
}

// below returns where the directory at an edge leads.
func (p *proof) below(b branch, c child) (branch, bool) {
	to := branch{c.entry.Dir, b.path.Child(c.edge), b.mount, b.key + c.edge}
	if c.entry.Base.Kind == meta.Absolute {
		to.mount, to.key = p.n.mountOf(c.entry.Base.Store), c.entry.Base.Prefix
	}
	return to, to.mount != nil
}

// keyOf returns the name that an entry has in its store.
func (b *branch) keyOf(c child) string {
	if c.entry.StoreKey != "" {
		return c.entry.StoreKey
	}
	return b.key + c.edge
}

// prove compares a run of entries with what the store has, and returns the directories to go on with.
func (p *proof) prove(ctx context.Context, b branch, some []child) ([]branch, error) {
	listed, err := p.n.listing(ctx, b, some)
	if err != nil {
		return nil, err
	}
	var dirs []branch
	for _, c := range some {
		switch e := c.entry; {
		case e.Class == meta.Directory:
			to, ok, err := p.directory(ctx, b, c, listed)
			if err != nil {
				return nil, err
			}
			if ok {
				dirs = append(dirs, to)
			}
		case e.Class == meta.Local:
			if err := p.localFile(ctx, b, c); err != nil {
				return nil, err
			}
		case e.Class == meta.Persisted:
			if err := p.file(ctx, b, c, listed); err != nil {
				return nil, err
			}
		}
	}
	return dirs, nil
}

func del(dir meta.DirID, edge string) meta.Op { return meta.Op{Kind: meta.Del, Dir: dir, Edge: edge} }

// listing returns what the store lists of a run of entries, by name; nil if it is cheaper to ask for each.
func (n *Namespace) listing(ctx context.Context, b branch, some []child) (map[string]ufs.Info, error) {
	asked := slices.DeleteFunc(slices.Clone(some), func(c child) bool {
		return c.entry.StoreKey != "" || c.entry.Mount
	})
	if len(asked) <= proveOneByOne {
		return nil, nil
	}
	if err := b.mount.opened(); err != nil {
		return nil, err
	}
	listed, last := map[string]ufs.Info{}, b.key+asked[len(asked)-1].edge
	for info, err := range b.mount.store.List(ctx, b.key, "", false) {
		if isGone(err) {
			break
		}
		if err != nil {
			return nil, unanswering(b, err)
		}
		if info.Name > last {
			break
		}
		listed[info.Name] = info
	}
	return listed, nil
}

func unanswering(b branch, err error) error {
	return fmt.Errorf("the store of the mount %s: %w", b.mount.Path, err)
}

// stat asks the store about one name; nil if it has nothing there.
func (n *Namespace) stat(ctx context.Context, b branch, key string) (*ufs.Info, error) {
	if err := b.mount.opened(); err != nil {
		return nil, err
	}
	info, err := b.mount.store.Stat(ctx, key)
	switch {
	case isGone(err):
		return nil, nil
	case err != nil:
		return nil, unanswering(b, err)
	}
	return &info, nil
}

// directory proves a directory. ok says that it stays, and what is below it is to be proved too.
func (p *proof) directory(ctx context.Context, b branch, c child, listed map[string]ufs.Info) (to branch, ok bool, err error) {
	e := c.entry
	to, ok = p.below(b, c)
	path := to.path.String()
	switch {
	case !ok:
		p.note(foundMount, path, "the mount that was here is gone", meta.Op{Kind: meta.DropDir, Dir: e.Dir})
		return to, false, nil
	case e.Mount || p.n.mounts.Load().table.Below(to.path):
		return to, true, nil
	}
	if _, there := listed[to.key]; !there {
		info, err := p.n.stat(ctx, b, to.key)
		if err != nil {
			return to, false, err
		}
		if info == nil && p.n.hasLocal(e.Dir) {
			return to, true, nil // it comes back with the files below it
		}
		if info == nil {
			p.note(foundGone, path, "the store has no such directory, and nothing below it", meta.Op{Kind: meta.DropDir, Dir: e.Dir})
			p.miss(ctx, to)
			return to, false, nil
		}
	}
	p.mu.Lock()
	p.dirs++
	p.mu.Unlock()
	return to, true, nil
}

// miss counts and reports the files below a directory that is gone.
func (p *proof) miss(ctx context.Context, gone branch) {
	level := []branch{gone}
	for len(level) > 0 && ctx.Err() == nil {
		b := level[len(level)-1]
		level = level[:len(level)-1]
		for from, more := "", true; more; {
			var some []child
			some, from, more = p.children(b.id, from)
			for _, c := range some {
				switch to, ok := p.below(b, c); {
				case c.entry.Class == meta.Persisted:
					p.count(b, false)
					p.note(foundGone, b.path.Child(c.edge).String(), "the store has no such file")
				case c.entry.Class == meta.Directory && ok:
					level = append(level, to)
				}
			}
		}
	}
}

// file proves a file.
func (p *proof) file(ctx context.Context, b branch, c child, listed map[string]ufs.Info) error {
	e, key, path := c.entry, b.keyOf(c), b.path.Child(c.edge).String()
	if info, there := listed[key]; there && sameVersion(e.Version, info.Version) {
		p.count(b, true)
		return nil
	}
	info, err := p.n.stat(ctx, b, key)
	switch {
	case err != nil:
		return err
	case info == nil:
		p.count(b, false)
		p.note(foundGone, path, "the store has no such file", del(b.id, c.edge))
		return nil
	}
	p.count(b, true)
	switch {
	case sameVersion(e.Version, info.Version):
	case ours(*info, e):
		same := *e
		same.Version = info.Version
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ops = append(p.ops, meta.Op{Kind: meta.Set, Dir: b.id, Edge: c.edge, Entry: same})
	default:
		p.note(foundChanged, path, "the store has another version, which is taken over")
		p.mu.Lock()
		defer p.mu.Unlock()
		p.foreign = append(p.foreign, foreigner{b.id, c.edge, *e, *info})
		p.proved-- // what is there is another's
	}
	return nil
}

// localFile proves a file that the journal has as held by workers.
func (p *proof) localFile(ctx context.Context, b branch, c child) error {
	e, path := c.entry, b.path.Child(c.edge).String()
	info, err := p.n.stat(ctx, b, b.keyOf(c))
	if err != nil {
		return err
	}
	same := info == nil && e.Hold.Base == ""
	if info != nil {
		if same, err = b.mount.unchanged(ctx, *info, e.Hold.Base); err != nil {
			return err
		}
	}
	switch {
	case info != nil && ours(*info, e):
		p.count(b, true)
		stored := *e
		stored.Class, stored.Hold, stored.Version = meta.Persisted, nil, info.Version
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ops = append(p.ops, meta.Op{Kind: meta.Set, Dir: b.id, Edge: c.edge, Entry: stored})
	case same:
		switch lost, away := p.n.heldBy(ctx, e); {
		case !lost:
			p.count(b, true)
		case len(away) > 0:
			p.note(foundHeld, path, "no store has its bytes yet, and the workers that should hold them cannot be reached: "+strings.Join(away, ", "))
		default:
			p.note(foundGone, path, "no store and no worker has its bytes", del(b.id, c.edge))
		}
	case info == nil:
		p.note(foundGone, path, "the store has no such file, nor what was to be replaced", del(b.id, c.edge))
	default:
		p.note(foundChanged, path, "the store has another version, which is taken over")
		p.mu.Lock()
		defer p.mu.Unlock()
		p.foreign = append(p.foreign, foreigner{b.id, c.edge, *e, *info})
	}
	return nil
}

// heldBy asks the workers for the bytes of a Local entry. lost says that none of those that can be reached has them all; away are
// those that cannot be.
func (n *Namespace) heldBy(ctx context.Context, e *meta.Entry) (lost bool, away []string) {
	lost = true
	for _, w := range e.Hold.Workers {
		h, ok := n.holder(w)
		var err error
		if ok {
			var rc io.ReadCloser
			if rc, err = h.Held(ctx, heldID(e), 0, e.Size); err == nil {
				rc.Close()
				lost = false
				continue
			}
		}
		if !ok || errs.KindOf(err) == errs.Unavailable {
			away = append(away, w)
		}
	}
	return lost, away
}

// count notes that a file of a mount is in its store, or is not.
func (p *proof) count(b branch, there bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.found[b.mount.ID]
	if t == nil {
		t = &tally{}
		p.found[b.mount.ID] = t
	}
	if there {
		t.there++
		p.proved++
	} else {
		t.gone++
	}
}

// note reports a finding, and what is journaled for it.
func (p *proof) note(kind, name, why string, ops ...meta.Op) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.findings = append(p.findings, core.Finding{Kind: kind, Name: name, Why: why})
	p.ops = append(p.ops, ops...)
}

// notes takes in what was under way: intents, and uploads.
func (p *proof) notes() {
	p.n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(meta.IntentsDir, "") {
			in, err := intentOf(edge, e)
			if err != nil {
				p.note(foundIntent, edge, "an unfinished change cannot be read: "+err.Error(), del(meta.IntentsDir, edge))
				continue
			}
			name := in.path
			if in.to != "" {
				name += " → " + in.to
			}
			if in.op == opCarry {
				p.carried = append(p.carried, in)
				p.note(foundIntent, name, "a rename was being carried through to its store; it is not carried on: what the store has under the old name gets that name again, and what was copied shows too")
				continue
			}
			p.note(foundIntent, name, fmt.Sprintf("a change (%s) was under way; it is not carried on, and what it has left in the store shows", in.op),
				append(in.dropped(), in.close())...)
		}
		for edge, e := range v.Children(meta.UploadsDir, "") {
			if e.Class != meta.Directory || e.Extra["store_id"] != "" && p.n.mountOf(e.Extra["mount"]) != nil {
				continue
			}
			p.note(foundUpload, e.Extra["path"], "an upload was being started, or its mount is gone; it is forgotten",
				p.n.endUploadIn(v, strings.TrimSuffix(edge, "/"))...)
		}
	})
}

// plausible reports a mount whose store holds nothing of what the journal has there: it may be the wrong store.
func (p *proof) plausible() error {
	var problems []error
	for id, t := range p.found {
		if t.gone > 0 && t.there == 0 {
			m := p.n.mountOf(id)
			problems = append(problems, errs.New("namespace.Release", m.Path.String(), errs.Precondition, fmt.Sprintf(
				"the store of this mount (%s) holds none of its %d files; make sure that it is the right one, and accept it with --accept-missing if it is", m.URI, t.gone)))
		}
	}
	for _, m := range p.bare {
		problems = append(problems, errs.New("namespace.Release", m.Path.String(), errs.Precondition, fmt.Sprintf(
			"another directory is at %s than the one that was mounted, with nothing in it; mount its disk there, and accept it with --accept-missing if it is the right one", m.URI)))
	}
	return errors.Join(problems...)
}

// commit journals what was found.
func (p *proof) commit(ctx context.Context) error {
	n := p.n
	puts, err := n.puts(ctx) // while the journal has their intents; what they say goes before all else
	if err != nil {
		return err
	}
	for _, f := range p.foreign {
		e, err := n.foreign(ctx, &f.entry, f.info)
		if err != nil {
			return err
		}
		p.ops = append(p.ops, meta.Op{Kind: meta.Set, Dir: f.dir, Edge: f.edge, Entry: e})
	}
	for i := range p.carried {
		ops, err := n.uncarried(ctx, &p.carried[i])
		if err != nil {
			return err
		}
		if _, err := n.commit(ctx, ops...); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(append(p.ops, puts...), opsPerRecord) {
		if _, err := n.commit(ctx, chunk...); err != nil {
			return err
		}
	}
	return nil
}

// uncarried are the operations that end a rename that is carried through, and is not to be: two names must not lead to one place. What the
// store has still under the old name gets that again; if it has nothing there, the rename was through in the life that is lost.
func (n *Namespace) uncarried(ctx context.Context, in *openIntent) ([]meta.Op, error) {
	ops := []meta.Op{in.close()}
	m := n.mountOf(in.store)
	if m == nil {
		return ops, nil
	}
	from, err := core.ParsePath(in.path)
	if err != nil {
		return nil, err
	}
	to, err := core.ParsePath(in.to)
	if err != nil {
		return nil, err
	}
	src, dst := n.walk(from), n.walk(to)
	if dst.entry == nil || dst.entry.Base != (meta.Base{Kind: meta.Absolute, Store: in.store, Prefix: in.key}) {
		return append(ops, n.unhideOps(from)...), nil
	}
	there := false
	for _, err := range m.store.List(ctx, in.key, "", true) {
		if err != nil && !isGone(err) {
			return nil, err
		}
		there = err == nil
		break
	}
	e := *dst.entry
	e.Base = meta.Base{}
	if there && src.inTree && src.entry == nil {
		return append(ops, meta.Op{Kind: meta.Set, Dir: src.parent, Edge: src.edge, Entry: e}, meta.Op{Kind: meta.Del, Dir: dst.parent, Edge: dst.edge}), nil
	}
	return append(append(ops, n.unhideOps(from)...), meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: e}), nil
}

// puts are the operations for the puts under way whose bytes the store has.
func (n *Namespace) puts(ctx context.Context) (all []meta.Op, err error) {
	var open []openIntent
	n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(meta.IntentsDir, "") {
			if in, err := intentOf(edge, e); err == nil && in.op == opPut && n.mountOf(in.store) != nil {
				open = append(open, in)
			}
		}
	})
	for i := range open {
		in := &open[i]
		path, err := core.ParsePath(in.path)
		if err != nil {
			continue // it is reported, and dropped
		}
		ops, _, err := n.putOutcome(ctx, n.mountOf(in.store), in, path)
		if err != nil {
			return nil, err
		}
		all = append(all, ops...)
	}
	return all, nil
}
