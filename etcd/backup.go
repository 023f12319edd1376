package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
)

// BackupOptions are the options of automatic snapshots. Without a directory none are made: the state of a single member is
// then lost with its disk.
type BackupOptions struct {
	Dir   string        // made if it does not exist; not within the data directory, and best on another disk
	Every time.Duration // from the start of one to the start of the next; 1 h
	Keep  int           // how many are kept, the newest; 24
}

// BackupStatus says how the automatic snapshots fare.
type BackupStatus struct {
	File  string    // the last one; "" if there is none
	Time  time.Time // when it was begun
	Bytes int64     // its size
	Error string    // why the last attempt failed, "" if it did not
}

const (
	defaultBackupEvery = time.Hour
	defaultBackupKeep  = 24

	backupPrefix = "sluice-"
	backupSuffix = ".snapshot"
	backupPart   = ".part" // while it is written
	backupTime   = "20060102T150405.000Z"
)

func (o BackupOptions) withDefaults(dataDir string) (BackupOptions, error) {
	if o.Every <= 0 {
		o.Every = defaultBackupEvery
	}
	if o.Keep <= 0 {
		o.Keep = defaultBackupKeep
	}
	if o.Dir == "" {
		return o, nil
	}
	own, err1 := filepath.Abs(dataDir)
	dir, err2 := filepath.Abs(o.Dir)
	if err := errors.Join(err1, err2); err != nil {
		return o, errs.E("etcd.Start", o.Dir, errs.Other, err)
	}
	if dir == own || strings.HasPrefix(dir, own+string(filepath.Separator)) {
		return o, errs.New("etcd.Start", o.Dir, errs.Invalid, "backups belong outside the data directory")
	}
	o.Dir = dir
	return o, nil
}

// backups makes snapshots on an interval.
type backups struct {
	o      BackupOptions
	server *Server
	log    *slog.Logger

	mu   sync.Mutex
	last BackupStatus
}

func (b *backups) status() BackupStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// run makes backups until ctx ends. A failure is logged and shown in the status, and tried again after the interval.
func (b *backups) run(ctx context.Context) {
	if b.o.Dir == "" {
		return
	}
	for wait := b.resume(); ; wait = b.o.Every {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := b.make(ctx); err != nil && ctx.Err() == nil {
			b.log.Error("the backup of the journal failed", "dir", b.o.Dir, "error", err)
			b.mu.Lock()
			b.last.Error = err.Error()
			b.mu.Unlock()
		}
	}
}

// resume takes in the newest backup of an earlier run and returns how long it will do.
func (b *backups) resume() time.Duration {
	all, err := b.list()
	if err != nil || len(all) == 0 {
		return 0
	}
	newest := all[len(all)-1]
	b.mu.Lock()
	b.last = newest
	b.mu.Unlock()
	return min(max(0, b.o.Every-time.Since(newest.Time)), b.o.Every) // a clock that was set back does not matter for long
}

// make makes one backup, verifies it, and then deletes what is no longer kept.
func (b *backups) make(ctx context.Context) error {
	const op = "etcd.Backup"
	began := time.Now().UTC()
	if err := os.MkdirAll(b.o.Dir, dirMode); err != nil {
		return errs.E(op, b.o.Dir, errs.Other, err)
	}
	if err := b.room(ctx, op); err != nil {
		return err
	}
	file := filepath.Join(b.o.Dir, backupPrefix+began.Format(backupTime)+backupSuffix)
	size, err := b.write(ctx, op, file+backupPart)
	if err == nil {
		if _, err = Verify(file + backupPart); err == nil {
			err = errs.E(op, file, errs.Other, os.Rename(file+backupPart, file))
		}
	}
	if err != nil {
		return errors.Join(err, remove(op, file+backupPart))
	}
	if err := syncDir(b.o.Dir); err != nil {
		return errs.E(op, b.o.Dir, errs.Other, err)
	}
	b.mu.Lock()
	b.last = BackupStatus{File: file, Time: began, Bytes: size}
	b.mu.Unlock()
	b.log.Info("journal backed up", "file", file, "bytes", size, "took", time.Since(began))
	return b.prune(op)
}

// backupReserve is what a backup leaves free, for the journal and the stores that may share its disk.
const backupReserve = 256 << 20

// room reports errs.NoSpace if the disk of the backups is too full for one more.
func (b *backups) room(ctx context.Context, op string) error {
	status, err := b.server.Status(ctx)
	if err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(b.o.Dir, &fs); err != nil {
		return errs.E(op, b.o.Dir, errs.Other, err)
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free < status.DBSize+backupReserve { //nolint:unconvert // the widths differ by architecture
		return errs.New(op, b.o.Dir, errs.NoSpace, fmt.Sprintf(
			"a snapshot of %d bytes would leave too little of the %d that are free; make room, keep fewer, or name another directory", status.DBSize, free))
	}
	return nil
}

// write writes a snapshot to a new file, durably.
func (b *backups) write(ctx context.Context, op, file string) (size int64, err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, lockMode)
	if err != nil {
		return 0, errs.E(op, file, errs.Other, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := b.server.Snapshot(ctx, f); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, errs.E(op, file, errs.Other, err)
	}
	info, err := f.Stat()
	if err != nil {
		return 0, errs.E(op, file, errs.Other, err)
	}
	return info.Size(), nil
}

// prune deletes the backups that are no longer kept, and what a crash left of one that was written.
func (b *backups) prune(op string) error {
	all, err := b.list()
	if err != nil {
		return err
	}
	for _, old := range all[:max(0, len(all)-b.o.Keep)] {
		if err := remove(op, old.File); err != nil {
			return err
		}
	}
	parts, err := filepath.Glob(filepath.Join(b.o.Dir, backupPrefix+"*"+backupSuffix+backupPart))
	if err != nil {
		return errs.E(op, b.o.Dir, errs.Other, err)
	}
	for _, part := range parts {
		if err := remove(op, part); err != nil {
			return err
		}
	}
	return nil
}

// list returns the backups in the directory, the oldest first. Other files are passed over.
func (b *backups) list() ([]BackupStatus, error) {
	files, err := os.ReadDir(b.o.Dir)
	if err != nil {
		return nil, errs.E("etcd.Backup", b.o.Dir, errs.Other, err)
	}
	var all []BackupStatus
	for _, f := range files {
		stamp, ours := strings.CutPrefix(f.Name(), backupPrefix)
		stamp, whole := strings.CutSuffix(stamp, backupSuffix)
		at, err := time.Parse(backupTime, stamp)
		if !ours || !whole || err != nil {
			continue
		}
		s := BackupStatus{File: filepath.Join(b.o.Dir, f.Name()), Time: at}
		if info, err := f.Info(); err == nil {
			s.Bytes = info.Size()
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b BackupStatus) int { return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.File, b.File)) })
	return all, nil
}

// remove deletes a file that may be gone.
func remove(op, file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errs.E(op, file, errs.Other, fmt.Errorf("what is no longer needed stays: %w", err))
	}
	return nil
}
