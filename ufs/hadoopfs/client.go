package hadoopfs

import (
	"context"
	"io"
)

// Client is a connection to one HDFS, over whatever protocol. Paths are HDFS's: absolute, clean, "/" the root. It is safe for
// concurrent use; every method honours ctx, and gives a foreign error its kind: errs.Unavailable for a server that does not
// answer, never errs.NotExist. A change asks ufs.Guard of its ctx when it is about to be sent.
type Client interface {
	// Status returns the facts of a path. Errors: errs.NotExist; errs.Permission also where an ancestor is a file, which
	// HDFS does not tell apart.
	Status(ctx context.Context, path string) (Status, error)
	// List returns some of what is in the directory path with names greater than after, in byte order, and whether there is
	// more. A file has one row without a name. Errors: errs.NotExist.
	List(ctx context.Context, path, after string) (rows []Status, more bool, err error)
	// Open reads n bytes from off, of what path is when it is opened. n is greater than 0.
	Open(ctx context.Context, path string, off, n int64) (io.ReadCloser, error)
	// Create begins a file that must not exist, in a directory that does. Errors: errs.NotExist, errs.Exist.
	Create(ctx context.Context, path string) (Stream, error)
	// Mkdirs makes a directory and its parents. It is no error if it exists. Errors: errs.NotDir, errs.Exist if path is a file.
	Mkdirs(ctx context.Context, path string) error
	// Rename moves a file or directory in one step, over a file or an empty directory only if replace is set. The parent
	// of to exists. Errors: errs.NotExist; errs.Exist, if replace is not set.
	Rename(ctx context.Context, from, to string, replace bool) error
	// Delete removes a file or a directory in one step, with all below it if recursive is set. Errors: errs.NotExist,
	// errs.NotEmpty.
	Delete(ctx context.Context, path string, recursive bool) error
	// Concat moves the blocks of the sources, files in the directory of to, behind those of to, in one step. None is empty.
	Concat(ctx context.Context, to string, sources []string) error
	// XAttr returns the extended attribute name, "user.x", of path, nil if it has none. Errors: errs.NotExist.
	XAttr(ctx context.Context, path, name string) ([]byte, error)
	// SetXAttr sets it. Errors: errs.TooLarge, errs.NotExist.
	SetXAttr(ctx context.Context, path, name string, value []byte) error
	// SetMode sets the permission bits of path.
	SetMode(ctx context.Context, path string, mode uint32) error
	// SetOwner sets owner and group of path; "" leaves one. Errors: errs.Permission for who is not the superuser.
	SetOwner(ctx context.Context, path, owner, group string) error
	// Close ends the connections. It is idempotent.
	Close() error
}

// Replacer is a Client whose server may not be able to rename over what is there: Rename is errs.Unsupported then, if something
// is and replace is set.
type Replacer interface {
	// Replaces asks the server, with a name beside path that cannot be there.
	Replaces(ctx context.Context, path string) (bool, error)
}

// Stream takes the bytes of a file that is being made. It is for one goroutine; exactly one of Finish and Abort ends it.
type Stream interface {
	io.Writer
	// Finish returns when the file is complete: its bytes are with every datanode of their pipeline.
	Finish(ctx context.Context) error
	// Abort gives up. The file may stay, in part.
	Abort()
}

// Status are the facts of a path.
type Status struct {
	Name  string // the last segment, in a row of List; bytes of any kind
	Dir   bool
	Other bool // neither a file nor a directory: a symbolic link
	Size  int64
	MTime int64  // milliseconds since 1970, by the name node's clock
	ID    uint64 // of the inode, never used again; 0 if the server does not tell
	Owner string
	Group string
	Mode  uint32
}

// same reports whether a and b are the same bytes, as far as facts can say.
func (s *Status) same(o *Status) bool {
	return s.ID == o.ID && s.Size == o.Size && s.MTime == o.MTime && s.Dir == o.Dir
}
