// Package ufs is what Sluice asks of an under-store: the Store interface, its optional abilities, and the helpers that
// use an ability where a store has it and fall back where it has not. Drivers live below (localufs, s3ufs, azureufs, gcsufs, httpufs, memufs),
// decorators in wrap; none of them retries, logs or limits by itself. The suite that every driver and decorator passes is
// ufs/ufstest.
//
// Names are relative to the store's root, byte-exact, without a leading slash: "a/b" is a file, "a/b/" a directory (a
// real one, or the marker object of an object store), "" the root, which always exists. Everything below ".sluice/" is
// staging: drivers put their temporary files there, and the store's mark, and never list it. A name a store cannot hold is errs.Invalid in every
// method, with the segment that is wrong (CheckFile, CheckDir).
package ufs

import (
	"context"
	"io"
	"iter"
	"time"
)

// Staging is the directory at a store's root that holds unfinished writes. It is never listed, and no name at or below
// it can be read or written through a Store's methods.
const Staging = ".sluice/"

// Store is one under-store. It is safe for concurrent use. Foreign errors are classified where they enter: an unreachable
// or refusing store is errs.Unavailable, a rejected credential errs.Permission, a full one errs.NoSpace, never
// errs.NotExist. Methods honour ctx.
type Store interface {
	// Features says what the store can do. It is constant.
	Features() Features

	// Stat returns the facts of one name. "a" is the file only, "a/" the directory only: a real one, or on an object
	// store the marker object or the prefix of some key. Errors: errs.NotExist.
	Stat(ctx context.Context, name string) (Info, error)

	// List yields what is directly in the directory dir ("" or ending in "/") with names greater than after, in ascending
	// byte order of full names, directories with their slash. after is a full name or "". With flat set (only if
	// Features.Flat) it yields every key at any depth instead. On an object store the directory's own marker comes first,
	// with Name == dir. Errors: errs.NotExist if a real directory is missing; an object store yields nothing.
	List(ctx context.Context, dir, after string, flat bool) iter.Seq2[Info, error]

	// Open reads n bytes from off of the file name (n < 0: to the end), if it still is the given version ("": whatever it
	// is). The version is checked before the first byte and, on a store whose reads are not conditional, again before
	// the reader's EOF: then the last Read returns errs.Precondition. Errors: errs.NotExist, errs.Precondition, errs.Range.
	Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error)

	// Create returns a writer whose bytes become name at Commit. size is the number of bytes that will be written, or -1.
	// Missing parents of the name are made. Staged bytes of a writer that is dropped without Commit or Abort are found
	// and removed by CleanStaging. A writer whose ctx has ended fails its Write and Commit. Errors, here or at Commit: on
	// a store with directories errs.IsDir if name is one, errs.NotDir if an ancestor is a file; errs.Invalid if the bytes
	// written are not size; errs.NoSpace, errs.TooLarge.
	Create(ctx context.Context, name string, size int64, o CreateOptions) (Writer, error)

	// Remove removes a file, or an empty directory ("a/"), if it still is the given version ("": whatever it is).
	// Removing what is not there is errs.NotExist. Errors: errs.Precondition, errs.NotEmpty.
	Remove(ctx context.Context, name, version string) error

	// CleanStaging removes staged writes that none of the live tokens names: what crashed writers left. A token is what
	// Writer.Token returned. Writers that are still open on this Store are left alone, named or not.
	CleanStaging(ctx context.Context, live func(token string) bool) error

	// Close releases what the store holds. It is idempotent.
	Close() error
}

// Features are a store's abilities as data. A decorator may narrow them, never widen: it implements every optional
// interface, and a caller asks Features, not the type, whether the store behind it has the ability.
type Features struct {
	Kind         string        // "local", "s3", "azure", "gcs", "http", "mem"
	Root         string        // identity of the root, ending in "/": a root below it starts with it; "" if unknown
	Is           string        // tells the root from another that stands at its name at another time, see SameRoot; "" if nothing does
	Dirs         bool          // real directories: they exist empty, have times, and a name cannot be file and directory at once
	Flat         bool          // List can be flat, in byte order of whole keys, starting anywhere
	AtomicRename bool          // is a Renamer: Rename of a file or directory is one atomic step
	Conditional  bool          // Create honours IfNew and IfVersion atomically against writers other than Sluice too
	Remote       bool          // it answers over a network, and may keep its callers waiting
	Network      bool          // a file system of other hosts, which may keep its callers waiting too, though it is not Remote
	Buckets      bool          // an account's: at the root are buckets and nothing else, which Mkdir and Remove make and remove, and no write does
	OddNames     bool          // names may hold empty, "." and ".." segments
	MD5ETag      bool          // Info.ETag is S3's
	Attrs        bool          // keeps Attr with the file
	VersionTail  bool          // a version's part after its last "." changes with facts of the file, too, where its bytes stay
	NoChars      string        // characters that no name may have, beside NUL
	NoDotEnd     bool          // no segment of a name may end in "."
	MaxName      int           // longest segment in bytes, 0 if unlimited
	MaxKey       int           // longest name in bytes, with Buckets without the bucket's; 0 if unlimited
	Mkdir        bool          // is a Mkdirer
	Trash        bool          // is a Trasher
	Copy         bool          // is a Copier
	Append       bool          // is an Appender
	SetAttr      bool          // is an AttrSetter
	Compose      bool          // is a Composer
	RemoveFiles  bool          // is a FileRemover
	Discard      bool          // is a Discarder
	Probe        bool          // is a Prober
	Mark         bool          // is a Marked
	Watch        bool          // is a Watcher
	Racy         time.Duration // a version first seen within this of its ModTime may change again without a trace; 0: never
}

// Info is what a store says of one name.
type Info struct {
	Name    string
	Dir     bool // ends in "/"
	Marker  bool // a directory that is a key of its own
	Size    int64
	ModTime time.Time
	Version string // the strongest version the store has; equal versions have equal bytes (see Features.Racy); "" for a prefix
	ETag    string // without quotes; "" if the store has none and none was kept
	Owner   string // "" if unknown
	Group   string
	Mode    uint32 // permission bits; 0 if unknown
	Full    bool   // Attr is complete; List of an object store cannot say it
	Racy    bool   // the file may change again under this Version, by the store's own clock: its bytes are not to be kept (see Features.Racy)
	Attr    Attr
}

// Attr is what Sluice keeps with a file where the store can hold it.
type Attr struct {
	Headers   map[string]string // content headers by canonical name
	User      map[string]string // user metadata by lower-case name
	ETag      string            // the acknowledged ETag; "": the store's own
	Checksums string            // opaque to the store
	Origin    string            // attempt that wrote it: "incarnation.id.revision"; proves after a crash whose bytes these are
	Mode      uint32            // 0: unknown
	Owner     string
	Group     string
	Marker    bool // of a directory: it is a key of its own
}

// Checker is implemented by a reader of a store whose reads are not conditional. Check reports errs.Precondition if the
// bytes read so far may not all be of the version that was opened.
type Checker interface {
	Check() error
}

// CreateOptions are the options of Create.
type CreateOptions struct {
	Attr      Attr
	IfNew     bool   // Commit fails with errs.Exist if the name exists
	IfVersion string // Commit fails with errs.Precondition unless the name has this version
	MD5       []byte // the bytes' MD5 if it is known beforehand; a store may send it along
}

// Writer stages a file. It is for one goroutine. Exactly one of Commit and Abort ends it.
type Writer interface {
	io.Writer
	// Token names the staged bytes, for CleanStaging and for a journal. It is "" if a crash leaves nothing behind.
	Token() string
	// SetAttr replaces the attributes given to Create; it may be called until Commit, with what is only known at the end.
	// A store that must send attributes before the bytes returns errs.Unsupported once it has.
	SetAttr(Attr) error
	// Commit makes the bytes visible under the name, durably, and returns its facts. It is the only step of a write that
	// others can see. After an error the outcome is unknown only if the error is errs.Unavailable or a context error.
	Commit(ctx context.Context) (Info, error)
	// Abort drops the staged bytes.
	Abort() error
}

// Preparer is a Writer that can do, ahead of Commit, what nobody sees: making the bytes durable where they are staged.
type Preparer interface {
	// Prepare is called at most once, after the last Write and SetAttr. Commit does what it left undone; an error leaves
	// only Abort.
	Prepare(ctx context.Context) error
}

// Renamer is a Store that renames files and directories in one atomic step.
type Renamer interface {
	// Rename moves from to to: both files, or both directories ending in "/". It replaces to only if replace is set and
	// to is a file or an empty directory. Missing parents of to are made. Attributes go along; the version may change.
	// Errors: errs.NotExist, errs.Exist, errs.NotEmpty; errs.IsDir or errs.NotDir if to is of the other kind;
	// errs.Invalid if to lies below from.
	Rename(ctx context.Context, from, to string, replace bool) error
}

// Mkdirer is a Store that can make a directory that exists when it is empty: a real one or a marker object.
type Mkdirer interface {
	// Mkdir makes the directory name ("a/"); missing parents are made. It is no error if it exists; attr.Marker is added.
	Mkdir(ctx context.Context, name string, attr Attr) (Info, error)
}

// Trasher is a Store that can make a whole directory tree invisible in one step.
type Trasher interface {
	// Trash removes the tree at dir ("a/") from view at once, durably, and then frees it. What could not be freed is left
	// to CleanStaging. Errors: errs.NotExist.
	Trash(ctx context.Context, dir string) error
}

// Copier is a Store that copies on its own side.
type Copier interface {
	// Copy makes to a copy of from, which must have the given version ("": whatever it is); attr replaces its attributes
	// if not nil. Errors: errs.NotExist, errs.Precondition.
	Copy(ctx context.Context, from, version, to string, attr *Attr) (Info, error)
}

// Appender is a Store that can add bytes to a file.
type Appender interface {
	// Append returns a writer whose bytes are added to name, which must have the given version here and at Commit. attr
	// replaces its attributes. The file shows all of the added bytes or none. Errors: errs.NotExist, errs.Precondition.
	Append(ctx context.Context, name, version string, attr Attr) (Writer, error)
}

// AttrSetter is a Store that can change what Sluice keeps with a name, without touching the bytes.
type AttrSetter interface {
	// SetAttr replaces the attributes of the file or directory name, which must have the given version ("": whatever it
	// is), and returns its facts: the version may change, the bytes and the modification time of a file on a store with
	// directories do not. Errors: errs.NotExist, errs.Precondition.
	SetAttr(ctx context.Context, name, version string, attr Attr) (Info, error)
}

// Composer is a Store that builds a file from parts it holds: S3's multipart upload.
type Composer interface {
	// Begin starts a multipart upload to name and returns the store's id of it.
	Begin(ctx context.Context, name string, attr Attr) (id string, err error)
	// PutPart stores a part of exactly size bytes read from r.
	PutPart(ctx context.Context, name, id string, number int, size int64, r io.Reader) (etag string, err error)
	// CopyPart makes a part of bytes of another file of the store.
	CopyPart(ctx context.Context, name, id string, number int, from, version string, off, n int64) (etag string, err error)
	// Complete makes name of the parts, in their order. An unknown id is errs.NotExist, a part that is missing or differs
	// errs.Invalid.
	Complete(ctx context.Context, name, id string, parts []Part, o CreateOptions) (Info, error)
	// Cancel drops an upload. An unknown id is no error.
	Cancel(ctx context.Context, name, id string) error
	// Lost returns the ids of the uploads to name that were begun in [from, to], by the store's clock, and hold no part: one
	// of them may be that of a Begin whose answer nobody got. Those it has handed out itself it may leave out, and a store
	// whose CleanStaging drops all that nobody names returns none.
	Lost(ctx context.Context, name string, from, to time.Time) (ids []string, err error)
}

// Settle is how long an upload must have been without a part to be taken for lost: that of somebody else to the same name has
// got its first part by then. What was begun within 2 Settle of a lost Begin may be its; whatever a store carries out still
// later stays, for a stranger's upload must not be cancelled: a rule of the bucket that ends incomplete uploads takes it.
const Settle = 30 * time.Second

// Part is one part of a Composer's upload.
type Part struct {
	Number int
	ETag   string
	Size   int64
}

// FileRemover is a Store that removes many files in few calls.
type FileRemover interface {
	// RemoveFiles removes the files, or marker objects, that still are the given versions ("": whatever they are). What is
	// gone, or another version, is no error. After an error some may be removed.
	RemoveFiles(ctx context.Context, files []Versioned) error
}

// Versioned is a name and the version of it that is meant, "" for any.
type Versioned struct {
	Name    string
	Version string
}

// Discarder is a Store that can take staged bytes away from a writer in another process.
type Discarder interface {
	// Discard makes sure that the bytes that a Writer staged under a token, or a Copy or Complete for an attempt with that
	// Attr.Origin, do not become visible after it returns. What is visible already stays, and what is not there is no error.
	// A writer that nobody has open any more may be left to CleanStaging: it cannot commit.
	Discard(ctx context.Context, token, origin string) error
}

// Prober is a Store that can be checked before it is mounted.
type Prober interface {
	// Probe checks that the store can be reached, read and, if write is set, written, and says what failed and why.
	Probe(ctx context.Context, write bool) error
}
