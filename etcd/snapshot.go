package etcd

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/sluicefs/sluice/core/errs"
)

/*
A snapshot is etcd's own format, which etcdutl reads as well: the database, whose size is a multiple of 512 bytes, and the
SHA-256 of it.
*/

const (
	sector = 512

	// revisionBump is by how much the revisions of a restored store are ahead of the snapshot's: of more changes than can have
	// been made since, so that no revision is used twice. Terms are revisions.
	revisionBump = 1_000_000_000
)

// Snapshot writes a snapshot of the store as this member has applied it. What is written is only worth something if Snapshot
// succeeds; Verify tells. Errors: w's; errs.Unavailable; ctx's.
func (s *Server) Snapshot(ctx context.Context, w io.Writer) error {
	const op = "etcd.Snapshot"
	if err := s.kv.usable(ctx, op, nil); err != nil {
		return err
	}
	state := s.etcd.Server.Backend().Snapshot()
	defer state.Close()
	sum := sha256.New()
	out := &whileWriter{ctx: ctx, w: w}
	if _, err := state.WriteTo(io.MultiWriter(out, sum)); err != nil {
		return errs.E(op, "", errs.Other, cmp.Or(out.err, err)) // bbolt keeps no more than the text of a writer's error
	}
	if _, err := out.Write(sum.Sum(nil)); err != nil {
		return errs.E(op, "", errs.Other, err)
	}
	return nil
}

// Snapshot writes a snapshot of the store as one of the members has applied it; it has all keys of the cluster, not only
// those of the client's prefix. What is written is only worth something if Snapshot succeeds. Errors: w's; errs.Corrupt if it
// was damaged on the way; errs.Unavailable; errs.Permission; ctx's.
func (c *Client) Snapshot(ctx context.Context, w io.Writer) error {
	const op = "etcd.Snapshot"
	if err := c.kv.usable(ctx, op, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	state, err := c.client.Snapshot(ctx)
	if err != nil {
		return classify(ctx, op, "", err)
	}
	defer state.Close()
	out := &whileWriter{ctx: ctx, w: w}
	sum := &sumWriter{w: out, sum: sha256.New()}
	if _, err := io.Copy(sum, state); err != nil {
		if out.err != nil {
			return errs.E(op, "", errs.Other, out.err)
		}
		return classify(ctx, op, "", err)
	}
	return sum.check(op)
}

// whileWriter writes to w as long as ctx has not ended.
type whileWriter struct {
	ctx context.Context
	w   io.Writer
	err error // the first
}

// Write implements io.Writer.
func (w *whileWriter) Write(p []byte) (n int, err error) {
	if err = w.ctx.Err(); err == nil {
		n, err = w.w.Write(p)
	}
	w.err = cmp.Or(w.err, err)
	return n, err
}

// sumWriter writes to w and sums all but the last 32 bytes, which it keeps to compare.
type sumWriter struct {
	w    io.Writer
	sum  hash.Hash
	last []byte
	n    int64
}

// Write implements io.Writer.
func (s *sumWriter) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	s.last = append(s.last, p[:n]...)
	if more := len(s.last) - sha256.Size; more > 0 {
		s.sum.Write(s.last[:more]) // never fails
		s.last = append(s.last[:0], s.last[more:]...)
	}
	return n, err
}

// check reports errs.Corrupt unless what was written is a database and its sum.
func (s *sumWriter) check(name string) error {
	switch {
	case s.n%sector != sha256.Size:
		return errs.New("etcd.Verify", name, errs.Corrupt, "the snapshot is incomplete: it does not end with a checksum")
	case string(s.sum.Sum(nil)) != string(s.last):
		return errs.New("etcd.Verify", name, errs.Corrupt, "the snapshot is damaged: its checksum does not match")
	}
	return nil
}

// SnapshotInfo says what a snapshot holds.
type SnapshotInfo struct {
	Revision int64 // of the store
	Keys     int
	Bytes    int64  // of the database
	Version  string // of the etcd whose format it has
}

// Verify reads the whole snapshot file and reports whether a store can be restored from it. Errors: errs.NotExist;
// errs.Corrupt with what is wrong.
func Verify(file string) (info SnapshotInfo, err error) {
	const op = "etcd.Verify"
	f, err := os.Open(file)
	if err != nil {
		return info, errs.E(op, file, errs.Other, err)
	}
	defer f.Close()
	sum := &sumWriter{w: io.Discard, sum: sha256.New()}
	if _, err := io.Copy(sum, f); err != nil {
		return info, errs.E(op, file, errs.Other, err)
	}
	if err := sum.check(file); err != nil {
		return info, err
	}
	defer func() { // bbolt panics at pages that make no sense
		if why := recover(); why != nil {
			info, err = SnapshotInfo{}, errs.New(op, file, errs.Corrupt, fmt.Sprint(why))
		}
	}()
	status, err := snapshot.NewV3(zap.NewNop()).Status(file)
	if err != nil {
		return info, errs.E(op, file, errs.Corrupt, err)
	}
	return SnapshotInfo{Revision: status.Revision, Keys: status.TotalKey, Bytes: status.TotalSize, Version: status.Version}, nil
}

// Restore makes a new store in the data directory o.Dir, which must be empty or missing, from a snapshot file. The options are
// those with which Start is called after it. Every member of a cluster of several is restored from the same file with the same
// o.Token, which must be new. The store is another one than that which was saved: its cluster ID differs, and its revisions
// are so far ahead that none comes again.
//
// Errors: errs.Invalid; errs.Exist if the directory holds something; errs.NotExist and errs.Corrupt as Verify; those of the
// file system.
func Restore(file string, o ServerOptions) error {
	const op = "etcd.Restore"
	switch {
	case o.Existing:
		return errs.New(op, o.Name, errs.Invalid, "a member that joins a cluster is sent its state by the others")
	case o.Token == "" && len(o.Join) > 1:
		return errs.New(op, o.Name, errs.Invalid, "several members need a new token, the same for all of them")
	case o.Token == "":
		o.Token = rand.Text()
	}
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return errs.E(op, o.Dir, errs.Other, err)
	}
	if _, err := Verify(file); err != nil {
		return err
	}
	switch files, err := os.ReadDir(dir); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return errs.E(op, dir, errs.Other, err)
	case len(files) > 0:
		return errs.New(op, dir, errs.Exist, "the data directory is not empty; a store is restored beside the old one")
	}
	return restore(op, file, dir, o)
}

// restore makes the directory under another name first, so that one of the name dir is whole.
func restore(op, file, dir string, o ServerOptions) (err error) {
	c, err := o.config(dir, dir)
	if err != nil {
		return err
	}
	part := dir + ".restoring"
	if err := os.RemoveAll(part); err != nil {
		return errs.E(op, part, errs.Other, err)
	}
	defer func() {
		if why := recover(); why != nil { // a fatal entry of etcd's log
			err = errs.New(op, dir, errs.Other, fmt.Sprint(why))
		}
		if err != nil {
			err = errors.Join(err, os.RemoveAll(part))
		}
	}()
	if err := os.MkdirAll(part, dirMode); err != nil {
		return errs.E(op, part, errs.Other, err)
	}
	err = snapshot.NewV3(zapLogger(o.Logger, new(atomic.Bool))).Restore(snapshot.RestoreConfig{
		SnapshotPath: file, OutputDataDir: part, Name: o.Name,
		PeerURLs: []string{c.AdvertisePeerUrls[0].String()}, InitialCluster: c.InitialCluster, InitialClusterToken: o.Token,
		RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err != nil {
		return errs.E(op, file, errs.Other, err)
	}
	for _, d := range []string{filepath.Join(part, "member", "snap"), filepath.Join(part, "member", "wal"), filepath.Join(part, "member"), part} {
		if err := syncDir(d); err != nil {
			return errs.E(op, d, errs.Other, err)
		}
	}
	if err := remove(op, dir); err != nil { // it is empty
		return err
	}
	if err := os.Rename(part, dir); err != nil {
		return errs.E(op, dir, errs.Other, err)
	}
	return syncDir(filepath.Dir(dir))
}
