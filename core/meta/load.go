package meta

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/sluicefs/sluice/core/errs"
)

const (
	pageWindow = 256 // pages of one scan: some 3 MiB in memory
	loadTries  = 10  // loads that a checkpoint made meanwhile may spoil
)

// errGap says that a record that is needed has been deleted, because a later checkpoint holds it, or that the pages changed
// while they were read.
var errGap = errors.New("a checkpoint was made meanwhile")

// Load brings the tree to the newest checkpoint and the records after it. It claims nothing: another member may lead. It
// comes once, first.
//
// Errors: errs.Corrupt if a record or a page is damaged, missing or out of order; errs.Unavailable.
func (l *Log) Load(ctx context.Context) error {
	_, done, err := l.begin("Load", lifeOpened)
	if err != nil {
		return err
	}
	if err := l.load(ctx); err != nil {
		done(lifeOpened)
		return err
	}
	done(lifeLoaded)
	return nil
}

// load replaces what the tree holds.
func (l *Log) load(ctx context.Context) error {
	for range loadTries {
		err := l.tryLoad(ctx)
		if !errors.Is(err, errGap) {
			return err
		}
		l.o.Logger.Debug("load: the checkpoint has changed meanwhile", "group", l.o.Group)
	}
	return errs.New("meta.Log.Load", l.o.Group, errs.Unavailable, "the checkpoint changes faster than it can be read; try again")
}

func (l *Log) tryLoad(ctx context.Context) error {
	ck, ckRev, err := l.checkpoint(ctx)
	if err != nil {
		return err
	}
	x := &loader{l: l, tree: NewTree()}
	if err := x.pages(ctx, ckRev != 0); err != nil {
		return err
	}
	for name, value := range ck.Counters {
		x.tree.counters[name] = value
	}
	x.tree.seq = ck.Seq
	l.tree.become(x.tree)
	l.seq.Store(ck.Seq)
	l.lastTerm = 0
	l.tail.forget(l.tail.mark())
	if err := l.catchUp(ctx); err != nil {
		return err
	}
	l.tree.sweep()
	return nil
}

// catchUp applies the records after the last one applied. Errors: errGap if they are not there any more.
func (l *Log) catchUp(ctx context.Context) error {
	for {
		first := l.seq.Load() + 1
		page, err := l.kv.Scan(ctx, l.recordKey(first), l.recordKey(first+replayWindow), replayWindow)
		if err != nil {
			return err
		}
		if len(page.KVs) == 0 {
			break
		}
		for _, kv := range page.KVs {
			if err := l.follow(ctx, kv, page.Revision); err != nil {
				return err
			}
		}
	}
	return l.checkEnd(ctx)
}

// checkEnd requires that there are no records beyond the last one read.
func (l *Log) checkEnd(ctx context.Context) error {
	next := l.recordKey(l.seq.Load() + 1)
	page, err := l.kv.Scan(ctx, next, PrefixEnd(l.recordPrefix()), 1)
	if err != nil {
		return err
	}
	if len(page.KVs) == 0 {
		l.lastRev = page.Revision
		return nil
	}
	if page.KVs[0].Key == next { // written meanwhile
		return l.catchUp(ctx)
	}
	return l.missing(ctx, page.KVs[0].Key)
}

// missing returns errGap if the record after the last one applied was deleted because a checkpoint holds it.
func (l *Log) missing(ctx context.Context, found string) error {
	ck, _, err := l.checkpoint(ctx)
	if err != nil {
		return err
	}
	if ck.Seq > l.seq.Load() {
		return errGap
	}
	return l.corrupt(found, "record %d is missing from the journal", l.seq.Load()+1)
}

func (l *Log) corrupt(key, why string, args ...any) error {
	return errs.New("meta.Log.Load", key, errs.Corrupt, fmt.Sprintf(why, args...)+"; restore the metadata from a backup")
}

// follow applies the record kv, which was read at the revision rev or later, and must be the next one.
func (l *Log) follow(ctx context.Context, kv KeyValue, rev int64) error {
	seq := l.seq.Load() + 1
	if kv.Key != l.recordKey(seq) {
		return l.missing(ctx, kv.Key)
	}
	h, ops, err := decodeRecord(kv.Value)
	switch {
	case err != nil:
		return l.corrupt(kv.Key, "%v", err)
	case h.seq != seq:
		return l.corrupt(kv.Key, "the record is number %d by its own account", h.seq)
	case h.term < l.lastTerm:
		return l.corrupt(kv.Key, "the record's term is %d, after one of term %d", h.term, l.lastTerm)
	case h.term >= rev, l.Term() != 0 && h.term >= l.Term():
		return l.corrupt(kv.Key, "the record's term is %d, which is no former leader's at revision %d", h.term, rev)
	}
	l.tree.Apply(seq, ops)
	l.seq.Store(seq)
	l.lastTerm = h.term
	l.tail.add(seq, len(kv.Value), len(ops))
	l.o.Applied(seq, ops)
	return nil
}

// scanPages calls fn with the stored pages, some at a time, in order of their keys, and with the revision they were read at.
func (l *Log) scanPages(ctx context.Context, fn func(kvs []KeyValue, rev int64) error) error {
	from, to := l.pagePrefix(), PrefixEnd(l.pagePrefix())
	for {
		page, err := l.kv.Scan(ctx, from, to, pageWindow)
		if err != nil {
			return err
		}
		if err := fn(page.KVs, page.Revision); err != nil || !page.More {
			return err
		}
		from = page.KVs[len(page.KVs)-1].Key + "\x00"
	}
}

// loader fills a tree with the stored pages, on all processors.
type loader struct {
	l    *Log
	tree *Tree

	dir     *directory // added to last
	items   []item     // of one slab
	scratch []byte

	shapesMu sync.Mutex
	stored   []*leaf
	first    int64 // revision of the first scan
	last     int64
}

// readPage is a page on its way into the tree.
type readPage struct {
	runs  []slabRun
	err   error
	ready chan struct{}
}

// slabRun are a page's entries of one directory, in slabs.
type slabRun struct {
	dir   DirID
	slabs []*slab
	links []link
}

// link is an edge that leads to a directory.
type link struct {
	dir  DirID
	edge string
}

// pages reads the pages. whole says that they hold everything, so that none may be missing.
func (x *loader) pages(ctx context.Context, whole bool) error {
	ctx, cancel := context.WithCancel(ctx)
	workers := runtime.GOMAXPROCS(0)
	todo, inOrder := make(chan func(*pageReader)), make(chan *readPage, 4*pageWindow)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	readers := make([]*pageReader, workers)
	for i := range readers {
		var err error
		if readers[i], err = newPageReader(x.intern); err != nil {
			return err
		}
	}
	for _, r := range readers {
		wg.Go(func() {
			defer r.zstd.Close()
			for work := range todo {
				work(r)
			}
		})
	}
	var scanned error
	wg.Go(func() {
		defer close(inOrder)
		defer close(todo)
		scanned = x.l.scanPages(ctx, func(kvs []KeyValue, rev int64) error { return x.hand(ctx, kvs, rev, todo, inOrder) })
	})
	for p := range inOrder {
		<-p.ready
		if p.err != nil {
			return p.err
		}
		x.add(p)
	}
	if scanned != nil {
		return scanned
	}
	for _, d := range x.tree.dirs {
		d.hintAll()
	}
	return x.check(whole)
}

// hand gives pages to the workers, and to the goroutine that puts them together.
func (x *loader) hand(ctx context.Context, kvs []KeyValue, rev int64, todo chan<- func(*pageReader), inOrder chan<- *readPage) error {
	if x.first == 0 {
		x.first = rev
	}
	x.last = rev
	for _, kv := range kvs {
		s, err := x.l.leafOf(kv)
		if err != nil {
			return err
		}
		x.stored = append(x.stored, s)
		p := &readPage{ready: make(chan struct{})}
		work := func(r *pageReader) {
			defer close(p.ready)
			p.err = p.decode(x, r, kv)
		}
		select {
		case todo <- work:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case inOrder <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// intern numbers the shapes of a page.
func (x *loader) intern(list []shape) []uint32 {
	x.shapesMu.Lock()
	defer x.shapesMu.Unlock()
	numbers := make([]uint32, len(list))
	for i := range list {
		numbers[i] = x.tree.shapes.numberOf(&list[i])
	}
	return numbers
}

// decode reads a page and makes slabs of its entries.
func (p *readPage) decode(x *loader, r *pageReader, kv KeyValue) error {
	page, err := r.read(kv.Value)
	if err != nil {
		return errs.New("meta.Log.Load", kv.Key, errs.Corrupt, fmt.Sprintf("%v; restore the metadata from a backup", err))
	}
	x.shapesMu.Lock()
	known := shapes{list: x.tree.shapes.list} // what is in it does not change
	x.shapesMu.Unlock()
	for _, run := range page.runs {
		s := slabRun{dir: run.dir, slabs: make([]*slab, 0, (len(run.items)+slabMax-1)/slabMax)}
		if page.links {
			for i := range run.items {
				if class, id := known.peek(run.items[i].packed); class == Directory {
					s.links = append(s.links, link{id, string(run.items[i].edge)})
				}
			}
		}
		for items := run.items; len(items) > 0; {
			n := min(slabMax, len(items))
			for n > 1 && weight(items[:n]) > slabWeight {
				n /= 2
			}
			s.slabs = append(s.slabs, newSlab(items[:n]))
			items = items[n:]
		}
		p.runs = append(p.runs, s)
	}
	return nil
}

// add puts a page into the tree.
func (x *loader) add(p *readPage) {
	t := x.tree
	for _, r := range p.runs {
		d := t.directory(r.dir)
		if d != x.dir && x.dir != nil {
			x.dir.hintAll() // its slabs are at hand, and other pages are being decoded
		}
		x.dir = d
		if last := d.last(); last == nil || slabEdge(last.data, last.len()-1) < slabEdge(r.slabs[0].data, 0) {
			for _, s := range r.slabs {
				d.push(s)
				t.bytes.Add(s.bytes())
				t.rows += int64(s.len())
			}
		} else { // pages that overlap
			for _, s := range r.slabs {
				x.items, x.scratch = slabItems(s.data, x.items[:0], x.scratch[:0])
				for i := range x.items {
					edge := string(x.items[i].edge)
					at, replaced := d.find(edge)
					if !replaced {
						t.rows++
					}
					t.bytes.Add(t.edit.set(d, at, replaced, edge, x.items[i].packed))
				}
			}
		}
		for _, k := range r.links {
			t.link(k.dir, d, k.edge)
		}
	}
}

// check requires that the pages cover everything, if whole, and makes the tree's layout of them.
func (x *loader) check(whole bool) error {
	slices.SortFunc(x.stored, func(a, b *leaf) int { return a.low.compare(b.low) })
	reach := point{}
	for _, s := range x.stored {
		if whole && reach.less(s.low) {
			return x.gap(reach)
		}
		if reach.less(s.high) {
			reach = s.high
		}
	}
	if whole && reach != end {
		return x.gap(reach)
	}
	x.tree.layout.rebuild(x.stored)
	return nil
}

// gap returns errGap if the pages may have changed while they were read.
func (x *loader) gap(at point) error {
	if x.first != x.last {
		return errGap
	}
	return x.l.corrupt(pageKey(x.l.pagePrefix(), at), "a page of the checkpoint is missing")
}
