// Package page is the cache of file bytes: immutable pages in large segment files, in tiers of memory and disk. A page is
// keyed by what its bytes are, so an overwrite is other pages and nothing is ever invalidated.
//
//	namespace ── Reader, Writer ──► Cache ── misses, one stream each ──► Source (an under-store)
//	                                  │
//	                                Store: Tiered ─► Segments on tmpfs ─ evicted ─► Segments on disk
//
// A Cache is what the namespace reads and writes through; it turns ranges into pages and misses into single-flight fills.
// A Store keeps pages: Segments in the files of one directory (format.go describes them), Tiered in several of those,
// mempage in memory for tests. The suite of a Store is pagetest. Tiered.Run does what nobody waits for: it moves what is read
// again to the first tier, lets pages leave before room is short and when they expire, and verifies those that are here.
//
// Bytes of cached pages go to a client by write(2) from the mapping of the segment file, and not by sendfile(2): its pages
// are not referred to by the socket when it returns, which is what makes Release safe (segment.detach), and what it costs
// is little. Throughput of Reader.WriteTo over that of sendfile(2) of a file with the same bytes, BenchmarkWarmWriteTo
// over loopback TCP on 2 cores that were shared with other work, median of 7 pairs:
//
//	body        tmpfs, 1 / 8 connections    disk (in the kernel's page cache), 1 / 8
//	64 KiB      1.26 / 1.27                 1.19 / 1.21
//	1 MiB       1.12 / 0.86                 0.87 / 0.85
//	64 MiB      1.62 / 1.09                 1.28 / 0.75
//
// Single pairs spread over half to twice the median; only the advantage of small bodies, for which sendfile(2) has to open a
// file, and the loss of a tenth or two at 1 MiB showed in most of them. Raw loops without a cache, with the file kept open,
// say the same for 4 KiB to 64 MiB: bench/README.md has their figures and what they take of the processor.
//
// The package does not know files, versions or permissions, keeps no byte that could not be read again from where it came
// (it never syncs), and is not a place for unpersisted data. It needs Linux (fallocate, mmap).
package page

import "io"

// Size is the length of a page in bytes. Only the last page of an extent is shorter.
const Size = 1 << 20

// Key names the bytes of one page for ever.
type Key struct {
	ID    [16]byte // of the file's content
	Rev   uint64
	Index uint32 // Size*Index is the offset of the page in its extent
}

// Handle is a page in the cache. Its slot is pinned, and its bytes stay what they are, until Release.
type Handle interface {
	// Bytes is the page, mapped from its segment file; it must not be written and not be used after Release.
	Bytes() []byte
	// Release ends the use of the page. Repeating it does nothing.
	Release()
}

// Store keeps pages. It is safe for concurrent use.
type Store interface {
	// Get returns the page, verified, pinned; ok is false if it is not here (or was found damaged, and is dropped).
	Get(k Key) (h Handle, ok bool)
	// Has reports whether the page is here, without verifying it and without counting as a use of it.
	Has(k Key) bool
	// Put keeps a copy of data as the page k. It may evict other pages. A page that is already here is kept as it is.
	// Errors: errs.Invalid for no data, errs.TooLarge for more than Size bytes, errs.NoSpace, errs.Unavailable; the cache
	// works on without the page.
	Put(k Key, data []byte) error
	// Drop forgets the pages of the content (ID, Rev) with Index in [from, to). Pages that are pinned live on for their
	// holders only.
	Drop(k Key, from, to uint32)
	// Close waits until every Handle is released. Later calls find nothing and keep nothing.
	io.Closer
}

// TierStats describes one store of pages.
type TierStats struct {
	Dir, Medium string
	Off         string // why the tier takes no pages, or only in the room of others; "" while it works
	Quota       int64  // bytes of segment files at most
	Used        int64  // bytes of pages, rounded up to their slots
	Pages       int64
	Pinned      int64            // Handles that are out
	Lent        int64            // pages that other processes read where they lie
	Evicted     map[string]int64 // pages evicted by reason: "once" (hardly read while in the small queue), "cold" (not read
	// since their last turn in the main queue; under LRU all), "reclaimed" (shared a chunk that was needed for pages of another
	// size), "expired" (older than the TTL)
	Corrupt   int64 // pages and slot headers found damaged
	Demoted   int64 // evicted pages that went to the next tier
	Promoted  int64 // pages that went to a tier before this one
	KeptBytes int64 // of Used, what does not leave because its content is pinned
	Scrubbed  int64 // pages that the scrubber has verified
	Scrubs    int64 // its passes over all pages that have ended
}
