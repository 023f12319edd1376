package core

import (
	"context"
	"time"
)

// Mounts is the admin's side of the mount table. Only a superuser may use it: errs.Permission.
type Mounts interface {
	// Mounts returns all mounts, the root included, by path.
	Mounts(ctx context.Context) ([]MountInfo, error)
	// Mount opens and probes the store (authentication, list, read and, unless read-only, write; 5 s) and mounts it. The
	// mount point may be an existing empty directory; missing parents are made. Errors: errs.Exist, errs.Busy (the path is
	// not empty), errs.Invalid (path, uri, options, or a root that overlaps another writable mount's), or what the probe
	// found, with its reason.
	Mount(ctx context.Context, m MountSpec) (MountInfo, error)
	// UpdateMount changes the policies of the mount at p; nil fields stay.
	UpdateMount(ctx context.Context, p Path, c MountChange) (MountInfo, error)
	// Unmount removes the mount point and leaves the store untouched. Errors: errs.Busy if a mount lies below it.
	Unmount(ctx context.Context, p Path) error
}

// MountSpec says what to mount where.
type MountSpec struct {
	Path         Path
	URI          string
	Options      map[string]string // the store's, secrets among them: never logged or echoed
	ReadOnly     bool
	NoAccess     bool           // nothing in it can be read either; then ReadOnly is set too
	SyncInterval *time.Duration // nil: the default; negative: never after the first load; 0: on each access
	Owner, Group string         // of what the store does not say; "": superuser and supergroup
	Mode         uint32         // likewise, of directories; files get it without execute bits; 0: 0755
	WriteType    WriteType      // "": the default
	ReadType     ReadType       // "": the default
	Replicas     int            // workers that hold a file before its store has it; 0: the default; at most MaxReplicas
	PersistDelay *time.Duration // from there to the store; nil: the default; not negative
	// As in Policies. nil and 0: the defaults.
	ReplicationMin *int
	ReplicationMax int
	LoadType       LoadType // "": the default
	Origin         MountOrigin
}

// MaxReplicas is how many workers may hold a file.
const MaxReplicas = 5

// MountOrigin says who made a mount.
type MountOrigin string

// The origins.
const (
	FromConfig MountOrigin = "config" // flags or the configuration file; applied at each start
	FromAPI    MountOrigin = "api"
)

// DefaultCopies has ReplicationMin of a mount be left open again.
const DefaultCopies = -1

// MountChange names the policies to change.
type MountChange struct {
	ReadOnly     *bool
	SyncInterval *time.Duration
	Owner, Group *string
	Mode         *uint32
	WriteType    *WriteType
	ReadType     *ReadType
	Replicas     *int
	PersistDelay *time.Duration
	// ReplicationMin's default is DefaultCopies, ReplicationMax's 0.
	ReplicationMin, ReplicationMax *int
	LoadType                       *LoadType         // "": the default
	Options                        map[string]string // store options to set, secrets among them; "" removes one. The endpoint stays
}

// MountInfo describes a mount. Secret options read "***".
type MountInfo struct {
	MountSpec
	State string // "ready", or why it does not answer
}
