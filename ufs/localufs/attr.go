package localufs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// xattr is the extended attribute that holds a record in JSON. A record counts only while it is bound to what it lies on:
// to a file's inode, size and modification time, to a directory's inode. Who rewrites or replaces the file without Sluice
// leaves a record that no longer fits and is ignored; so does a copy that takes extended attributes along.
const xattr = "user.sluice"

// record is the value of xattr.
type record struct {
	Inode uint64 `json:"ino"`
	Size  int64  `json:"size,omitempty"`     // bytes; 0 for a directory
	MTime int64  `json:"mtime_ns,omitempty"` // since 1970; 0 for a directory

	Headers   map[string]string `json:"headers,omitempty"`
	User      map[string]string `json:"user,omitempty"`
	ETag      string            `json:"etag,omitempty"`
	Checksums string            `json:"checksums,omitempty"`
	Origin    string            `json:"origin,omitempty"`
	Mode      uint32            `json:"mode,omitempty"`
	Owner     string            `json:"owner,omitempty"`
	Group     string            `json:"group,omitempty"`
	Marker    bool              `json:"marker,omitempty"`
}

// bind returns the record without attributes that fits st.
func bind(st *unix.Stat_t) record {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return record{Inode: st.Ino}
	}
	return record{Inode: st.Ino, Size: st.Size, MTime: st.Mtim.Nano()}
}

// readAttr returns what is kept with fd, whose facts are st. full is false if that cannot be known.
func readAttr(fd int, st *unix.Stat_t) (a ufs.Attr, full bool) {
	buf := make([]byte, 1024)
	n, err := unix.Fgetxattr(fd, xattr, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 1<<16) // XATTR_SIZE_MAX
		n, err = unix.Fgetxattr(fd, xattr, buf)
	}
	if err != nil {
		return ufs.Attr{}, errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP)
	}
	var r record
	if json.Unmarshal(buf[:n], &r) != nil {
		return ufs.Attr{}, true // not ours
	}
	if b := bind(st); r.Inode != b.Inode || r.Size != b.Size || r.MTime != b.MTime {
		return ufs.Attr{}, true
	}
	return ufs.Attr{
		Headers: r.Headers, User: r.User, ETag: r.ETag, Checksums: r.Checksums, Origin: r.Origin, Mode: r.Mode,
		Owner: r.Owner, Group: r.Group, Marker: r.Marker,
	}, true
}

// writeAttr keeps a with fd: mode bits and, for the superuser, owner and group in the inode too. Of a file it must be
// called after the last write.
func (s *Store) writeAttr(fd int, a ufs.Attr) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := s.owners.chown(fd, &st, a.Owner, a.Group); err != nil {
		return err
	}
	if a.Mode != 0 {
		if err := unix.Fchmod(fd, inodeMode(a.Mode, &st)); err != nil {
			return err
		}
	}
	if !s.feat.Attrs {
		return nil
	}
	r := bind(&st)
	r.Headers, r.User, r.ETag, r.Checksums, r.Origin = a.Headers, a.User, a.ETag, a.Checksums, a.Origin
	r.Mode, r.Owner, r.Group, r.Marker = a.Mode, a.Owner, a.Group, a.Marker
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	err = unix.Fsetxattr(fd, xattr, value, 0)
	// ext4 keeps attributes in the inode and one block, and says ENOSPC for what does not fit. A disk that is full refuses
	// small values too.
	const small = 2048
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ERANGE) || errors.Is(err, unix.ENOSPC) && len(value) > small {
		return errs.New("localufs.writeAttr", "", errs.TooLarge,
			fmt.Sprintf("headers and metadata take %d bytes, more than the file system keeps with a file", len(value)))
	}
	return err
}

// inodeMode is the mode an inode gets for the mode m: the process keeps its own access.
func inodeMode(m uint32, st *unix.Stat_t) uint32 {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return m&0o1777 | 0o700
	}
	return m&0o1777 | 0o600
}

// info describes name by the facts st and the attributes a.
func (s *Store) info(name string, st *unix.Stat_t, a ufs.Attr, full bool) ufs.Info {
	in := ufs.Info{
		Name: name, Dir: st.Mode&unix.S_IFMT == unix.S_IFDIR, Marker: a.Marker, ModTime: time.Unix(st.Mtim.Unix()),
		Version: s.versionOf(st), Full: full, Attr: a, ETag: a.ETag, Owner: a.Owner, Group: a.Group, Mode: a.Mode,
	}
	if !in.Dir {
		in.Size = st.Size
	}
	if a.Mode == 0 || inodeMode(a.Mode, st) != st.Mode&0o1777 { // someone changed the mode without Sluice
		in.Mode = st.Mode & 0o1777
	}
	if in.Owner == "" {
		in.Owner = s.owners.user(st.Uid)
	}
	if in.Group == "" {
		in.Group = s.owners.group(st.Gid)
	}
	return in
}

// versionOf returns what changes with every change of a file's bytes or inode. The number of a network file system's device
// is the mount's, drawn anew by every host and with every mount, and no part of it: a version that one host has told has to
// hold on another, and after a restart.
func (s *Store) versionOf(st *unix.Stat_t) string {
	dev := uint64(st.Dev) //nolint:unconvert // differs by architecture
	if s.network {
		dev = 0
	}
	return fmt.Sprintf("%x.%x.%x.%x.%x", dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// sameFile reports whether a and b are the same bytes of the same inode, across a rename, which changes the ctime.
func sameFile(a, b *unix.Stat_t) bool {
	return a.Dev == b.Dev && a.Ino == b.Ino && a.Size == b.Size && a.Mtim == b.Mtim
}

// owners names users and groups. A lookup reads a file or asks a directory service: that of a number is made once, that of a
// name, which is needed for every write, once a minute.
type owners struct {
	users, groups sync.Map

	mu              sync.Mutex
	userID, groupID map[string]numbered // by name
}

// numbered is what the system said of a name.
type numbered struct {
	id   int // -1: it does not know the name
	till time.Time
}

const (
	numberAge = time.Minute
	maxNames  = 10_000 // remembered; names come from clients
)

// number returns the number of a name, -1 if there is none.
func (o *owners) number(known *map[string]numbered, name string, lookup func(string) (string, error)) int {
	if name == "" {
		return -1
	}
	now := time.Now()
	o.mu.Lock()
	n, ok := (*known)[name]
	o.mu.Unlock()
	if ok && now.Before(n.till) {
		return n.id
	}
	id := -1
	if text, err := lookup(name); err == nil {
		if id, err = strconv.Atoi(text); err != nil {
			id = -1
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if *known == nil || len(*known) >= maxNames {
		*known = map[string]numbered{}
	}
	(*known)[name] = numbered{id, now.Add(numberAge)}
	return id
}

func (o *owners) user(id uint32) string {
	return name(&o.users, id, func(s string) (string, error) {
		u, err := user.LookupId(s)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func (o *owners) group(id uint32) string {
	return name(&o.groups, id, func(s string) (string, error) {
		g, err := user.LookupGroupId(s)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

// name returns the name of id, or its number.
func name(known *sync.Map, id uint32, lookup func(string) (string, error)) string {
	if n, ok := known.Load(id); ok {
		return n.(string)
	}
	num := strconv.FormatUint(uint64(id), 10)
	n, err := lookup(num)
	if err != nil {
		n = num
	}
	known.Store(id, n)
	return n
}

// chown gives fd, whose facts are st, to the named owner and group if the process may and the host knows them; the record
// keeps the names anyway.
func (o *owners) chown(fd int, st *unix.Stat_t, owner, group string) error {
	if os.Geteuid() != 0 || owner == "" && group == "" {
		return nil
	}
	uid := o.number(&o.userID, owner, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	gid := o.number(&o.groupID, group, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	if (uid < 0 || uint32(uid) == st.Uid) && (gid < 0 || uint32(gid) == st.Gid) { //nolint:gosec // what lookups told
		return nil
	}
	return unix.Fchown(fd, uid, gid)
}
