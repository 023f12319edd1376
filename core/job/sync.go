package job

import (
	"context"
	"time"

	"github.com/sluicefs/sluice/core"
)

// Sync returns the job that compares names with their stores. A directory or file that could not be compared has failed; the others
// are compared all the same. Total stays 0: how many names there are is what it finds out.
func Sync(by core.Syncer) Func {
	return func(ctx context.Context, s core.JobSpec, p *Progress) error {
		p.r.mu.Lock()
		p.t.job.Diff = &core.SyncDiff{}
		p.r.mu.Unlock()
		return by.Sync(ctx, s.Path, core.SyncOptions{Recursive: !s.Flat, Force: s.Force, DryRun: s.DryRun, Resume: s.Resume, Gentle: s.Gentle}, watch{p})
	}
}

// watch implements core.SyncWatch over the progress of a job.
type watch struct{ p *Progress }

// Compared implements core.SyncWatch.
func (w watch) Compared(names, answers int64) {
	w.p.r.mu.Lock()
	defer w.p.r.mu.Unlock()
	w.p.t.job.Done += names
	w.p.t.job.Diff.Answers += answers
}

// Differs implements core.SyncWatch.
func (w watch) Differs(c core.SyncChange, at core.Path) {
	w.p.r.mu.Lock()
	defer w.p.r.mu.Unlock()
	d := w.p.t.job.Diff
	n := &d.Added
	switch c {
	case core.SyncChanged:
		n = &d.Changed
	case core.SyncRemoved:
		n = &d.Removed
	}
	if *n++; *n <= core.MaxSyncFound {
		d.First = append(d.First, core.SyncFound{Change: c, Path: at})
	}
}

// Failed implements core.SyncWatch.
func (w watch) Failed(at core.Path, err error) { w.p.Did(at, err) }

// Resumed implements core.SyncWatch.
func (w watch) Resumed(began time.Time) {
	w.p.r.mu.Lock()
	defer w.p.r.mu.Unlock()
	w.p.t.job.Resumed = began
}
