package gateway

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/gateway/telemetry"
)

// number is one of the numbers that the parts keep.
type number struct {
	name, help string
	read       telemetry.Reading
}

// watchNumbers publishes the numbers of the page cache and the journal.
func (g *gateway) watchNumbers(context.Context) error {
	var problems []error
	for _, n := range append(cacheCounters(g.cache), g.journalCounter()) {
		problems = append(problems, g.metrics.Counter(n.name, n.help, n.read))
	}
	for _, n := range cacheGauges(g.cache) {
		problems = append(problems, g.metrics.Gauge(n.name, n.help, n.read))
	}
	return errors.Join(problems...)
}

func (g *gateway) journalCounter() number {
	return number{"sluice_journal_records_total", "Sequence of the last record of the journal.",
		func(report func(int64, telemetry.Labels)) { report(int64(g.seq()), nil) }}
}

// seq returns the sequence of the last record this process's namespace knows, 0 without one.
func (g *gateway) seq() uint64 {
	if g.ns != nil {
		return g.ns.Seq()
	}
	if g.master == nil {
		return 0
	}
	if ns := g.master.leading.Load(); ns != nil {
		return ns.Seq()
	}
	return 0
}

func cacheCounters(c *page.Cache) []number {
	return []number{
		{"sluice_cache_pages_total", "Pages that readers came to, by whether the cache had them.",
			byResult(c, func(s page.Stats) (hit, miss int64) { return s.Hits, s.Misses })},
		{"sluice_cache_read_bytes_total", "Bytes given to readers, by whether the cache had them.",
			byResult(c, func(s page.Stats) (hit, miss int64) { return s.HitBytes, s.MissBytes })},
		{"sluice_cache_source_opens_total", "Streams opened to fill pages.", whole(c, func(s page.Stats) int64 { return s.SourceOpens })},
		{"sluice_cache_source_bytes_total", "Bytes read to fill pages.", whole(c, func(s page.Stats) int64 { return s.SourceBytes })},
		{"sluice_cache_put_failures_total", "Pages that no tier took.", whole(c, func(s page.Stats) int64 { return s.PutFailed })},
		{"sluice_cache_corrupt_pages_total", "Pages found damaged.", byTier(c, func(t page.TierStats) int64 { return t.Corrupt })},
		{"sluice_cache_demoted_pages_total", "Pages evicted to the next tier.", byTier(c, func(t page.TierStats) int64 { return t.Demoted })},
		{"sluice_cache_evicted_pages_total", "Pages evicted, by reason.", evicted(c)},
	}
}

func cacheGauges(c *page.Cache) []number {
	return []number{
		{"sluice_cache_fills", "Streams open to fill pages.", whole(c, func(s page.Stats) int64 { return s.FillsInFlight })},
		{"sluice_cache_quota_bytes", "Bytes a tier may hold.", byTier(c, func(t page.TierStats) int64 { return t.Quota })},
		{"sluice_cache_used_bytes", "Bytes of pages in a tier.", byTier(c, func(t page.TierStats) int64 { return t.Used })},
		{"sluice_cache_tier_pages", "Pages in a tier.", byTier(c, func(t page.TierStats) int64 { return t.Pages })},
		{"sluice_cache_pinned_pages", "Pages of a tier that are being read.", byTier(c, func(t page.TierStats) int64 { return t.Pinned })},
		{"sluice_cache_tier_off", "1 if a tier turned itself off after a fault.", byTier(c, func(t page.TierStats) int64 {
			if t.Off == "" {
				return 0
			}
			return 1
		})},
	}
}

func whole(c *page.Cache, of func(page.Stats) int64) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) { report(of(c.Stats()), nil) }
}

func byResult(c *page.Cache, of func(page.Stats) (hit, miss int64)) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) {
		hit, miss := of(c.Stats())
		report(hit, telemetry.Labels{"result": "hit"})
		report(miss, telemetry.Labels{"result": "miss"})
	}
}

func byTier(c *page.Cache, of func(page.TierStats) int64) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) {
		for i, t := range c.Stats().Tiers {
			report(of(t), telemetry.Labels{"tier": fmt.Sprint(i), "medium": t.Medium})
		}
	}
}

func evicted(c *page.Cache) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) {
		for i, t := range c.Stats().Tiers {
			for reason, n := range t.Evicted {
				report(n, telemetry.Labels{"tier": fmt.Sprint(i), "medium": t.Medium, "reason": reason})
			}
		}
	}
}
