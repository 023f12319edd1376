package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/hold"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/gateway/config"
	"github.com/sluicefs/sluice/gateway/telemetry"
)

// openHeld opens the directory in which a worker holds bytes that no store has yet.
func (g *gateway) openHeld(context.Context) error {
	if !g.cfg.Has(config.RoleWorker) {
		return nil
	}
	dir, quota := filepath.Join(g.cfg.Data, "held"), g.cfg.HoldQuota
	if quota == 0 {
		var err error
		if quota, err = autoQuota(config.Tier{Dir: dir}); err != nil {
			return fmt.Errorf("hold_quota: %w", err)
		}
	}
	if quota < hold.MinQuota {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			g.log.Warn("no bytes are held that no store has yet", "reason",
				fmt.Sprintf("%s: a tenth of what is free is %v, less than %v", dir, quota, config.Bytes(hold.MinQuota)))
			return nil
		}
		quota = hold.MinQuota // what is held is served, and goes
	}
	if err := makeDurable(dir); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	s, err := hold.Open(hold.Options{Name: cmp.Or(g.cfg.Name, hostname()), Dir: dir, Quota: int64(quota), Logger: g.log})
	if err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	g.held = s
	g.onClose(s.Close)
	if g.cfg.Alone() {
		g.holders = hold.Alone{Store: s}
	}
	if n := s.Stats(); n.Attempts > 0 {
		g.log.Info("bytes are held that no store has yet", "dir", dir, "files", n.Attempts, "bytes", n.Bytes)
	}
	return nil
}

// callTime is how long a worker believes a call after it was signed: the clocks of masters and workers differ by less.
const callTime = 2 * time.Minute

// findHolders makes the workers of a cluster hold for this master.
func (g *gateway) findHolders(context.Context) error {
	sealer, err := seal.New(g.secretKey)
	if err != nil {
		return err
	}
	o := remote.HoldersOptions{
		Nodes: func() []cluster.Node { nodes, _ := g.master.members.Nodes(); return nodes },
		Sign:  func(text []byte) []byte { return sealer.SignCall(text, time.Now().Add(callTime)) },
	}
	if g.held != nil {
		o.Own = g.held
	}
	g.holders = remote.NewHolders(g.masters, o)
	return nil
}

// heldAt returns how many files a worker holds, or may hold when writes that are under way have ended, nil if that is not known,
// and why they do not go elsewhere.
func (g *gateway) heldAt(ctx context.Context, worker string) (files *int64, why string) {
	if g.holders == nil {
		return nil, ""
	}
	h, ok := g.holders.Holder(worker)
	if !ok {
		return nil, "the worker cannot be reached"
	}
	w := g.leading()
	if w == nil {
		return nil, "this master leads no more; try again"
	}
	ns, leads := w.persister.(interface {
		Leaving(worker string) (files, writes int64, why string)
	})
	var known, writes, n int64
	var stuck string
	if leads { // before the worker is asked: a write that ends in between is told of by one of them
		known, writes, stuck = ns.Leaving(worker)
	}
	for _, err := range h.Holds(ctx) {
		if err != nil {
			return nil, "the worker does not say what it holds: " + err.Error()
		}
		n++
	}
	switch all := n + writes; {
	case all == 0 || !leads:
		return &all, ""
	case g.cfg.Alone():
		return &all, "there is no other worker; what was written with MUST_CACHE goes to its store by sluice persist"
	case stuck != "":
		return &all, stuck
	case writes > 0:
		return &all, fmt.Sprintf("%d writes to it are under way, which began before it was drained", writes)
	case known == 0:
		return &all, "no file of this journal refers to them any more; they are released in the course of minutes, unless they are another journal's"
	default:
		return &all, ""
	}
}

func heldCounters(s *hold.Store) []number {
	if s == nil {
		return nil
	}
	return []number{
		{"sluice_held_commits_total", "Writes that were held.", ofHeld(s, func(t hold.Stats) int64 { return t.Commits })},
		{"sluice_held_syncs_total", "Times that the disk of held bytes was synced.", ofHeld(s, func(t hold.Stats) int64 { return t.Syncs })},
		{"sluice_held_damaged_total", "Held writes found damaged, and not served.", ofHeld(s, func(t hold.Stats) int64 { return t.Damaged })},
		{"sluice_held_torn_total", "Unfinished writes that a start dropped.", ofHeld(s, func(t hold.Stats) int64 { return t.Torn })},
	}
}

func heldGauges(s *hold.Store) []number {
	if s == nil {
		return nil
	}
	return []number{
		{"sluice_held_bytes", "Bytes held that no store is known to have.", ofHeld(s, func(t hold.Stats) int64 { return t.Bytes })},
		{"sluice_held_files", "Writes held.", ofHeld(s, func(t hold.Stats) int64 { return t.Attempts })},
		{"sluice_held_used_bytes", "Bytes of disk that they take.", ofHeld(s, func(t hold.Stats) int64 { return t.Used })},
		{"sluice_held_quota_bytes", "Bytes of disk that they may take.", ofHeld(s, func(t hold.Stats) int64 { return t.Quota })},
		{"sluice_held_oldest_seconds", "Age of the oldest of them.", ofHeld(s, func(t hold.Stats) int64 {
			if t.Oldest.IsZero() {
				return 0
			}
			return max(0, int64(time.Since(t.Oldest).Seconds()))
		})},
		{"sluice_held_off", "1 if nothing is held any more after a fault of the disk.", ofHeld(s, func(t hold.Stats) int64 {
			if t.Off == "" {
				return 0
			}
			return 1
		})},
	}
}

func ofHeld(s *hold.Store, of func(hold.Stats) int64) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) { report(of(s.Stats()), nil) }
}

// writeBehind reads a number of the files that the namespace, where this process leads, has with workers.
func (g *gateway) writeBehind(of func(namespace.Held) int64) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) {
		if w := g.leading(); w != nil {
			if ns, ok := w.persister.(interface{ Held() namespace.Held }); ok {
				report(of(ns.Held()), nil)
			}
		}
	}
}

// renames reports what of counts of the leader's renames.
func (g *gateway) renames(of func(namespace.Carries) int64) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) {
		if w := g.leading(); w != nil {
			if ns, ok := w.persister.(interface{ Carries() namespace.Carries }); ok {
				report(of(ns.Carries()), nil)
			}
		}
	}
}

func (g *gateway) writeBehindCounters() []number {
	return []number{
		{"sluice_persisted_files_total", "Held files brought to their stores since this process leads.", g.writeBehind(func(h namespace.Held) int64 { return h.Persisted })},
		{"sluice_persisted_bytes_total", "Bytes of them.", g.writeBehind(func(h namespace.Held) int64 { return h.PersistedBytes })},
		{"sluice_persist_failed_total", "Tries to bring a held file to its store that failed and are repeated.", g.writeBehind(func(h namespace.Held) int64 { return h.Failed })},
		{"sluice_write_fallbacks_total", "Writes that workers were to hold and the store took at once, for lack of workers.", g.writeBehind(func(h namespace.Held) int64 { return h.FellBack })},
		{"sluice_held_replicated_total", "Copies of held files made for workers that were lost.", g.writeBehind(func(h namespace.Held) int64 { return h.Replicated })},
		{"sluice_renames_late_total", "Renames that took longer than rename_through_timeout and were carried on after their answer.", g.renames(func(c namespace.Carries) int64 { return c.Late })},
		{"sluice_renames_gone_files_total", "Files that others removed from a store before a rename that was carried on came to them.", g.renames(func(c namespace.Carries) int64 { return c.Gone })},
		{"sluice_held_orphans_total", "Held writes released that no file refers to.", g.writeBehind(func(h namespace.Held) int64 { return h.Orphans })},
	}
}

func (g *gateway) writeBehindGauges() []number {
	return []number{
		{"sluice_renames_in_progress", "Renames that were answered and are not carried through to their store.", g.renames(func(c namespace.Carries) int64 { return c.Open })},
		{"sluice_renames_failing", "Renames that were answered, and whose last try to carry them through failed.", g.renames(func(c namespace.Carries) int64 { return c.Failing })},
		{"sluice_dirty_files", "Files whose bytes no store has yet.", g.writeBehind(func(h namespace.Held) int64 { return h.Files })},
		{"sluice_dirty_bytes", "Bytes of them, and of those being written.", g.writeBehind(func(h namespace.Held) int64 { return h.Bytes })},
		{"sluice_dirty_oldest_seconds", "Age of the oldest that is to be brought to its store.", g.writeBehind(func(h namespace.Held) int64 { return int64(h.Oldest.Seconds()) })},
		{"sluice_persist_refused_files", "Files that their store has another version of, which somebody has to decide about.", g.writeBehind(func(h namespace.Held) int64 { return h.Refused })},
	}
}
