package etcd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// TestFile reads a snapshot, and the directory of a member that has stopped, as what the member held.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	s, err := Start(t.Context(), ServerOptions{Dir: dir, UnsafeNoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for i := range 50 {
		key, value := fmt.Sprintf("p/k%02d", i%20), fmt.Sprint(i)
		if _, _, err := s.KV().Txn(t.Context(), meta.Txn{Puts: []meta.KeyValue{{Key: key, Value: []byte(value)}, {Key: fmt.Sprint("q/", i)}}}); err != nil {
			t.Fatal(err)
		}
		want[key[2:]] = value
	}
	if _, err := s.KV().DeleteRange(t.Context(), "p/k03", "p/k06"); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"k03", "k04", "k05"} {
		delete(want, gone)
	}
	last, err := s.KV().Get(t.Context(), "p/k19")
	if err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "saved")
	out, err := os.Create(saved)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Snapshot(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	out.Close()
	if _, err := OpenFile(dir, "p/"); errs.KindOf(err) != errs.Busy {
		t.Errorf("of a member that runs: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{saved, dir} {
		f, err := OpenFile(name, "p/")
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for from, more := "\x00", true; more; {
			p, err := f.Scan(t.Context(), from, "\xff", 7)
			if err != nil {
				t.Fatal(err)
			}
			for _, kv := range p.KVs {
				got[kv.Key], from = string(kv.Value), kv.Key+"\x00"
			}
			more = p.More
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
		if kv, err := f.Get(t.Context(), "k19"); err != nil || kv.ModRev != last.ModRev || kv.CreateRev != last.CreateRev || string(kv.Value) != string(last.Value) {
			t.Errorf("%s: got %+v, %v; want %+v", name, kv, err, last)
		}
		if _, err := f.Get(t.Context(), "k04"); errs.KindOf(err) != errs.NotExist {
			t.Errorf("%s: a key that was deleted: %v", name, err)
		}
		if _, _, err := f.Txn(context.WithoutCancel(t.Context()), meta.Txn{}); errs.KindOf(err) != errs.Permission {
			t.Errorf("%s: a change: %v", name, err)
		}
		f.Close()
	}
	if err := os.WriteFile(saved, []byte("no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(saved, ""); errs.KindOf(err) != errs.Corrupt {
		t.Errorf("of something else: %v", err)
	}
	if _, err := OpenFile(filepath.Join(dir, "none"), ""); errs.KindOf(err) != errs.NotExist {
		t.Errorf("of nothing: %v", err)
	}
}
