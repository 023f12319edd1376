package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/remote"
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
	for _, n := range slices.Concat(cacheCounters(g.cache), heldCounters(g.held), g.writeBehindCounters(), g.previousCounters(), g.isolations.counters(), []number{g.journalCounter(), g.waitsCounter()}) {
		problems = append(problems, g.metrics.Counter(n.name, n.help, n.read))
	}
	for _, n := range slices.Concat(cacheGauges(g.cache), heldGauges(g.held), g.writeBehindGauges(), g.isolations.gauges(), g.waitsGauges()) {
		problems = append(problems, g.metrics.Gauge(n.name, n.help, n.read))
	}
	for _, n := range g.feedCounters() {
		problems = append(problems, g.metrics.Counter(n.name, n.help, n.read))
	}
	for _, n := range g.feedGauges() {
		problems = append(problems, g.metrics.Gauge(n.name, n.help, n.read))
	}
	problems = append(problems,
		g.metrics.Gauge("sluice_jobs", "Jobs that wait or run at this process, which leads, by kind and state.", g.jobsNow),
		g.metrics.Counter("sluice_jobs_ended_total", "Jobs that have ended while this process led, by kind and last state.", g.jobsEnded))
	return errors.Join(problems...)
}

// leading returns the work of this process, nil unless it leads.
func (g *gateway) leading() *work {
	if g.master == nil {
		return g.work
	}
	if r := g.master.turn.now(); r != nil {
		return r.work
	}
	return nil
}

func (g *gateway) jobsNow(report func(int64, telemetry.Labels)) {
	w := g.leading()
	if w == nil {
		return
	}
	s := w.runner.Stats()
	for kind := range s.Queued {
		report(s.Queued[kind], telemetry.Labels{"kind": string(kind), "state": string(core.JobQueued)})
		report(s.Running[kind], telemetry.Labels{"kind": string(kind), "state": string(core.JobRunning)})
	}
}

func (g *gateway) jobsEnded(report func(int64, telemetry.Labels)) {
	w := g.leading()
	if w == nil {
		return
	}
	for kind, states := range w.runner.Stats().Ended {
		for state, n := range states {
			report(n, telemetry.Labels{"kind": string(kind), "state": string(state)})
		}
	}
}

// ofFeeds reads a number of each mount's feed where this process leads.
func (g *gateway) ofFeeds(read func(f core.FeedInfo, report func(int64, telemetry.Labels))) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) {
		w := g.leading()
		if w == nil {
			return
		}
		for _, f := range w.feeds() {
			read(f, report)
		}
	}
}

func (g *gateway) feedCounters() []number {
	return []number{
		{"sluice_feed_events_total", "Events that told of changes in a mount's store while this process led, by what they said.",
			g.ofFeeds(func(f core.FeedInfo, report func(int64, telemetry.Labels)) {
				for kind, n := range f.Kinds {
					report(n, telemetry.Labels{"mount": f.Path.File().String(), "kind": kind})
				}
			})},
		{"sluice_feed_own_events_total", "Events of a mount that told of writes through Sluice, for which the store was not asked.",
			g.ofFeeds(ofMount(func(f core.FeedInfo) int64 { return f.Own }))},
		{"sluice_feed_gaps_total", "Times that events of a mount may have been lost.", g.ofFeeds(ofMount(func(f core.FeedInfo) int64 { return f.Gaps }))},
		{"sluice_feed_rescans_total", "Comparisons of a mount, or of a directory of it, because events may have been lost.",
			g.ofFeeds(ofMount(func(f core.FeedInfo) int64 { return f.Rescans }))},
	}
}

func (g *gateway) feedGauges() []number {
	return []number{
		{"sluice_feed_live", "1 if all changes in a mount's store are told, as far as the feed can know.", g.ofFeeds(ofMount(func(f core.FeedInfo) int64 {
			if f.Live {
				return 1
			}
			return 0
		}))},
		{"sluice_feed_pending_names", "Names of a mount that events told of, and that are to be compared.", g.ofFeeds(ofMount(func(f core.FeedInfo) int64 { return f.Pending }))},
		{"sluice_feed_lag_milliseconds", "From a mount's last event, by the store's clock where it tells the time, until its name was compared.",
			g.ofFeeds(ofMount(func(f core.FeedInfo) int64 { return f.Lag.Milliseconds() }))},
	}
}

func ofMount(read func(core.FeedInfo) int64) func(core.FeedInfo, func(int64, telemetry.Labels)) {
	return func(f core.FeedInfo, report func(int64, telemetry.Labels)) {
		report(read(f), telemetry.Labels{"mount": f.Path.File().String()})
	}
}

func (g *gateway) journalCounter() number {
	return number{"sluice_journal_records_total", "Sequence of the last record of the journal.",
		func(report func(int64, telemetry.Labels)) { report(int64(g.seq()), nil) }}
}

// seq returns the sequence of the last record this process's namespace knows, 0 without one.
func (g *gateway) seq() uint64 {
	if n := g.names(); n != nil {
		return n.Seq()
	}
	return 0
}

// names returns the namespace of this process, nil unless it leads.
func (g *gateway) names() *namespace.Namespace {
	if g.ns != nil {
		return g.ns
	}
	if g.master == nil {
		return nil
	}
	return g.master.leading.Load()
}

// waitsOf reports a number of each mount.
func (g *gateway) waitsOf(value func(namespace.StoreWaits) int64) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) {
		if n := g.names(); n != nil {
			for _, w := range n.StoreWaits() {
				report(value(w), telemetry.Labels{"mount": w.Mount})
			}
		}
	}
}

func (g *gateway) waitsCounter() number {
	return number{"sluice_ufs_waits_total", "Callers that had to wait for the store of a mount, at the leader: requests, also those that share a call, and background writes, but not the listings of syncs.",
		g.waitsOf(func(w namespace.StoreWaits) int64 { return w.Ever })}
}

func (g *gateway) waitsGauges() []number {
	return []number{
		{"sluice_ufs_waiting", "Callers that wait for the store of a mount now, at the leader.", g.waitsOf(func(w namespace.StoreWaits) int64 { return w.Now })},
		{"sluice_mount_degraded", "1 while the store of a mount does not answer or refuses changes, at the leader.", g.waitsOf(func(w namespace.StoreWaits) int64 {
			if w.Degraded {
				return 1
			}
			return 0
		})},
	}
}

// previousCounters are of what this process's worker read from those that owned its blocks before.
func (g *gateway) previousCounters() []number {
	of := func(read func(s remote.PreviousStats, report func(int64, telemetry.Labels))) telemetry.Reading {
		return func(report func(int64, telemetry.Labels)) {
			if g.previous != nil {
				read(g.previous.Stats(), report)
			}
		}
	}
	asked := func(s remote.AskedStats, report func(int64, telemetry.Labels)) {
		report(s.Pages, telemetry.Labels{"result": "hit"})
		report(s.Absent, telemetry.Labels{"result": "miss"})
		report(s.Failed, telemetry.Labels{"result": "error"})
	}
	return []number{
		{"sluice_cache_copied_pages_total", "Pages asked for of workers that may have a copy, by outcome.",
			of(func(s remote.PreviousStats, report func(int64, telemetry.Labels)) { asked(s.Copies, report) })},
		{"sluice_cache_copied_bytes_total", "Bytes that came from a worker that had a copy, in place of the store.",
			of(func(s remote.PreviousStats, report func(int64, telemetry.Labels)) { report(s.Copies.Bytes, nil) })},
		{"sluice_cache_local_copy_pages_total", "Pages asked for of workers on other machines for a copy in this process's cache, by outcome.",
			of(func(_ remote.PreviousStats, report func(int64, telemetry.Labels)) {
				asked(g.masters.LocalStats(), report)
			})},
		{"sluice_cache_local_copy_bytes_total", "Bytes of the copies that came.",
			of(func(_ remote.PreviousStats, report func(int64, telemetry.Labels)) {
				report(g.masters.LocalStats().Bytes, nil)
			})},
		{"sluice_cache_previous_owner_pages_total", "Pages asked for of the worker that owned them before, by outcome.",
			of(func(s remote.PreviousStats, report func(int64, telemetry.Labels)) { asked(s.AskedStats, report) })},
		{"sluice_cache_previous_owner_bytes_total", "Bytes that came from the worker that owned them before, in place of the store.",
			of(func(s remote.PreviousStats, report func(int64, telemetry.Labels)) { report(s.Bytes, nil) })},
	}
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
		{"sluice_cache_promoted_pages_total", "Pages moved to a faster tier.", byTier(c, func(t page.TierStats) int64 { return t.Promoted })},
		{"sluice_cache_scrubbed_pages_total", "Pages verified by the scrubber.", byTier(c, func(t page.TierStats) int64 { return t.Scrubbed })},
		{"sluice_cache_scrubs_total", "Verifications of all pages that have ended.", byTier(c, func(t page.TierStats) int64 { return t.Scrubs })},
		{"sluice_cache_evicted_pages_total", "Pages evicted, by reason.", evicted(c)},
	}
}

func cacheGauges(c *page.Cache) []number {
	return []number{
		{"sluice_cache_fills", "Streams open to fill pages.", whole(c, func(s page.Stats) int64 { return s.FillsInFlight })},
		{"sluice_cache_quota_bytes", "Bytes a tier may hold.", byTier(c, func(t page.TierStats) int64 { return t.Quota })},
		{"sluice_cache_used_bytes", "Bytes of pages in a tier.", byTier(c, func(t page.TierStats) int64 { return t.Used })},
		{"sluice_cache_tier_pages", "Pages in a tier.", byTier(c, func(t page.TierStats) int64 { return t.Pages })},
		{"sluice_cache_pinned_pages", "Readers that are at a page of the tier.", byTier(c, func(t page.TierStats) int64 { return t.Pinned })},
		{"sluice_cache_lent_pages", "Pages of a tier that gateways of this machine read in place.", byTier(c, func(t page.TierStats) int64 { return t.Lent })},
		{"sluice_cache_kept_bytes", "Bytes of pages that stay because what they are of is pinned.", byTier(c, func(t page.TierStats) int64 { return t.KeptBytes })},
		{"sluice_cache_tier_off", "1 if a tier turned itself off after a fault, or its file system is full.", byTier(c, func(t page.TierStats) int64 {
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
