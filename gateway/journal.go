package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/etcd"
)

// JournalDirectory returns where a process with the data directory data keeps its etcd.
func JournalDirectory(data string) string { return filepath.Join(data, "etcd") }

func (g *gateway) journalDir() string { return JournalDirectory(g.cfg.Data) }

// backups says which snapshots of its own etcd this process takes by itself.
func (g *gateway) backups() etcd.BackupOptions {
	b := g.cfg.Backup
	return etcd.BackupOptions{Dir: g.cfg.BackupDirectory(), Every: b.Interval, Keep: b.Keep}
}

// journalFailed is why the journal does not start, with the way out.
func (g *gateway) journalFailed(err error) error {
	if dir := g.cfg.BackupDirectory(); dir != "" && errors.Is(err, errs.Corrupt) {
		return fmt.Errorf("journal: %w; the automatic snapshots are in %s: `sluice restore FILE --data NEWDIR` makes a data directory of one", err, dir)
	}
	return fmt.Errorf("journal: %w", err)
}

// SeenFile is the name of the file, in the data directory, that keeps how far this process has seen the journal get: one that
// comes back shorter was set back, and is held.
const SeenFile = "journal-seen"

// seenEvery is how often SeenFile is written while the journal grows: what was seen since is not known after a crash.
const seenEvery = 5 * time.Second

// readSeen returns what SeenFile holds, the zero value if it is not there.
func readSeen(dir string) (seen namespace.Seen, err error) {
	name := filepath.Join(dir, SeenFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return seen, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &seen)
	}
	if err != nil {
		return seen, fmt.Errorf("%s, which says how far the journal had got: %w; remove it if the journal is the right one", name, err)
	}
	return seen, nil
}

// writeSeen replaces SeenFile, durably: what it says is in the journal, whatever comes first after a power failure.
func writeSeen(dir string, seen namespace.Seen) error {
	b, err := json.Marshal(seen)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, SeenFile)
	f, err := os.OpenFile(name+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(name+".part", name)
}

// watchSeen keeps SeenFile until ctx ends. look says how far a journal has got that follows on what was seen last.
func (g *gateway) watchSeen(ctx context.Context, look func(last namespace.Seen) (namespace.Seen, error)) {
	last, err := readSeen(g.cfg.Data)
	if err != nil {
		g.log.Error("how far the journal had got is not known", "err", err)
		return
	}
	told := false
	note := func() {
		now, err := look(last)
		if err != nil {
			if !told && errors.Is(err, errs.Precondition) {
				told = true
				g.log.Error("the journal is not the one that this process has seen; once it leads, changes are held", "err", err)
			}
			return
		}
		if now.Incarnation == "" || now == last {
			return
		}
		if err := writeSeen(g.cfg.Data, now); err != nil {
			g.log.Warn("how far the journal has got cannot be noted; that it was set back would not be noticed", "dir", g.cfg.Data, "err", err)
			return
		}
		last = now
	}
	t := time.NewTicker(seenEvery)
	defer t.Stop()
	defer note()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			note()
		}
	}
}

// awaitRelease makes the configured mounts once changes are accepted, if they could not be made because they were held.
func (g *gateway) awaitRelease(ctx context.Context, ns *namespace.Namespace) {
	select {
	case <-ns.Released():
	case <-ctx.Done():
		return
	}
	if err := g.mountConfigured(ctx, ns); err != nil && ctx.Err() == nil {
		g.log.Error("the configured mounts are not as the configuration has them", "err", err)
	}
}
