// Package page is the cache of file bytes: immutable pages in large segment files, in tiers of memory and disk. A page is
// keyed by what its bytes are, so an overwrite is other pages and nothing is ever invalidated.
package page

import "io"

// Size is the length of a page in bytes. Only the last page of an extent is shorter.
const Size = 1 << 20

// Key names the bytes of one page for ever.
type Key struct {
	ID    [16]byte // of the file's content: see FileKey and StoreKey
	Rev   uint64
	Index uint32 // Size*Index is the offset of the page in its extent
}

// Handle is a page in the cache. Its slot is pinned, and its bytes stay what they are, until Release.
type Handle interface {
	// Bytes is the page, mapped from its segment file; it must not be written and not be used after Release.
	Bytes() []byte
	Release()
}

// Store keeps pages. It is safe for concurrent use.
type Store interface {
	// Get returns the page, verified, pinned; ok is false if it is not here (or was found damaged, and is dropped).
	Get(k Key) (h Handle, ok bool)
	// Put keeps a copy of data as the page k. It may evict other pages. A page that is already here is kept as it is.
	// Errors: errs.NoSpace, errs.TooLarge; the cache works on without the page.
	Put(k Key, data []byte) error
	// Drop forgets the pages of the content (ID, Rev) with Index in [from, to).
	Drop(k Key, from, to uint32)
	io.Closer
}
