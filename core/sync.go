package core

import (
	"context"
	"time"
)

// Syncer keeps the namespace true to what others have done to the stores behind it. Only a superuser may use it:
// errs.Permission.
type Syncer interface {
	// Sync compares what is known of p with its store now, whatever the age of what is known, and takes over what has changed: of
	// a file the file, of a directory the names in it. Names with a change through Sluice under way are left to that; what no
	// store has yet stays what it is. What it finds is told to w while it runs, as are directories that could not be compared,
	// which keep what was known of them; they are no error. Errors: errs.NotExist if p was not known and its store does not have
	// it either; errs.Unavailable; the cause of ctx's end. What was compared until then stays.
	Sync(ctx context.Context, p Path, o SyncOptions, w SyncWatch) error

	// Invalidate has nothing count that is known of the paths and of what is below them: the next access asks the store, even
	// where facts of any age would do. It is journaled. What no store has yet stays what it is. Errors: errs.Invalid for no path,
	// or more than MaxInvalidated.
	Invalidate(ctx context.Context, paths ...Path) error
}

// MaxInvalidated is how many paths one Invalidate may name.
const MaxInvalidated = 1000

// SyncOptions are the options of Sync.
type SyncOptions struct {
	Recursive bool // also what is below the directories in p, and in the mounts there
	Force     bool // ask about each file of which more is known than listings say, too, where a listing shows the version that is known
	DryRun    bool // only tell; nothing that is known changes
	Resume    bool // go on where the last Sync of p with the same Recursive and Force was cut off, if this leader led it, within a day, and no mount has changed since; else all of it. What that had failed at is done again. Not with DryRun: errs.Invalid
	Gentle    bool // one directory at a time, whatever the store could answer; Resume does not go on from it
}

// SyncWatch is told what a Sync finds. It must be safe for concurrent use, and not wait.
type SyncWatch interface {
	// Compared says that so many more names were compared with their store, in so many more answers of it.
	Compared(names, answers int64)
	// Differs says what was found at a name, or would be taken over; of a directory that is gone also all names known below it.
	Differs(c SyncChange, p Path)
	// Failed says that a directory or file could not be compared.
	Failed(p Path, err error)
	// Resumed says, before all else, that the Sync goes on from one that was cut off, the first of which began then.
	Resumed(began time.Time)
}

// SyncChange is how a store differs from what was known.
type SyncChange string

// The changes.
const (
	SyncAdded   SyncChange = "added" // or never looked at before
	SyncChanged SyncChange = "changed"
	SyncRemoved SyncChange = "removed"
)

// Synced is a Sync that has ended.
type Synced struct {
	Path         Path // exact
	Began, Ended time.Time
	Recursive    bool
	Partly       bool // something in it could not be compared
}
