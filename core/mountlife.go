package core

import (
	"context"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// MountLife is the admin's side of what mounts go through: it changes the mount table as Mounts does, and more of it, says
// beforehand what a change would do, and remembers every change. It is of the process that leads. Only a superuser may use it:
// errs.Permission.
type MountLife interface {
	// AddMount is Mounts.Mount.
	AddMount(ctx context.Context, s MountSpec, o LifeOptions) (MountReport, error)
	// EditMount changes the mount at p; what c leaves nil stays. With another URI the mount is switched to that store in one
	// change, under a new generation: nothing that is known of the old store is answered after it, and readers that it had
	// are told to open their files again if what they need is not cached. The store is probed first. Errors: those of
	// Mounts.UpdateMount and Mounts.Mount; errs.Busy, without Force, while a switch would give up what RemoveMount says; with
	// the URI that it has errs.Unavailable if another directory is there by now, or none: only with Adopt is that one taken.
	EditMount(ctx context.Context, p Path, c MountEdit, o LifeOptions) (MountReport, error)
	// RemoveMount is Mounts.Unmount, but refuses as well, without Force, while changes wait for an answer of the store or
	// multipart uploads are open: errs.Busy. With Force these, and files that no store has, are given up.
	RemoveMount(ctx context.Context, p Path, o LifeOptions) (MountReport, error)

	// Secrets returns the named secrets, by name, without their values.
	Secrets(ctx context.Context) ([]SecretInfo, error)
	// SetSecret makes the secret that name, or gives it other values: all of them, those that are left out are gone. The
	// stores of the mounts that use it are opened and probed with them first, and use them from then on; with Force they are
	// not probed, and those that do not answer are opened later. Errors: errs.Invalid, or what the probe found.
	SetSecret(ctx context.Context, name string, values map[string]string, o LifeOptions) (SecretInfo, error)
	// RemoveSecret forgets a secret. Errors: errs.NotExist; errs.Busy while a mount uses it.
	RemoveSecret(ctx context.Context, name string) error

	// MountHistory returns the revisions of the mount table, the named secrets and the path rules that are remembered, the latest
	// first; at most MaxRevisions.
	MountHistory(ctx context.Context) ([]Revision, error)
	// RollbackMounts makes mounts and path rules what they were after the revision rev, by changes that pass the checks of any
	// other and are revisions themselves; it returns what each did, or would do. It ends at the first that is refused, with its
	// error and what was done before. Values of secrets are never taken back: mounts keep those that they have, and a mount that
	// is made again has those that it had. Errors: errs.NotExist if the revision is not remembered.
	RollbackMounts(ctx context.Context, rev uint64, o LifeOptions) ([]string, error)
}

// LifeOptions say how a change is made.
type LifeOptions struct {
	DryRun bool // make all checks and probes, and change nothing
	Force  bool // give up what would be lost, and say so
}

// MountEdit is a MountChange and what else may be changed of a mount.
type MountEdit struct {
	MountChange
	URI    *string
	Access *Access
	// Adopt takes what is at the URI now, such as a directory that was moved there or restored, for the mount's store; with the
	// option create one that is missing is made. What is known of the store is forgotten, files that workers hold go there.
	Adopt bool
	// The default again.
	DefaultSyncInterval, DefaultPersistDelay bool
}

// MountReport says what a change has made of a mount, or would make.
type MountReport struct {
	Mount  MountInfo // as it is now or would be; of a removal, as it was
	Did    []string  // a sentence each
	GaveUp []string  // likewise: what was lost by Force
}

// Access says what a mount lets its users do.
type Access string

// The modes of access.
const (
	AccessNone  Access = "noAccess" // the mount point shows, and nothing in it
	AccessRead  Access = "readOnly"
	AccessWrite Access = "readWrite"
)

// opAccess is the operation of errors that AccessRefused makes.
const opAccess = "mount access"

// AccessRefused returns the errs.Permission that a request gets for what is at the path, since the mount does not let anybody do
// that.
func AccessRefused(p Path, mount Path, a Access) error {
	why := "the mount " + mount.File().String() + " is read-only"
	if a == AccessNone {
		why = "the mount " + mount.File().String() + " is noAccess"
	}
	return errs.New(opAccess, p.String(), errs.Permission, why)
}

// WhyAccessRefused returns what a user is told of an error that AccessRefused made, whatever it was wrapped in and wherever it
// comes from; "" of other errors.
func WhyAccessRefused(err error) string { return toldOf(opAccess, err) }

// opStoreAway is the operation of errors that StoreAway makes.
const opStoreAway = "mount store"

// StoreAway returns the errs.Unavailable of what is at the name, which needs the store of a mount that cannot be asked. why names the mount,
// and says to everybody what it is.
func StoreAway(name string, why error) error { return errs.E(opStoreAway, name, errs.Unavailable, why) }

// WhyStoreAway returns what a user is told of an error that StoreAway made, whatever it was wrapped in and wherever it comes from; "" of
// other errors.
func WhyStoreAway(err error) string { return toldOf(opStoreAway, err) }

// Known reports whether a is one of them.
func (a Access) Known() bool { return a == AccessNone || a == AccessRead || a == AccessWrite }

// Access returns what the mount lets its users do.
func (m *MountSpec) Access() Access {
	switch {
	case m.NoAccess:
		return AccessNone
	case m.ReadOnly:
		return AccessRead
	}
	return AccessWrite
}

// SetAccess has the mount let its users do that.
func (m *MountSpec) SetAccess(a Access) {
	m.ReadOnly, m.NoAccess = a != AccessWrite, a == AccessNone
}

// SecretOption is the option of a mount that names the secret it takes further options from.
const SecretOption = "secret"

// SecretInfo describes a named secret.
type SecretInfo struct {
	Name    string
	Options []string  // the names of what it holds
	Changed time.Time // when it was set last
	By      string    // by whom
	UsedBy  []Path    // mounts
}

// MaxRevisions is how many revisions are remembered.
const MaxRevisions = 200

// Revision is one change of the mount table, the named secrets or the path rules.
type Revision struct {
	Number uint64 // from 1, without gaps
	At     time.Time
	By     string // the user
	What   string // a sentence, without secrets
}
