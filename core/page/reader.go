package page

import (
	"context"
	"errors"
	"io"

	"github.com/sluicefs/sluice/core/errs"
)

// copyBytes is the memory a reader takes for bytes that are not in the store yet, and so what a slow client holds.
const copyBytes = 64 << 10

// maxTries is how often a reader joins the fill of a page in vain, because the page was evicted before he could look, until
// he reads it for himself. It takes a store of a few pages.
const maxTries = 3

// Reader reads a range of a content. WriteTo is the fast path: pages that are here go to the writer straight from their
// mapping. A Reader is for one goroutine and must be closed; it keeps the context it was made with.
type Reader struct {
	c       *Cache
	ctx     context.Context
	content Content
	source  Source
	pos     int64 // of the next byte
	end     int64
	err     error // sticks

	// Where the byte at pos comes from: one of them, or none before locate.
	hit    Handle
	flight *flight
	direct io.ReadCloser // NoCache: from the source
	till   int64         // end of direct

	fill         *fill  // counted in it, from the first page it was needed for to its last
	fetched      uint32 // pages before it are misses: a fill brought them for this reader
	counted      uint32 // pages before it are counted
	tries        int    // fills joined in vain since pos moved
	hits, misses int
	loads        bool // nobody reads: it is for the store
}

// NewReader returns a reader of the bytes [off, off+n) of content; nothing happens before they are asked for. If ctx ends,
// reading ends with its error. A range outside the content is errs.Range at the first Read, a content of 4 PiB is
// errs.TooLarge. Other errors of reading: the source's; errs.Unavailable if the source's data ends early, if a cached page
// cannot be read from its disk while a writer that is no connection takes bytes of it, and where it would miss after Close of
// the Cache.
func (c *Cache) NewReader(ctx context.Context, content Content, off, n int64, source Source) *Reader {
	r := &Reader{c: c, ctx: ctx, content: content, source: source, pos: off, end: off + n}
	if off < 0 || n < 0 || off > content.Len || n > content.Len-off {
		r.err = errs.New("page.NewReader", "", errs.Range, "the range lies outside the content")
	} else if content.Len > maxContent {
		r.err = errs.New("page.NewReader", "", errs.TooLarge, "a content has at most 2^32-1 pages")
	}
	return r
}

// Hits returns how many pages were in the cache when the reader came to them.
func (r *Reader) Hits() int { return r.hits }

// Misses returns how many pages were not.
func (r *Reader) Misses() int { return r.misses }

// Resident returns how many of the pages that are still to be read are in the cache, and how many there are.
func (r *Reader) Resident() (pages, total int) {
	for i := r.pos / Size; i*Size < r.end; i++ {
		total++
		if r.c.store.Has(r.content.key(uint32(i))) {
			pages++
		}
	}
	return pages, total
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 || r.err != nil {
		return 0, r.err
	}
	if r.pos >= r.end {
		return 0, io.EOF
	}
	n, err := r.read(p)
	if err != nil {
		r.fail(err)
	}
	return n, err
}

// WriteTo writes the rest of the range to w.
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	var scratch *[copyBytes]byte
	defer func() {
		if scratch != nil {
			r.c.copyPool.Put(scratch)
		}
	}()
	for r.err == nil && r.pos < r.end {
		if err := r.locate(); err != nil {
			r.fail(err)
			break
		}
		var n int
		if r.hit != nil {
			n, err = r.writeHit(w)
		} else {
			if scratch == nil {
				scratch = r.c.copyPool.Get().(*[copyBytes]byte)
			}
			if n, err = r.read(scratch[:]); err != nil {
				r.fail(err)
				break
			}
			n, err = writeAll(w, scratch[:n])
		}
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	return written, r.err
}

// Close ends the reading. A page that the reader did not read to the end of its range is not fetched for its sake.
func (r *Reader) Close() error {
	r.letGo()
	r.leaveFill()
	if r.direct != nil {
		r.direct.Close()
		r.direct = nil
	}
	if r.err == nil {
		r.err = errs.New("page.Read", "", errs.Invalid, "the reader is closed")
	}
	return nil
}

func (r *Reader) fail(err error) {
	r.err = err
	r.letGo()
	r.leaveFill()
}

func (r *Reader) index() uint32 { return uint32(r.pos / Size) }

// bounds returns where pos and the end of the range, or of the page, lie in the page.
func (r *Reader) bounds() (from, to int) {
	start := r.pos / Size * Size
	return int(r.pos - start), int(min(r.end-start, int64(r.content.pageLen(r.index()))))
}

// read copies bytes at pos into p, at least one, at most to the end of the page.
func (r *Reader) read(p []byte) (n int, err error) {
	for again := true; again; {
		if err = r.locate(); err != nil {
			return 0, err
		}
		from, to := r.bounds()
		again = false
		switch {
		case r.hit != nil:
			if n, err = copyPage(p, r.hit.Bytes()[from:to]); err != nil {
				r.dropHit()
				again, err = true, nil
			}
		case r.flight != nil:
			n, again, err = r.flight.take(r.ctx, p, from, to)
			if err != nil && r.flight.f.by != r && r.ctx.Err() == nil {
				// Another reader's source failed. The same bytes may be elsewhere too, where this reader's source finds them.
				again, err, r.tries = true, nil, maxTries
			}
			if again {
				r.tries++
				r.letGo()
			}
		default:
			n, err = r.readDirect(p[:min(len(p), to-from)], to-from)
		}
	}
	if err == nil {
		r.advance(n)
	}
	return n, err
}

// writeHit writes what is wanted of the page that is here.
func (r *Reader) writeHit(w io.Writer) (int, error) {
	from, to := r.bounds()
	n, err := writePage(w, r.hit.Bytes()[from:to])
	if errors.Is(err, errFault) {
		torn := errors.Is(err, errTorn)
		r.pos += int64(n)
		r.c.hitBytes.Add(int64(n))
		r.dropHit()
		if !torn {
			return n, nil // the rest comes from elsewhere
		}
		r.fail(err)
		return n, err
	}
	r.advance(n)
	return n, err
}

// dropHit has the page at pos, which cannot be read, be looked for elsewhere. Nothing may be written any more to a file that
// was cut short: it would grow again, and other readers of what was cut off would find zeros there instead of a fault.
func (r *Reader) dropHit() {
	if h, ok := r.hit.(*mapped); ok {
		h.store.faulted(errFault)
	}
	r.c.store.Drop(r.content.key(0), r.index(), r.index()+1)
	r.c.note(r.content.key(r.index()), WhyUnread)
	r.letGo()
	r.tries++
}

// readDirect reads from a stream of the source that fills nothing. left is the number of bytes before which the source is
// checked.
func (r *Reader) readDirect(p []byte, left int) (int, error) {
	n, err := io.ReadAtLeast(r.direct, p, 1)
	if n == 0 {
		return 0, shortRead(err, r.pos)
	}
	if check, ok := r.direct.(checker); ok && n == left {
		if err := check.Check(); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// advance moves pos on by n bytes, and out of the page and the fill if they end there.
func (r *Reader) advance(n int) {
	if r.index() < r.fetched {
		r.c.missBytes.Add(int64(n))
	} else {
		r.c.hitBytes.Add(int64(n))
	}
	r.pos += int64(n)
	r.tries = 0
	if r.pos%Size == 0 || r.pos == r.end {
		r.letGo()
	}
	if r.fill != nil && (r.pos == r.end || r.index() >= r.fill.end()) {
		r.leaveFill()
	}
	if r.direct != nil && r.pos == r.till {
		r.direct.Close()
		r.direct = nil
	}
}

// letGo ends the use of the page.
func (r *Reader) letGo() {
	if r.hit != nil {
		r.hit.Release()
		r.hit = nil
	}
	if r.flight != nil {
		r.flight.leave()
		r.flight = nil
	}
}

func (r *Reader) leaveFill() {
	if r.fill == nil {
		return
	}
	keep := uint32(0)
	if r.pos == r.end || r.index() >= r.fill.end() {
		keep = uint32((r.pos + Size - 1) / Size)
	}
	r.fill.leave(keep)
	r.fill = nil
}

// locate finds where the byte at pos comes from.
func (r *Reader) locate() error {
	for r.hit == nil && r.flight == nil && r.direct == nil {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if r.hit = r.lookup(); r.hit != nil {
			r.reach()
			break
		}
		end := uint32((r.end + Size - 1) / Size)
		if r.tries > maxTries {
			end = r.index() + 1
		}
		if r.content.NoCache || r.tries > maxTries {
			if err := r.openDirect(end); err != nil {
				return err
			}
			break
		}
		fl, err := r.c.join(r, r.index(), end)
		if err != nil {
			return err
		}
		if fl == nil {
			continue
		}
		if fl.f != r.fill {
			r.leaveFill()
			r.fill = fl.f
		}
		r.flight, r.fetched = fl, max(r.fetched, min(end, fl.f.end()))
	}
	r.count()
	return nil
}

// reach tells the reader's fill how far he is, so that it goes on.
func (r *Reader) reach() {
	if r.fill != nil {
		r.c.mu.Lock()
		defer r.c.mu.Unlock()
		r.fill.reach(r.index())
	}
}

// lookup returns the page at pos if it is in the store, whole.
func (r *Reader) lookup() Handle {
	k := r.content.key(r.index())
	h, ok := r.c.store.Get(k)
	if !ok {
		return nil
	}
	if len(h.Bytes()) == r.content.pageLen(k.Index) {
		if r.content.Promote && r.c.promoter != nil {
			r.c.promoter.Promote(k, h)
		}
		return h
	}
	h.Release()
	r.c.store.Drop(k, k.Index, k.Index+1)
	r.c.note(k, WhyDamaged)
	return nil
}

// openDirect opens a stream for the bytes from pos to the end of the range, or to the next page that is here.
func (r *Reader) openDirect(end uint32) (err error) {
	next := r.index() + 1
	for next < end && !r.c.store.Has(r.content.key(next)) {
		next++
	}
	r.till, r.fetched = min(r.end, int64(next)*Size), next
	r.c.opens.Add(1)
	r.missed(r.till)
	r.direct, err = r.source.Open(r.ctx, r.pos, r.till-r.pos)
	return err
}

// count counts the page at pos once.
func (r *Reader) count() {
	i := r.index()
	if i < r.counted {
		return
	}
	r.counted = i + 1
	if i < r.fetched {
		r.misses++
		r.c.misses.Add(1)
	} else {
		r.hits++
		r.c.hits.Add(1)
	}
}

func writeAll(w io.Writer, p []byte) (int, error) {
	n, err := w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}
