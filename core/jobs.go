package core

import (
	"context"
	"time"
)

// JobKind says what a job does.
type JobKind string

// The kinds of jobs.
const (
	JobLoad JobKind = "load" // read all pages of files into the caches of the workers that they belong to
	JobFree JobKind = "free" // drop the pages of files from the caches of all workers
	// JobPin has files stay in the caches, and what they will be: it notes the path, and has them loaded and kept.
	JobPin JobKind = "pin"
	// JobUnpin takes a path back that was pinned, and has its files be evicted as others are.
	JobUnpin JobKind = "unpin"
	// JobPersist brings files that workers hold to their stores, see Persister.
	JobPersist JobKind = "persist"
	// JobSync compares names with their stores, see Syncer.
	JobSync JobKind = "sync"
)

// JobState says how far a job is.
type JobState string

// The states of jobs. The last three are final.
const (
	JobQueued    JobState = "queued"
	JobRunning   JobState = "running"
	JobDone      JobState = "done"
	JobFailed    JobState = "failed" // for some files, or before it came to any
	JobCancelled JobState = "cancelled"
)

// Final reports whether the state is the last one of a job.
func (s JobState) Final() bool { return s == JobDone || s == JobFailed || s == JobCancelled }

// Jobs is long-running work, which the leader does and remembers. A job ends with the reign of the leader that runs it. Only a
// superuser may use it: errs.Permission.
type Jobs interface {
	// StartJob begins a job, or queues it behind others. Errors: errs.Invalid for an unknown kind; errs.Busy if too many are
	// queued; errs.NotExist and what else Stat has to say of the path.
	StartJob(ctx context.Context, s JobSpec) (Job, error)
	// Job returns the job id as it is, once it has ended or after the time of wait, whichever comes first. Errors: errs.NotExist,
	// also if the leader that ran it leads no more, or so many have ended since that it is forgotten.
	Job(ctx context.Context, id string, wait time.Duration) (Job, error)
	// Jobs returns those that are queued, run, or have ended lately, the latest first.
	Jobs(ctx context.Context) ([]Job, error)
	// CancelJob has the job end, and returns it without waiting for that. One that has ended stays what it is. Errors: errs.NotExist.
	CancelJob(ctx context.Context, id string) (Job, error)
}

// JobSpec says what a job is to do.
type JobSpec struct {
	Kind JobKind
	Path Path
	Flat bool // of a directory only its own files, not those further below; not of JobPersist

	Overwrite bool // of JobPersist: as in PersistOptions
	Force     bool // of JobSync: as in SyncOptions
	DryRun    bool // likewise
	Resume    bool // likewise
	Gentle    bool // likewise
}

// Job is a job at one moment.
type Job struct {
	ID             string
	JobSpec        JobSpec
	State          JobState
	User           string // who started it
	Created        time.Time
	Started, Ended time.Time // zero if it has not
	Done, Total    int64     // files; Total is 0 until they are counted
	Bytes          int64     // of Done, and of parts of others
	TotalBytes     int64
	Failures       int64     // files among Done that failed
	Failed         []Failure // the first of them
	Why            string    // it failed or was cancelled, beside files that failed
	Diff           *SyncDiff // of JobSync: what it found so far
	Resumed        time.Time // of JobSync: when the one began that it goes on from; zero if it began anew
}

// SyncDiff is what a sync has found.
type SyncDiff struct {
	Added, Changed, Removed int64
	First                   []SyncFound // at most MaxSyncFound of each
	Answers                 int64       // of stores: listings, and files looked at
}

// SyncFound is a name at which a sync has found something.
type SyncFound struct {
	Change SyncChange
	Path   Path
}

// MaxSyncFound is how many names of each SyncChange a SyncDiff has.
const MaxSyncFound = 100

// Failure is a file for which something failed.
type Failure struct {
	Path Path
	Err  error
}

// CacheCare tells what is in the caches of workers. Only a superuser may use it: errs.Permission.
type CacheCare interface {
	// Residency counts the pages of all files below p, or of the file p, page by page on the workers. Errors: errs.NotExist;
	// errs.Unsupported if no worker's cache can be looked into.
	Residency(ctx context.Context, p Path, flat bool) (Residency, error)
	// Where says which workers have which bytes of the file p, in order, up to max stretches. Errors: errs.IsDir, and Residency's.
	Where(ctx context.Context, p Path, max int) ([]Stretch, error)
	// LastMiss returns what each worker remembers of the last read of the file p that missed, and the leader, if it is none of them,
	// of its own. Of an empty file, of which nothing is read, that is none. Errors: errs.IsDir, and Residency's.
	LastMiss(ctx context.Context, p Path) ([]WorkerMisses, error)
	// Pins returns what is pinned, by path, and then what path rules and mounts have be kept.
	Pins(ctx context.Context) ([]Pin, error)
}

// Pin is a path whose files stay in caches, whatever their version: a file, or all below a directory. It is journaled; the
// leader has the workers load and keep what they do not, again and again.
type Pin struct {
	Path  Path
	Flat  bool
	Since time.Time
	By    string // who pinned it
	// Rule: nobody did. A path rule or a mount has replication_min be more than 0 there, of some of the files below at least.
	Rule bool
	// As the leader last found it; the zero time of Checked: it has not looked yet.
	Checked      time.Time
	Files, Bytes int64
	Failures     int64     // files of which not all is kept
	Failed       []Failure // the first of them
	Why          string    // it could not look
}

// Residency is how much of some files is in caches.
type Residency struct {
	Files, Whole       int64 // files; those of which every page is cached
	Bytes, CachedBytes int64
	// Cached are the pages that are on the worker which a reader asks for them, Elsewhere those that only others have.
	Pages, Cached, Elsewhere int64
	// Short are the pages that fewer workers have, of those that are to keep them, than Copies.Min of their file says.
	Short    int64
	Workers  []WorkerPages // by name
	Failures int64
	Failed   []Failure // files that could not be looked at, the first of them
}

// WorkerPages are the pages that one worker has of the files that were asked for.
type WorkerPages struct {
	Worker       string
	Pages, Bytes int64
	Tiers        []TierPages // the fastest first
	Err          error       // why it could not be asked, the last time that it could not
}

// TierPages are the pages in one tier of a worker.
type TierPages struct {
	Medium       string
	Pages, Bytes int64
}

// Stretch is bytes of a file that are in the same places.
type Stretch struct {
	Off, Len int64
	Owner    string   // the worker which a reader asks, unless there are more copies
	Keepers  []string // the workers that are to have it, the owner first: as many as Copies.Min says, if there are so many failure domains
	Copies   Copies
	Places   []CachePlace
}

// CachePlace is a worker that has a page.
type CachePlace struct {
	Worker string
	Tier   int // from 0, the fastest
	Medium string
}
