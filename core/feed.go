package core

import (
	"context"
	"time"
)

// Feeds takes what the stores of mounts tell of changes that others make to them. What is told is a hint, which may be late,
// repeated or out of order: names are compared with the store, and what is believed is its word.
type Feeds interface {
	// MayTell reports errs.Permission unless the caller is a superuser or the token that of a mount with events=webhook.
	MayTell(ctx context.Context, token string) error

	// Told takes hints for those mounts with events=webhook that the caller may tell of: all of them, or those with the token. It
	// returns once each name was compared with its store, or will be on the next access, even by the next leader. Errors:
	// MayTell's; errs.Unavailable, if the hints are to be told again.
	Told(ctx context.Context, token string, hints []Hint) (Told, error)

	// Subscribed notes that whoever sends hints asks to have that confirmed at the address, for a superuser to see in the mounts
	// that the caller may tell of. Errors: MayTell's.
	Subscribed(ctx context.Context, token, confirm string) error

	// Feeds returns how the feeds of mounts with the option events are, by their paths. Only a superuser may ask: errs.Permission.
	Feeds(ctx context.Context) ([]FeedInfo, error)
}

// Hint says that something may have happened to an object of a store.
type Hint struct {
	Store   string // as in the URI of its mount: "s3://bucket"
	Key     string // of the object in the bucket
	Removed bool
	At      time.Time // when, by the store's clock; zero: not told
	ETag    string    // of what was written, without quotes; "": not told
	Size    int64     // of that, in bytes, if ETag is told
}

// Told says what became of hints.
type Told struct {
	Taken   int      // of names in mounts
	Outside int      // of names of a mount's store that are not below the mount's root, or that no mount shows
	Unknown []string // stores that no mount has with whose events it can be told; at most MaxUnknown
}

// MaxUnknown is how many stores Told names.
const MaxUnknown = 10

// FeedInfo is what a mount's feed has told the leader, since that began to lead.
type FeedInfo struct {
	Path    Path             // of the mount, as a directory
	Kind    string           // "inotify", "hdfs" or "webhook"
	State   string           // "live"; "waiting" for a first event; "starting"; or why not all is told, for people
	Live    bool             // all changes are told, as far as the feed itself can know
	Events  int64            // that concerned names of the mount
	Kinds   map[string]int64 // the same, by what they said: "touched", "arrived", "created", "removed"
	Own     int64            // those among them that told of a write through Sluice, and had nothing asked
	Gaps    int64            // times that events may have been lost
	Rescans int64            // comparisons of the whole mount or of a directory because of that, begun
	Pending int64            // names that are to be compared
	Last    time.Time        // when the last event came; zero: never
	Lag     time.Duration    // from the last event, by the store's clock where that is told, until its name was compared
	Confirm string           // address at which a superuser may confirm a subscription; "": none is asked for
}
