package admin

import (
	"cmp"
	"context"
	"math"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicefs/sluice/core"
)

// NewJob says what a job is to do.
type NewJob struct {
	Kind      string `json:"kind" enum:"load,free,pin,unpin,persist,sync" doc:"load: read all pages of files into the caches of the workers that they belong to; free: drop them from the caches of all workers; pin: load them and keep them there, whatever their version, until unpin; persist: bring what workers hold to the store, at once; sync: compare names with their stores and take over what others changed there."`
	Path      string `json:"path" doc:"A file, or a directory for everything below it." example:"/lake/2026"`
	Recursive *bool  `json:"recursive,omitempty" doc:"false: of a directory only its own files. Not of persist."`
	Overwrite bool   `json:"overwrite,omitempty" doc:"Of persist: also what others have put into the store since."`
	Force     bool   `json:"force,omitempty" doc:"Of sync: ask also about each file of which more is known than listings say, where they show the version that is known."`
	DryRun    bool   `json:"dry_run,omitempty" doc:"Of sync: only say what differs."`
	Resume    bool   `json:"resume,omitempty" doc:"Of sync: go on where the last one of the path was cut off, if it was cancelled under the same leader within a day and no mount has changed since; else all of it. What it had failed at is done again. Not with dry_run."`
}

// NewSync says what a sync is to compare.
type NewSync struct {
	Path      string `json:"path" doc:"A file, or a directory for the names in it." example:"/lake/2026"`
	Recursive bool   `json:"recursive,omitempty" doc:"Everything below the directory, and in the mounts there."`
	Force     bool   `json:"force,omitempty" doc:"Ask also about each file of which more is known than listings say, where they show the version that is known."`
	DryRun    bool   `json:"dry_run,omitempty" doc:"Only say what differs."`
	Resume    bool   `json:"resume,omitempty" doc:"Go on where the last sync of the path was cut off, if it was cancelled under the same leader within a day and no mount has changed since; else all of it. What it had failed at is done again. Not with dry_run."`
}

// Invalidation names paths of which nothing that is known counts.
type Invalidation struct {
	Paths []string `json:"paths" minItems:"1" maxItems:"1000" nullable:"false" doc:"Each with all that is below it."`
}

// Diff is what a sync has found.
type Diff struct {
	Added   int64   `json:"added" doc:"Names that the store has and that were not known, because they are new or nobody has looked yet."`
	Changed int64   `json:"changed"`
	Removed int64   `json:"removed"`
	Answers int64   `json:"answers" doc:"Of stores: listings, and files looked at."`
	First   []Found `json:"first" nullable:"false" doc:"The first 100 names of each."`
}

// Found is a name at which a sync has found something.
type Found struct {
	Change string `json:"change" enum:"added,changed,removed"`
	Path   string `json:"path"`
}

// Job is a job at one moment.
type Job struct {
	ID         string     `json:"id"`
	Kind       string     `json:"kind"`
	Path       string     `json:"path"`
	Recursive  bool       `json:"recursive"`
	State      string     `json:"state" enum:"queued,running,done,failed,cancelled"`
	User       string     `json:"user" doc:"Who started it."`
	Created    time.Time  `json:"created"`
	Started    *time.Time `json:"started,omitempty"`
	Ended      *time.Time `json:"ended,omitempty"`
	Done       int64      `json:"done" doc:"Files, those that failed among them."`
	Total      int64      `json:"total" doc:"Files; 0 until they are counted."`
	Bytes      int64      `json:"bytes" doc:"Of what is done."`
	TotalBytes int64      `json:"total_bytes"`
	Failures   int64      `json:"failures" doc:"Files that failed."`
	Failed     []Failure  `json:"failed" nullable:"false" doc:"The first of them."`
	Why        string     `json:"why,omitempty" doc:"It failed as a whole."`
	Rate       float64    `json:"rate,omitempty" doc:"Of done, per second."`
	DryRun     bool       `json:"dry_run,omitempty"`
	Diff       *Diff      `json:"diff,omitempty" doc:"Of a sync."`
	Resumed    *time.Time `json:"resumed,omitempty" doc:"Of a sync with resume: when the one began that it goes on from, what that had failed at included. Absent: it began anew."`
}

// Failure is a file for which something failed.
type Failure struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// Residency is how much of some files is in the caches of workers.
type Residency struct {
	Path        string        `json:"path"`
	Percent     float64       `json:"percent" doc:"Of the pages that are cached, rounded down; 100 only if all are."`
	Files       int64         `json:"files"`
	WholeFiles  int64         `json:"whole_files" doc:"Those of which every page is cached."`
	Bytes       int64         `json:"bytes"`
	CachedBytes int64         `json:"cached_bytes"`
	Pages       int64         `json:"pages"`
	Cached      int64         `json:"cached_pages" doc:"On the worker that a reader asks for them."`
	Elsewhere   int64         `json:"elsewhere_pages" doc:"On other workers only."`
	Short       int64         `json:"short_pages" doc:"Those that fewer workers have, of those that are to keep them, than replication_min says."`
	Workers     []WorkerPages `json:"workers" nullable:"false"`
	Failures    int64         `json:"failures" doc:"Files that could not be looked at."`
	Failed      []Failure     `json:"failed" nullable:"false" doc:"The first of them."`
}

// WorkerPages are the pages that one worker has.
type WorkerPages struct {
	Worker string      `json:"worker"`
	Pages  int64       `json:"pages"`
	Bytes  int64       `json:"bytes"`
	Tiers  []TierPages `json:"tiers" nullable:"false"`
	Why    string      `json:"why,omitempty" doc:"It could not be asked about all files."`
}

// TierPages are the pages in one tier of a worker.
type TierPages struct {
	Tier   int    `json:"tier" doc:"From 0, the fastest."`
	Medium string `json:"medium"`
	Pages  int64  `json:"pages"`
	Bytes  int64  `json:"bytes"`
}

// Stretch is bytes of a file that are in the same places.
type Stretch struct {
	Offset int64        `json:"offset"`
	Length int64        `json:"length"`
	Owner  string       `json:"owner" doc:"The worker that a reader asks for them, unless there are more copies."`
	Places []CachePlace `json:"places" nullable:"false" doc:"Where they are cached: every copy."`

	Keepers   []string `json:"keepers" nullable:"false" doc:"The workers that are to have them, the owner first: as many as replication_min says, fewer if there are fewer failure domains."`
	CopiesMin int      `json:"replication_min"`
	CopiesMax int      `json:"replication_max" doc:"-1: all workers."`
}

// CachePlace is a worker that has pages.
type CachePlace struct {
	Worker string `json:"worker"`
	Tier   int    `json:"tier" doc:"From 0, the fastest."`
	Medium string `json:"medium"`
}

// Pin is a path whose files stay in caches, whatever their version.
type Pin struct {
	Path      string     `json:"path" doc:"A directory's ends in a slash."`
	Recursive bool       `json:"recursive"`
	Since     time.Time  `json:"since"`
	By        string     `json:"by" doc:"Who pinned it; empty of what a rule has be kept."`
	Rule      bool       `json:"rule" doc:"Nobody pinned it: replication_min of a path rule or a mount is more than 0 here. Since is not known."`
	Checked   *time.Time `json:"checked,omitempty" doc:"When the leader last looked at all of its files; what follows is as of then."`
	Files     int64      `json:"files"`
	Bytes     int64      `json:"bytes"`
	Failures  int64      `json:"failures" doc:"Files of which not all is kept."`
	Failed    []Failure  `json:"failed" nullable:"false" doc:"The first of them."`
	Why       string     `json:"why,omitempty" doc:"It could not be looked at."`
}

// JobInput names a job.
type JobInput struct {
	ID string `path:"id"`
}

// maxWait bounds how long a request waits for a job.
const maxWait = 10 * time.Minute

// maxStretches bounds the answer of where.
const maxStretches = 10_000

func (s *Server) registerJobs() {
	const all, one, cache = base + "/jobs", base + "/jobs/{id}", base + "/cache"
	start := clusterOperation("StartJob", http.MethodPost, all, "Start a job")
	start.DefaultStatus = http.StatusCreated
	huma.Register(s.api, start, s.startJob)
	sync := clusterOperation("Sync", http.MethodPost, base+"/sync", "Compare names with their stores, as a job")
	sync.DefaultStatus = http.StatusCreated
	huma.Register(s.api, sync, s.startSync)
	huma.Register(s.api, clusterOperation("Invalidate", http.MethodPost, base+"/invalidate", "Have the next access ask the store, whatever is known"), s.invalidate)
	huma.Register(s.api, clusterOperation("ListJobs", http.MethodGet, all, "List the jobs that wait, run or have ended lately"), s.listJobs)
	huma.Register(s.api, clusterOperation("GetJob", http.MethodGet, one, "Show a job, or wait for its end"), s.getJob)
	huma.Register(s.api, clusterOperation("CancelJob", http.MethodDelete, one, "Have a job end"), s.cancelJob)
	huma.Register(s.api, clusterOperation("GetResidency", http.MethodGet, cache+"/residency", "Count, page by page, what of a file or a tree is cached"), s.residency)
	huma.Register(s.api, clusterOperation("ListPins", http.MethodGet, cache+"/pins", "List what is pinned"), s.pins)
	huma.Register(s.api, clusterOperation("GetDurability", http.MethodGet, base+"/durability", "Say what a file would survive, or wait until its store has it"), s.durability)
	huma.Register(s.api, clusterOperation("GetPlaces", http.MethodGet, cache+"/places", "Say which workers have which bytes of a file"), s.places)
}

type jobOutput struct {
	Location string `header:"Location"`
	Body     Job
}

func (s *Server) startJob(ctx context.Context, in *body[NewJob]) (*jobOutput, error) {
	if s.o.Jobs == nil {
		return nil, failed(ctx, absent("StartJob"))
	}
	if in.Body.Resume && in.Body.Kind != string(core.JobSync) {
		return nil, errResumedKind
	}
	if in.Body.Resume && in.Body.DryRun {
		return nil, errResumedDryRun
	}
	p, err := parsePath(in.Body.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	flat := in.Body.Recursive != nil && !*in.Body.Recursive
	j, err := s.o.Jobs.StartJob(ctx, core.JobSpec{Kind: core.JobKind(in.Body.Kind), Path: p, Flat: flat, Overwrite: in.Body.Overwrite,
		Force: in.Body.Force, DryRun: in.Body.DryRun, Resume: in.Body.Resume})
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &jobOutput{base + "/jobs/" + j.ID, renderJob(j)}, nil
}

var (
	errResumedKind   = huma.Error400BadRequest("resume is of jobs of the kind sync; leave it out")
	errResumedDryRun = huma.Error400BadRequest("a dry run takes nothing over, and leaves nothing to go on from; leave out resume or dry_run")
)

func (s *Server) startSync(ctx context.Context, in *body[NewSync]) (*jobOutput, error) {
	return s.startJob(ctx, &body[NewJob]{NewJob{Kind: string(core.JobSync), Path: in.Body.Path, Recursive: &in.Body.Recursive,
		Force: in.Body.Force, DryRun: in.Body.DryRun, Resume: in.Body.Resume}})
}

func (s *Server) invalidate(ctx context.Context, in *body[Invalidation]) (*struct{}, error) {
	if s.o.Syncer == nil {
		return nil, failed(ctx, absent("Invalidate"))
	}
	paths := make([]core.Path, len(in.Body.Paths))
	for i, name := range in.Body.Paths {
		var err error
		if paths[i], err = core.ParsePath(name); err != nil {
			return nil, failed(ctx, err)
		}
	}
	return nil, failed(ctx, s.o.Syncer.Invalidate(ctx, paths...))
}

func (s *Server) listJobs(ctx context.Context, _ *struct{}) (*body[List[Job]], error) {
	if s.o.Jobs == nil {
		return nil, failed(ctx, absent("ListJobs"))
	}
	all, err := s.o.Jobs.Jobs(ctx)
	return listOf(ctx, all, err, renderJob)
}

func (s *Server) getJob(ctx context.Context, in *struct {
	JobInput
	Wait string `query:"wait" doc:"Answer only once the job has ended, or after this long." example:"30s"`
}) (*body[Job], error) {
	if s.o.Jobs == nil {
		return nil, failed(ctx, absent("GetJob"))
	}
	wait, err := parseWait(in.Wait)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return jobBody(ctx)(s.o.Jobs.Job(ctx, in.ID, wait))
}

// parseWait returns how long a request is to wait.
func parseWait(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxWait {
		return 0, errInvalidWait
	}
	return d, nil
}

var errInvalidWait = huma.Error400BadRequest("wait is a duration of at most " + maxWait.String() + ", such as 30s")

func (s *Server) cancelJob(ctx context.Context, in *JobInput) (*body[Job], error) {
	if s.o.Jobs == nil {
		return nil, failed(ctx, absent("CancelJob"))
	}
	return jobBody(ctx)(s.o.Jobs.CancelJob(ctx, in.ID))
}

func jobBody(ctx context.Context) func(core.Job, error) (*body[Job], error) {
	return func(j core.Job, err error) (*body[Job], error) {
		if err != nil {
			return nil, failed(ctx, err)
		}
		return &body[Job]{renderJob(j)}, nil
	}
}

func renderJob(j core.Job) Job {
	out := Job{
		ID: j.ID, Kind: string(j.JobSpec.Kind), Path: j.JobSpec.Path.String(), Recursive: !j.JobSpec.Flat, State: string(j.State),
		User: j.User, Created: j.Created.UTC(), Started: known(j.Started), Ended: known(j.Ended), Done: j.Done, Total: j.Total,
		Bytes: j.Bytes, TotalBytes: j.TotalBytes, Failures: j.Failures, Failed: failures(j.Failed), Why: j.Why,
		DryRun: j.JobSpec.DryRun, Resumed: known(j.Resumed),
	}
	if !j.Started.IsZero() {
		end := j.Ended
		if end.IsZero() {
			end = time.Now()
		}
		if took := end.Sub(j.Started).Seconds(); took > 0 {
			out.Rate = math.Round(float64(j.Done)/took*10) / 10
		}
	}
	if d := j.Diff; d != nil {
		out.Diff = &Diff{Added: d.Added, Changed: d.Changed, Removed: d.Removed, Answers: d.Answers, First: make([]Found, len(d.First))}
		for i, f := range d.First {
			out.Diff.First[i] = Found{string(f.Change), f.Path.String()}
		}
	}
	return out
}

// known returns t, nil for the zero time.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func failures(all []core.Failure) []Failure {
	out := make([]Failure, len(all))
	for i, f := range all {
		out[i] = Failure{f.Path.String(), f.Err.Error()}
	}
	return out
}

func (s *Server) residency(ctx context.Context, in *struct {
	PathInput
	Recursive bool `query:"recursive" default:"true" doc:"false: of a directory only its own files."`
}) (*body[Residency], error) {
	if s.o.Caches == nil {
		return nil, failed(ctx, absent("GetResidency"))
	}
	p, err := parsePath(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	r, err := s.o.Caches.Residency(ctx, p, !in.Recursive)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Residency]{renderResidency(in.Path, r)}, nil
}

func renderResidency(path string, r core.Residency) Residency {
	out := Residency{
		Path: path, Percent: percent(r.Cached, r.Pages), Files: r.Files, WholeFiles: r.Whole, Bytes: r.Bytes, CachedBytes: r.CachedBytes,
		Pages: r.Pages, Cached: r.Cached, Elsewhere: r.Elsewhere, Short: r.Short, Workers: make([]WorkerPages, len(r.Workers)), Failures: r.Failures,
		Failed: failures(r.Failed),
	}
	for i, w := range r.Workers {
		x := WorkerPages{Worker: w.Worker, Pages: w.Pages, Bytes: w.Bytes, Tiers: make([]TierPages, len(w.Tiers))}
		if w.Err != nil {
			x.Why = w.Err.Error()
		}
		for i, t := range w.Tiers {
			x.Tiers[i] = TierPages{i, t.Medium, t.Pages, t.Bytes}
		}
		out.Workers[i] = x
	}
	return out
}

// percent returns how much of all part is, to a hundredth, never more than it is.
func percent(part, all int64) float64 {
	if part == all {
		return 100
	}
	return math.Floor(float64(part)/float64(all)*10_000) / 100
}

func (s *Server) pins(ctx context.Context, _ *struct{}) (*body[List[Pin]], error) {
	if s.o.Caches == nil {
		return nil, failed(ctx, absent("ListPins"))
	}
	all, err := s.o.Caches.Pins(ctx)
	return listOf(ctx, all, err, func(p core.Pin) Pin {
		return Pin{Path: p.Path.String(), Recursive: !p.Flat, Since: p.Since.UTC(), By: p.By, Rule: p.Rule, Checked: known(p.Checked),
			Files: p.Files, Bytes: p.Bytes, Failures: p.Failures, Failed: failures(p.Failed), Why: p.Why}
	})
}

func (s *Server) places(ctx context.Context, in *PathInput) (*body[List[Stretch]], error) {
	if s.o.Caches == nil {
		return nil, failed(ctx, absent("GetPlaces"))
	}
	p, err := parseFile(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	all, err := s.o.Caches.Where(ctx, p, maxStretches)
	return listOf(ctx, all, err, func(x core.Stretch) Stretch {
		places := make([]CachePlace, len(x.Places))
		for i, p := range x.Places {
			places[i] = CachePlace{p.Worker, p.Tier, p.Medium}
		}
		keepers := x.Keepers
		if keepers == nil {
			keepers = []string{}
		}
		return Stretch{x.Off, x.Len, x.Owner, places, keepers, x.Copies.Min, cmp.Or(x.Copies.Max, 1)}
	})
}
