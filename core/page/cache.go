package page

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/sluicefs/sluice/core/errs"
)

const (
	defaultReadAhead = 8        // pages
	defaultFill      = 64 << 20 // bytes
)

// maxContent is the most bytes of a content.
const maxContent = math.MaxUint32 * Size

// Content is the bytes of one extent.
type Content struct {
	ID      [16]byte
	Rev     uint64
	Len     int64 // bytes; not used by a Writer
	NoCache bool  // pages are read if they are here, and not kept if they are not
	Promote bool  // pages that are read again move to the fastest tier, if the store has several
}

func (c Content) key(index uint32) Key { return Key{ID: c.ID, Rev: c.Rev, Index: index} }

// pages returns the number of pages.
func (c Content) pages() uint32 { return uint32((c.Len + Size - 1) / Size) }

// pageLen returns the length of a page in bytes.
func (c Content) pageLen(index uint32) int { return int(min(Size, c.Len-int64(index)*Size)) }

// Source is where the bytes of a content are stored.
type Source interface {
	// Open returns the content's bytes [off, off+n); both lie within it, n > 0. A reader that gives fewer bytes has failed.
	// If the reader has a method Check() error, it is called after the bytes of a page were read; an error fails the read
	// before the page is kept and before its last bytes, or the last bytes that anybody asked for in it, are handed out.
	Open(ctx context.Context, off, n int64) (io.ReadCloser, error)
}

type checker interface{ Check() error }

// CacheOptions are the options of NewCache.
type CacheOptions struct {
	ReadAhead    int          // pages that a fill may be ahead of its foremost reader, within what that one asked for; 0: 8
	MaxFillBytes int64        // memory of the pages being filled, and as much again of those being written; 0: 64 MiB
	Logger       *slog.Logger // nil: none
}

// Cache reads and writes contents through a Store. It is safe for concurrent use.
//
// A page that is not in the store is read from its Source once, however many readers wait for it, and they get its bytes as
// they arrive. A Cache never hands out a byte that it had to guess, and never fails because the store does: without a
// working store every read is a miss.
type Cache struct {
	store     Store
	promoter  interface{ Promote(Key, Handle) } // store, nil if it cannot
	readAhead uint32
	log       *slog.Logger
	room      *semaphore.Weighted // bytes of fills in flight
	maxRoom   int64
	writeRoom *semaphore.Weighted // bytes of pages being written
	pagePool  sync.Pool           // *[Size]byte
	copyPool  sync.Pool           // *[copyBytes]byte
	fills     sync.WaitGroup

	trail *trail // the store's, nil if it has none
	last  misses

	hits, misses, hitBytes, missBytes atomic.Int64
	opens, sourceBytes, putFailed     atomic.Int64
	inFlight                          atomic.Int64

	mu        sync.Mutex
	closed    bool
	flying    map[Key]*flight // pages being filled, and whole ones the store did not take
	running   map[*fill]struct{}
	lingering []*flight // whole, not in the store, kept for their readers; the oldest first
	wanting   int       // fills that wait for room
}

// Stats are the numbers of a Cache since it was made, and of its tiers.
type Stats struct {
	Hits, Misses        int64 // pages, counted once per reader that came to them
	HitBytes, MissBytes int64 // bytes given to readers
	SourceOpens         int64 // streams opened
	SourceBytes         int64 // bytes read from sources into pages
	PutFailed           int64 // pages the store did not take
	FillsInFlight       int64 // streams open now
	Tiers               []TierStats
}

// NewCache returns a Cache over store, which stays the caller's to close, after the Cache.
func NewCache(store Store, o CacheOptions) *Cache {
	c := &Cache{
		store: store, log: o.Logger, readAhead: uint32(cmp.Or(max(o.ReadAhead, 0), defaultReadAhead)),
		maxRoom: max(Size, cmp.Or(o.MaxFillBytes, defaultFill)),
		flying:  map[Key]*flight{}, running: map[*fill]struct{}{}, last: newMisses(),
	}
	if t, ok := store.(trailed); ok {
		c.trail = t.tracks()
	}
	c.promoter, _ = store.(interface{ Promote(Key, Handle) })
	c.room, c.writeRoom = semaphore.NewWeighted(c.maxRoom), semaphore.NewWeighted(c.maxRoom)
	c.pagePool.New = func() any { return new([Size]byte) }
	c.copyPool.New = func() any { return new([copyBytes]byte) }
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Resident returns how many of the content's pages are in the store, and how many it has.
func (c *Cache) Resident(of Content) (pages, total int) {
	total = int(of.pages())
	for i := range uint32(total) {
		if c.store.Has(of.key(i)) {
			pages++
		}
	}
	return pages, total
}

// Drop forgets the content.
func (c *Cache) Drop(of Content) { c.store.Drop(of.key(0), 0, of.pages()) }

// Stats returns the cache's numbers. Tiers is nil if the store does not tell.
func (c *Cache) Stats() Stats {
	s := Stats{
		Hits: c.hits.Load(), Misses: c.misses.Load(), HitBytes: c.hitBytes.Load(), MissBytes: c.missBytes.Load(),
		SourceOpens: c.opens.Load(), SourceBytes: c.sourceBytes.Load(), PutFailed: c.putFailed.Load(), FillsInFlight: c.inFlight.Load(),
	}
	switch t := c.store.(type) {
	case interface{ Stats() []TierStats }:
		s.Tiers = t.Stats()
	case interface{ Stats() TierStats }:
		s.Tiers = []TierStats{t.Stats()}
	}
	return s
}

// Close cancels the fills and waits for them. Readers get an error where they would miss.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	for f := range c.running {
		f.cancel(closedError())
	}
	c.mu.Unlock()
	c.fills.Wait()
	return nil
}

// buffer returns memory for a page of n bytes; small ones are not worth a whole page of the pool.
func (c *Cache) buffer(n int) []byte {
	if n <= copyBytes {
		return make([]byte, n)
	}
	return c.pagePool.Get().(*[Size]byte)[:n]
}

func (c *Cache) recycle(b []byte) {
	switch cap(b) {
	case Size:
		c.pagePool.Put((*[Size]byte)(b[:Size]))
	case copyBytes:
		c.copyPool.Put((*[copyBytes]byte)(b[:copyBytes]))
	}
}

func closedError() error {
	return errs.New("page.Read", "", errs.Unavailable, "the cache is closed; the server is stopping")
}
