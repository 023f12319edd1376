package core

import (
	"context"
	"io"
)

// Placer is what a namespace offers beside Open where workers serve bytes: it says what the bytes are and proves that the
// caller may have them, and leaves reading them to whoever asked.
type Placer interface {
	// Place returns what Open would read, without reading it. Errors: Open's; errs.Unsupported if no worker could serve it.
	Place(ctx context.Context, p Path, r Range) (Placed, error)

	// Stores returns the stores that tickets name, for workers.
	Stores(ctx context.Context) ([]StoreSpec, error)
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
	Ticket   []byte // for workers; opaque
}

// StoreSpec is a mount whose store workers open. The values of its options that may hold secrets are sealed.
type StoreSpec struct {
	ID string // never used again for another store
	MountSpec
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
