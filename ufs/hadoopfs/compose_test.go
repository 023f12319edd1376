package hadoopfs

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// beginParts begins an upload with parts and returns them.
func beginParts(t *testing.T, s *Store, name string, data ...string) (id string, parts []ufs.Part) {
	t.Helper()
	id, err := s.Begin(t.Context(), name, ufs.Attr{})
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range data {
		tag, err := s.PutPart(t.Context(), name, id, i+1, int64(len(d)), strings.NewReader(d))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, ufs.Part{Number: i + 1, ETag: tag, Size: int64(len(d))})
	}
	return id, parts
}

// TestCompleteLocks completes an upload to a name that falls on the same place of the locks as the upload itself.
func TestCompleteLocks(t *testing.T) {
	_, s := newFake(t)
	place := func(name string) uint64 { return maphash.String(s.seed, name) % uint64(len(s.names)) }
	id, parts := beginParts(t, s, "a", "one", "two")
	name := ""
	for i := 0; name == "" || place(name) != place(strings.TrimSuffix(uploadsDir+id, "/")); i++ {
		name = fmt.Sprintf("f%d", i)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Complete(context.WithoutCancel(t.Context()), name, id, parts, ufs.CreateOptions{})
		done <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal("Complete waits for itself")
	}
	wantFile(t, s, name, "onetwo")
}

// TestNewUploadIsKept cleans with what was known before the upload began, and after Complete was refused.
func TestNewUploadIsKept(t *testing.T) {
	_, s := newFake(t)
	clean := func() {
		t.Helper()
		if err := s.CleanStaging(t.Context(), func(string) bool { return false }); err != nil {
			t.Fatal(err)
		}
	}
	id, parts := beginParts(t, s, "a", "one")
	clean()
	wrong := []ufs.Part{{Number: 9, ETag: "none", Size: 1}}
	if _, err := s.Complete(t.Context(), "a", id, wrong, ufs.CreateOptions{}); err == nil {
		t.Fatal("a part that is not there was completed")
	}
	clean()
	if _, err := s.Complete(t.Context(), "a", id, parts, ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, "a", "one")
}

// TestLateConcat has the concat of a first try come when the second has seen an empty whole.
func TestLateConcat(t *testing.T) {
	f, s := newFake(t)
	id, parts := beginParts(t, s, "a", "one", "two")
	var late func()
	cut := false
	f.before = func(method, p string) error {
		if method == "Concat" && late == nil {
			late = func() {
				var sources []string
				for _, part := range parts {
					sources = append(sources, s.at(uploadsDir+id+"/"+partName(part.Number, part.ETag)))
				}
				_ = f.concat(p, sources)
			}
			return errs.E("fake", p, errs.Unavailable, nil)
		}
		return nil
	}
	if _, err := s.Complete(t.Context(), "a", id, parts, ufs.CreateOptions{}); err == nil {
		t.Fatal("a concat without an answer was taken for one that was made")
	}
	f.before = func(method, p string) error {
		if late != nil && strings.Contains(p, wholePrefix) && (method == "Rename" || method == "Delete") {
			f.mu.Lock()
			late()
			f.mu.Unlock()
			late = nil
		}
		if method == "Rename" && strings.Contains(p, "/late.") && !cut { // between the two renames
			cut = true
			return errs.E("fake", p, errs.Unavailable, nil)
		}
		return nil
	}
	if _, err := s.Complete(t.Context(), "a", id, parts, ufs.CreateOptions{}); err == nil {
		t.Fatal("the second try was not cut")
	}
	if _, err := s.Complete(t.Context(), "a", id, parts, ufs.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	wantFile(t, s, "a", "onetwo")
}
