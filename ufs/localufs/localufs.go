// Package localufs is the driver for a directory of a Linux file system (5.6 or later), local or mounted. A file of the
// store is a file of the same relative name and the same bytes, readable without Sluice; what Sluice keeps beside the
// bytes is in the extended attribute "user.sluice" (attr.go). It passes ufs/ufstest.
//
// A write is staged in .sluice/tmp below the root and made visible by one rename; it is acknowledged after fsync of the
// file, the rename, and fsync of every directory that changed. What is removed as a tree moves to .sluice/trash first.
// Names are resolved with openat2 beneath the root: a symbolic link inside that leads outside is errs.Permission, one that
// stays inside is followed. Sockets, pipes and devices are not there.
package localufs

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Options are the settings of a store. The zero value is right for a local file system.
type Options struct {
	// Racy is how long after its modification time a file may change again with the same version. Zero: 10 ms on a local
	// file system, whose clock advances with the kernel's tick (1 to 10 ms) or finer; 2 s on a network file system.
	Racy time.Duration
	// Create makes the root directory, and its parents, if it is missing.
	Create bool
	// Reserve is how many bytes of the file system are left to others: what would take of them is errs.NoSpace.
	Reserve int64
}

// Store is a ufs.Store in a directory, with every ability.
type Store struct {
	root    *os.File
	at      string // its path without symbolic links, ending in "/"
	is      inode  // what was there
	feat    ufs.Features
	network bool // the file system is one of other hosts too
	reserve int64
	fsync   func(fd int, why string) error                      // unix.Fsync; why names the step for tests that leave one out
	watch   func(fd int, path string, mask uint32) (int, error) // unix.InotifyAddWatch
	skipped atomic.Int64
	owners  owners
	turns   turns

	// names serialises the renames that settle one name, so that a condition judged on it holds until the rename is done.
	// The lock is held across system calls on directories, never across a write or an fsync.
	names [64]sync.Mutex
	seed  maphash.Seed
	// swap is held for reading while a file that is not staging passes through the staging directory.
	swap sync.RWMutex

	mu        sync.Mutex
	unsettled map[string]chan struct{} // directories that are visible and not yet durable, see settle
	own       ownChanges
}

// Open returns the store in the directory root. Errors: errs.NotExist, errs.NotDir, errs.Permission; errs.Unsupported on
// a kernel without openat2.
func Open(root string, o Options) (*Store, error) {
	const op = "localufs.Open"
	if o.Create {
		if err := makeRoot(root); err != nil {
			return nil, classify(op, root, err)
		}
	}
	f, err := os.OpenFile(root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, classify(op, root, err)
	}
	s := &Store{root: f, reserve: o.Reserve, seed: maphash.MakeSeed(), unsettled: map[string]chan struct{}{}}
	s.fsync = func(fd int, _ string) error { return retry(func() error { return unix.Fsync(fd) }) }
	s.watch = unix.InotifyAddWatch
	if err := s.learn(o); err != nil {
		_ = f.Close()
		return nil, classify(op, root, err)
	}
	return s, nil
}

// makeRoot makes the directory root and its parents, durably. That one is there does not say that it is durable: the process
// that made it may have died before it synced.
func makeRoot(root string) error {
	root = filepath.Clean(root) // else what is above it may be another than what lies before its last slash
	err := os.Mkdir(root, 0o755)
	if errors.Is(err, os.ErrNotExist) && filepath.Dir(root) != root {
		if err := makeRoot(filepath.Dir(root)); err != nil {
			return err
		}
		err = os.Mkdir(root, 0o755) // missing still: below a symbolic link that leads nowhere
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	f, err := os.Open(filepath.Dir(root))
	if errors.Is(err, os.ErrPermission) {
		return nil // a parent that this user may not read is one that it did not make
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// OpenURI is the ufs.Opener of the scheme "file": file:///absolute/path with the options racy (a duration), create
// (true makes a missing root where ctx allows it, see ufs.WithMaking) and events (inotify: who mounts it is to watch it).
func OpenURI(ctx context.Context, uri *url.URL, options map[string]string) (ufs.Store, error) {
	const op = "localufs.Open"
	if err := ufs.CheckOptions(op, options, "racy", "create", "events"); err != nil {
		return nil, err
	}
	if uri.Host != "" || uri.Path == "" || uri.Path[0] != '/' {
		return nil, errs.New(op, uri.Redacted(), errs.Invalid, "write file:///absolute/path")
	}
	if err := ufs.CheckEvents(op, options, "inotify"); err != nil {
		return nil, err
	}
	var o Options
	var err error
	if v, ok := options["racy"]; ok {
		if o.Racy, err = time.ParseDuration(v); err != nil || o.Racy <= 0 {
			return nil, errs.New(op, "", errs.Invalid, fmt.Sprintf(`the option racy is %q; write a duration like "2s"`, v))
		}
	}
	if v, ok := options["create"]; ok {
		if o.Create, err = strconv.ParseBool(v); err != nil {
			return nil, errs.New(op, "", errs.Invalid, "the option create must be true or false")
		}
	}
	if o.Create {
		if o.Create, err = mayMake(ctx, uri.Path); err != nil {
			return nil, classify(op, uri.Path, err)
		}
		if o.Create { // it is missing, and is made where Check was told
			return Open(filepath.Clean(uri.Path), o)
		}
	}
	return Open(uri.Path, o)
}

// learn finds out what the file system can do.
func (s *Store) learn(o Options) error {
	if err := s.learnRoot(); err != nil {
		return err
	}
	fd, err := s.open(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return err
	}
	_, err = unix.Fgetxattr(fd, xattr, nil)
	attrs := err == nil || err == unix.ENODATA
	s.feat = ufs.Features{
		Kind: "local", Root: s.feat.Root, Is: s.identity(fs), Dirs: true, AtomicRename: true, Attrs: attrs, MaxName: 255, MaxKey: unix.PathMax - 1, Mkdir: true,
		Trash: true, Copy: true, Append: true, SetAttr: attrs, Compose: true, Discard: true, Probe: true, Mark: true, Watch: true, VersionTail: true, Racy: o.Racy,
	}
	s.suit(int64(fs.Type), o) //nolint:unconvert // the width differs by architecture
	return nil
}

// suit sets what the type of the file system decides.
func (s *Store) suit(fsType int64, o Options) {
	// Only these are known to have renameat2 with both of its flags; elsewhere a condition is judged just before the rename.
	switch fsType {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.F2FS_SUPER_MAGIC:
		s.feat.Conditional = true
	}
	s.network = slices.Contains(networks, uint32(fsType)) //nolint:gosec // a magic number has 32 bits, whatever holds it
	s.feat.Network = s.network
	switch {
	case o.Racy != 0:
	case s.network:
		s.feat.Racy = 2 * time.Second
	default:
		s.feat.Racy = 10 * time.Millisecond
	}
}

// networks are the types of file systems that several hosts can have mounted, as statfs tells them. FUSE is among them: most
// of what is behind it is one, virtiofs too. The last five have no name in package unix.
var networks = []uint32{
	unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC,
	unix.CEPH_SUPER_MAGIC, unix.V9FS_MAGIC, unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.CODA_SUPER_MAGIC, unix.NCP_SUPER_MAGIC,
	unix.OCFS2_SUPER_MAGIC,
	0x0bd00bd0, // Lustre
	0x47504653, // GPFS
	0x01161970, // GFS2
	0x19830326, // BeeGFS
	0x20030528, // OrangeFS
}

// Features implements ufs.Store.
func (s *Store) Features() ufs.Features { return s.feat }

// Skipped returns how many times a listing left out a name that is not UTF-8.
func (s *Store) Skipped() int64 { return s.skipped.Load() }

// Close implements ufs.Store. Open readers stay usable; open writers cannot commit. The staging directories go if nothing
// is left in them.
func (s *Store) Close() error {
	s.leave()
	_ = s.root.Close() // it reports a second Close, which is none
	return nil
}

// lock takes the locks of names and returns what releases them.
func (s *Store) lock(names ...string) (unlock func()) {
	var held [64]bool
	for _, n := range names {
		held[maphash.String(s.seed, n)%64] = true
	}
	for i := range held { // in one order, so that two renames cannot wait for each other
		if held[i] {
			s.names[i].Lock()
		}
	}
	return func() {
		for i := range held {
			if held[i] {
				s.names[i].Unlock()
			}
		}
	}
}

// unsettle marks the directory dir as visible before it is durable, or what else is between two states, until the returned
// function is called. It waits for an earlier mark.
func (s *Store) unsettle(dir string) (settled func()) {
	for {
		s.mu.Lock()
		other, ok := s.unsettled[dir]
		if !ok {
			break
		}
		s.mu.Unlock()
		<-other
	}
	defer s.mu.Unlock()
	done := make(chan struct{})
	s.unsettled[dir] = done
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.unsettled, dir)
		close(done)
	}
}

// settle returns when dir ("a/b/") and its ancestors are durable, as far as this process made or moved them. A file put
// into a directory that another writer has made and not yet synced would be acknowledged and lost.
func (s *Store) settle(dir string) {
	for i := range len(dir) {
		if dir[i] != '/' {
			continue
		}
		s.await(dir[:i+1])
	}
}

// await returns when mark, if it is set, is taken back.
func (s *Store) await(mark string) {
	s.mu.Lock()
	pending, ok := s.unsettled[mark]
	s.mu.Unlock()
	if ok {
		<-pending
	}
}
