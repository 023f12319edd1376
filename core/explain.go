package core

import (
	"context"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// Explainer says why a name is answered as it is.
type Explainer interface {
	// Explain returns what is known of p. It changes nothing and asks no store, unless o.Fresh. A name that is not there, or of
	// which nothing is known, is explained too. Errors: errs.Permission unless the principal may read p (or, where p is not known
	// to be there, the directory above it), and for o.For unless he is a superuser; errs.Unavailable if his right is not known
	// without a store.
	Explain(ctx context.Context, p Path, o ExplainOptions) (Explanation, error)
	// CarriedRenames returns the renames that are not carried through to their stores yet, the oldest first. Errors: errs.Permission
	// unless the principal is a superuser.
	CarriedRenames(ctx context.Context) ([]CarriedRename, error)
}

// CarriedRename is a rename of a directory that readers see and its store does not have yet. Nothing below either name is changed.
type CarriedRename struct {
	ID       string // what RenameInProgress says
	From, To string // To may be "" if Removing
	Since    time.Time
	Removing bool  // all has its copy; the originals are being removed
	Copied   int64 // names that have their copy, as far as that is known
	Left     int64 // names that are known to have none
	Counted  bool  // Left are all

	Tries   int64     // that failed since this process leads
	Err     error     // of the last of them; nil for who is no superuser
	Refused []Failure // the first of what it could not copy, by new names, at most MaxRefused; none for who is no superuser
	Next    time.Time // when the next begins; in the past: it is under way
}

// MaxRefused is how many files of a rename are named that its store refuses to copy.
const MaxRefused = 5

// String says it for people.
func (r *CarriedRename) String() string {
	if r.Removing {
		return "the rename of " + r.From + " is done, and its originals are not all removed from the store: the name is not used again until then"
	}
	return "the rename of " + r.From + " to " + r.To + " is not carried through: the store has it under the old name, others who use the store find it there, and until it is copied nothing below is changed"
}

// ExplainOptions are the options of Explain.
type ExplainOptions struct {
	Fresh bool       // look p up first, as a request with no-cache would
	For   *Principal // whose rights on p are told; nil: the caller's
}

// Explanation is what is known of a name at one moment.
type Explanation struct {
	Path  Path      // exact where it is known whether a file or a directory is meant
	State NameState // of it
	By    FactBy    // what decides that
	At    time.Time // when the fact was learnt that decides it; zero if the journal is the authority, or nothing is known
	About Path      // of whom that fact is, if not of Path itself: a directory that is absent, or wholly listed
	Info  *Info     // if Present, and if Unknown ByJournal: as the journal has it

	Mount    MountInfo // for who is no superuser without URI, Options and State
	Kind     string    // of the store behind it
	Policies []Policy

	Interval time.Duration  // how old facts may be; negative: of any age
	Age      time.Duration  // since At
	Access   string         // what an access without wishes of its own does now, for people
	Asks     bool           // it asks the store before it answers
	Changing bool           // a change through Sluice is under way at the name
	Carried  *CarriedRename // the rename that is not carried through to the store yet, that the name is part of; nil if none
	Synced   *Synced        // the last Sync of it by this leader; nil: none that is remembered

	Children   *KnownChildren // of a directory
	Durability *Durability    // of a file
	Exposed    []Exposure     // what would be lost with which worker, by its name; none if the store has everything, or it is gone
	Gone       Gone           // what is lost already
	More       bool           // there are more than MaxExposed files that no store has yet: Exposed and Gone are of so many

	For         Principal // whose rights follow
	Rights      uint32    // a sum of 4 (read), 2 (write), 1 (execute) that he has on p, passing the directories above it included
	Conditional bool      // If-Match and If-None-Match hold against all who write to the store; false: among Sluice's writers only
	Conditions  string    // the same for people, with why
}

// opCarried is the operation of errors that BeingCarried made.
const opCarried = "namespace.Carried"

// BeingCarried returns the errs.Unavailable of a change at the path while a CarriedRename keeps it from being made.
func BeingCarried(path string) error {
	return errs.New(opCarried, path, errs.Unavailable,
		"a rename of it, or of what holds it, is still being carried through to the store; nothing there is changed until then, try again")
}

// WhyCarried returns what a user is told of an error that BeingCarried made, whatever it was wrapped in and wherever it comes from. It is
// "" of other errors.
func WhyCarried(err error) string { return toldOf(opCarried, err) }

// NameState says whether a name is known to be there.
type NameState string

// The states of names.
const (
	NamePresent NameState = "PRESENT"
	NameAbsent  NameState = "ABSENT"
	NameUnknown NameState = "UNKNOWN"
)

// FactBy says what decides whether a name is there.
type FactBy string

// What decides.
const (
	ByJournal   FactBy = "journal"   // Sluice made it, or keeps more of it than the store does; Unknown: it was not compared with the store yet
	ByStore     FactBy = "store"     // the store said so when it was asked about the name, or listed
	ByListing   FactBy = "listing"   // the directory was listed, and the name was not in it
	ByDirectory FactBy = "directory" // a directory above it is not there
	ByNobody    FactBy = ""          // nobody has asked
)

// KnownChildren is what is known of the names in a directory without asking its store.
type KnownChildren struct {
	Present, Absent int       // names that the store was said to have, or not to have, each by itself
	Complete        bool      // all others are known to be absent: the whole directory was listed
	Oldest          time.Time // when what is known of the listing was learnt, the oldest part of it; zero if it was not listed
	Journaled       int       // names in the journal, up to MaxJournaled
}

// MaxJournaled is up to what number names of the journal are counted in KnownChildren.
const MaxJournaled = 10_000

// Exposure is what would be lost with a worker.
type Exposure struct {
	Worker string
	Away   bool  // it cannot be reached now, or does not say what it has
	Files  int64 // of which it is the only holder that can be reached or, if it is away, that have no other holder at all
	Bytes  int64 // of these
	Shared int64 // further files that it holds, which others hold too
	First  []Path
}

// MaxExposed is up to what number the files below a directory are counted that no store has yet.
const MaxExposed = 100_000

// Gone are files that no store has, and none of the workers that held them has any more: each was asked.
type Gone struct {
	Files int64
	Bytes int64 // of these
	First []Path
}
