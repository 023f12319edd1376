package hdfsufs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/hadoopfs/minidfs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

// TestMiniCluster runs the suite, and what concerns HDFS alone, against a name node and a datanode in a process of their own.
func TestMiniCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves out what starts servers")
	}
	c := minidfs.Start(t, minidfs.Options{})
	t.Run("suite", func(t *testing.T) {
		for name, options := range map[string]map[string]string{
			"superuser": nil, "user": {"user": "eve"}, "without attributes": {"xattrs": "false"},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				ufstest.Run(t, opener(c, options))
			})
		}
	})
	t.Run("behind its back", func(t *testing.T) { behind(t, c) })
	t.Run("watch", func(t *testing.T) { watch(t, c) })
	t.Run("uploads", func(t *testing.T) { uploads(t, opener(c, nil)(t)) })
	t.Run("names that HDFS keeps for itself", func(t *testing.T) {
		s := opener(c, nil)(t)
		for _, name := range []string{".snapshot/x", "a/.snapshot", strings.Repeat("d/", 999) + "x"} {
			if _, err := ufs.WriteFile(t.Context(), s, name, nil, ufs.CreateOptions{}); errs.KindOf(err) != errs.Invalid {
				t.Errorf("%.20q: got %v", name, err)
			}
		}
	})
	t.Run("the root is gone", func(t *testing.T) { rootless(t, c) })
	t.Run("the name node is gone", func(t *testing.T) { restart(t, c) })
}

var stores atomic.Int32

// opener returns a function that opens stores below directories of their own, which belong to the option user.
func opener(c *minidfs.Cluster, options map[string]string) func(t *testing.T) ufs.Store {
	return func(t *testing.T) ufs.Store {
		t.Helper()
		dir := fmt.Sprintf("/t%d", stores.Add(1))
		admin := client(t, c)
		if err := errors.Join(admin.Mkdirs(t.Context(), dir), admin.SetOwner(t.Context(), dir, options["user"], "")); err != nil {
			t.Fatal(err)
		}
		return open(t, "hdfs://"+c.RPC+dir, options)
	}
}

func client(t *testing.T, c *minidfs.Cluster) *Client {
	t.Helper()
	k, err := New(Options{Namenodes: []string{c.RPC}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	return k
}

func open(t *testing.T, uri string, options map[string]string) ufs.Store {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenURI(t.Context(), u, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// behind changes a store's files by the library alone.
func behind(t *testing.T, c *minidfs.Cluster) {
	ctx := t.Context()
	s := opener(c, nil)(t)
	dir := strings.TrimPrefix(s.Features().Root, "hdfs://"+c.RPC)
	lib, err := hdfs.NewClient(hdfs.ClientOptions{Addresses: []string{c.RPC}, User: client(t, c).o.User})
	if err != nil {
		t.Fatal(err)
	}
	defer lib.Close() //nolint:errcheck // it ends with the test
	put := func(name, data string) ufs.Info {
		t.Helper()
		in, err := ufs.WriteFile(ctx, s, name, []byte(data), ufs.CreateOptions{Attr: ufs.Attr{ETag: "tag-of-" + name}})
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	was := put("a", "sluice's")
	f, err := lib.Append(dir + "a")
	check("append", err)
	_, err = io.WriteString(f, " and more")
	check("append", errors.Join(err, f.Close()))
	now, err := s.Stat(ctx, "a")
	if err != nil || now.Version == was.Version || now.ETag != "" || now.Attr.ETag != "" || !now.Full {
		t.Errorf("after an append behind its back: got %+v, %v; it still has what was kept with %+v", now, err, was)
	}
	if _, err := s.Open(ctx, "a", 0, -1, was.Version); errs.KindOf(err) != errs.Precondition {
		t.Errorf("open of the version before: got %v", err)
	}
	if err := s.Remove(ctx, "a", was.Version); errs.KindOf(err) != errs.Precondition {
		t.Errorf("removal of the version before: got %v", err)
	}
	if _, err := ufs.WriteFile(ctx, s, "a", []byte("x"), ufs.CreateOptions{IfVersion: was.Version}); errs.KindOf(err) != errs.Precondition {
		t.Errorf("replacement of the version before: got %v", err)
	}
	b, err := ufs.ReadAll(ctx, s, "a", now.Version, 100)
	if err != nil || string(b) != "sluice's and more" {
		t.Errorf("got %q, %v", b, err)
	}

	// A file that is moved while it is read is read on; one that changes is not.
	put("big", strings.Repeat("b", 3<<20))
	r, err := s.Open(ctx, "big", 0, -1, "")
	check("open", err)
	check("rename", lib.Rename(dir+"big", dir+"moved"))
	if b, err := io.ReadAll(r); err != nil || len(b) != 3<<20 {
		t.Errorf("a file moved while it is read: got %d bytes, %v", len(b), err)
	}
	check("close", r.Close())
	r, err = s.Open(ctx, "moved", 0, 10, "")
	check("open", err)
	_, err = lib.Truncate(dir+"moved", 5)
	check("truncate", err)
	if _, err := io.ReadAll(r); errs.KindOf(err) != errs.Precondition {
		t.Errorf("a file cut while it is read: got %v", err)
	}
	check("close", r.Close())

	// Bytes of other clients count by what the name node knows of them; owner and mode are HDFS's once they change there.
	check("write", ignore(ufs.WriteFile(ctx, s, "m", nil, ufs.CreateOptions{Attr: ufs.Attr{Mode: 0o600, Owner: "ann", Group: "staff"}})))
	if in, err := s.Stat(ctx, "m"); err != nil || in.Mode != 0o600 || in.Owner != "ann" || in.Group != "staff" {
		t.Errorf("got %+v, %v", in, err)
	}
	if in, err := lib.Stat(dir + "m"); err != nil || in.Mode().Perm() != 0o600 || in.(*hdfs.FileInfo).Owner() != "ann" || in.(*hdfs.FileInfo).OwnerGroup() != "staff" {
		t.Errorf("HDFS shows %+v, %v", in, err)
	}
	check("chmod", errors.Join(lib.Chmod(dir+"m", 0o640), lib.Chown(dir+"m", "bob", "staff")))
	if in, err := s.Stat(ctx, "m"); err != nil || in.Mode != 0o640 || in.Owner != "bob" || in.Group != "staff" {
		t.Errorf("after a change behind its back: got %+v, %v", in, err)
	}
}

func ignore(_ ufs.Info, err error) error { return err }

// uploads completes an upload whose first Complete was stopped, as after a crash, by another Store.
func uploads(t *testing.T, s ufs.Store) {
	ctx := t.Context()
	c, err := ufs.ComposerOf(s)
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.Begin(ctx, "f", ufs.Attr{User: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	var parts []ufs.Part
	var want bytes.Buffer
	for i, size := range []int{3 << 20, 0, 1, 70_000} {
		data := bytes.Repeat([]byte{byte('a' + i)}, size)
		want.Write(data)
		tag, err := c.PutPart(ctx, "f", id, i+1, int64(size), bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, ufs.Part{Number: i + 1, ETag: tag, Size: int64(size)})
	}
	if err := s.CleanStaging(ctx, func(token string) bool { return token == id }); err != nil {
		t.Fatal(err)
	}
	for _, stopAt := range []int{1, 2, 3, 4} { // the calls that ask: concat, the move to staging, the attributes, the name
		n := 0
		stopped := ufs.WithGuard(ctx, func() error {
			if n++; n >= stopAt {
				return errs.New("test", "", errs.Unavailable, "not any more")
			}
			return nil
		})
		if _, err := c.Complete(stopped, "f", id, parts, ufs.CreateOptions{}); err == nil {
			t.Fatalf("stopped at call %d, it was completed", stopAt)
		}
		if _, err := s.Stat(ctx, "f"); errs.KindOf(err) != errs.NotExist {
			t.Fatalf("stopped at call %d: got %v", stopAt, err)
		}
		if err := s.CleanStaging(ctx, func(token string) bool { return token == id }); err != nil {
			t.Fatal(err)
		}
	}
	again := open(t, s.Features().Root, nil)
	c2, err := ufs.ComposerOf(again)
	if err != nil {
		t.Fatal(err)
	}
	in, err := c2.Complete(ctx, "f", id, parts, ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := ufs.ReadAll(ctx, again, "f", in.Version, int64(want.Len()))
	if err != nil || !bytes.Equal(got, want.Bytes()) || in.Attr.User["k"] != "v" {
		t.Errorf("got %d bytes, %v, %+v; want %d", len(got), err, in, want.Len())
	}
	if _, err := c2.Complete(ctx, "f", id, parts, ufs.CreateOptions{}); errs.KindOf(err) != errs.NotExist {
		t.Errorf("a completed upload: got %v", err)
	}
}

// rootless looks at a store whose directory is removed: that is an outage, and it is not made again.
func rootless(t *testing.T, c *minidfs.Cluster) {
	ctx := t.Context()
	admin := client(t, c)
	dir := fmt.Sprintf("/t%d/deep", stores.Add(1))
	s := open(t, "hdfs://"+c.RPC+dir, nil)
	if err := ufs.Probe(ctx, s, true); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("probe: got %v", err)
	}
	if _, err := s.Stat(ctx, "a"); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("stat: got %v", err)
	}
	for _, err := range s.List(ctx, "", "", false) {
		if errs.KindOf(err) != errs.Unavailable {
			t.Errorf("list: got %v", err)
		}
	}
	if _, err := ufs.WriteFile(ctx, s, "a", []byte("x"), ufs.CreateOptions{}); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("write: got %v", err)
	}
	if _, err := admin.Status(ctx, dir); errs.KindOf(err) != errs.NotExist {
		t.Errorf("the root: got %v", err)
	}
	made := open(t, "hdfs://"+c.RPC+dir, map[string]string{"create": "true"})
	if err := ufs.Probe(ctx, made, true); errs.KindOf(err) != errs.Unavailable && errs.KindOf(err) != errs.NotExist {
		t.Errorf("probe with the option create of a store that was there before: %v", err)
	}
	if err := ufs.Probe(ufs.WithMaking(ctx, ufs.Making{Dry: true}), made, true); !errors.Is(err, ufs.ErrWouldMake) {
		t.Errorf("dry probe with the option create: %v", err)
	}
	if _, err := admin.Status(ctx, dir); errs.KindOf(err) != errs.NotExist {
		t.Errorf("the root: got %v", err)
	}
	if err := ufs.Probe(ufs.WithMaking(ctx, ufs.Making{}), made, true); err != nil {
		t.Errorf("probe with the option create: %v", err)
	}
}

// restart kills the cluster under a store in use.
func restart(t *testing.T, c *minidfs.Cluster) {
	ctx := t.Context()
	s := opener(c, nil)(t)
	in, err := ufs.WriteFile(ctx, s, "a", []byte("kept"), ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(ctx, "b", -1, ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	c.Kill()
	begun := time.Now()
	if _, err := w.Commit(ctx); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("commit: got %v", err)
	}
	if _, err := s.Stat(ctx, "a"); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("stat: got %v", err)
	}
	if err := s.Remove(ctx, "a", ""); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("remove: got %v", err)
	}
	_, err = ufs.WriteFile(ctx, s, "c", nil, ufs.CreateOptions{})
	if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, ufs.ErrUnsent) {
		t.Errorf("write: got %v, want one that says that nothing was sent", err)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("a dead name node was noticed after %v", took)
	}
	c.Restart(t)
	got, err := s.Stat(ctx, "a")
	if err != nil || got.Version != in.Version {
		t.Errorf("after a restart: got %+v, %v, want %+v", got, err, in)
	}
}

// TestSilent talks to a name node that takes connections and says nothing.
func TestSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // it ends with the test
	s := open(t, "hdfs://"+l.Addr().String()+"/x", nil)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := s.Stat(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("a call of 100 ms took %v", took)
	}
}

// TestNobody talks to an address where nobody listens.
func TestNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	s := open(t, "hdfs://"+l.Addr().String()+"/x", nil)
	for range 3 {
		err := ufs.Probe(t.Context(), s, true)
		if errs.KindOf(err) != errs.Unavailable || !errors.Is(err, ufs.ErrUnsent) {
			t.Errorf("got %v", err)
		}
	}
}

// TestExecutor fails when the library is no longer the one that executor knows.
func TestExecutor(t *testing.T) {
	// A client without a connection is enough: the field is there before.
	exec, err := executor(&hdfs.Client{})
	if err != nil || exec == nil {
		t.Fatalf("got %v", err)
	}
	for method, fields := range map[string]map[string]any{
		"rename2":    {"src": "", "dst": "", "overwriteDest": false},
		"getListing": {"src": "", "startAfter": []byte{}, "needLocation": false},
		"concat":     {"trg": "", "srcs": []string{"a"}},
		"setXAttr":   {"src": "", "flag": uint32(3), "xAttr": map[string]any{"namespace": userXAttr, "name": "n", "value": []byte("v")}},
	} {
		req, err := newMessage("hadoop.hdfs." + strings.ToUpper(method[:1]) + method[1:] + "RequestProto")
		if err == nil {
			err = fill(req, fields)
		}
		if err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestOptions(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "krb5.conf")
	if err := os.WriteFile(conf, []byte("[libdefaults]\n default_realm = X\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		uri     string
		options map[string]string
		want    string
	}{
		{"hdfs:///x", nil, "hdfs://namenode:port/path"},
		{"hdfs://h/x", map[string]string{"usr": "a"}, `unknown option "usr"`},
		{"hdfs://h/x", map[string]string{"xattrs": "maybe"}, "xattrs must be true or false"},
		{"hdfs://h/x", map[string]string{"protection": "much"}, "protection"},
		{"hdfs://h/x", map[string]string{"namenodes": "a:1 b"}, "host:port"},
		{"hdfs://h/a:b", nil, "cannot have such a directory"},
		{"hdfs://h/x", map[string]string{"principal": "a@X"}, "keytab"},
		{"hdfs://h/x", map[string]string{"keytab": "/k", "principal": "a"}, "user@REALM"},
		{"hdfs://h/x", map[string]string{"keytab": "/k", "ccache": "/c", "principal": "a@X"}, "one of"},
		{"hdfs://h/x", map[string]string{"keytab": dir + "/none", "principal": "a@X", "krb5_conf": conf}, "none"},
		{"hdfs://h/x", map[string]string{"ccache": dir + "/none", "krb5_conf": conf}, "ticket cache"},
	} {
		u, err := url.Parse(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		_, err = OpenURI(t.Context(), u, c.options)
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v: got %v, want %q", c.uri, c.options, err, c.want)
		}
	}
}
