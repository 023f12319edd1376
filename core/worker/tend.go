package worker

import (
	"context"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/seal"
)

// Tender implements core.Tender over a cache. It is safe for concurrent use.
type Tender struct {
	cache  *page.Cache
	sealer *seal.Sealer
	source func(t *seal.Ticket) page.Source
	pins   pins
}

// NewTender returns a tender of the cache for tickets that were signed under the sealer's key. source returns where the content
// of a ticket is stored.
func NewTender(cache *page.Cache, sealer *seal.Sealer, source func(t *seal.Ticket) page.Source) *Tender {
	return &Tender{cache: cache, sealer: sealer, source: source, pins: pins{cache: cache, all: map[contentID]*pin{}}}
}

// Close has nothing be pinned any more. It comes before the cache's.
func (t *Tender) Close() { t.pins.close() }

// Tend implements core.Tender.
func (t *Tender) Tend(ctx context.Context, ticket []byte, op core.PageOp, off, n int64) (core.PageReport, error) {
	x, err := t.sealer.Verify(ticket, time.Now())
	if err != nil {
		return core.PageReport{}, err
	}
	if op != core.LookPages && op != core.MissedPages && !x.Tends {
		return core.PageReport{}, errs.New("worker.Tend", x.Key, errs.Permission, "the ticket is one for reading")
	}
	content := contentOf(x)
	if off < 0 || n < 0 || off > content.Len || n > content.Len-off { // before a pin is counted that nothing could fill
		return core.PageReport{}, errs.New("worker.Tend", x.Key, errs.Range, "the range lies outside the content")
	}
	switch op {
	case core.LookPages, core.MissedPages:
	case core.LoadPages, core.PinPages:
		if content.NoCache {
			return core.PageReport{}, errs.New("worker.Tend", x.Key, errs.Precondition,
				"these bytes are not to be kept: the read type is NO_CACHE, or the store's file has only just changed")
		}
		if op == core.PinPages {
			err = t.pins.keep(content, off, n)
		}
		if err == nil {
			err = t.cache.Load(ctx, content, off, n, t.source(x))
		}
	case core.DropPages:
		t.pins.end(content)
		err = t.cache.DropRange(content, off, n)
	case core.UnpinPages:
		t.pins.end(content)
	default:
		err = errs.New("worker.Tend", "", errs.Unsupported, "this worker does not know the operation; it is of another release")
	}
	if err != nil {
		return core.PageReport{}, err
	}
	pages, err := t.cache.Where(content, off, n)
	report := core.PageReport{Media: t.cache.Media(), Pages: pages}
	if op == core.MissedPages {
		report.Misses = t.misses(originOf(x))
	}
	return report, err
}

// misses returns what the cache remembers of the file.
func (t *Tender) misses(of page.Origin) core.Misses {
	m := t.cache.LastMiss(of)
	all := core.Misses{Forgotten: m.Forgotten, Since: m.Since}
	if x := m.Last; x != nil {
		all.Last = &core.MissedRead{At: x.At, Off: x.Off, Len: x.Len, Why: core.MissReason(x.Why), Since: x.Since, Other: x.Other}
	}
	return all
}

func originOf(t *seal.Ticket) page.Origin {
	return page.Origin{Store: t.Store, Key: t.Key, Version: t.Version, Base: t.Base}
}

func contentOf(t *seal.Ticket) page.Content {
	return page.Content{ID: t.ID, Rev: t.Rev, Len: t.Len, NoCache: t.NoCache, Promote: t.Promote}
}

// Alone implements core.Caches for a process that has no other workers.
type Alone struct {
	Name   string
	Tender core.Tender
}

// Workers implements core.Caches.
func (a Alone) Workers() []string { return []string{a.Name} }

// Keepers implements core.Caches.
func (a Alone) Keepers(of core.Run, _ int64) ([]string, int64) {
	return []string{a.Name}, of.Off + of.Len
}

// Tend implements core.Caches.
func (a Alone) Tend(ctx context.Context, worker string, ticket []byte, op core.PageOp, off, n int64) (core.PageReport, error) {
	if worker != a.Name {
		return core.PageReport{}, errs.New("worker.Tend", worker, errs.Unavailable, "there is no such worker")
	}
	return a.Tender.Tend(ctx, ticket, op, off, n)
}
