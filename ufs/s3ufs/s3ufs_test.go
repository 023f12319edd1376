package s3ufs

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

// open returns a store in the fake's bucket.
func (f *fake) open(t *testing.T, prefix string) *Store {
	t.Helper()
	s, err := Open(Options{
		Bucket: f.bucket, Prefix: prefix, Endpoint: f.URL, AccessKey: "access", SecretKey: "secret", PathStyle: true,
		backoff: time.Millisecond, uploads: newUploads(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestSuite(t *testing.T) {
	for name, c := range map[string]struct {
		prefix      string
		deaf, probe bool
	}{"probed": {probe: true}, "below a prefix, not probed": {prefix: "pre/fix"}, "without conditions": {deaf: true, probe: true}} {
		t.Run(name, func(t *testing.T) {
			ufstest.Run(t, func(t *testing.T) ufs.Store {
				f := newFake(t)
				f.deaf = c.deaf
				s := f.open(t, c.prefix)
				if !c.probe {
					return s
				}
				if err := s.Probe(t.Context(), true); err != nil {
					t.Fatal(err)
				}
				if got := s.Features().Conditional; got == c.deaf {
					t.Fatalf("the probe found conditional: %v", got)
				}
				return s
			})
		})
	}
}

// TestLearns checks that a store that was not probed finds out about conditions with the first one.
func TestLearns(t *testing.T) {
	s := newFake(t).open(t, "")
	if s.Features().Conditional {
		t.Error("a service that nobody has asked is trusted")
	}
	if _, err := ufs.WriteFile(t.Context(), s, "a", nil, ufs.CreateOptions{IfNew: true}); err != nil {
		t.Fatal(err)
	}
	if !s.Features().Conditional {
		t.Error("the store has learned nothing")
	}
}

// TestFoldedNames checks that no name is stored under another by a service that keeps its objects in a file system,
// whether the store was probed or opened again over objects it has; and that one which refuses such names can be used.
func TestFoldedNames(t *testing.T) {
	for _, probe := range []bool{true, false} {
		t.Run(fmt.Sprint("folded, probed ", probe), func(t *testing.T) {
			testFolded(t, probe, func(f *fake, w http.ResponseWriter, r *http.Request) {
				r.URL.Path, r.URL.RawPath = path.Clean(r.URL.Path), ""
				f.ServeHTTP(w, r)
			})
		})
		t.Run(fmt.Sprint("refused, probed ", probe), func(t *testing.T) {
			testFolded(t, probe, func(f *fake, w http.ResponseWriter, r *http.Request) {
				if path.Clean(r.URL.Path) != strings.TrimSuffix(r.URL.Path, "/") {
					w.WriteHeader(http.StatusBadRequest) // as MinIO answers a HEAD
					return
				}
				f.ServeHTTP(w, r)
			})
		})
	}
}

func testFolded(t *testing.T, probe bool, serve func(f *fake, w http.ResponseWriter, r *http.Request)) {
	f := newFake(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(f, w, r) }))
	t.Cleanup(server.Close)
	f.URL = server.URL
	s := f.open(t, "pre")
	if _, err := ufs.WriteFile(t.Context(), s, "a/b", []byte("kept"), ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if probe {
		if err := s.Probe(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		if s.Features().OddNames {
			t.Error("the probe trusts a service that takes one name for another")
		}
	}
	for _, name := range []string{"a//b", "./a/b", "a/./b", "a/../a/b"} {
		_, err := ufs.WriteFile(t.Context(), s, name, []byte("lost"), ufs.CreateOptions{})
		wantKind(t, "write "+name, err, errs.Invalid)
		_, err = s.Stat(t.Context(), name)
		wantKind(t, "stat "+name, err, errs.Invalid)
	}
	r, err := s.Open(t.Context(), "a/b", 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "kept" {
		t.Errorf("a/b is %q, %v", got, err)
	}
	_ = r.Close()
	if s.Features().OddNames {
		t.Error("the store has learned nothing")
	}
}
