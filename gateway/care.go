package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/etcd"
	"github.com/sluicefs/sluice/gateway/admin"
)

// snapshot returns what writes a snapshot of the journal's etcd; nil in a process that has no journal.
func (g *gateway) snapshot() admin.Snapshot {
	switch {
	case g.etcd != nil:
		return g.etcd.Snapshot
	case g.client != nil:
		return g.client.Snapshot
	}
	return nil
}

// peerAddress returns the host and port of a peer URL.
func peerAddress(peer string) (string, error) {
	u, err := url.Parse(peer)
	if err != nil || u.Host == "" {
		return "", errs.New("gateway.Restore", peer, errs.Invalid, "a peer URL is written http://HOST:PORT")
	}
	return u.Host, nil
}

// Backup is what a snapshot file holds.
type Backup struct {
	Keys     int
	Bytes    int64
	Revision int64
}

// VerifyBackup reads the whole snapshot file. Errors: errs.NotExist; errs.Corrupt with what is wrong.
func VerifyBackup(file string) (Backup, error) {
	info, err := etcd.Verify(file)
	return Backup{info.Keys, info.Bytes, info.Revision}, err
}

// RestoreOptions say what data directory is made of a snapshot.
type RestoreOptions struct {
	File  string
	Data  string            // the data directory
	Name  string            // of the master, if there are to be several
	Join  map[string]string // peer URLs of all masters by name; empty: it will be alone
	Token string            // new, and the same for all of several masters
	Log   *slog.Logger
}

// Restore makes the journal of a data directory, which must have none, out of a snapshot. It begins another life, which is
// held until it is released. Errors: errs.Invalid; errs.Exist; errs.NotExist and errs.Corrupt as VerifyBackup, and errs.NotExist for
// a snapshot of something else, such as of an etcd that somebody else runs.
func Restore(ctx context.Context, o RestoreOptions) error {
	if _, err := VerifyBackup(o.File); err != nil { // says more of what is damaged
		return err
	}
	f, err := openJournal(ctx, o.File, "")
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	data, err := filepath.Abs(o.Data)
	if err != nil {
		return err
	}
	if err := makeDurable(data); err != nil {
		return fmt.Errorf("cannot make the data directory: %w", err)
	}
	so := etcd.ServerOptions{Dir: JournalDirectory(data), Name: o.Name, Join: o.Join, Token: o.Token, Logger: o.Log}
	if len(o.Join) > 0 {
		if so.InternalListen, err = peerAddress(o.Join[o.Name]); err != nil {
			return err
		}
	}
	return etcd.Restore(o.File, so)
}

// CheckFile checks the journal in a snapshot file, or in the data directory of a process that does not run. prefix is what its keys
// start with in a snapshot of an etcd that somebody else runs; empty: what they start with if nobody says otherwise. Errors:
// errs.NotExist, also if no journal is there; errs.Busy; errs.Corrupt.
func CheckFile(ctx context.Context, name, prefix string) (core.CheckReport, error) {
	if info, err := os.Stat(JournalDirectory(name)); err == nil && info.IsDir() {
		name = JournalDirectory(name)
	}
	prefixes := []string{prefix}
	if prefix == "" {
		prefixes = []string{"", etcd.DefaultPrefix}
	}
	f, err := openJournal(ctx, name, prefixes...)
	if err != nil {
		return core.CheckReport{}, err
	}
	defer f.Close()
	return namespace.CheckJournal(ctx, f)
}

// openJournal opens the file with the first of the prefixes under which a journal is in it. Where nothing at all has been written yet,
// as when a new master takes its first snapshot, a journal is about to be.
func openJournal(ctx context.Context, name string, prefixes ...string) (*etcd.File, error) {
	for _, prefix := range prefixes {
		f, err := etcd.OpenFile(name, prefix)
		if err != nil {
			return nil, err
		}
		found, err := namespace.HasJournal(ctx, f)
		if found || err == nil && prefix == "" && f.Empty() {
			return f, nil
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	return nil, errs.New("gateway.openJournal", name, errs.NotExist,
		fmt.Sprintf("no journal of Sluice is in it under %q; that of etcd.endpoints lies under etcd.prefix there, and is restored there, with etcdctl", prefixes))
}
