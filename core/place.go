package core

import (
	"context"
	"io"
	"os"
	"time"
)

// Placer is what a namespace offers beside Open where workers serve bytes: it says what the bytes are and proves that the
// caller may have them, and leaves reading them to whoever asked.
type Placer interface {
	// Place returns what Open would read, without reading it. Errors: Open's; errs.Unsupported if no worker could serve it.
	Place(ctx context.Context, p Path, r Range) (Placed, error)

	// Stores returns the stores that tickets name, for workers.
	Stores(ctx context.Context) ([]StoreSpec, error)
}

// Follower is what a Placer offers to who reads for long.
type Follower interface {
	// Follow returns the ticket for the same content where that is now, if what stored it was renamed since the ticket was made. It
	// is good as long as that one. Errors: errs.Permission for a ticket that is not or no longer valid; errs.Conflict if the content
	// has left its store, as far as is known.
	Follow(ctx context.Context, ticket []byte) ([]byte, error)
}

// Placed is one version of a file, in the range it was opened for.
type Placed struct {
	Info     Info
	Off, Len int64 // the range, after clamping
	Runs     []Run // what it consists of, in order; none if Len is 0
}

// Run is bytes [Off, Off+Len) of one content. The bytes of a content never change.
type Run struct {
	ID       [16]byte
	Rev      uint64
	Off, Len int64
	Copies   Copies // of each of its blocks
	Ticket   []byte // for workers; opaque
}

// StoreSpec is a mount whose store workers open. The values of its options that may hold secrets are sealed.
type StoreSpec struct {
	ID string // never used again for another store
	MountSpec
	Is string // what tells its root from another at its place, see ufs.Features; "" if nothing does
}

// Pages serves the bytes of contents to those who have tickets for them.
type Pages interface {
	// Pages returns a reader of bytes [off, off+n) of the ticket's content. Errors: errs.Permission for a ticket that is not
	// or no longer valid, errs.Range; here or while reading errs.Conflict if the content has left its store, and
	// errs.Unavailable.
	Pages(ctx context.Context, ticket []byte, off, n int64) (PageReader, error)
}

// PageReader writes what it was opened for. It must be closed.
type PageReader interface {
	io.WriterTo
	io.Closer
	// Resident reports whether all of it is in the cache.
	Resident() bool
}

// Lender lends what is in a worker's cache to processes of the same machine, which read it where it lies.
type Lender interface {
	// Lend returns what is in the cache of bytes [off, off+n) of the ticket's content, from off on without a gap, in at most so
	// many pieces, none if it cannot be lent. The bytes of a piece stay what they are until it is given back. resident reports
	// whether the cache has all of the range. Errors: errs.Permission for a ticket that is not or no longer valid, errs.Range.
	Lend(ctx context.Context, ticket []byte, off, n int64, most int) (pieces []Piece, resident bool, err error)
}

// Piece is bytes of a content that are lent.
type Piece struct {
	File     *os.File // can only be read, and is the lender's; the same one as long as it lives
	Off, Len int64    // where they lie in it
	GiveBack func()   // once nobody reads them any more; not called if that is never known
}

// PageOp is what a worker can be asked to do with pages of a content.
type PageOp byte

// The operations. Their values are part of the protocol between processes.
const (
	LookPages   PageOp = 'l' // nothing but to say which of them it has
	LoadPages   PageOp = 'r' // have them, read from their store where it has not
	DropPages   PageOp = 'd' // have them no more
	PinPages    PageOp = 'p' // load them, and evict none of the content's pages for the time of PinTime
	UnpinPages  PageOp = 'u' // let the content's pages be evicted when it is their turn
	MissedPages PageOp = 'm' // LookPages, and say of the ticket's file when a read of it missed last, and why
)

// PinTime is how long pages stay that were pinned, unless they are pinned again. So a worker lets go by itself of what nobody
// wants any more, such as the pages of a version that was replaced.
const PinTime = 30 * time.Minute

// Tender looks after the pages of contents, for those who have tickets for them.
type Tender interface {
	// Tend does op to the pages that hold bytes [off, off+n) of the ticket's content, and says which of them are there
	// after it. Pages that could not be kept are not there; that is no error. Errors: errs.Permission and errs.Range as of
	// Pages; of loading also errs.Precondition if the content's pages are not to be kept, errs.Conflict if it has left its
	// store, and errs.Unavailable; of pinning also errs.NoSpace if more would be pinned than may be.
	Tend(ctx context.Context, ticket []byte, op PageOp, off, n int64) (PageReport, error)
}

// PageReport says which pages a worker has.
type PageReport struct {
	Media  []string // what its tiers are made of, the fastest first
	Pages  []byte   // for each page 0 if it is not there, else one more than the number of the tier that has it
	Misses Misses   // of MissedPages
}

// Caches are all workers.
type Caches interface {
	// Workers returns the names of those that are alive, in order.
	Workers() []string
	// Keepers returns who is to have the byte at off of a content, and the offset up to which they are: who is asked for it, and of
	// other failure domains as many as of.Copies.Min wants together, fewer if there are fewer; none if there is no worker.
	Keepers(of Run, off int64) (workers []string, end int64)
	// Tend is Tender's of one of them. Further errors: errs.Unavailable if it does not answer; errs.Unsupported of one of an
	// earlier release.
	Tend(ctx context.Context, worker string, ticket []byte, op PageOp, off, n int64) (PageReport, error)
}
