// Package job runs long work for operators at the leader, a few jobs at a time, and remembers how it went: it implements
// core.Jobs. What it does itself is what concerns the caches of workers (Cache); it has no bytes and no names of its own, and
// journals nothing: jobs end with the leader's reign and are started again at the next one by whoever wants them.
package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

const (
	defaultRunning = 2
	defaultKept    = 200
	maxQueued      = 1000
	maxFailures    = 100 // that a job names
)

// Func is the work of one kind of job. It reports files that failed to p and returns an error only for what concerns all of
// them.
type Func func(ctx context.Context, s core.JobSpec, p *Progress) error

// Options are the options of New.
type Options struct {
	Kinds map[core.JobKind]Func
	// Reign is part of the ids of jobs: that of another leader's differs. Without a hyphen.
	Reign string
	// Check looks at what a job is to be about before it is queued; nil: nobody does.
	Check func(ctx context.Context, s core.JobSpec) error
	// Running is how many jobs run at the same time, Kept how many that have ended are remembered. 0: 2 and 200.
	Running, Kept int
}

// Runner implements core.Jobs. Run must be running for jobs to run. It is safe for concurrent use.
type Runner struct {
	o Options

	mu      sync.Mutex
	tasks   []*task       // the oldest first
	last    int           // number of the last task
	over    bool          // nothing runs any more
	changed chan struct{} // closed and replaced when a task is queued or ends
	ended   map[core.JobKind]map[core.JobState]int64
}

var _ core.Jobs = (*Runner)(nil)

// task is a job with what runs it.
type task struct {
	job    core.Job // guarded by Runner.mu
	user   core.Principal
	cancel context.CancelCauseFunc // set when it runs
}

// Progress is how a job tells how far it is. It is safe for concurrent use.
type Progress struct {
	r *Runner
	t *task
}

// errCancelled is why a job ends that was cancelled.
var errCancelled = errors.New("cancelled")

// New returns a runner without jobs.
func New(o Options) *Runner {
	o.Running, o.Kept = cmp.Or(o.Running, defaultRunning), cmp.Or(o.Kept, defaultKept)
	return &Runner{o: o, changed: make(chan struct{}), ended: map[core.JobKind]map[core.JobState]int64{}}
}

// Run runs jobs until ctx ends. Then those that run are cut off, and they and those that are queued have failed.
func (r *Runner) Run(ctx context.Context) {
	var running sync.WaitGroup
	slots := make(chan struct{}, r.o.Running)
	for ctx.Err() == nil {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		if t, own := r.take(ctx); t != nil {
			running.Go(func() {
				defer func() { <-slots }()
				defer t.cancel(nil)
				r.finish(own, t, r.o.Kinds[t.job.JobSpec.Kind](own, t.job.JobSpec, &Progress{r, t}))
			})
		}
	}
	running.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	for _, t := range r.tasks {
		if !t.job.State.Final() {
			r.end(t, core.JobFailed, errOver.Error())
		}
	}
}

// errOver is why a job ends with its runner.
var errOver = errors.New("the leader that ran it leads no more; run it again")

// take waits for a task that is queued, and makes it one that runs, with a context of its own. It returns nil once ctx ends.
func (r *Runner) take(ctx context.Context) (*task, context.Context) {
	for ctx.Err() == nil {
		r.mu.Lock()
		changed := r.changed
		for _, t := range r.tasks {
			if t.job.State == core.JobQueued {
				own, cancel := context.WithCancelCause(core.WithPrincipal(ctx, t.user))
				t.job.State, t.job.Started, t.cancel = core.JobRunning, time.Now(), cancel
				r.mu.Unlock()
				return t, own
			}
		}
		r.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil, nil
}

// finish notes that t, whose context is ctx, ended with err.
func (r *Runner) finish(ctx context.Context, t *task, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(context.Cause(ctx), errCancelled):
		r.end(t, core.JobCancelled, "")
	case ctx.Err() != nil:
		r.end(t, core.JobFailed, errOver.Error())
	case err != nil:
		r.end(t, core.JobFailed, err.Error())
	case t.job.Failures > 0:
		r.end(t, core.JobFailed, "")
	default:
		r.end(t, core.JobDone, "")
	}
}

// end makes state the task's last one, tells who waits, and forgets the oldest of too many. mu must be held.
func (r *Runner) end(t *task, state core.JobState, why string) {
	t.job.State, t.job.Ended, t.job.Why = state, time.Now(), why
	kind := t.job.JobSpec.Kind
	if r.ended[kind] == nil {
		r.ended[kind] = map[core.JobState]int64{}
	}
	r.ended[kind][state]++
	r.tell()
	over := -r.o.Kept
	for _, t := range r.tasks {
		if t.job.State.Final() {
			over++
		}
	}
	r.tasks = slices.DeleteFunc(r.tasks, func(t *task) bool {
		if over > 0 && t.job.State.Final() {
			over--
			return true
		}
		return false
	})
}

// tell wakes who waits for a change. mu must be held.
func (r *Runner) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// allowed refuses who is no superuser.
func allowed(ctx context.Context, op string) error {
	if !core.PrincipalOf(ctx).Super {
		return errs.New("job."+op, "", errs.Permission, "only a superuser may")
	}
	return nil
}

// StartJob implements core.Jobs.
func (r *Runner) StartJob(ctx context.Context, s core.JobSpec) (core.Job, error) {
	const op = "StartJob"
	if err := allowed(ctx, op); err != nil {
		return core.Job{}, err
	}
	if r.o.Kinds[s.Kind] == nil {
		return core.Job{}, errs.New("job."+op, string(s.Kind), errs.Invalid, "there is no such kind of job")
	}
	if r.o.Check != nil {
		if err := r.o.Check(ctx, s); err != nil {
			return core.Job{}, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	queued := 0
	for _, t := range r.tasks {
		if t.job.State == core.JobQueued {
			queued++
		}
	}
	if r.over {
		return core.Job{}, errs.New("job."+op, string(s.Kind), errs.Unavailable, "this leader leads no more; try again")
	}
	if queued >= maxQueued {
		return core.Job{}, errs.New("job."+op, string(s.Kind), errs.Busy, fmt.Sprintf("%d jobs are queued; try again later", queued))
	}
	r.last++
	user := core.PrincipalOf(ctx)
	t := &task{user: user, job: core.Job{
		ID: fmt.Sprintf("%s-%d", r.o.Reign, r.last), JobSpec: s, State: core.JobQueued, User: user.User, Created: time.Now(),
	}}
	r.tasks = append(r.tasks, t)
	r.tell()
	return t.copy(), nil
}

// copy returns the job as it is. Runner.mu must be held.
func (t *task) copy() core.Job {
	j := t.job
	j.Failed = slices.Clone(j.Failed)
	if j.Diff != nil {
		d := *j.Diff
		d.First = slices.Clone(d.First)
		j.Diff = &d
	}
	return j
}

// find returns the task id. mu must be held.
func (r *Runner) find(op, id string) (*task, error) {
	for _, t := range r.tasks {
		if t.job.ID == id {
			return t, nil
		}
	}
	why := "there is no such job, or it ended long ago; list the jobs"
	if reign, _, ok := strings.Cut(id, "-"); ok && reign != r.o.Reign {
		why = errOver.Error()
	}
	return nil, errs.New("job."+op, id, errs.NotExist, why)
}

// Job implements core.Jobs.
func (r *Runner) Job(ctx context.Context, id string, wait time.Duration) (core.Job, error) {
	const op = "Job"
	if err := allowed(ctx, op); err != nil {
		return core.Job{}, err
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	for waited := wait <= 0; ; {
		r.mu.Lock()
		t, err := r.find(op, id)
		if err != nil {
			r.mu.Unlock()
			return core.Job{}, err
		}
		j, changed := t.copy(), r.changed
		r.mu.Unlock()
		if waited || j.State.Final() {
			return j, nil
		}
		select {
		case <-changed:
		case <-over.C:
			waited = true
		case <-ctx.Done():
			return core.Job{}, context.Cause(ctx)
		}
	}
}

// Jobs implements core.Jobs.
func (r *Runner) Jobs(ctx context.Context) (all []core.Job, err error) {
	if err := allowed(ctx, "Jobs"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range slices.Backward(r.tasks) {
		all = append(all, t.copy())
	}
	return all, nil
}

// CancelJob implements core.Jobs.
func (r *Runner) CancelJob(ctx context.Context, id string) (core.Job, error) {
	const op = "CancelJob"
	if err := allowed(ctx, op); err != nil {
		return core.Job{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t, err := r.find(op, id)
	if err != nil {
		return core.Job{}, err
	}
	switch t.job.State {
	case core.JobQueued:
		r.end(t, core.JobCancelled, "")
	case core.JobRunning:
		t.cancel(errCancelled)
	}
	return t.copy(), nil
}

// Stats are the numbers of a Runner.
type Stats struct {
	Queued, Running map[core.JobKind]int64
	Ended           map[core.JobKind]map[core.JobState]int64 // since it was made
}

// Stats returns how many jobs there are and were.
func (r *Runner) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Stats{map[core.JobKind]int64{}, map[core.JobKind]int64{}, map[core.JobKind]map[core.JobState]int64{}}
	for kind := range r.o.Kinds {
		s.Queued[kind], s.Running[kind], s.Ended[kind] = 0, 0, map[core.JobState]int64{}
		for state, n := range r.ended[kind] {
			s.Ended[kind][state] = n
		}
	}
	for _, t := range r.tasks {
		switch t.job.State {
		case core.JobQueued:
			s.Queued[t.job.JobSpec.Kind]++
		case core.JobRunning:
			s.Running[t.job.JobSpec.Kind]++
		}
	}
	return s
}

// Expect says how many files and bytes there are to do.
func (p *Progress) Expect(files, bytes int64) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	p.t.job.Total, p.t.job.TotalBytes = files, bytes
}

// Moved says that n more bytes are done.
func (p *Progress) Moved(n int64) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	p.t.job.Bytes += n
}

// DidAll says that so many files are done, of so many bytes.
func (p *Progress) DidAll(files, bytes int64) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	p.t.job.Done += files
	p.t.job.Bytes += bytes
}

// Did says that the file is done, or has failed with err.
func (p *Progress) Did(path core.Path, err error) {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	j := &p.t.job
	j.Done++
	if err == nil {
		return
	}
	if j.Failures++; len(j.Failed) < maxFailures {
		j.Failed = append(j.Failed, core.Failure{Path: path, Err: err})
	}
}
