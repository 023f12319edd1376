package page

import (
	"context"
	"io"

	"github.com/sluicefs/sluice/core/errs"
)

// placer is a Store that knows where a page is.
type placer interface {
	// Where returns the number of the tier that has the page, -1 if none has.
	Where(k Key) int
}

// Where implements placer: it returns the number of the tier that has the page, -1 if none has.
func (t *Tiered) Where(k Key) int {
	for i, s := range t.tiers {
		if s.Has(k) {
			return i
		}
	}
	return -1
}

// Media returns what each tier is made of, in order.
func (c *Cache) Media() (all []string) {
	for _, t := range c.Stats().Tiers {
		all = append(all, t.Medium)
	}
	return all
}

// Where returns, for each page that holds bytes [off, off+n) of the content, one more than the number of the tier that has it,
// 0 if none has. It looks at every page. Errors: errs.Range.
func (c *Cache) Where(of Content, off, n int64) ([]byte, error) {
	from, to, err := of.span(off, n)
	if err != nil {
		return nil, err
	}
	pages := make([]byte, to-from)
	for i := range pages {
		pages[i] = byte(c.where(of.key(from+uint32(i))) + 1)
	}
	return pages, nil
}

func (c *Cache) where(k Key) int {
	if p, ok := c.store.(placer); ok {
		return p.Where(k)
	}
	if c.store.Has(k) {
		return 0
	}
	return -1
}

// span returns the pages [from, to) that hold bytes [off, off+n).
func (c Content) span(off, n int64) (from, to uint32, err error) {
	if off < 0 || n < 0 || off > c.Len || n > c.Len-off {
		return 0, 0, errs.New("page.Span", "", errs.Range, "the range lies outside the content")
	}
	if n == 0 {
		return 0, 0, nil
	}
	return uint32(off / Size), uint32((off+n-1)/Size) + 1, nil
}

// Load reads the pages that hold bytes [off, off+n) of the content and are not in the store, as a reader would, and waits
// until the store has been given them. That it does not keep them is no error. Errors: a Reader's.
func (c *Cache) Load(ctx context.Context, of Content, off, n int64, source Source) error {
	from, to, err := of.span(off, n)
	if err != nil {
		return err
	}
	for from < to {
		if c.store.Has(of.key(from)) {
			from++
			continue
		}
		end := from + 1
		for end < to && !c.store.Has(of.key(end)) {
			end++
		}
		if err := c.load(ctx, of, int64(from)*Size, min(int64(end)*Size, of.Len), source); err != nil {
			return err
		}
		from = end
	}
	return nil
}

// load reads bytes [off, end) and waits until the store has been given their pages.
func (c *Cache) load(ctx context.Context, of Content, off, end int64, source Source) error {
	r := c.NewReader(ctx, of, off, end-off, source)
	r.loads = true
	_, err := r.WriteTo(io.Discard)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	from, to, serr := of.span(off, end-off)
	if err == nil {
		err = serr
	}
	for ; err == nil && from < to; from++ {
		err = c.stored(ctx, of.key(from))
	}
	return err
}

// stored waits until the page is not on its way into the store.
func (c *Cache) stored(ctx context.Context, k Key) error {
	for {
		c.mu.Lock()
		fl := c.flying[k]
		if fl == nil || fl.lingers {
			c.mu.Unlock()
			return nil
		}
		fl.mu.Lock()
		news, over := fl.news, fl.over
		fl.mu.Unlock()
		c.mu.Unlock()
		if over {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// DropRange forgets the pages that hold bytes [off, off+n) of the content. Errors: errs.Range.
func (c *Cache) DropRange(of Content, off, n int64) error {
	from, to, err := of.span(off, n)
	if err != nil {
		return err
	}
	if from < to {
		c.store.Drop(of.key(0), from, to)
	}
	return nil
}
