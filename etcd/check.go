package etcd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"

	"github.com/sluicefs/sluice/core/errs"
)

/*
A crash may leave an unfinished record at the end of the write-ahead log. etcd cuts it off at the next start, rightly: it was
never acknowledged. But etcd treats a log that lost acknowledged records the same way, and then skips every new change until
the log is as long again as the database says it was. The database tells the two apart: a log that ends before the last entry
the database has applied has lost what was acknowledged.
*/

// dbTimeout is how long the database file may be locked by somebody who does not know our lock file.
const dbTimeout = time.Second

// checkLog reports errs.Corrupt for a write-ahead log in the data directory dir that is damaged, or ends too early, and
// errs.Busy if another program has the database open. A member that never came to life is removed, so that it is made again;
// joining is one that others may have sent entries already, which it must not forget.
func checkLog(dir string, joining bool) error {
	applied, err := lastApplied(filepath.Join(dir, "member", "snap", "db"))
	if err != nil {
		return err
	}
	walDir := filepath.Join(dir, "member", "wal")
	if !wal.Exist(walDir) {
		if applied > 0 {
			return damaged(walDir, errors.New("the write-ahead log is missing"))
		}
		return nil
	}
	logged, committed, err := lastLogged(walDir, filepath.Join(dir, "member", "snap"))
	if err != nil {
		return damaged(walDir, err)
	}
	if committed == 0 && applied == 0 && (!joining || logged == 0) {
		return discard(dir)
	}
	if logged < applied {
		return damaged(walDir, fmt.Errorf("the write-ahead log is torn: it ends at entry %d, and %d were applied", logged, applied))
	}
	return nil
}

// discard removes a member whose first start was cut off before it had committed its own membership. It holds nothing, and
// it would wait for a leader for ever, because it knows of no member that could become one.
func discard(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, "member")); err != nil {
		return errs.E("etcd.Start", dir, errs.Other, err)
	}
	return syncDir(dir)
}

func damaged(dir string, err error) error {
	return errs.E("etcd.Start", dir, errs.Corrupt, fmt.Errorf("%w; restore the data directory from a backup, or replace the member if the cluster has others", err))
}

// lastApplied returns the index of the last entry that the database has applied, 0 if there is none.
// Source: etcd server/storage/schema, bucket meta, key consistent_index, big-endian.
func lastApplied(file string) (index uint64, err error) {
	if info, err := os.Stat(file); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 { // made, and not begun
		return 0, nil
	}
	db, err := bolt.Open(file, lockMode, &bolt.Options{ReadOnly: true, Timeout: dbTimeout})
	if errors.Is(err, bolt.ErrTimeout) {
		return 0, errs.New("etcd.Start", file, errs.Busy, "the database is in use by another process")
	}
	if err != nil {
		return 0, damaged(file, err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket([]byte("meta")); b != nil {
			if v := b.Get([]byte("consistent_index")); len(v) == 8 {
				index = binary.BigEndian.Uint64(v)
			}
		}
		return nil
	})
	return index, err
}

// lastLogged returns the index of the last entry of the write-ahead log, read from the newest snapshot that it knows, and
// that of the last entry which the log says is committed.
func lastLogged(walDir, snapDir string) (logged, committed uint64, err error) {
	for _, snap := range snapshots(snapDir) {
		w, err := wal.OpenForRead(zap.NewNop(), walDir, snap)
		if errors.Is(err, wal.ErrFileNotFound) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		_, state, entries, err := w.ReadAll()
		w.Close()
		switch {
		case errors.Is(err, wal.ErrSnapshotNotFound):
			continue
		case err != nil:
			return 0, 0, err
		case len(entries) == 0:
			return snap.GetIndex(), max(snap.GetIndex(), state.GetCommit()), nil
		}
		return entries[len(entries)-1].GetIndex(), max(snap.GetIndex(), state.GetCommit()), nil
	}
	return 0, 0, errors.New("the write-ahead log does not start at a known snapshot")
}

// snapshots returns the snapshots of the directory, the newest first, and last the empty one that every log starts with.
func snapshots(dir string) []*walpb.Snapshot {
	files, _ := filepath.Glob(filepath.Join(dir, "*.snap"))
	slices.Sort(files)
	slices.Reverse(files)
	var all []*walpb.Snapshot
	for _, f := range files {
		var term, index uint64
		if _, err := fmt.Sscanf(filepath.Base(f), "%016x-%016x.snap", &term, &index); err == nil {
			all = append(all, &walpb.Snapshot{Index: &index, Term: &term})
		}
	}
	return append(all, &walpb.Snapshot{Index: new(uint64), Term: new(uint64)})
}
