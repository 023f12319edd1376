package ufs

import (
	"context"
	"time"
)

// Watcher is a Store that tells of changes that others make to it.
type Watcher interface {
	// Watch tells of what changes in the store, its own changes among them, until ctx ends, and returns why it ended: the cause
	// of ctx's end, or errs.Unavailable if the store can be watched no more. What changes after tell was called with Ready is
	// told, as far as no Blind and no Lost says otherwise, some milliseconds after it was made; what changed before may be.
	// A change says that something happened at a name, not what is there by now. tell is called by one goroutine and must not wait.
	Watch(ctx context.Context, tell func(Change)) error
}

// Change is what a Watcher tells.
type Change struct {
	Kind ChangeKind
	Name string    // file "a", directory "a/", or "" the root
	Why  string    // of Blind
	At   time.Time // when it was made, by the store's clock; zero: not told
}

// ChangeKind says what a Change is about.
type ChangeKind int

// The kinds of changes.
const (
	Ready   ChangeKind = iota // from here on changes are told; Name is ""
	Touched                   // the name was made, changed or removed; a directory that was removed takes with it what was in it
	Arrived                   // a directory came with what is in it: nothing below it was told
	Lost                      // changes in and below the directory may not have been told
	Blind                     // changes in the directory, and perhaps below it, will not be told
	Left                      // the directory is gone, or is another one: no Blind of it or below it holds any more; "": none does
)

// Watch calls s's Watcher.
func Watch(ctx context.Context, s Store, tell func(Change)) error {
	w, err := ability[Watcher](s, s.Features().Watch, "Watch", "")
	if err != nil {
		return err
	}
	return w.Watch(ctx, tell)
}
