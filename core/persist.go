package core

import (
	"context"
	"time"
)

// Persister brings bytes that workers hold to their stores.
type Persister interface {
	// Persist asks for the file p, or every file below the directory p, to be brought to its store: at once instead of after
	// its mount's persist delay, and where it was written with MUST_CACHE or was refused. With Wait it returns when that has
	// been done, or cannot be. What its store has already is done. It needs write permission on p. Errors: errs.NotExist;
	// with Wait errs.Conflict for a file that its store has another version of, with the reason, unless Overwrite is set.
	Persist(ctx context.Context, p Path, o PersistOptions) (Persisted, error)

	// Durability says what the file p would survive. Errors: errs.NotExist, errs.IsDir.
	Durability(ctx context.Context, p Path) (Durability, error)
}

// PersistOptions are the options of Persist.
type PersistOptions struct {
	Wait      bool // until it has been done
	Overwrite bool // also what was put into the store by others since the file was written
}

// Persisted says what a Persist was about.
type Persisted struct {
	Files int   // that were not in their store when it was asked for
	Bytes int64 // of these
}

// DurabilityState says where the bytes of a file are.
type DurabilityState string

// The states of durability.
const (
	InStore  DurabilityState = "STORED"  // the store has them
	Pending  DurabilityState = "PENDING" // workers hold them, and they are on their way to the store
	OnlyHeld DurabilityState = "HELD"    // workers hold them, and nothing else is to have them: MUST_CACHE
	Refused  DurabilityState = "REFUSED" // workers hold them, and the store has something else under the name
)

// Durability says what the bytes of a file survive.
type Durability struct {
	Info    Info
	State   DurabilityState
	Write   WriteType // how the write was acknowledged; "" if InStore
	Holders []string  // workers that have all of the bytes; nil if InStore
	Lost    []string  // those of Holders that are not reachable now, or have not the bytes
	Since   time.Time // when the write was acknowledged; zero if InStore
	Why     string    // of InStore, which rename is not carried through yet; of Refused, or what the last try to persist failed with, for who may read the file; else ""
}
