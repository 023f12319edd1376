package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
)

/*
etcd ends the process when its database cannot be written, and a full disk is enough for that: the file is sparse, and grows.
So its blocks are taken before they are needed, and a change that could need some that cannot be had is refused. Reads go on.
*/

const (
	// growth is by how much etcd's database grows at a time. Source: bbolt DefaultAllocSize.
	growth = 16 << 20
	// least is what must be free for the small files etcd makes beside the database, at a snapshot above all.
	least = 4 << 20
)

// space watches over the disk of the database. It knows the file by its name: etcd replaces it when it defragments it, and
// when a member that was away is sent a snapshot.
type space struct {
	db string
	mu sync.Mutex
	// unable: the file system cannot take blocks beforehand.
	unable bool
}

func newSpace(dir string) *space { return &space{db: filepath.Join(dir, "member", "snap", "db")} }

// ensure reports errs.NoSpace if a change could find the disk full.
func (s *space) ensure(op string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var fs unix.Statfs_t
	if err := unix.Statfs(s.db, &fs); err != nil {
		return errs.E(op, s.db, errs.Unavailable, err)
	}
	if int64(fs.Bavail)*int64(fs.Bsize) < least { //nolint:unconvert // the widths differ by architecture
		return s.full(op)
	}
	var st unix.Stat_t
	if err := unix.Stat(s.db, &st); err != nil {
		return errs.E(op, s.db, errs.Unavailable, err)
	}
	if s.unable || st.Blocks*512 >= st.Size+growth {
		return nil
	}
	return s.take(op, st.Size+2*growth)
}

// take takes the blocks of the first size bytes of the database.
func (s *space) take(op string, size int64) error {
	f, err := os.OpenFile(s.db, os.O_RDWR, 0)
	if err != nil {
		return errs.E(op, s.db, errs.Unavailable, err)
	}
	defer f.Close()
	switch err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size); {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		s.unable = true
	case errors.Is(err, unix.EINTR): // the next change tries again
	case err != nil:
		return s.full(op)
	}
	return nil
}

// room reports errs.NoSpace unless the disk has room for that many more bytes.
func (s *space) room(op string, bytes int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.db, &fs); err != nil {
		return errs.E(op, s.db, errs.Unavailable, err)
	}
	if int64(fs.Bavail)*int64(fs.Bsize) < bytes+least { //nolint:unconvert // the widths differ by architecture
		return s.full(op)
	}
	return nil
}

func (s *space) full(op string) error {
	return errs.New(op, "", errs.NoSpace, fmt.Sprintf("the disk of %s, which holds the journal, is full; free some space on it",
		filepath.Dir(s.db)))
}

// volatile names the file systems on which a data directory does not outlive the machine or the container.
var volatile = map[int64]string{unix.TMPFS_MAGIC: "tmpfs", unix.RAMFS_MAGIC: "ramfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay"}

// warnVolatile warns if what is acknowledged on the file system of dir is lost with the machine or the container.
func warnVolatile(log *slog.Logger, dir string) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		log.Warn("the file system of the journal is not known", "dir", dir, "error", err)
		return
	}
	if name, ok := volatile[int64(fs.Type)]; ok { //nolint:unconvert // the widths differ by architecture
		log.Warn("the journal does not outlive the machine or the container: its directory is on a volatile file system", "dir", dir, "filesystem", name)
	}
}
