package etcd_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/etcd"
)

// store is what Server and Client have in common.
type store interface {
	KV() meta.KV
	Snapshot(ctx context.Context, w io.Writer) error
	Defrag(ctx context.Context) error
	Disarm(ctx context.Context) error
}

// status returns the state of a store's first member.
func status(t testing.TB, s store) etcd.Status {
	t.Helper()
	if server, ok := s.(*etcd.Server); ok {
		one, err := server.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return one
	}
	all, err := s.(*etcd.Client).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all[0]
}

const smallQuota = 8 << 20

// TestQuota fills a store, and cures it as the documentation says.
func TestQuota(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) store{
		"embedded": func(t *testing.T) store {
			return start(t, t.TempDir(), etcd.ServerOptions{UnsafeNoFsync: true, Quota: smallQuota})
		},
		"external": func(t *testing.T) store {
			endpoint := external(t, etcd.TLS{}, func(c *embed.Config) { c.QuotaBackendBytes = smallQuota })
			return connect(t, etcd.ClientOptions{Endpoints: []string{endpoint}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			kv := s.KV()
			value := bytes.Repeat([]byte("x"), 512<<10)
			// etcd counts what it has committed, ten times a second: a quick machine puts much more than the quota before that.
			fill := func() (n int, err error) {
				for until := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(until); n++ {
					_, _, err = kv.Txn(t.Context(), meta.Txn{Puts: []meta.KeyValue{{Key: fmt.Sprintf("k%06d", n), Value: value}}})
				}
				return n, err
			}
			n, err := fill()
			if !errors.Is(err, errs.NoSpace) {
				t.Fatalf("after %d values: got %v, want NoSpace", n, err)
			}
			small := meta.Txn{Puts: []meta.KeyValue{{Key: "small"}}}
			if _, _, err := kv.Txn(t.Context(), small); !errors.Is(err, errs.NoSpace) {
				t.Errorf("a small put: got %v, want NoSpace", err)
			}
			full := status(t, s)
			if len(full.Alarms) != 1 || full.Alarms[0].Name != "NOSPACE" || full.DBSize < smallQuota/2 || full.Quota != smallQuota {
				t.Errorf("Status: got %+v, want the alarm", full)
			}
			if got, err := kv.Get(t.Context(), "k000001"); err != nil || len(got.Value) != len(value) {
				t.Errorf("Get: %d bytes, %v", len(got.Value), err)
			}
			// The alarm is raised when a value would not fit; whether the quota has been reached depends on its size.
			if err := s.Disarm(t.Context()); errors.Is(err, errs.NoSpace) != (full.DBSize >= smallQuota) {
				t.Errorf("Disarm at %d bytes: got %v", full.DBSize, err)
			}
			if ok, _, err := kv.Txn(t.Context(), meta.Txn{Deletes: []string{"k000000"}}); !ok || err != nil {
				t.Errorf("a delete: %v, %v", ok, err)
			}
			if _, err := kv.DeleteRange(t.Context(), "k", "l"); err != nil {
				t.Fatal(err)
			}
			page, err := kv.Scan(t.Context(), "k", "l", 10)
			if err != nil || len(page.KVs) > 0 {
				t.Fatalf("Scan: %d keys, %v", len(page.KVs), err)
			}
			if err := kv.Compact(t.Context(), page.Revision); err != nil {
				t.Fatal(err)
			}
			// Compaction goes on after its answer.
			eventually(t, func() error {
				if err := s.Defrag(t.Context()); err != nil {
					return err
				}
				if err := s.Disarm(t.Context()); err != nil {
					return err
				}
				if got := status(t, s); len(got.Alarms) > 0 || got.DBSize > smallQuota/4 {
					return fmt.Errorf("Status after the cure: %+v", got)
				}
				return nil
			})
			// etcd looks at the size now and then only, so that more fit than should, and not always as many.
			if again, err := fill(); again < smallQuota/len(value)/2 {
				t.Errorf("after the cure %d values fit, and %d before: %v", again, n, err)
			}
		})
	}
}

func testClusterStatus(t *testing.T, m members) {
	lead, _ := m.leader(t)
	put(t, lead.KV(), "k", "v")
	own := status(t, lead)
	if own.LeaderID != own.MemberID || own.Learner || own.Applied == 0 || own.Index < own.Applied || own.Term == 0 || own.Quota != 8<<30 ||
		own.DBSize == 0 || own.DBInUse == 0 || own.Version == "" {
		t.Errorf("the leader: %+v", own)
	}
	for _, s := range m {
		if got := status(t, s); got.LeaderID != own.MemberID || got.ClusterID != own.ClusterID || s != lead && got.MemberID == own.MemberID {
			t.Errorf("got %+v beside %+v", got, own)
		}
	}
	all, err := m[0].Members(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	for i, info := range all {
		if want := fmt.Sprint("m", i); info.Name != want || info.Learner || info.Leader != (info.ID == own.MemberID) || info.Addr != want+".example:7000" {
			t.Errorf("member %d: %+v", i, info)
		}
	}
}

// TestStatusOfDead tells of a member that does not answer, beside those that do, and does not defragment around it.
func TestStatusOfDead(t *testing.T) {
	t.Parallel()
	alive, dead := external(t, etcd.TLS{}), "http://"+freeAddrs(t, 1)[0]
	c := connect(t, etcd.ClientOptions{Endpoints: []string{alive, dead}})
	all, err := c.Status(within(t, 10*time.Second))
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	if got := all[0]; got.Endpoint != alive || got.MemberID == "" || len(got.Errors) > 0 {
		t.Errorf("the one that lives: %+v", got)
	}
	if got := all[1]; got.Endpoint != dead || got.MemberID != "" || len(got.Errors) != 1 {
		t.Errorf("the one that does not: %+v", got)
	}
	if err := c.Defrag(within(t, 10*time.Second)); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Defrag: got %v, want Unavailable", err)
	}
}

// save writes a snapshot of s to a file.
func save(t testing.TB, s store) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "snapshot")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Snapshot(t.Context(), f), f.Close()); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestRestore makes new stores, of one member and of three, from a snapshot of each kind of store.
func TestRestore(t *testing.T) {
	t.Parallel()
	server := start(t, t.TempDir(), etcd.ServerOptions{UnsafeNoFsync: true})
	client := connect(t, etcd.ClientOptions{Endpoints: []string{external(t, etcd.TLS{})}, Prefix: "x"})
	for name, s := range map[string]store{"embedded": server, "external": client} {
		for i := range 50 {
			put(t, s.KV(), "k", fmt.Sprint(i))
		}
		file := save(t, s)
		put(t, s.KV(), "k", "later")
		before, err := s.KV().Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		info, err := etcd.Verify(file)
		if err != nil || info.Keys == 0 || info.Revision == 0 || info.Bytes == 0 {
			t.Fatalf("%s: %+v, %v", name, info, err)
		}
		key := strings.TrimPrefix(name, "embedded")
		if key != "" {
			key = "x"
		}
		three := options(t, 3)
		for i := range three {
			three[i].Token = "restored"
		}
		for _, all := range [][]etcd.ServerOptions{{{Dir: filepath.Join(t.TempDir(), "new"), UnsafeNoFsync: true}}, three} {
			for _, o := range all {
				if err := etcd.Restore(file, o); err != nil {
					t.Fatal(err)
				}
				if err := etcd.Restore(file, o); !errors.Is(err, errs.Exist) {
					t.Errorf("Restore over a store: got %v, want Exist", err)
				}
			}
			m := startAll(t, all)
			got, err := m[0].KV().Get(t.Context(), key+"k")
			if err != nil || string(got.Value) != "49" {
				t.Errorf("%s, %d members: got %q, %v", name, len(all), got.Value, err)
			}
			ok, rev, err := m[0].KV().Txn(t.Context(), meta.Txn{Puts: []meta.KeyValue{{Key: "new"}}})
			if !ok || err != nil || rev <= before.ModRev {
				t.Errorf("a put: revision %d after %d, %v", rev, before.ModRev, err)
			}
			if a, b := status(t, s).ClusterID, status(t, m[0]).ClusterID; a == b {
				t.Errorf("the restored store is the same cluster %s", a)
			}
			if len(all) == 1 {
				m[0].Close()
				m = startAll(t, all)
				if _, err := m[0].KV().Get(t.Context(), "new"); err != nil {
					t.Errorf("after a restart: %v", err)
				}
			}
		}
	}
	for name, o := range map[string]etcd.ServerOptions{
		"no directory":    {},
		"joins a cluster": {Dir: "d", Existing: true},
		"no new token":    {Dir: "d", InternalListen: "127.0.0.1:1", Name: "m0", Join: options(t, 3)[0].Join},
	} {
		if err := etcd.Restore(save(t, server), o); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
	}
}

// TestVerify refuses snapshots that have lost something.
func TestVerify(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), etcd.ServerOptions{UnsafeNoFsync: true})
	for i := range 20 {
		put(t, s.KV(), fmt.Sprint("k", i), strings.Repeat("v", 1000))
	}
	whole, err := os.ReadFile(save(t, s))
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(db []byte) []byte {
		sum := sha256.Sum256(db)
		return append(bytes.Clone(db), sum[:]...)
	}
	damaged := map[string][]byte{
		"empty":                 {},
		"without its sum":       whole[:len(whole)-sha256.Size],
		"cut at a sector":       whole[:len(whole)/2/512*512],
		"one sector short":      append(bytes.Clone(whole[:len(whole)-512-sha256.Size]), whole[len(whole)-sha256.Size:]...),
		"sealed, no database":   sealed(make([]byte, 64<<10)),
		"sealed, empty":         sealed(nil),
		"sealed, without heads": sealed(append(make([]byte, 8<<10), whole[8<<10:len(whole)-sha256.Size]...)),
	}
	for i := range 50 {
		b, at := bytes.Clone(whole), rand.IntN(len(whole))
		b[at] ^= 1 << rand.IntN(8)
		damaged[fmt.Sprintf("bit %d flipped at %d", i, at)] = b
	}
	file := filepath.Join(t.TempDir(), "snapshot")
	for name, b := range damaged {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := etcd.Verify(file); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: got %v, want Corrupt", name, err)
		}
		dir := filepath.Join(t.TempDir(), "new")
		if err := etcd.Restore(file, etcd.ServerOptions{Dir: dir}); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: Restore: got %v, want Corrupt", name, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was restored", name)
		}
	}
	if _, err := etcd.Verify(file + "x"); !errors.Is(err, errs.NotExist) {
		t.Errorf("no file: got %v, want NotExist", err)
	}
}

// TestSnapshotStops requires that a snapshot fails with its writer, and with its context.
func TestSnapshotStops(t *testing.T) {
	t.Parallel()
	server := start(t, t.TempDir(), etcd.ServerOptions{UnsafeNoFsync: true})
	client := connect(t, etcd.ClientOptions{Endpoints: []string{external(t, etcd.TLS{})}})
	for _, s := range []store{server, client} {
		broken := errs.New("test", "", errs.NoSpace, "full")
		r, w := io.Pipe()
		r.CloseWithError(broken)
		if err := s.Snapshot(t.Context(), w); !errors.Is(err, errs.NoSpace) {
			t.Errorf("%T with a writer that fails: got %v, want NoSpace", s, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Snapshot(ctx, io.Discard); !errors.Is(err, context.Canceled) {
			t.Errorf("%T with a context that ended: got %v, want Canceled", s, err)
		}
	}
}

// TestBackups makes a row of backups, keeps the newest, and restores the last.
func TestBackups(t *testing.T) {
	t.Parallel()
	dir, data := filepath.Join(t.TempDir(), "backups"), t.TempDir()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	left, other := filepath.Join(dir, "sluice-20010101T000000.000Z.snapshot.part"), filepath.Join(dir, "notes")
	if err := errors.Join(os.WriteFile(left, nil, 0o600), os.WriteFile(other, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	s := start(t, data, etcd.ServerOptions{UnsafeNoFsync: true, Backup: etcd.BackupOptions{Dir: dir, Every: 20 * time.Millisecond, Keep: 2}})
	put(t, s.KV(), "k", "v")
	seen := map[string]bool{}
	eventually(t, func() error {
		b := status(t, s).Backup
		if b.Error != "" {
			t.Fatal(b.Error)
		}
		if seen[b.File] = true; len(seen) < 5 {
			return errors.New("too few backups")
		}
		return nil
	})
	s.Close()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	backups, err := filepath.Glob(filepath.Join(dir, "*.snapshot"))
	// Closing may have come between a new backup and the removal of the oldest.
	if err != nil || len(backups) < 2 || len(backups) > 3 || len(files) != len(backups)+1 {
		t.Errorf("left: %q, %v", files, err)
	}
	restored := filepath.Join(t.TempDir(), "new")
	if err := etcd.Restore(backups[len(backups)-1], etcd.ServerOptions{Dir: restored}); err != nil {
		t.Fatal(err)
	}
	if got, err := start(t, restored, etcd.ServerOptions{UnsafeNoFsync: true}).KV().Get(t.Context(), "k"); err != nil || string(got.Value) != "v" {
		t.Errorf("restored: got %q, %v", got.Value, err)
	}

	// A new start goes on from the last one, which is young enough.
	s = start(t, data, etcd.ServerOptions{UnsafeNoFsync: true, Backup: etcd.BackupOptions{Dir: dir, Keep: 2}})
	eventually(t, func() error {
		if got := status(t, s).Backup; got.File != backups[len(backups)-1] || got.Bytes == 0 {
			return fmt.Errorf("the last backup: %+v", got)
		}
		return nil
	})
}

// TestBackupFails shows failures, in the status and in the log.
func TestBackupFails(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	s := start(t, t.TempDir(), etcd.ServerOptions{
		UnsafeNoFsync: true, Logger: slog.New(slog.NewTextHandler(&log, nil)), Backup: etcd.BackupOptions{Dir: filepath.Join(file, "dir")},
	})
	eventually(t, func() error {
		if status(t, s).Backup.Error == "" || !strings.Contains(log.String(), "the backup of the journal failed") {
			return errors.New("nobody says that the backup failed")
		}
		return nil
	})
	dir := t.TempDir()
	if s, err := etcd.Start(t.Context(), etcd.ServerOptions{Dir: dir, Backup: etcd.BackupOptions{Dir: filepath.Join(dir, "b")}}); !errors.Is(err, errs.Invalid) {
		t.Errorf("backups into the data directory: got %v, %v, want Invalid", s, err)
	}
}

// TestVolatile warns where a data directory does not last.
func TestVolatile(t *testing.T) {
	t.Parallel()
	const shm = "/dev/shm"
	var fs unix.Statfs_t
	if err := unix.Statfs(shm, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Skipf("%s is no tmpfs: %v", shm, err)
	}
	dir, err := os.MkdirTemp(shm, "sluice")
	if err != nil {
		t.Skip("nothing can be made in a tmpfs: ", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var log lockedBuffer
	start(t, dir, etcd.ServerOptions{UnsafeNoFsync: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if !strings.Contains(log.String(), "filesystem=tmpfs") {
		t.Errorf("logged:\n%s", log.String())
	}
}
