package localufs

import (
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// ownChanges remembers the changes of inodes that this store made itself and that leave their bytes alone: a rename and a
// change of attributes move a file's ctime, which to a reader of the file looks like a write. What is forgotten costs a
// reader a second try, never wrong bytes.
type ownChanges struct {
	mu    sync.Mutex
	times map[inode][]unix.Timespec // the ctimes an inode went through by own changes, in order
	order []inode                   // the keys of times, oldest first
}

type inode struct{ dev, ino uint64 }

// The number of inodes remembered, and of changes of each.
const (
	maxInodes = 1024
	maxTimes  = 16
)

func inodeOf(st *unix.Stat_t) inode { return inode{uint64(st.Dev), st.Ino} } //nolint:unconvert // differs by architecture

func (i inode) mark() string { return fmt.Sprintf("inode %d of %d", i.ino, i.dev) }

// note records that own changes took an inode from one ctime to another.
func (o *ownChanges) note(i inode, from, to unix.Timespec) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.times == nil {
		o.times = map[inode][]unix.Timespec{}
	}
	all, ok := o.times[i]
	if !ok {
		if o.order = append(o.order, i); len(o.order) > maxInodes {
			delete(o.times, o.order[0])
			o.order = o.order[1:]
		}
	}
	if n := len(all); n == 0 || all[n-1] != from {
		all = []unix.Timespec{from} // somebody else changed it in between
	}
	all = append(all, to)
	o.times[i] = all[max(0, len(all)-maxTimes):]
}

// joins reports whether only own changes lie between two ctimes of an inode.
func (o *ownChanges) joins(i inode, from, to unix.Timespec) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Contains(o.times[i], from) && slices.Contains(o.times[i], to)
}

// keepingBytes makes the change do of the file whose facts are before; stat returns its facts afterwards. The change is
// noted as the store's own.
func (s *Store) keepingBytes(before *unix.Stat_t, do func() error, stat func(*unix.Stat_t) error) error {
	if !isKind(before, false) {
		return do()
	}
	i := inodeOf(before)
	defer s.unsettle(i.mark())()
	if err := do(); err != nil {
		return err
	}
	var after unix.Stat_t
	if stat(&after) == nil && sameFile(before, &after) {
		s.own.note(i, before.Ctim, after.Ctim)
	}
	return nil
}
