package hadoopfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// xattr is the extended attribute that holds a record in JSON. A record counts only while it is bound to what it lies on: to
// a file's inode, length and modification time, to a directory's inode. Who appends to a file without Sluice, or copies it
// with its attributes, leaves a record that no longer fits and is ignored. A server that tells no inodes has the number 0.
const xattr = "user.sluice"

// record is the value of xattr.
type record struct {
	Inode uint64 `json:"ino"`
	Size  int64  `json:"size,omitempty"`     // bytes; 0 for a directory
	MTime int64  `json:"mtime_ms,omitempty"` // since 1970; 0 for a directory

	// What HDFS said of the name when the record was written: as long as it says the same, the record's are Sluice's.
	StoreMode  uint32 `json:"store_mode,omitempty"`
	StoreOwner string `json:"store_owner,omitempty"`
	StoreGroup string `json:"store_group,omitempty"`

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

// bind returns the record of a that fits st.
func bind(st *Status, a ufs.Attr) record {
	r := record{
		Inode: st.ID, StoreMode: st.Mode, StoreOwner: st.Owner, StoreGroup: st.Group, Headers: a.Headers, User: a.User, ETag: a.ETag,
		Checksums: a.Checksums, Origin: a.Origin, Mode: a.Mode, Owner: a.Owner, Group: a.Group, Marker: a.Marker,
	}
	if !st.Dir {
		r.Size, r.MTime = st.Size, st.MTime
	}
	return r
}

func (r *record) attr() ufs.Attr {
	return ufs.Attr{
		Headers: r.Headers, User: r.User, ETag: r.ETag, Checksums: r.Checksums, Origin: r.Origin, Mode: r.Mode, Owner: r.Owner,
		Group: r.Group, Marker: r.Marker,
	}
}

// parseRecord returns the record in value if it fits st, else nil.
func parseRecord(value []byte, st *Status) *record {
	var r record
	if len(value) == 0 || json.Unmarshal(value, &r) != nil || r.Inode != st.ID {
		return nil
	}
	if !st.Dir && (r.Size != st.Size || r.MTime != st.MTime) {
		return nil
	}
	return &r
}

// keep writes the attributes a of name, whose facts were st: permission bits and, for HDFS's superuser, owner and group where
// HDFS shows them too. It returns the facts it has then. The bits come last: HDFS lets who is not the superuser set no extended
// attribute of a file that its owner may not write, so that they are lifted for that if need be.
func (s *Store) keep(ctx context.Context, op, name string, st Status, a ufs.Attr) (Status, *record, error) {
	p, was := s.at(name), st
	changed := false
	fail := func(err error) (Status, *record, error) {
		if changed && !strings.HasPrefix(name, ufs.Staging) {
			err = halfway(op, name, err)
		}
		return was, nil, err
	}
	if (a.Owner != "" && a.Owner != st.Owner || a.Group != "" && a.Group != st.Group) && !s.noOwner.Load() {
		err := s.c.SetOwner(ctx, p, a.Owner, a.Group)
		if errors.Is(err, errs.Permission) {
			s.noOwner.Store(true)
		} else if err != nil {
			return fail(err)
		} else {
			changed = true
			if st, err = s.again(ctx, op, name, &was); err != nil {
				return fail(err)
			}
		}
	}
	mode := st.Mode
	if a.Mode != 0 {
		mode = a.Mode & 0o1777
	}
	var r *record
	now := st.Mode // by what we have done
	if !s.o.NoAttrs {
		if now&0o200 == 0 {
			if err := s.c.SetMode(ctx, p, now|0o200); err == nil {
				now |= 0o200
			} else if !errors.Is(err, errs.Permission) { // another's name
				return fail(err)
			}
		}
		var err error
		meant := st
		meant.Mode = mode
		if r, err = s.record(ctx, op, name, &meant, a); err != nil {
			if now != st.Mode {
				if berr := s.c.SetMode(ctx, p, st.Mode); berr != nil {
					changed = true
				}
			}
			return fail(err)
		}
		changed = true
	}
	if mode == now {
		st.Mode = now
		return st, r, nil
	}
	if err := s.c.SetMode(ctx, p, mode); err != nil && !errors.Is(err, errs.Permission) {
		return fail(err)
	}
	changed = true
	st, err := s.again(ctx, op, name, &was)
	if err == nil && r != nil && st.Mode != mode { // refused, or not as it was meant
		r, err = s.record(ctx, op, name, &st, a)
	}
	if err != nil {
		return fail(err)
	}
	return st, r, nil
}

// again returns the facts of name, which was was. Errors: errs.Precondition if it is another file.
func (s *Store) again(ctx context.Context, op, name string, was *Status) (Status, error) {
	now, err := s.c.Status(ctx, s.at(name))
	if err == nil && !now.same(was) && !now.Dir {
		err = errs.New(op, name, errs.Precondition, "the file is another version")
	}
	return now, err
}

// record writes the record of a that fits st.
func (s *Store) record(ctx context.Context, op, name string, st *Status, a ufs.Attr) (*record, error) {
	r := bind(st, a)
	value, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	err = s.c.SetXAttr(ctx, s.at(name), xattr, value)
	if errors.Is(err, errs.Invalid) || errors.Is(err, errs.TooLarge) {
		return nil, errs.New(op, name, errs.TooLarge,
			fmt.Sprintf("headers and metadata take %d bytes, more than HDFS keeps with a file (dfs.namenode.fs-limits.max-xattr-size)", len(value)))
	}
	return &r, err
}

// SetAttr implements ufs.AttrSetter.
func (s *Store) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Info, error) {
	const op = "hadoopfs.SetAttr"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	if s.o.NoAttrs {
		return ufs.Info{}, errs.New(op, name, errs.Unsupported, "the mount keeps no attributes (its option xattrs is false)")
	}
	defer s.lock(name)()
	st, err := s.status(ctx, op, name)
	switch {
	case err != nil:
		return ufs.Info{}, err
	case version != "" && versionOf(&st) != version:
		return ufs.Info{}, errs.New(op, name, errs.Precondition, "the name is another version")
	}
	st, r, err := s.keep(ctx, op, name, st, attr)
	if err != nil {
		return ufs.Info{}, err
	}
	return s.info(name, &st, r), nil
}
