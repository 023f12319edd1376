package etcd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/kvtest"
	"github.com/sluicefs/sluice/etcd"
)

// start starts a server on dir that stops with the test.
func start(t testing.TB, dir string, o etcd.ServerOptions) *etcd.Server {
	t.Helper()
	o.Dir = dir
	s, err := etcd.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(t testing.TB, kv meta.KV, key, value string) {
	t.Helper()
	if ok, _, err := kv.Txn(t.Context(), meta.Txn{Puts: []meta.KeyValue{{Key: key, Value: []byte(value)}}}); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

func TestKV(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) meta.KV {
		return start(t, t.TempDir(), etcd.ServerOptions{UnsafeNoFsync: true}).KV()
	})
}

func TestRestartKeepsData(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	for i := range 3 {
		s := start(t, dir, etcd.ServerOptions{})
		if i > 0 {
			got, err := s.KV().Get(t.Context(), "k")
			if err != nil || string(got.Value) != fmt.Sprint(i-1) {
				t.Fatalf("after restart %d: got %q, %v", i, got.Value, err)
			}
		}
		put(t, s.KV(), "k", fmt.Sprint(i))
		for range 2 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.KV().Get(t.Context(), "k"); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Get after Close: got %v, want Unavailable", err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*.sock")); len(left) > 0 {
			t.Errorf("sockets left behind: %q", left)
		}
	}
}

// TestQuiet requires that a start, a restart and a stop log nothing at Info or above.
func TestQuiet(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		var log lockedBuffer
		s := start(t, dir, etcd.ServerOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		put(t, s.KV(), "k", "v")
		s.Close()
		if got := log.String(); got != "" {
			t.Errorf("logged:\n%s", got)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, etcd.ServerOptions{UnsafeNoFsync: true})
	_, err := etcd.Start(t.Context(), etcd.ServerOptions{Dir: dir})
	if want := fmt.Sprintf("the data directory is in use by process %d", os.Getpid()); !errors.Is(err, errs.Busy) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	put(t, s.KV(), "k", "v")
	s.Close()
	start(t, dir, etcd.ServerOptions{UnsafeNoFsync: true})
	if _, err := etcd.Start(t.Context(), etcd.ServerOptions{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("no directory: got %v, want Invalid", err)
	}
}

// TestLongDirectory runs two servers at once in directories whose names no socket path can hold.
func TestLongDirectory(t *testing.T) {
	for _, name := range []string{"a", "b,c=d %2f"} {
		dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40), name)
		s := start(t, dir, etcd.ServerOptions{UnsafeNoFsync: true})
		put(t, s.KV(), "k", name)
		if info, err := os.Stat(filepath.Join(dir, "client.sock")); err != nil || info.Mode().Type() != fs.ModeSocket {
			t.Errorf("the socket: %v, %v", info, err)
		}
	}
}

// TestNoPort requires that the process listens on no TCP port while a server runs.
func TestNoPort(t *testing.T) {
	start(t, t.TempDir(), etcd.ServerOptions{UnsafeNoFsync: true})
	own := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("open files cannot be listed: %v", err)
	}
	for _, fd := range fds {
		if link, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			own[link] = true
		}
	}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		b, err := os.ReadFile(table)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(b), "\n")[1:] {
			const state, inode, listening = 3, 9, "0A"
			if f := strings.Fields(line); len(f) > inode && f[state] == listening && own["socket:["+f[inode]+"]"] {
				t.Errorf("listens on %s", f[1])
			}
		}
	}
}

func TestStartHonoursContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if _, err := etcd.Start(ctx, etcd.ServerOptions{Dir: dir}); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	} else if err != nil {
		start(t, dir, etcd.ServerOptions{})
	}
}

// copyDir copies a data directory as it is, while it may be in use.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() && !d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return exec.Command("cp", "--sparse=always", path, filepath.Join(to, rel)).Run()
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// TestCrash opens a copy of the data directory of a running server: it has every acknowledged record, as Log applied them.
func TestCrash(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, etcd.ServerOptions{})
	l, applied := openLog(t, s.KV())
	runLog(t, l)
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for i := range 40 {
				ops := []meta.Op{{Kind: meta.Set, Dir: meta.RootDir, Edge: fmt.Sprintf("%d-%d", c, i)}}
				if _, err := l.Append(t.Context(), meta.Batch{Ops: ops}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_, replayed := openLog(t, start(t, copyDir(t, dir), etcd.ServerOptions{}).KV())
	if len(applied.list) != 640 || !slices.Equal(applied.list, replayed.list) {
		t.Errorf("applied %d names, replayed %d", len(applied.list), len(replayed.list))
	}
}

// TestDamage refuses data directories that have lost something.
func TestDamage(t *testing.T) {
	whole := t.TempDir()
	s := start(t, whole, etcd.ServerOptions{})
	for i := range 50 {
		put(t, s.KV(), fmt.Sprintf("k%d", i), strings.Repeat("value ", 200))
	}
	s.Close()
	longer := copyDir(t, whole)
	s = start(t, longer, etcd.ServerOptions{})
	put(t, s.KV(), "unacknowledged", strings.Repeat("value ", 2000))
	s.Close()
	unacknowledged := readLog(t, longer)
	for _, c := range []struct {
		name   string
		damage func(wal string, data []byte) error
		want   error
	}{
		{"whole", func(string, []byte) error { return nil }, nil},
		{"unfinished record at the end", func(wal string, _ []byte) error {
			return write(wal, unacknowledged[:len(unacknowledged)-6000], 1<<20)
		}, nil},
		{"cut in the middle", func(wal string, data []byte) error { return write(wal, data[:len(data)/2], 0) }, errs.Corrupt},
		{"end overwritten with zeros", func(wal string, data []byte) error { return write(wal, data[:len(data)/2], 1<<20) }, errs.Corrupt},
		{"bit flipped", func(wal string, data []byte) error {
			data[len(data)/2] ^= 1
			return write(wal, data, 1<<20)
		}, errs.Corrupt},
		{"log missing", func(wal string, _ []byte) error { return os.RemoveAll(filepath.Dir(wal)) }, errs.Corrupt},
		{"empty log", func(wal string, _ []byte) error { return write(wal, nil, 0) }, errs.Corrupt},
		{"database overwritten", func(wal string, _ []byte) error {
			return write(filepath.Join(filepath.Dir(wal), "..", "snap", "db"), make([]byte, 16<<10), 0)
		}, errs.Corrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, whole)
			if err := c.damage(logFile(dir), readLog(t, dir)); err != nil {
				t.Fatal(err)
			}
			s, err := etcd.Start(t.Context(), etcd.ServerOptions{Dir: dir})
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if err != nil {
				t.Log(err)
				return
			}
			defer s.Close()
			if _, err := s.KV().Get(t.Context(), "k49"); err != nil {
				t.Errorf("the last acknowledged key: %v", err)
			}
		})
	}
}

// TestFirstStartCutOff starts on what a first start leaves that ended before it had done anything.
func TestFirstStartCutOff(t *testing.T) {
	whole := t.TempDir()
	start(t, whole, etcd.ServerOptions{}).Close()
	log := readLog(t, whole)
	const head = 80 // bytes of the records that open a log, before the first entry
	for _, c := range []struct {
		name string
		cut  func(dir string) error
	}{
		{"directories", func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "member", "wal")), os.Remove(filepath.Join(dir, "member", "snap", "db")))
		}},
		{"an empty database", func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "member", "wal")), write(filepath.Join(dir, "member", "snap", "db"), nil, 0))
		}},
		{"a log without entries", func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "member", "snap", "db")), write(logFile(dir), log[:head], 64<<20))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, whole)
			if err := c.cut(dir); err != nil {
				t.Fatal(err)
			}
			s := start(t, dir, etcd.ServerOptions{})
			put(t, s.KV(), "k", "v")
		})
	}
}

// logFile returns the path of the only write-ahead log of a small store.
func logFile(dir string) string {
	return filepath.Join(dir, "member", "wal", "0000000000000000-0000000000000000.wal")
}

// readLog returns the log without the zeros that keep its place.
func readLog(t *testing.T, dir string) []byte {
	t.Helper()
	data, err := os.ReadFile(logFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimRight(data, "\x00")
}

// write makes the file path data, followed by zeros up to size.
func write(path string, data []byte, size int64) error {
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	return os.Truncate(path, max(size, int64(len(data))))
}

// names collects what was applied, in order.
type names struct {
	mu   sync.Mutex
	list []string
}

func (n *names) apply(_ uint64, ops []meta.Op) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, op := range ops {
		n.list = append(n.list, op.Edge)
	}
}

func openLog(t testing.TB, kv meta.KV) (*meta.Log, *names) {
	t.Helper()
	n := &names{}
	l, err := meta.OpenLog(kv, meta.LogOptions{Group: "root", Member: "test", Applied: n.apply, CheckpointEvery: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l, n
}

func runLog(t testing.TB, l *meta.Log) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

// TestReplayAfterRestart compares what was applied with what a reopened server replays, with configuration and large records.
func TestReplayAfterRestart(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, etcd.ServerOptions{})
	l, applied := openLog(t, s.KV())
	runLog(t, l)
	var noise []byte
	for i := 0; len(noise) < meta.MaxRecord-1000; i++ {
		noise = fmt.Appendf(noise, "%x", i*7919)
	}
	var puts []meta.KeyValue
	for i := range meta.MaxTxnOps - 1 {
		puts = append(puts, meta.KeyValue{Key: fmt.Sprintf("sys/mounts/%03d", i), Value: []byte(`{"path":"/"}`)})
	}
	for _, b := range []meta.Batch{
		{},
		{Ops: []meta.Op{{Kind: meta.Set, Edge: string(noise[:meta.MaxRecord-1000]), Entry: meta.Entry{Class: meta.Directory}}}},
		{Ops: []meta.Op{{Kind: meta.Del, Edge: "b"}}, Puts: puts},
		{Deletes: []string{"sys/mounts/000"}},
	} {
		if _, err := l.Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	again, replayed := openLog(t, start(t, dir, etcd.ServerOptions{}).KV())
	if !slices.Equal(applied.list, replayed.list) || again.Seq() != 4 {
		t.Errorf("applied %d names, replayed %d", len(applied.list), len(replayed.list))
	}
	config, err := again.ListConfig(t.Context(), "sys/mounts/")
	if err != nil || len(config) != meta.MaxTxnOps-2 || !json.Valid(config[0].Value) {
		t.Errorf("configuration: %d keys, %v", len(config), err)
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s, err := etcd.Start(b.Context(), etcd.ServerOptions{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}

// BenchmarkAppend measures creates per second through the journal on a server with fsync.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l, _ := openLog(b, start(b, b.TempDir(), etcd.ServerOptions{}).KV())
			runLog(b, l)
			kvtest.BenchmarkLog(b, l, callers)
		})
	}
}
