// Package core is the vocabulary of Sluice: the paths, the facts about files, and the small interfaces that both protocol
// front-ends speak and core/namespace implements. It does no I/O. Read this file first.
//
// Nothing S3- or HDFS-shaped lives below these interfaces and nothing store-shaped above them. The suite that defines the
// behaviour of an implementation is core/nstest.
package core

import (
	"context"
	"io"
	"iter"
	"time"
)

// Namespace is one tree of names over all mounted stores.
//
// Every method acts for the principal in ctx (WithPrincipal); without one it acts as Anonymous. Errors carry a kind of
// core/errs: NotExist, Permission, Invalid and Unavailable are possible everywhere, the others where they are named. An
// outage is never reported as NotExist. A method that fails has changed nothing visible.
type Namespace interface {
	// Stat returns what is known of p, as fresh as p's mount promises. An exact path names its edge and nothing else; an
	// ambiguous one the directory, else the file.
	Stat(ctx context.Context, p Path) (Info, error)

	// List yields the entries below the directory dir in the order of their names' bytes (a directory's name ends in "/"),
	// which is S3's key order. It stops after the first error. What it yields is fixed by o. A dir that does not exist
	// yields errs.NotExist; an ambiguous or exact path to a file errs.NotDir.
	List(ctx context.Context, dir Path, o ListOptions) iter.Seq2[Info, error]

	// Open returns a reader of the bytes r of p, bound to one version: later changes of p do not alter what it reads. A
	// version that has left its store and is not wholly cached fails the read with errs.Conflict; bytes of two versions are
	// never mixed. Errors: errs.IsDir; errs.Range if r.Off lies beyond the end (at the end is an empty reader).
	Open(ctx context.Context, p Path, r Range) (Reader, error)

	// Create returns a writer whose bytes become p at Commit, and not before. The file's missing parents are made if
	// o.MakeParents, else they are errs.NotExist; so is an o.Within that has gone. Errors, here or at Commit: errs.Exist, errs.IsDir, errs.NotDir (an
	// ancestor is a file), errs.Precondition, errs.Busy (append beside an append), errs.NoSpace, errs.TooLarge.
	Create(ctx context.Context, p Path, o CreateOptions) (Writer, error)

	// Compose makes dst out of the bytes of parts, in order, and removes the parts, as one change (HDFS CONCAT). If dst
	// exists its own bytes come first.
	Compose(ctx context.Context, dst Path, parts []Path) (Info, error)

	// Copy makes dst a copy of one version of src on the server's side; the store's own copy is used where it can.
	Copy(ctx context.Context, src, dst Path, o CopyOptions) (Info, error)

	// Mkdir makes the explicit directory p. Errors: errs.Exist if p or its file of the same name exists, errs.NotDir.
	Mkdir(ctx context.Context, p Path, o MkdirOptions) (Info, error)

	// Rename moves src to dst as one change: every reader sees all of the old names or all of the new ones. dst must not
	// exist unless o.Overwrite, which replaces a file by a file, or an empty directory by a directory. Errors: errs.Exist;
	// errs.NotExist (src, or dst's parent); errs.NotDir, errs.IsDir (kinds differ); errs.NotEmpty; errs.Invalid (below
	// itself, or the root); errs.Unsupported across mounts or if src holds a mount point.
	Rename(ctx context.Context, src, dst Path, o RenameOptions) error

	// Remove removes p. Errors: errs.NotEmpty for a directory with children unless o.Recursive; errs.Precondition;
	// errs.Busy for a mount point or a tree that holds one. A recursive removal is one change.
	Remove(ctx context.Context, p Path, o RemoveOptions) error
}

// Attrs changes what is recorded of a name beside its bytes.
type Attrs interface {
	// SetAttr applies the changes named in a to p. Owner changes need the superuser, mode and group changes the owner (a
	// group he is in), times write permission.
	SetAttr(ctx context.Context, p Path, a AttrChange) (Info, error)

	// CheckName reports errs.Invalid if the store of p's mount cannot hold the name, and errs.Permission if it is reserved.
	// It does not look at what is there.
	CheckName(ctx context.Context, p Path) error

	// CheckAccess reports errs.Permission unless the principal has every one of the wanted rights on p and may traverse
	// to it. want is a sum of 4 (read), 2 (write), 1 (execute).
	CheckAccess(ctx context.Context, p Path, want uint32) error
}

// Uploads are multipart uploads: parts are written in any order through any gateway, and Complete makes them one file.
// An unknown, completed or aborted upload is errs.NotExist in every method but CompleteUpload.
type Uploads interface {
	// CreateUpload starts an upload to the file p and returns its opaque id.
	CreateUpload(ctx context.Context, p Path, o CreateOptions) (id string, err error)

	// PutPart returns a writer whose bytes become part number (1 to 10,000) at Commit, in place of an earlier one. size is
	// the part's length in bytes if known, else -1.
	PutPart(ctx context.Context, p Path, id string, number int, size int64) (Writer, error)

	// CopyPart makes part number out of the bytes r of src.
	CopyPart(ctx context.Context, p Path, id string, number int, src Path, r Range) (Part, error)

	// CompleteUpload makes p out of the listed parts, in order, as one change. Repeated with the same list after it
	// succeeded, it answers as it did the first time. Errors: errs.NotExist; errs.Precondition by c; *PartError for a
	// part that is missing, differs or is too small, with nothing changed.
	CompleteUpload(ctx context.Context, p Path, id string, parts []Part, o CompleteOptions) (Info, error)

	// AbortUpload ends an upload and frees its parts.
	AbortUpload(ctx context.Context, p Path, id string) error

	// ListUploads yields the uploads in progress to keys below dir that start with prefix, by key, then by start time,
	// strictly after the given key and, within that key, the given id (marker semantics of S3's ListMultipartUploads).
	ListUploads(ctx context.Context, dir Path, prefix, afterKey, afterID string) iter.Seq2[Upload, error]

	// ListParts returns the upload and yields its parts with numbers greater than after, in order.
	ListParts(ctx context.Context, p Path, id string, after int) (Upload, iter.Seq2[Part, error], error)
}

// Locator answers questions about where and what the bytes are.
type Locator interface {
	// Locate returns the hosts that serve each block of p in r.
	Locate(ctx context.Context, p Path, r Range) ([]Block, error)

	// FileChecksum returns HDFS's MD5-of-MD5-of-CRC32C of the file p over its block size, computing it if it is not kept.
	FileChecksum(ctx context.Context, p Path) (FileChecksum, error)

	// Summarize counts the files, directories and bytes below p, p included.
	Summarize(ctx context.Context, p Path) (Summary, error)
}

// Reader reads one version of a file, in the range it was opened for. WriteTo writes the rest of the range and keeps the
// cache's fast path; Read is for callers that must look at the bytes. A Reader is for one goroutine and must be closed.
type Reader interface {
	io.ReadCloser
	io.WriterTo
	// Info describes the version being read.
	Info() Info
	// Span returns the offset of the first byte and the number of bytes the reader was opened for, after clamping.
	Span() (off, n int64)
}

// Writer stages the bytes of a file. Exactly one of Commit and Abort ends it; Abort after Commit does nothing. It is for
// one goroutine. A Writer whose context ends is as good as aborted: a later Commit fails.
type Writer interface {
	io.Writer
	// Commit makes the staged bytes the file, durably as its write type says, and returns what it is then. On error
	// nothing is visible and the staged bytes are gone. Errors: Create's; errs.BadDigest by o.
	Commit(ctx context.Context, o CommitOptions) (Info, error)
	// Abort drops the staged bytes.
	Abort() error
}

// Info describes a name at one moment.
type Info struct {
	Path Path // the name; for an entry of List, Name holds it relative to the directory listed
	Name string

	Dir          bool // a directory edge
	CommonPrefix bool // only from List with a Delimiter: Name stands for all keys that start with it; nothing else is set
	Marker       bool // a directory that is itself an S3 key ("d/")
	MountPoint   bool
	ReadOnly     bool // the mount refuses changes

	ID          uint64 // stable number of the file or directory, HDFS's fileId
	Version     string // opaque; equal versions have equal bytes
	Size        int64  // bytes; 0 for a directory
	ModTime     time.Time
	AccessTime  time.Time
	ETag        string // without quotes; never empty for a file, never changes while the bytes do not
	Owner       string
	Group       string
	Mode        uint32 // permission bits and the sticky bit, 0 to 01777
	Replication int
	BlockSize   int64 // bytes; 0 for a directory
	Children    int   // of a directory, -1 if not counted

	Headers   map[string]string // content headers by canonical name (Content-Type, Cache-Control …); nil if none
	User      map[string]string // user metadata by lower-case name without a prefix; nil if none
	Checksums []Checksum        // kept with the object
	Parts     []int64           // sizes of the parts it was completed from, nil if not multipart

	Mount string        // path of the mount it lives in
	Age   time.Duration // since its facts were last checked against the store; 0 if the namespace is the authority or, with Stale, if that is not known
	Cache CacheStatus   // how the facts were come by

	// Write says how a write was acknowledged of which another type than CacheThrough was asked; set only in what Commit of a
	// file's Writer returns.
	Write WriteType
}

// CacheStatus says how an answer was come by, as the X-Cache header names it.
type CacheStatus string

// The cache states. The empty state is not shown.
const (
	Hit         CacheStatus = "HIT"
	Miss        CacheStatus = "MISS"
	Revalidated CacheStatus = "REVALIDATED"
	Stale       CacheStatus = "STALE"
)

// Range is a byte range as a client asks for it. The zero Range is not the whole file: use All.
type Range struct {
	Off int64 // first byte; negative: the last -Off bytes (all, if there are fewer)
	Len int64 // number of bytes, cut at the end of the file; negative: to the end
}

// All is the range of the whole file.
var All = Range{Len: -1}

// Cond is a condition on the version that a change replaces. Tags are ETags without quotes. The zero Cond always holds.
type Cond struct {
	IfMatch     string // the current version must exist and have this ETag; "*": must exist
	IfNoneMatch string // "*": must not exist; an ETag: must not have it
}

// CreateMode says what Create may replace.
type CreateMode uint8

// The create modes.
const (
	Replace   CreateMode = iota // make the file or replace its bytes and attributes
	CreateNew                   // the file must not exist, judged again at Commit: errs.Exist
	Append                      // the file must exist; the bytes go to its end. Commit fails if it changed since
)

// CreateOptions are the options of Create and CreateUpload.
type CreateOptions struct {
	Mode        CreateMode
	MakeParents bool  // make missing parent directories: implied ones, which vanish when empty, or see Explicit
	Explicit    bool  // missing parents are made as mkdir makes them
	Within      Path  // if not zero, a directory above the file that is never made: gone at Commit, it is errs.NotExist
	Size        int64 // the length in bytes if known, else -1; Commit fails with errs.Invalid if it is known and not met
	Cond        Cond
	Attr        FileAttr
	WriteType   WriteType // "": the mount's
	Checksum    Checksum  // CreateUpload: the algorithm and type asked for, handed back by ListParts; no value
}

// NoAccess is the mode that gives nobody a right, in the options in which 0 stands for the default.
const NoAccess uint32 = 1 << 16

// FileAttr are the attributes a new file gets.
type FileAttr struct {
	Mode        uint32 // permission bits or NoAccess; 0: 0644
	Headers     map[string]string
	User        map[string]string
	BlockSize   int64 // bytes; 0: 128 MiB
	Replication int   // 0: 1
}

// WriteType says when a write is acknowledged.
type WriteType string

// The write types. A write whose workers cannot be had is as CacheThrough, and says so in Info.Write.
const (
	CacheThrough WriteType = "CACHE_THROUGH" // the store has it durably; cached on the way
	Through      WriteType = "THROUGH"       // the store has it durably; not cached
	AsyncThrough WriteType = "ASYNC_THROUGH" // workers in distinct failure domains hold it durably, and the store gets it later
	MustCache    WriteType = "MUST_CACHE"    // workers hold it; the store gets it only when that is asked for, see Persister
)

// Known reports whether t is one of the write types.
func (t WriteType) Known() bool {
	return t == CacheThrough || t == Through || t == AsyncThrough || t == MustCache
}

// ReadType says what a read does to the cache.
type ReadType string

// The read types.
const (
	CachePromote ReadType = "CACHE_PROMOTE" // a miss fills the cache; what is read again moves to the fastest tier
	CacheRead    ReadType = "CACHE"         // a miss fills the cache; what is there stays in its tier
	NoCache      ReadType = "NO_CACHE"      // what is there is used; a miss fills nothing
)

// Known reports whether t is one of the read types.
func (t ReadType) Known() bool { return t == CachePromote || t == CacheRead || t == NoCache }

// LoadType says whether a look-up or a listing asks the store for what is not known. It counts only where the facts may be of any
// age, by a sync interval less than 0: where they are compared with the store anyhow, that tells.
type LoadType string

// The load types.
const (
	LoadNever  LoadType = "NEVER"  // the store is not asked: what nobody has learnt of is not there
	LoadOnce   LoadType = "ONCE"   // it is asked for what is not known, and never again
	LoadAlways LoadType = "ALWAYS" // it is asked also for what is known to be absent, and for every listing
)

// Known reports whether t is one of the load types.
func (t LoadType) Known() bool { return t == LoadNever || t == LoadOnce || t == LoadAlways }

// CommitOptions are what is known of the bytes when they are complete.
type CommitOptions struct {
	MD5       []byte     // if not nil, the bytes' MD5 must equal it: errs.BadDigest
	Checksums []Checksum // verified by the caller; kept with the object
	Cond      Cond       // in addition to CreateOptions.Cond
}

// Checksum is an additional checksum of S3's kind.
type Checksum struct {
	Algorithm string // CRC32, CRC32C, CRC64NVME, SHA1, SHA256
	Value     string // base64; for a composite one "base64-N"
	Type      string // FULL_OBJECT or COMPOSITE
}

// CopyOptions are the options of Copy.
type CopyOptions struct {
	Source      Cond      // judged on the version copied
	ReplaceAttr *FileAttr // attributes of the copy; nil: the source's
	Dest        Cond
	MakeParents bool
	Within      Path // as in CreateOptions
}

// CompleteOptions are the options of CompleteUpload.
type CompleteOptions struct {
	Cond      Cond
	Within    Path       // as in CreateOptions; missing parents below it are made
	Checksums []Checksum // of the whole, computed by the caller from the parts'; kept with the object
}

// MkdirOptions are the options of Mkdir.
type MkdirOptions struct {
	Mode        uint32 // permission bits or NoAccess; 0: 0755
	MakeParents bool
	Within      Path              // as in CreateOptions
	Marker      bool              // the directory is an S3 key of its own ("d/"); existing directories become one
	Headers     map[string]string // of a marker
	User        map[string]string
	Cond        Cond
}

// A noted is what a change tells beside its outcome.
type notedKey struct{}

// RenameInProgress is what Rename notes, with the name of the job, if the store has not everything under the new name yet: others who use
// the store find the old one until the job is done.
const RenameInProgress = "rename-in-progress"

// WithNotes returns a ctx under which a change tells note what there is to tell beside its outcome. It is called by the change's
// goroutine before it returns.
func WithNotes(ctx context.Context, note func(what, value string)) context.Context {
	return context.WithValue(ctx, notedKey{}, note)
}

// Note tells who called with ctx, if he wants to know.
func Note(ctx context.Context, what, value string) {
	if note, ok := ctx.Value(notedKey{}).(func(what, value string)); ok {
		note(what, value)
	}
}

// RenameOptions are the options of Rename.
type RenameOptions struct {
	Overwrite bool
}

// RemoveOptions are the options of Remove.
type RemoveOptions struct {
	Recursive bool
	Prune     bool // also remove parents that are not explicit and become empty; a directory loses its marker only
	Cond      Cond
}

// AttrChange names the attributes to change; nil pointers stay.
type AttrChange struct {
	Owner, Group        *string
	Mode                *uint32
	ModTime, AccessTime *time.Time
	Replication         *int
}

// ListOptions say what List yields.
type ListOptions struct {
	// Children lists the entries of dir itself, files and directories with all their facts, implied ones included. A
	// file is left out where a directory of the same name stands beside it if HideShadowed. Without Children, List yields
	// S3 keys: every file below dir at any depth, and directories that are keys.
	Children     bool
	HideShadowed bool

	Prefix    string // only names that start with it, relative to dir
	Delimiter string // roll names up to the first delimiter after Prefix into one common prefix; not with Children
	After     string // only names greater than it, and greater than everything it is a common prefix of; "" for the start
	Limit     int    // stop after this many entries; 0: no limit
}

// Part is one part of an upload. For CompleteUpload, Number and ETag are required and given Checksums must match.
type Part struct {
	Number    int
	Size      int64
	ETag      string
	ModTime   time.Time
	Checksums []Checksum
}

// PartError says which part of a CompleteUpload is wrong.
type PartError struct {
	Number   int
	TooSmall bool // a part before the last is smaller than 5 MiB; otherwise the part is missing or differs
	Order    bool // the numbers do not ascend
	Size     int64
	ETag     string
}

// Error says what is wrong with the part.
func (e *PartError) Error() string {
	switch {
	case e.Order:
		return "parts are not in ascending order"
	case e.TooSmall:
		return "a part other than the last is smaller than 5 MiB"
	}
	return "a part is missing or has another ETag"
}

// Upload is a multipart upload in progress.
type Upload struct {
	ID        string
	Path      Path
	Name      string // relative to the directory listed
	Initiated time.Time
	Owner     string
	Attr      FileAttr
	Checksum  Checksum // algorithm and type asked for, no value
}

// Block is where one block of a file can be read.
type Block struct {
	Off, Len int64
	Hosts    []string // host names
	Names    []string // host:port
}

// FileChecksum is HDFS's file checksum.
type FileChecksum struct {
	Algorithm string // MD5-of-NMD5-of-512CRC32C
	Bytes     []byte // 28 bytes
}

// Summary counts a subtree.
type Summary struct {
	Dirs, Files, Bytes int64
}
