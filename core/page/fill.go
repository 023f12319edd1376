package page

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

const (
	runPages = 64 // most pages of one stream

	// idleStream is how long a fill waits for readers that are behind, with its stream open. Stores close idle connections
	// after some seconds; a reader that needs more later opens a stream of its own.
	idleStream = 2 * time.Second
)

// fill reads some pages of a content, in order, from one stream of its source. It lives as long as somebody needs it, and
// not as long as who began it. Every fill holds room (memory it may use) for one page while it runs.
type fill struct {
	c       *Cache
	by      *Reader // who began it
	content Content
	source  Source
	room    int64 // bytes of one page
	cancel  context.CancelCauseFunc
	pages   []*flight
	came    chan struct{} // capacity 1: a reader came to a page

	// Guarded by Cache.mu.
	readers int
	at      uint32 // the page being filled
	keep    uint32 // pages before it are wanted even if no reader is left: one had what he wanted of keep-1
	reached uint32 // one more than the furthest page a reader came to
}

// flight is a page of a fill, from the start of the fill until its bytes are in the store; if the store does not take them,
// until its readers have them.
type flight struct {
	f     *fill
	index uint32

	// Guarded by Cache.mu.
	readers int
	lingers bool // it is in Cache.lingering and has its own room

	mu     sync.Mutex
	buf    []byte        // nil before the fill comes to the page
	n      int           // bytes of buf that may be handed out
	checks bool          // bytes are only good when whole is set
	whole  bool          // all bytes are there, and checked
	copies int           // readers that copy out of buf
	over   bool          // no more bytes from here: look again, or err
	err    error         // why the bytes cannot be had
	owed   int64         // room to give back with buf
	news   chan struct{} // closed and replaced at each change
}

var (
	errNobody = errors.New("page: nobody waits for the fill any more") // cause of a cancelled fill
	errIdle   = errors.New("page: the readers of a fill are too slow") // ends a fill that is far ahead
)

// join returns the flight of the page with the reader counted in it and in its fill, unless he is in that fill already. It starts a fill of pages in [index, end) if none is under way. It returns nil if the page is in the store.
func (c *Cache) join(r *Reader, index, end uint32) (*flight, error) {
	content, old := r.content, r.fill
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, closedError()
	}
	fl := c.flying[content.key(index)]
	if fl == nil && c.store.Has(content.key(index)) {
		return nil, nil
	}
	if fl == nil {
		fl = c.start(r, index, end)
	}
	fl.readers++
	if fl.f != old {
		fl.f.readers++
	}
	fl.f.reach(index)
	return fl, nil
}

// reach notes that a reader came to the page. Cache.mu must be held.
func (f *fill) reach(index uint32) {
	f.reached = max(f.reached, index+1)
	f.wake()
}

func (f *fill) wake() {
	select {
	case f.came <- struct{}{}:
	default:
	}
}

// start begins a fill at index, to where another has begun or a page is here. mu must be held.
func (c *Cache) start(r *Reader, index, end uint32) *flight {
	content := r.content
	f := &fill{c: c, by: r, content: content, source: r.source, at: index, room: int64(content.pageLen(index)), came: make(chan struct{}, 1)}
	for i := index; i < min(end, index+runPages); i++ {
		k := content.key(i)
		if i > index && (c.flying[k] != nil || c.store.Has(k)) {
			break
		}
		fl := &flight{f: f, index: i, news: make(chan struct{})}
		c.flying[k] = fl
		f.pages = append(f.pages, fl)
	}
	r.missed(int64(f.end()) * Size)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.ctx))
	f.cancel = cancel
	c.running[f] = struct{}{}
	c.fills.Go(func() { f.run(ctx) })
	return f.pages[0]
}

// end is one more than the last page of the fill.
func (f *fill) end() uint32 { return f.pages[0].index + uint32(len(f.pages)) }

// leave takes a reader out of the fill. If he had what he wanted, the page before keep is finished for those to come;
// otherwise a fill without readers is cancelled.
func (f *fill) leave(keep uint32) {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.readers--
	f.keep = max(f.keep, keep)
	f.wake()
	if f.readers > 0 {
		return
	}
	for _, fl := range f.pages {
		f.c.letGo(fl)
	}
	if f.at >= f.keep {
		f.abandon()
	}
}

// abandon cancels the fill; from now on a reader that needs its pages begins another. Cache.mu must be held.
func (f *fill) abandon() {
	for _, fl := range f.pages {
		f.c.unlist(fl)
	}
	f.cancel(errNobody)
}

// leave takes a reader out of the flight.
func (fl *flight) leave() {
	c := fl.f.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if fl.readers--; fl.readers == 0 {
		c.letGo(fl)
	}
}

// unlist lets no reader join the flight any more. mu must be held.
func (c *Cache) unlist(fl *flight) {
	if k := fl.f.content.key(fl.index); c.flying[k] == fl {
		delete(c.flying, k)
	}
}

// letGo gives up the memory of a page that lingers. Readers that still need it find it gone, and look again. mu must be
// held.
func (c *Cache) letGo(fl *flight) {
	if !fl.lingers {
		return
	}
	fl.lingers = false
	c.lingering = slices.DeleteFunc(c.lingering, func(other *flight) bool { return other == fl })
	c.unlist(fl)
	fl.finish(nil, fl.f.room)
}

// acquire waits for room, and takes it from pages that only linger.
func (c *Cache) acquire(ctx context.Context, n int64) error {
	if c.room.TryAcquire(n) {
		return nil
	}
	c.mu.Lock()
	c.wanting++
	for freed := int64(0); freed < n && len(c.lingering) > 0; {
		freed += c.lingering[0].f.room
		c.letGo(c.lingering[0])
	}
	c.mu.Unlock()
	err := c.room.Acquire(ctx, n)
	c.mu.Lock()
	c.wanting--
	c.mu.Unlock()
	return err
}

// run is the fill's goroutine.
func (f *fill) run(ctx context.Context) {
	c := f.c
	err := c.acquire(ctx, f.room)
	held := err == nil
	if held {
		c.inFlight.Add(1)
		held, err = f.stream(ctx)
		c.inFlight.Add(-1)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if errors.Is(err, errNobody) || errors.Is(err, errIdle) {
		err = nil // who comes meanwhile looks again
	}
	f.cancel(nil)
	c.mu.Lock()
	delete(c.running, f)
	for _, fl := range f.pages {
		if !fl.lingers {
			c.unlist(fl)
			fl.finish(err, 0)
		}
	}
	c.mu.Unlock()
	if held {
		c.room.Release(f.room)
	}
}

// stream fills the pages from one stream of the source. It reports whether the fill still has its room: it goes with a
// page that the store does not take.
func (f *fill) stream(ctx context.Context) (held bool, err error) {
	c, first := f.c, f.pages[0].index
	off := int64(first) * Size
	c.opens.Add(1)
	body, err := f.source.Open(ctx, off, min(int64(f.end())*Size, f.content.Len)-off)
	if err != nil {
		return true, err
	}
	defer body.Close()
	held = true
	ahead := c.readAhead
	for _, fl := range f.pages {
		if err := f.follow(ctx, fl.index, ahead); err != nil {
			return held, err
		}
		if !held {
			if err := c.acquire(ctx, f.room); err != nil {
				return false, err
			}
			held = true
		}
		if !f.turn(fl.index) {
			return held, errNobody
		}
		data, err := fl.receive(body)
		if err != nil {
			return held, err
		}
		if held = f.keepPage(fl, data); !held {
			ahead = 0 // what is read too early would be lost
		}
	}
	return held, nil
}

// turn makes index the page being filled, unless nobody wants it.
func (f *fill) turn(index uint32) bool {
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.at = index
	if f.readers == 0 && index >= f.keep {
		f.abandon()
		return false
	}
	return true
}

// follow waits until a reader is near enough to the page: what is filled too long before it is read may be evicted before,
// and be filled again. Without readers turn decides.
func (f *fill) follow(ctx context.Context, index, ahead uint32) error {
	timer := time.NewTimer(idleStream)
	defer timer.Stop()
	for {
		f.c.mu.Lock()
		near := index < f.reached+ahead || f.readers == 0
		f.c.mu.Unlock()
		if near {
			return nil
		}
		select {
		case <-f.came:
		case <-timer.C:
			return errIdle
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive reads the page from body and hands it out as it comes, but for the last bytes, which wait for the check.
func (fl *flight) receive(body io.Reader) ([]byte, error) {
	c, length := fl.f.c, fl.f.content.pageLen(fl.index)
	check, checks := body.(checker)
	data := c.buffer(length)
	fl.update(func() { fl.buf, fl.checks = data, checks })
	for n := 0; n < length; {
		m, err := body.Read(data[n:])
		n += m
		c.sourceBytes.Add(int64(m))
		if n == length {
			break
		}
		if m > 0 {
			fl.update(func() { fl.n = n })
		}
		if err != nil {
			return nil, shortRead(err, int64(fl.index)*Size+int64(n))
		}
	}
	if checks {
		if err := check.Check(); err != nil {
			return nil, err
		}
	}
	fl.update(func() { fl.n, fl.whole = length, true })
	return data, nil
}

// shortRead returns the error of a source that failed, or ended, at the offset off of its content.
func shortRead(err error, off int64) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.New("page.Read", "", errs.Unavailable, fmt.Sprintf("the store's data ended early, at byte %d", off))
	}
	return err
}

// keepPage puts a whole page into the store. If the store does not take it the page lingers for its readers, together with
// the fill's room; keepPage returns whether the fill has its room still.
func (f *fill) keepPage(fl *flight, data []byte) (held bool) {
	c := f.c
	err := c.store.Put(f.content.key(fl.index), data)
	if err != nil {
		c.putFailed.Add(1)
		c.note(f.content.key(fl.index), WhyRefused)
		c.log.Debug("page not kept", "err", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.unlist(fl)
		fl.finish(nil, 0)
		return true
	}
	fl.lingers = true
	fl.update(func() {}) // who waits for it to be stored
	c.lingering = append(c.lingering, fl)
	if c.wanting > 0 || f.readers == 0 {
		c.letGo(fl)
	}
	return false
}

// update changes the flight under its lock and tells the readers.
func (fl *flight) update(change func()) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	change()
	close(fl.news)
	fl.news = make(chan struct{})
}

// finish ends the flight, if it has not ended: with err or, if that is nil, so that readers look again. owed is the room to
// give back with its memory.
func (fl *flight) finish(err error, owed int64) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.over {
		return
	}
	fl.over, fl.err, fl.owed = true, err, owed
	close(fl.news)
	fl.recycle()
}

// recycle gives the flight's memory back when it is over and nobody copies. fl.mu must be held.
func (fl *flight) recycle() {
	if !fl.over || fl.copies > 0 {
		return
	}
	fl.f.c.recycle(fl.buf)
	fl.f.c.room.Release(fl.owed)
	fl.buf, fl.owed = nil, 0
}

// take copies bytes of the page from the offset from on into p, waiting for the first of them. end is where the reader's
// range ends in the page. again says that the bytes are not to be had here any more and no reason is known.
func (fl *flight) take(ctx context.Context, p []byte, from, end int) (n int, again bool, err error) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	for {
		ready := min(fl.n, end)
		if fl.checks && !fl.whole {
			ready = min(ready, end-1)
		}
		switch {
		case fl.over:
			return 0, fl.err == nil, fl.err
		case ready > from:
			data := fl.buf[from:ready]
			fl.copies++
			fl.mu.Unlock()
			n = copy(p, data)
			fl.mu.Lock()
			fl.copies--
			fl.recycle()
			return n, false, nil
		}
		news := fl.news
		fl.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			err = ctx.Err()
		}
		fl.mu.Lock()
		if err != nil {
			return 0, false, err
		}
	}
}
