package namespace

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// Rename implements core.Namespace.
func (n *Namespace) Rename(ctx context.Context, src, dst core.Path, o core.RenameOptions) error {
	if err := n.grows(); err != nil {
		return err
	}
	if src.IsRoot() || dst.IsRoot() {
		return errs.New("namespace.Rename", "/", errs.Invalid, "the root cannot be renamed or replaced")
	}
	if err := n.traverse(ctx, src); err != nil {
		return err
	}
	from, err := n.resolve(ctx, src)
	if err != nil {
		return err
	}
	to := exact(dst, from.dir())
	if err := n.mayRename(ctx, &from, to, o, dst.Either()); err != nil {
		return err
	}
	if from.path == to {
		return nil
	}
	for range chase {
		if err := errors.Join(n.parents(ctx, from.path, false, false, 0), n.parents(ctx, to, false, false, 0)); err != nil {
			return err
		}
		again, err := n.rename(ctx, from.path, to, o)
		if at, ok := errors.AsType[unstoredError](err); ok {
			if err := n.toStore(ctx, at.path, false); err != nil {
				return err
			}
			continue
		}
		if !again {
			return err
		}
	}
	return errs.New("namespace.Rename", src.String(), errs.Conflict, "the parent directories keep changing")
}

// mayRename checks what does not need the locks.
func (n *Namespace) mayRename(ctx context.Context, from *node, to core.Path, o core.RenameOptions, either bool) error {
	if err := n.checkName(to); err != nil {
		return err
	}
	table := n.mounts.Load().table
	if from.dir() && (table.At(from.path) != nil || table.Below(from.path)) {
		return errs.New("namespace.Rename", from.path.String(), errs.Unsupported, "it is or holds a mount point")
	}
	if from.dir() && from.path != to && from.path.Contains(to) {
		return errs.New("namespace.Rename", to.String(), errs.Invalid, "a directory cannot move below itself")
	}
	if !from.mount.is(n.walk(to).mount) {
		return errs.New("namespace.Rename", from.path.File().String(), errs.Unsupported,
			"Renaming "+from.path.File().String()+" to "+to.File().String()+" across mount points is not supported")
	}
	if at := n.walk(to); from.bucket() || at.bucket() {
		return errs.New("namespace.Rename", from.path.String(), errs.Invalid, "a bucket cannot be renamed, nor replaced; make the new one and move into it what is in the old")
	}
	if err := n.mayChangeIn(ctx, from.path, from); err != nil {
		return err
	}
	if _, err := n.lookup(ctx, to.Parent()); err != nil {
		if f, ferr := n.lookup(ctx, to.Parent().File()); ferr == nil && !f.dir() && errs.KindOf(err) == errs.NotExist {
			return errs.E("namespace.Rename", to.Parent().File().String(), errs.NotDir, nil)
		}
		return err
	}
	old, err := n.lookup(ctx, to)
	switch {
	case err == nil:
		return n.mayChangeIn(ctx, to, &old)
	case errs.KindOf(err) != errs.NotExist:
		return err
	}
	if err := n.checkKind(ctx, to, either); err != nil {
		if !o.Overwrite {
			return errs.E("namespace.Rename", to.String(), errs.Exist, nil)
		}
		return err
	}
	return n.mayChangeIn(ctx, to, nil)
}

// rename does it under the locks of both names; again says that a parent has gone meanwhile.
func (n *Namespace) rename(ctx context.Context, from, to core.Path, o core.RenameOptions) (again bool, err error) {
	unlock, err := n.locks.lock(ctx, from, to)
	if err != nil {
		return false, err
	}
	defer unlock()
	src, err := n.lookupHeld(ctx, from, true)
	if err != nil {
		return false, err
	}
	dst, err := n.lookupHeld(ctx, to, true)
	exists := err == nil
	if err != nil && errs.KindOf(err) != errs.NotExist {
		return false, err
	}
	if !exists {
		dst.place = n.walk(to)
	}
	if !src.inTree || !dst.inTree {
		return true, nil
	}
	if !src.mount.is(dst.mount) {
		return false, errs.New("namespace.Rename", from.String(), errs.Unsupported, "the names are in different mounts")
	}
	if err := errors.Join(n.blocked(&src.place), n.blocked(&dst.place)); err != nil {
		return false, err
	}
	if exists {
		if !o.Overwrite {
			return false, errs.E("namespace.Rename", to.String(), errs.Exist, nil)
		}
		if dst.dir() {
			if some, err := n.hasVisibleHeld(ctx, &dst.place); err != nil || some {
				return false, errors.Join(err, errs.E("namespace.Rename", to.String(), errs.NotEmpty, nil))
			}
		}
	}
	if err := n.complete(ctx, &src, held); err != nil {
		return false, err
	}
	if src.local() || exists && dst.local() {
		return false, n.renameHeld(ctx, &src, &dst, exists)
	}
	if src.mount.features.AtomicRename {
		return false, n.renameInOneStep(ctx, &src, &dst.place, exists)
	}
	return false, n.renameByCopy(ctx, &src, &dst.place)
}

// unstoredError is that a file must be in its store before something can be done with it.
type unstoredError struct{ path core.Path }

// Error implements error.
func (e unstoredError) Error() string { return e.path.String() + " is not in its store yet" }

// renameHeld renames a file that no store has yet, or to the name of one. Where the store has nothing under the old name, the
// journal alone does it: the bytes go to the store under their last name only. Errors: an unstoredError.
func (n *Namespace) renameHeld(ctx context.Context, src, dst *node, replace bool) error {
	switch {
	case !src.local():
		return unstoredError{dst.path}
	case src.entry.Hold.Base != "":
		return unstoredError{src.path}
	}
	e, h := *src.entry, *src.entry.Hold
	h.Base, h.Refused = "", ""
	if replace {
		h.Base = dst.storeVersion()
	}
	e.Hold, e.StoreKey = &h, ""
	ops := append(n.answered(core.CallOf(ctx), nil), meta.Op{Kind: meta.Del, Dir: src.parent, Edge: src.edge},
		meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: e})
	_, err := n.commit(ctx, ops...)
	return err
}

// renameInOneStep renames on a store that can, and flips the names with the record that closes the intent.
func (n *Namespace) renameInOneStep(ctx context.Context, src *node, dst *place, replace bool) error {
	if err := src.mount.opened(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	in := openIntent{op: opRename, path: src.path.String(), to: dst.path.String(), store: src.mount.ID, key: src.key, toKey: dst.key, version: src.storeVersion()}
	if err := n.begin(ctx, &in); err != nil {
		return err
	}
	d := src.mount.derived
	d.Begin(src.key)
	d.Begin(dst.key)
	closeFacts := func(seq uint64, row *meta.Row, known bool) {
		d.End(src.key, seq, nil, known)
		d.End(dst.key, seq, row, known)
	}
	defer n.moves.begin(move{store: src.mount.ID, from: src.key})()
	if err := ufs.Rename(ctx, src.mount.store, src.key, dst.key, replace); unanswered(err) {
		return n.lookAfter(ctx, src, dst, &in, err, closeFacts)
	} else if err != nil {
		closeFacts(n.Seq(), nil, false)
		return n.failed(ctx, &in, err)
	}
	info := ufs.Info{Name: dst.key, Dir: src.dir()}
	if !src.dir() { // its version may have changed
		var err error
		if info, err = src.mount.store.Stat(ctx, dst.key); err != nil {
			return n.lookAfter(ctx, src, dst, &in, err, closeFacts)
		}
	}
	mv := move{store: src.mount.ID, from: src.key, to: dst.key}
	if !src.dir() && src.mount.brought(info, in.version, src.entry) {
		mv.was, mv.version = in.version, info.Version
	} else if src.persisted() { // a stranger's: the next look finds the difference
		info.Version = src.entry.Version
	}
	// From the record on, what the store had at either name no longer counts: whoever looks there waits for closeFacts.
	d.Forget(src.key)
	d.Forget(dst.key)
	ops := append(n.flipOps(&src.place, dst, info), n.answered(in.call, nil)...)
	seq, err := n.commit(ctx, append(ops, in.close())...)
	if err != nil {
		in.pends = true
		n.keepOpen(&in)
		return err
	}
	n.moves.add(mv)
	row := rowOf(info)
	closeFacts(seq, &row, !src.dir())
	n.committed(dst.path, time.Now())
	return nil
}

// lookAfter finds out, if the store lets it, whether a rename that failed with err has happened, and closes its intent. As long
// as that is not known, or the journal does not say it, the store may have one of the names and the overlay the other: what
// the store says of either does not count until the intent is resolved.
func (n *Namespace) lookAfter(ctx context.Context, src *node, dst *place, in *openIntent, err error, closeFacts func(uint64, *meta.Row, bool)) error {
	in.pends = true
	ops, happened, unknown := n.outcomeOf(ctx, src.mount, in, []core.Path{src.path, dst.path})
	if unknown != nil {
		n.keepOpen(in)
		return errs.E("namespace.Rename", src.path.String(), errs.Unavailable, err)
	}
	if happened {
		ops = append(ops, n.answered(in.call, nil)...)
	}
	src.mount.derived.Forget(src.key)
	src.mount.derived.Forget(dst.key)
	seq, cerr := n.commit(ctx, append(ops, in.close())...)
	if cerr != nil {
		n.keepOpen(in)
		return errors.Join(err, cerr)
	}
	if happened && src.dir() {
		n.moves.add(move{store: src.mount.ID, from: src.key, to: dst.key})
	}
	closeFacts(seq, nil, false)
	if happened {
		return nil
	}
	return err
}

// flipOps are the operations that move what is at src to dst, whose store name now has the facts of info.
func (n *Namespace) flipOps(src, dst *place, info ufs.Info) []meta.Op {
	var ops []meta.Op
	if src.inTree {
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: src.parent, Edge: src.edge})
	}
	if !dst.inTree {
		return ops // its directory is known from the store alone, and so will be what moved there
	}
	if dst.entry != nil {
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: dst.parent, Edge: dst.edge})
		if dst.entry.Class == meta.Directory {
			ops = append(ops, meta.Op{Kind: meta.DropDir, Dir: dst.entry.Dir})
		}
	}
	if src.entry == nil {
		return ops
	}
	e := *src.entry
	if e.Class == meta.Persisted {
		e.Version, e.StoreKey = info.Version, ""
	}
	return append(ops, meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: e})
}

// renameByCopy renames on a store without rename: copy everything, flip the names with one record that also hides what is
// left at the source, then remove that. Until the flip readers see the old names, after it the new ones.
func (n *Namespace) renameByCopy(ctx context.Context, src *node, dst *place) error {
	if err := src.mount.opened(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	in := openIntent{op: opCopyTree, path: src.path.String(), to: dst.path.String(), store: src.mount.ID, key: src.key, toKey: dst.key}
	// The copies must not show, and whoever looks for the name must not wait for them.
	var hide []meta.Op
	if dst.entry == nil {
		hide = append(hide, meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: meta.Entry{Class: meta.Whiteout}})
	} else if dst.entry.Class == meta.Directory {
		closed := *dst.entry
		closed.Base = meta.Base{Kind: meta.Opaque}
		hide = append(hide, meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: closed})
	}
	if err := n.begin(ctx, &in, hide...); err != nil {
		return err
	}
	limit := n.renameThrough(src.mount, src.path)
	var until time.Time
	if limit > 0 {
		until = time.Now().Add(limit)
	}
	if !relocatable(&src.place, dst) {
		limit = 0
	}
	c := n.startCopy(ctx, src.mount, src.key, dst.key, nil)
	if !c.within(limit) && !n.full(src.mount.ID) {
		err := n.relocate(ctx, &in, &src.place, dst, c)
		if err == nil {
			core.Note(ctx, core.RenameInProgress, in.edge)
		}
		return err
	}
	<-c.done
	if c.err != nil {
		return n.giveUpCopy(ctx, src.mount, &in, dst, c.copies, c.err)
	}
	return n.flipCopied(ctx, src.mount, &in, &src.place, dst, c.copies, until)
}

// giveUpCopy takes back a rename whose copying failed for why. What the store may yet do, or does not let be taken back,
// stays an intent that is carried on.
func (n *Namespace) giveUpCopy(ctx context.Context, m *mounted, in *openIntent, dst *place, copies copied, why error) error {
	if unanswered(why) {
		n.keepOpen(in)
		return why
	}
	for key, version := range copies.made {
		if key == dst.key && dst.entry != nil { // the marker of the directory that was to be replaced
			continue
		}
		if err := n.dropMade(ctx, m, key, version); err != nil {
			n.keepOpen(in)
			return why
		}
	}
	ops := []meta.Op{in.close()}
	switch {
	case dst.entry == nil:
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: dst.parent, Edge: dst.edge})
	case dst.entry.Class == meta.Directory:
		ops = append(ops, meta.Op{Kind: meta.Set, Dir: dst.parent, Edge: dst.edge, Entry: *dst.entry})
	}
	_, err := n.commit(ctx, ops...)
	return errors.Join(why, err)
}

// flipCopied makes the copies the names and removes the originals, those that are not gone by until after it has returned, if that is not zero.
func (n *Namespace) flipCopied(ctx context.Context, m *mounted, in *openIntent, src, dst *place, copies copied, until time.Time) error {
	info := ufs.Info{Name: dst.key, Version: copies.made[dst.key]}
	if src.persisted() && copies.of[src.key] != src.entry.Version { // a stranger's: the next look finds the difference
		info.Version = src.entry.Version
	}
	if err := n.dropReplaced(ctx, m, dst, copies); err != nil {
		return n.giveUpCopy(ctx, m, in, dst, copies, err)
	}
	drop := in.drop(copies)
	ops := append([]meta.Op{drop.set()}, n.answered(in.call, nil)...) // in the first record, which flips
	if dst.inTree && dst.entry == nil {
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: dst.parent, Edge: dst.edge}) // what hid the copies
	}
	ops = append(ops, n.flipOps(src, dst, info)...)
	if src.inTree {
		ops = append(ops, meta.Op{Kind: meta.Set, Dir: src.parent, Edge: src.edge, Entry: meta.Entry{Class: meta.Whiteout}})
	}
	if id, ok := src.dirID(); ok && len(copies.made)+len(copies.gone) > 0 { // else it would be looked through for nothing, and everybody wait for that
		n.tree.View(func(v meta.View) { ops = movedEntries(v, id, src.key, dst.key, copies, ops) })
	}
	// From the first record on, what the store had at either name no longer counts: whoever looks there waits. The old name
	// stays hidden until nothing is left of it; the new one is for all to see.
	d := m.derived
	for _, key := range []string{src.key, dst.key} {
		d.Begin(key)
		d.Forget(key)
	}
	defer func() { d.End(src.key, n.Seq(), nil, false) }()
	err := n.flip(ctx, in, &drop, ops)
	if err == nil {
		n.moves.add(move{store: m.ID, from: src.key, to: dst.key, copies: copies.moved(src.key, dst.key)})
	}
	d.End(dst.key, n.Seq(), nil, false)
	if err != nil {
		return err
	}
	if err := n.dropOriginals(ctx, m, copies, until); err != nil {
		n.keepOpen(&drop) // the rename is done; what is left of the source stays hidden until it is removed
		n.carryOn(drop, &carriage{copies: copies, drop: &drop})
		return nil
	}
	if _, err := n.commit(ctx, append(n.removeOps(n.walk(src.path)), drop.close())...); err != nil {
		n.keepOpen(&drop)
	}
	return nil
}

// flip commits ops, the first of which makes drop of the intent in.
func (n *Namespace) flip(ctx context.Context, in, drop *openIntent, ops []meta.Op) error {
	// The first record flips; those after it, of a large tree, bring the copies' versions. Until the last of them is there, the intent
	// says where the copies are, and nothing below them is changed: whoever carries it on has to find their versions.
	first := *drop
	if len(ops) > opsPerRecord {
		first.to, first.toKey = in.to, in.toKey
		ops[0] = first.set()
		ops = append(ops, drop.set())
	}
	for chunk := range slices.Chunk(ops, opsPerRecord) {
		if _, err := n.commit(ctx, chunk...); err != nil {
			n.keepOpen(in)
			return err
		}
		in = &first
	}
	return nil
}

// dropReplaced removes the marker of an empty directory that is being replaced by one that has none.
func (n *Namespace) dropReplaced(ctx context.Context, m *mounted, dst *place, copies copied) error {
	if _, marked := copies.made[dst.key]; marked || !dst.path.IsDir() || !m.features.Mkdir {
		return nil
	}
	if err := m.store.Remove(ctx, dst.key, ""); err != nil && !isGone(err) {
		return err
	}
	return nil
}

// dropOriginals removes just what was copied: what others have put there since stays. It begins nothing after until, if that is not zero.
func (n *Namespace) dropOriginals(ctx context.Context, m *mounted, copies copied, until time.Time) error {
	g, more := errgroup.WithContext(ctx)
	g.SetLimit(copyParallel)
	for key, version := range copies.of {
		g.Go(func() error {
			if !until.IsZero() && time.Now().After(until) || more.Err() != nil { // what has begun goes on, whatever becomes of the others
				return errs.New("namespace.Rename", key, errs.Unavailable, "there was no time left to remove it")
			}
			lasting, end, err := n.beginRemoval(ctx, m)
			if err != nil {
				return err
			}
			defer end()
			if err := m.store.Remove(lasting, key, version); err != nil && !isGone(err) && !errors.Is(err, errs.Precondition) {
				return err
			}
			return nil
		})
	}
	return g.Wait()
}

// drop is the intent to remove what was copied from.
func (in *openIntent) drop(copies copied) openIntent {
	return openIntent{op: opDropTree, path: in.path, store: in.store, key: in.key, made: in.toKey, version: copies.of[in.key], edge: in.edge,
		since: copies.since.Add(-clockSkew)}
}

// below returns what the store has below the directory key, by the rest of its name.
func (m *mounted) below(ctx context.Context, key string) (map[string]ufs.Info, error) {
	all := map[string]ufs.Info{}
	for info, err := range m.store.List(ctx, key, "", true) {
		if isGone(err) {
			break
		}
		if err != nil {
			return nil, err
		}
		all[info.Name[len(key):]] = info
	}
	return all, nil
}

// dropSource removes what a process that has ended left of a copied source, as it was judged. What came later, or was changed, is another's,
// and shows under the old name.
func (n *Namespace) dropSource(ctx context.Context, m *mounted, in *openIntent, judged *judgement) error {
	begin := func() (context.Context, func(), error) { return n.beginRemoval(ctx, m) }
	if key := in.key; len(key) > 0 && key[len(key)-1] == '/' {
		pick := notAfter(in.since)
		if in.made != "" { // else of an older version
			pick = func(info ufs.Info) (bool, error) { return judged.drops(info), nil }
		}
		_, err := n.dropCopied(ctx, m, key, pick, begin)
		return err
	}
	lasting, end, err := begin()
	if err != nil {
		return err
	}
	defer end()
	if err := m.store.Remove(lasting, in.key, in.version); err != nil && !isGone(err) && !errors.Is(err, errs.Precondition) {
		return err
	}
	return nil
}

// copyParallel is how many server-side copies of one rename run at once.
const copyParallel = 16

// copied says what a rename by copy has copied: versions by names, of the originals and of the copies.
type copied struct {
	of, made map[string]string
	gone     map[string]bool // originals that were listed and that the store had no more
	since    time.Time       // nothing that was there before is missing

	failed map[string]bool // originals that were not copied: made may have the copy of what they were before
	unsure map[string]bool // originals that may have been copied, to a version that is not known
}

func newCopied(since time.Time) copied {
	return copied{of: map[string]string{}, made: map[string]string{}, gone: map[string]bool{}, since: since, failed: map[string]bool{}, unsure: map[string]bool{}}
}

// howCopied is how copyTree copies.
type howCopied struct {
	have  map[string]twin // what is there already: it is copied again if its original is another version by now
	rest  bool            // what the store refuses does not keep the rest from being copied
	count *headway
}

// maxUncopied is how much a store may refuse of a tree until the rest of it is not tried.
const maxUncopied = 100

// copyTree copies the file key, or everything below the directory key, to toKey in the store. What leaves the store before it is copied
// is left out. After an error it returns what is copied; a version that is "" is not known.
func (n *Namespace) copyTree(ctx context.Context, m *mounted, key, toKey string, how howCopied) (copied, error) {
	c := newCopied(time.Now())
	how.count.begin()
	if len(key) == 0 || key[len(key)-1] != '/' {
		from, err := m.store.Stat(ctx, key)
		if err != nil {
			return c, err
		}
		info, err := ufs.CopyFile(ctx, m.store, key, from.Version, toKey, nil)
		if err == nil {
			c.of[key], c.made[toKey] = from.Version, info.Version
		}
		return c, err
	}
	var mu sync.Mutex
	var refused []refusedCopy
	defer func() { how.count.refuse(key, refused) }()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(copyParallel)
	for info, err := range m.store.List(ctx, key, "", true) {
		if err != nil {
			return c, errors.Join(err, g.Wait())
		}
		if gctx.Err() != nil { // the rest would be for nothing
			break
		}
		how.count.listed.Add(1)
		to := toKey + info.Name[len(key):]
		if h, ok := how.have[to]; ok {
			same := sameVersion(h.of, info.Version)
			mu.Lock()
			if c.made[to] = h.made; same {
				c.of[info.Name] = info.Version
			} else {
				c.failed[info.Name] = true // until it is copied
			}
			mu.Unlock()
			if same {
				how.count.there.Add(1)
				continue
			}
		}
		g.Go(func() error {
			made, gone, err := m.copyOne(gctx, info, to)
			mu.Lock()
			defer mu.Unlock()
			if gone {
				c.gone[info.Name] = true
				how.count.listed.Add(-1)
				return nil
			}
			if err != nil {
				c.failed[info.Name] = true
			}
			if err == nil && made.Version == "" || unanswered(err) {
				c.unsure[info.Name] = true
			}
			switch {
			case err == nil:
				c.of[info.Name], c.made[to] = info.Version, made.Version
				delete(c.failed, info.Name)
			case unanswered(err):
				return err
			default:
				if refused = append(refused, refusedCopy{info.Name, err}); !how.rest || len(refused) > maxUncopied {
					return err
				}
				return nil
			}
			how.count.there.Add(1)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return c, err
	}
	how.count.whole.Store(true)
	if len(refused) > 0 {
		return c, refused[0].err
	}
	return c, nil
}

// copyOne copies what the store has listed. gone: it has that no more.
func (m *mounted) copyOne(ctx context.Context, info ufs.Info, to string) (made ufs.Info, gone bool, err error) {
	if info.Dir && m.features.Mkdir {
		made, err = ufs.Mkdir(ctx, m.store, to, ufs.Attr{Marker: true})
		return made, false, err
	}
	made, err = ufs.CopyFile(ctx, m.store, info.Name, info.Version, to, nil)
	if !isGone(err) {
		return made, false, err
	}
	if gone, lerr := m.lacks(ctx, info.Name); gone || lerr != nil {
		return made, gone, lerr
	}
	return made, false, err
}

// opsPerRecord bounds the records of a change that touches many entries.
const opsPerRecord = 500

// movedEntries appends operations that give the entries below the directory id, whose store name was from and is to, the
// versions of their copies. An entry whose file was another version in the store when it was copied keeps its own: the next
// look at it finds the difference.
func movedEntries(v meta.View, id meta.DirID, from, to string, copies copied, ops []meta.Op) []meta.Op {
	for edge, e := range v.Children(id, "") {
		switch version, ok := copies.made[to+edge]; {
		case e.Class == meta.Directory && e.Base.Kind == meta.Inherit:
			ops = movedEntries(v, e.Dir, from+edge, to+edge, copies, ops)
		case e.Class == meta.Local:
			if ok && e.Hold.Base != "" && copies.of[from+edge] == e.Hold.Base {
				moved, h := *e, *e.Hold
				h.Base, moved.Hold = version, &h
				ops = append(ops, meta.Op{Kind: meta.Set, Dir: id, Edge: edge, Entry: moved})
			}
		case e.Class == meta.Persisted && e.StoreKey == "" && copies.gone[from+edge]:
			ops = append(ops, meta.Op{Kind: meta.Del, Dir: id, Edge: edge})
		case ok && copies.of[from+edge] != e.Version: // a stranger's
		case ok && e.Class == meta.Persisted && e.StoreKey == "" && e.Version != version:
			moved := *e
			moved.Version = version
			ops = append(ops, meta.Op{Kind: meta.Set, Dir: id, Edge: edge, Entry: moved})
		}
	}
	return ops
}

// heldCopy is a held file below a directory that was renamed by copy. Its bytes are to replace what the store had under its old name.
type heldCopy struct {
	spot
	entry    *meta.Entry
	from, to string // store names
	version  string // of the copy, once that is found
}

// findCopies brings the held files below to, whose directory a rename by copy that was cut off has moved, the versions of the copies that
// their bytes are to replace, and notes in the intent that they all have them. The originals are all there yet. The caller holds no locks:
// until the intent says otherwise it refuses all changes of either name.
func (n *Namespace) findCopies(ctx context.Context, m *mounted, in *openIntent, to core.Path) error {
	var all []heldCopy
	n.tree.View(func(v meta.View) {
		if pl := n.walkIn(v, to); pl.entry != nil && pl.entry.Class == meta.Directory {
			all = heldBelow(v, pl.entry.Dir, in.key, in.toKey, nil)
		}
	})
	for some := range slices.Chunk(all, opsPerRecord) {
		var mu sync.Mutex
		var found []heldCopy
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(copyParallel)
		for _, c := range some {
			g.Go(func() error {
				version, ok, err := m.copied(gctx, c)
				if ok && err == nil {
					c.version = version
					mu.Lock()
					defer mu.Unlock()
					found = append(found, c)
				}
				return err
			})
		}
		err := g.Wait()
		if len(found) > 0 { // the next look has less to do, whatever this one comes to
			err = errors.Join(err, n.commitHeld(ctx, m, to, func(v meta.View) []meta.Op { return replacing(v, found) }))
		}
		if err != nil {
			return err
		}
	}
	found := *in
	found.to, found.toKey = "", ""
	if err := n.commitHeld(ctx, m, to, func(meta.View) []meta.Op { return []meta.Op{found.set()} }); err != nil {
		return err
	}
	*in = found
	n.resolving.Lock()
	defer n.resolving.Unlock()
	n.open[in.edge] = found
	return nil
}

// commitHeld commits what ops returns under the lock of p, if m is still the mount.
func (n *Namespace) commitHeld(ctx context.Context, m *mounted, p core.Path, ops func(meta.View) []meta.Op) error {
	unlock, err := n.locks.lock(ctx, p)
	if err != nil {
		return err
	}
	defer unlock()
	if !n.mountOf(m.ID).is(m) {
		return switched(m)
	}
	var all []meta.Op
	n.tree.View(func(v meta.View) { all = ops(v) })
	if len(all) == 0 {
		return nil
	}
	_, err = n.commit(context.WithoutCancel(ctx), all...)
	return err
}

// replacing are the operations that give held files the versions of the copies that they are to replace. A file that is another by now
// keeps its own.
func replacing(v meta.View, found []heldCopy) (ops []meta.Op) {
	for _, c := range found {
		e, ok := v.Get(c.dir, c.edge)
		if !ok || e.Class != meta.Local || e.ID != c.entry.ID || e.Rev != c.entry.Rev || e.Hold.Base != c.entry.Hold.Base {
			continue
		}
		moved, h := *e, *e.Hold
		h.Base, moved.Hold = c.version, &h
		ops = append(ops, meta.Op{Kind: meta.Set, Dir: c.dir, Edge: c.edge, Entry: moved})
	}
	return ops
}

// heldBelow appends the held files below the directory id, whose store name was from and is to, that are to replace something.
func heldBelow(v meta.View, id meta.DirID, from, to string, all []heldCopy) []heldCopy {
	for edge, e := range v.Children(id, "") {
		switch {
		case e.Class == meta.Directory && e.Base.Kind == meta.Inherit:
			all = heldBelow(v, e.Dir, from+edge, to+edge, all)
		case e.Class == meta.Local && e.Hold.Base != "":
			all = append(all, heldCopy{spot: spot{id, edge}, entry: e, from: from + edge, to: to + edge})
		}
	}
	return all
}

// copied returns the version of the copy that c is to replace. ok is false if c knows it, or what is there is none: somebody else's.
func (m *mounted) copied(ctx context.Context, c heldCopy) (version string, ok bool, err error) {
	was, err := m.store.Stat(ctx, c.from)
	if isGone(err) || err == nil && was.Version != c.entry.Hold.Base {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	is, err := m.store.Stat(ctx, c.to)
	if isGone(err) || err == nil && (is.Dir || is.Size != was.Size) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	sum := was.ETag
	if !isMD5(sum) || sum != is.ETag { // not every copy has the ETag of what it is of
		if sum, err = m.sumOf(ctx, was); err != nil {
			return "", false, err
		}
		if ok, err = m.hashesTo(ctx, is, sum); err != nil || !ok {
			return "", false, err
		}
	}
	return is.Version, true, nil
}

// sumOf returns the MD5 of what the store has, of which it says info.
func (m *mounted) sumOf(ctx context.Context, info ufs.Info) (string, error) {
	in, err := m.store.Open(ctx, info.Name, 0, -1, info.Version)
	if err != nil {
		return "", err
	}
	defer in.Close()
	sum := md5.New()
	if _, err := io.Copy(sum, in); err != nil {
		return "", err
	}
	if c, ok := in.(ufs.Checker); ok {
		err = c.Check()
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}

// resumeCopyTree carries a rename by copy on after a crash: what is copied already is copied again, which changes nothing.
// done is false if originals are left to be removed.
func (n *Namespace) resumeCopyTree(ctx context.Context, m *mounted, in *openIntent, paths []core.Path) (done bool, err error) {
	src, dst := n.walk(paths[0]), n.walk(paths[1])
	if relocatable(&src, &dst) { // nobody knows how long it takes
		return false, n.relocate(ctx, in, &src, &dst, nil)
	}
	copies, err := n.copyTree(ctx, m, in.key, in.toKey, howCopied{count: new(headway)})
	if isGone(err) { // the source went away before anything was flipped
		ops := []meta.Op{in.close()}
		if dst.inTree && dst.entry == nil {
			ops = append(ops, meta.Op{Kind: meta.Del, Dir: dst.parent, Edge: dst.edge})
		}
		_, err := n.commit(ctx, ops...)
		return err == nil, err
	}
	if err != nil {
		return false, err
	}
	if err := n.flipCopied(ctx, m, in, &src, &dst, copies, time.Time{}); err != nil {
		return false, err
	}
	n.resolving.Lock()
	defer n.resolving.Unlock()
	return n.open[in.edge].op != opDropTree, nil
}
