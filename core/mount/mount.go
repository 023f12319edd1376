// Package mount is the mount table: which store serves which part of the tree, and under which policies. A Table is an
// immutable snapshot; changes make another one. It does no I/O and does not know what a store is.
package mount

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
)

// Mount is one mounted store with the policies of its part of the tree.
type Mount struct {
	ID string // never reused; "root" for the root store
	core.MountSpec
	SyncInterval time.Duration // effective
	PersistDelay time.Duration // effective
	// effective
	ReplicationMin, ReplicationMax int
	LoadType                       core.LoadType  // effective
	WriteType                      core.WriteType // effective
	ReadType                       core.ReadType  // effective
	Root                           string         // identity of the store's root, see ufs.Features; never empty
	Is                             string         // what tells that root from another at its place, see ufs.Features; "" if nothing does
	Taken                          int            // how often another root at its place was taken for the mount's
}

// StoreID names the store as it is known now: another name than of any that was mounted, or of a root that another was taken for. What
// holds of one store alone, such as the bytes of a version, is kept under it.
func (m *Mount) StoreID() string {
	if m.Taken == 0 {
		return m.ID
	}
	return m.ID + "." + strconv.Itoa(m.Taken)
}

// Table is a snapshot of all mounts, the root first, by path.
type Table struct {
	mounts []*Mount
	closed bool // one of them has NoAccess
	loads  bool // one of them has another LoadType than LoadOnce
}

func newTable(all []*Mount) *Table {
	return &Table{all, slices.ContainsFunc(all, func(m *Mount) bool { return m.NoAccess }),
		slices.ContainsFunc(all, func(m *Mount) bool { return m.LoadType != core.LoadOnce })}
}

// Closed reports whether a mount lets nobody see what is in it. nil has none.
func (t *Table) Closed() bool { return t != nil && t.closed }

// Loads reports whether a mount has another load type than LoadOnce. nil has none.
func (t *Table) Loads() bool { return t != nil && t.loads }

// With returns a table that also holds m, in place of an earlier one of the same id.
func (t *Table) With(m *Mount) *Table {
	all := append(t.Without(m.ID).mounts, m)
	slices.SortFunc(all, func(a, b *Mount) int { return strings.Compare(a.Path.String(), b.Path.String()) })
	return newTable(all)
}

// Without returns a table that does not hold the mount id.
func (t *Table) Without(id string) *Table {
	all := make([]*Mount, 0, len(t.mounts)+1)
	for _, m := range t.mounts {
		if m.ID != id {
			all = append(all, m)
		}
	}
	return newTable(all)
}

// All returns the mounts; the slice must not be changed.
func (t *Table) All() []*Mount { return t.mounts }

// Get returns the mount id, nil if there is none.
func (t *Table) Get(id string) *Mount {
	for _, m := range t.mounts {
		if m.ID == id {
			return m
		}
	}
	return nil
}

// At returns the mount whose mount point is the directory p, nil if there is none.
func (t *Table) At(p core.Path) *Mount {
	for _, m := range t.mounts {
		if m.Path.Dir() == p.Dir() {
			return m
		}
	}
	return nil
}

// Below reports whether a mount point lies strictly below the directory p.
func (t *Table) Below(p core.Path) bool {
	d := p.Dir().String()
	return slices.ContainsFunc(t.mounts, func(m *Mount) bool {
		at := m.Path.Dir().String()
		return at != d && strings.HasPrefix(at, d)
	})
}

// Overlaps returns the writable mount whose store's root is, holds, or lies in root; nil if there is none.
func (t *Table) Overlaps(root string) *Mount {
	for _, m := range t.mounts {
		if !m.ReadOnly && Nested(m.Root, root) {
			return m
		}
	}
	return nil
}

// Nested reports whether one of two roots is, or holds, the other.
func Nested(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }
