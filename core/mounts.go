package core

import (
	"context"
	"strings"
	"time"
)

// Mounts is the table of under-stores and the paths they appear at. Every method but Mounts needs the superuser and
// returns errs.Permission without it.
type Mounts interface {
	// Mounts returns all mounts in the order of their paths, the root's first. Options are as they were given, secrets
	// included: whoever shows a mount shows Redacted.
	Mounts(ctx context.Context) ([]Mount, error)

	// Mount makes the store at m.URI appear at m.Path. The store is probed first (reached, listed, read and, unless
	// ReadOnly, written), within 5 s, and is refused with the probe's error. State, Detail and an empty Origin are set by
	// the namespace. Errors: errs.Exist (a mount or a file is there), errs.Invalid (URI, options, a root that overlaps
	// another writable mount's), errs.Permission, errs.NotExist and errs.Unavailable from the store.
	Mount(ctx context.Context, m Mount) (Mount, error)

	// Update changes the mount at p, probing it again if its options change. Errors: errs.NotExist, and Mount's.
	Update(ctx context.Context, p Path, c MountChange) (Mount, error)

	// Unmount removes the mount at p and leaves its store untouched. Errors: errs.NotExist; errs.Busy if another mount
	// is below it; errs.Invalid for the root.
	Unmount(ctx context.Context, p Path) error
}

// Mount is one store and where it appears.
type Mount struct {
	Path         Path          // the directory it appears at
	URI          string        // of the store: file:///dir, s3://bucket/prefix
	ReadOnly     bool          // changes are refused
	SyncInterval time.Duration // how old store facts may be: 0 checks at each access, negative never checks again
	Owner        string        // of what the store names no owner for; "": the superuser
	Group        string        // likewise; "": the superuser's group
	Mode         uint32        // permission bits of what the store has none for; 0: 0755 and 0644
	WriteType    WriteType     // of writes that name none; "": CacheThrough
	ReadType     ReadType      // "": CacheRead
	Options      map[string]string

	Origin MountOrigin
	State  MountState
	Detail string // why it is not ok, "" if it is
}

// MountOrigin says where a mount was asked for.
type MountOrigin string

// The origins.
const (
	FromConfig MountOrigin = "config" // a flag or the configuration file; set again at each start
	FromAPI    MountOrigin = "api"    // the admin API; kept in the journal
)

// MountState says whether a mount's store can be used.
type MountState string

// The states.
const (
	MountOK          MountState = "ok"
	MountUnavailable MountState = "unavailable" // the store does not answer; cached bytes are still served
)

// MountChange names the facts of a mount to change; nil pointers stay.
type MountChange struct {
	URI          *string
	ReadOnly     *bool
	SyncInterval *time.Duration
	Owner, Group *string
	Mode         *uint32
	WriteType    *WriteType
	ReadType     *ReadType
	Options      map[string]*string // set, or removed where the value is nil; options not named stay
}

// Apply returns m changed by c. m's options are not altered.
func (c MountChange) Apply(m Mount) Mount {
	set(&m.URI, c.URI)
	set(&m.ReadOnly, c.ReadOnly)
	set(&m.SyncInterval, c.SyncInterval)
	set(&m.Owner, c.Owner)
	set(&m.Group, c.Group)
	set(&m.Mode, c.Mode)
	set(&m.WriteType, c.WriteType)
	set(&m.ReadType, c.ReadType)
	if len(c.Options) == 0 {
		return m
	}
	options := make(map[string]string, len(m.Options)+len(c.Options))
	for name, value := range m.Options {
		options[name] = value
	}
	for name, value := range c.Options {
		if value == nil {
			delete(options, name)
		} else {
			options[name] = *value
		}
	}
	m.Options = options
	return m
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// Redacted stands for the value of a secret option wherever a mount is shown.
const Redacted = "***"

// Redacted returns m with the values of its secret options replaced, for showing it to anybody.
func (m Mount) Redacted() Mount {
	m.Options = RedactOptions(m.Options)
	return m
}

// RedactOptions returns a copy of options in which the values of secret ones are replaced; nil for none.
func RedactOptions(options map[string]string) map[string]string {
	if len(options) == 0 {
		return nil
	}
	shown := make(map[string]string, len(options))
	for name, value := range options {
		if SecretOption(name) && value != "" {
			value = Redacted
		}
		shown[name] = value
	}
	return shown
}

// SecretOption reports whether the value of a mount option of this name must never be shown. Names that only might hold
// a secret count as such.
func SecretOption(name string) bool {
	name = strings.ToLower(name)
	for _, word := range []string{"secret", "password", "passwd", "token", "credential", "private", "sas"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}
