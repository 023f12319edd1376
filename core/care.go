package core

import (
	"context"
	"time"
)

// Care is the operator's side of the journal. Only a superuser may use it: errs.Permission.
type Care interface {
	// Life says which life of the journal this is, and whether changes are held. Errors: errs.Unavailable.
	Life(ctx context.Context) (Life, error)

	// Release compares everything that the journal says of files, directories and unfinished changes with the stores, makes
	// the journal say what they say, and then accepts changes. It changes no store. Errors: errs.Precondition if nothing is
	// held, or a store holds nothing of what the journal has there; errs.Busy if it is under way already; errs.Unavailable
	// with the mount whose store does not answer. After an error changes stay held.
	Release(ctx context.Context, o ReleaseOptions) (ReleaseReport, error)

	// Check looks for what is wrong with the journal and, with Stores, for files whose bytes are not in their store as the
	// journal has them. It changes nothing. What it finds is no error. Errors: errs.Unavailable.
	Check(ctx context.Context, o CheckOptions) (CheckReport, error)
}

// Life is one life of a journal, from its making or restoring to the next restoring.
type Life struct {
	Incarnation string    // at random; part of the names of cached pages
	Since       time.Time // when it began
	Held        string    // why nothing is changed until it is released; "" if changes are accepted
	Seq         uint64    // last record of the journal
	Term        int64     // the leader's reign
}

// ReleaseOptions are the options of Release.
type ReleaseOptions struct {
	DryRun        bool // only report
	AcceptMissing bool // a store that holds nothing of what the journal has there is right
}

// ReleaseReport says what a release compared and what it made of it.
type ReleaseReport struct {
	Released bool  // changes are accepted
	Proved   int64 // files that are in their store as the journal had them
	Dirs     int64 // directories that are there
	Changes  []Finding
}

// CheckOptions are the options of Check.
type CheckOptions struct {
	Stores bool // ask the stores about every file of the overlay
}

// CheckReport says what a check looked at and what it found.
type CheckReport struct {
	Incarnation string
	Seq         uint64 // last record that was looked at
	Records     int64  // of the journal
	Pages       int64  // of the checkpoint
	Entries     int64  // of the overlay
	Proved      int64  // files whose bytes are in their store as the journal has them; 0 without Stores
	Findings    []Finding
}

// Finding is one thing that was found, or made of what was found.
type Finding struct {
	Kind string // a word of a closed list, for tools
	Name string // the path, key or number it is about
	Why  string // for people
}
