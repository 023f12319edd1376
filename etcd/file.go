package etcd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// File is a meta.KV over the database of a store that no process has open: that of a snapshot, or of a member's data
// directory. It can only be read. What a member's log holds and its database does not yet is not seen.
type File struct {
	db   *bolt.DB
	name string
	rev  int64
	keys []string          // sorted
	at   map[string][]byte // their places in the database
}

var _ meta.KV = (*File)(nil)

// OpenFile opens a snapshot file, a database file, or the database of the data directory name. prefix is what every key
// starts with, and is taken off. Errors: errs.NotExist; errs.Busy if a process has it open; errs.Corrupt.
func OpenFile(name, prefix string) (f *File, err error) {
	const op = "etcd.OpenFile"
	if info, err := os.Stat(name); err != nil {
		return nil, errs.E(op, name, errs.Other, err)
	} else if info.IsDir() {
		name = filepath.Join(name, "member", "snap", "db")
	}
	f = &File{name: name, at: map[string][]byte{}}
	defer func() { // bbolt panics at pages that make no sense
		if why := recover(); why != nil {
			f, err = nil, errs.New(op, name, errs.Corrupt, fmt.Sprint(why))
		}
	}()
	f.db, err = bolt.Open(name, lockMode, &bolt.Options{ReadOnly: true, Timeout: dbTimeout})
	switch {
	case errors.Is(err, bolt.ErrTimeout):
		return nil, errs.New(op, name, errs.Busy, "the database is in use by another process; ask that one, or stop it")
	case errors.Is(err, os.ErrNotExist):
		return nil, errs.E(op, name, errs.NotExist, err)
	case err != nil:
		return nil, errs.E(op, name, errs.Corrupt, err)
	}
	if err := f.db.View(func(tx *bolt.Tx) error { return f.index(tx, prefix) }); err != nil {
		return nil, errors.Join(errs.E(op, name, errs.Corrupt, err), f.db.Close())
	}
	for key := range f.at {
		f.keys = append(f.keys, key)
	}
	slices.Sort(f.keys)
	return f, nil
}

// Empty reports whether there is no key in it.
func (f *File) Empty() bool { return len(f.keys) == 0 }

/*
etcd keeps every change of a key in the bucket "key", by revision: 8 bytes of it, '_', 8 bytes of the change's number in its
transaction, and 't' if the change deletes the key. The value is the message mvccpb.KeyValue.
Source: etcd server/storage/mvcc, revision.go and kvstore.go.
*/

const (
	changeKey  = 8 + 1 + 8
	deletedKey = changeKey + 1
)

// index finds the last change of each key.
func (f *File) index(tx *bolt.Tx, prefix string) error {
	b := tx.Bucket([]byte("key"))
	if b == nil {
		return errors.New("it is no database of etcd")
	}
	return b.ForEach(func(at, v []byte) error {
		kv, err := decodeChange(v)
		if err != nil || len(at) != changeKey && len(at) != deletedKey {
			return fmt.Errorf("the change at %x cannot be read: %w", at, err)
		}
		f.rev = int64(binary.BigEndian.Uint64(at))
		key, ours := strings.CutPrefix(kv.Key, prefix)
		switch {
		case !ours:
		case len(at) == deletedKey:
			delete(f.at, key)
		default:
			f.at[key] = slices.Clone(at)
		}
		return nil
	})
}

// decodeChange reads what a change holds: fields 1 key, 2 create_revision, 3 mod_revision, 5 value.
func decodeChange(b []byte) (kv meta.KeyValue, err error) {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 {
			return kv, errors.New("a field without a number")
		}
		v, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return kv, errors.New("a field without a value")
		}
		b = b[n+m:]
		var bytes []byte
		switch tag & 7 {
		case 0:
		case 2:
			if v > uint64(len(b)) {
				return kv, errors.New("a field that is cut off")
			}
			bytes, b = b[:v], b[v:]
		default:
			return kv, fmt.Errorf("a field of kind %d", tag&7)
		}
		switch tag >> 3 {
		case 1:
			kv.Key = string(bytes)
		case 2:
			kv.CreateRev = int64(v)
		case 3:
			kv.ModRev = int64(v)
		case 5:
			kv.Value = slices.Clone(bytes)
		}
	}
	return kv, nil
}

// Get implements meta.KV.
func (f *File) Get(ctx context.Context, key string) (kv meta.KeyValue, err error) {
	const op = "etcd.File.Get"
	if err := errors.Join(meta.CheckKey(op, key), ctx.Err()); err != nil {
		return kv, err
	}
	at, ok := f.at[key]
	if !ok {
		return kv, errs.E(op, key, errs.NotExist, nil)
	}
	err = f.db.View(func(tx *bolt.Tx) error { kv, err = f.read(tx, key, at); return err })
	if err != nil {
		return kv, errs.E(op, key, errs.Corrupt, err)
	}
	return kv, nil
}

func (f *File) read(tx *bolt.Tx, key string, at []byte) (meta.KeyValue, error) {
	kv, err := decodeChange(tx.Bucket([]byte("key")).Get(at))
	kv.Key = key
	return kv, err
}

// Scan implements meta.KV.
func (f *File) Scan(ctx context.Context, from, to string, limit int) (meta.Page, error) {
	const op = "etcd.File.Scan"
	if err := errors.Join(meta.CheckScan(op, from, to, limit), ctx.Err()); err != nil {
		return meta.Page{}, err
	}
	first, _ := slices.BinarySearch(f.keys, from)
	last, _ := slices.BinarySearch(f.keys, to)
	p := meta.Page{Revision: f.rev, More: last-first > limit}
	err := f.db.View(func(tx *bolt.Tx) error {
		for _, key := range f.keys[first:min(last, first+limit)] {
			kv, err := f.read(tx, key, f.at[key])
			if err != nil {
				return err
			}
			p.KVs = append(p.KVs, kv)
		}
		return nil
	})
	if err != nil {
		return meta.Page{}, errs.E(op, from, errs.Corrupt, err)
	}
	return p, nil
}

func (f *File) readOnly(op string) error {
	return errs.New("etcd.File."+op, f.name, errs.Permission, "the database of a store that is not running is only read")
}

// Txn implements meta.KV: errs.Permission.
func (f *File) Txn(context.Context, meta.Txn) (bool, int64, error) {
	return false, 0, f.readOnly("Txn")
}

// DeleteRange implements meta.KV: errs.Permission.
func (f *File) DeleteRange(context.Context, string, string) (int64, error) {
	return 0, f.readOnly("DeleteRange")
}

// Watch implements meta.KV: errs.Permission.
func (f *File) Watch(context.Context, string, string, int64) iter.Seq2[meta.Event, error] {
	return func(yield func(meta.Event, error) bool) { yield(meta.Event{}, f.readOnly("Watch")) }
}

// Compact implements meta.KV: errs.Permission.
func (f *File) Compact(context.Context, int64) error { return f.readOnly("Compact") }

// Close implements meta.KV.
func (f *File) Close() error { return f.db.Close() }
