// Package meta holds the names: entries, the journal that makes changes of them durable, the overlay that is replayed
// from it, the derived layer of what under-stores say, and the cursor that shows both as one ordered namespace. It is
// pure state over a KV: it never talks to an under-store.
//
// The overlay (Tree) is authoritative: it holds what no under-store could tell again, and is rebuilt from the journal
// (Log) alone. The derived layer (Derived, one per mounted store) is a cache of store facts, evictable at any time. A
// directory's edge carries a trailing slash ("a/") and a file's does not ("a"); siblings sorted by edge, depth first, are
// then in S3's key order.
//
// What an overlay entry takes in the KV, with etcd and names of 40 bytes: 37 bytes in its page, of which 16 are the ETag and 8 what
// is random in its name; some 4 that etcd's database loses by rounding pages up to its own; 2 of journal records that are kept for
// members that are behind; and while pages are stored again up to 4 of what they were before (checkpoint.go). Below 250,000
// entries the last two have a floor of 0.5 and 1 MiB. The file is larger: it keeps the room that the longest tail of the journal and the
// first checkpoint needed until it is defragmented.
package meta

// DirID identifies a directory of the overlay for ever; 63 bits, allocated by a journaled counter, never reused.
type DirID uint64

// The reserved directories. Allocated ids start at FirstDir.
const (
	RootDir    DirID = 1 // "/"
	UploadsDir DirID = 2 // one directory per multipart upload, edge "<upload id>/", its parts with edges "00001" …
	IntentsDir DirID = 3 // one entry per open intent, edge = 16 hexadecimal digits
	AnswersDir DirID = 4 // one directory per client's session, edge "<session>/", its answers with edges of their own
	FirstDir   DirID = 16
)

// Class says what an overlay entry is.
type Class byte

// The classes.
const (
	Directory Class = 'D' // a directory; Entry.Dir is its id
	Persisted Class = 'P' // a file whose bytes are in the under-store, with facts the store cannot hold
	Local     Class = 'L' // a file whose bytes no store has yet: workers hold them, as Entry.Hold says
	Whiteout  Class = 'W' // hides what the derived layer has at this edge (a directory edge: everything below it)
	Note      Class = 'N' // not a name: a row of UploadsDir, IntentsDir or AnswersDir
)

// Entry is the authoritative state of one edge.
type Entry struct {
	Class Class

	// Directory
	Dir      DirID
	Explicit bool // made by mkdir or a mount; an implied directory vanishes when nothing is below it
	Marker   bool // an S3 key of its own
	Mount    bool // a mount point; Base is absolute
	Base     Base

	// Persisted, Local
	ID       uint64   // file number; kept through overwrite and rename
	Rev      uint64   // attempt that wrote these bytes, drawn from a journaled counter, never used twice
	Extents  []Extent // the content, in order
	Size     int64    // bytes
	ETag     string
	StoreKey string // absolute name in the store if it is not the one the path gives
	Version  string // the store's version when these bytes were last proved to be there

	MTime, ATime int64 // nanoseconds since 1970
	Owner, Group string
	Mode         uint32
	BlockSize    int64
	Replication  int32
	Headers      map[string]string
	User         map[string]string
	Checksums    string // JSON of []core.Checksum
	Parts        []int64
	HDFSSum      string // HDFS file checksum, "algorithm:hex", "" if not computed

	Hold *Hold // of a Local file, else nil; must not be changed, since copies of the entry share it

	Extra map[string]string // of a Note: its fields
}

// Hold says who has the bytes of a Local file, and what is to become of them.
type Hold struct {
	ID      [16]byte // of core.HeldID, whose Rev is the entry's
	Workers []string // names of those that hold all of the bytes
	Write   string   // the core.WriteType by which the write was acknowledged
	Base    string   // version of what the store had under the name when the write was acknowledged, and has until the bytes replace it; "": nothing
	Since   int64    // when it was acknowledged, nanoseconds since 1970
	Refused string   // why the store's bytes were not replaced by these, which stays so until somebody decides; "": not
}

// Extent is a run of bytes that live in the page cache under (ID, Rev) from Off on.
type Extent struct {
	ID, Rev  uint64
	Off, Len int64
}

// Base says where the derived children of an overlay directory come from.
type Base struct {
	Kind   BaseKind
	Store  string // Absolute: id of the mounted store
	Prefix string // Absolute: "" or a name ending in "/"
}

// BaseKind is the kind of a Base.
type BaseKind byte

// The kinds of Base.
const (
	Inherit  BaseKind = iota // the parent's base and the own edge
	Absolute                 // Store and Prefix
	Opaque                   // nothing below comes from a store
)

// Op is one change of the overlay. Operations set state and are idempotent: replaying a record twice is harmless.
type Op struct {
	Kind  OpKind
	Dir   DirID  // Set, Del: the directory; DropDir: the directory dropped
	Edge  string // Set, Del
	Entry Entry  // Set
	Name  string // Counter
	Value uint64 // Counter
}

// OpKind is the kind of an Op.
type OpKind byte

// The kinds of Op.
const (
	Set     OpKind = 's' // make (Dir, Edge) be Entry
	Del     OpKind = 'd' // (Dir, Edge) is in the overlay no more
	DropDir OpKind = 'x' // forget the directory Dir and everything below it in the overlay
	Counter OpKind = 'c' // the counter Name is Value
)
