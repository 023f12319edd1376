package ufs_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
)

func TestRegistry(t *testing.T) {
	var r ufs.Registry
	if _, err := r.Open(t.Context(), "mem://", nil); !errors.Is(err, errs.Invalid) {
		t.Errorf("an empty registry: got %v", err)
	}
	r.Register("mem", memufs.Open)
	r.Register("aaa", func(context.Context, *url.URL, map[string]string) (ufs.Store, error) { return nil, nil })
	if got := r.Schemes(); !slices.Equal(got, []string{"aaa", "mem"}) {
		t.Errorf("schemes: got %q", got)
	}
	s, err := r.Open(t.Context(), "mem://x", map[string]string{"dirs": "true"})
	if err != nil || !s.Features().Dirs {
		t.Errorf("open: got %v, %v", s, err)
	}
	r.RegisterWithin("in", func(_ context.Context, u *url.URL, _ map[string]string) (ufs.Store, error) {
		if u.User.Username() != "container" {
			t.Errorf("opened with %v", u)
		}
		return nil, nil
	})
	if _, err := r.Open(t.Context(), "in://container@x/", nil); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		uri     string
		options map[string]string
		want    []string // in the message
	}{
		{"in://container:hush@x", nil, []string{"credentials"}},
		{"mem://hush@x", nil, []string{"credentials"}},
		{"s4://bucket", nil, []string{"s4", "aaa, in, mem"}},
		{"mem://x", map[string]string{"dir": "hush"}, []string{`"dir"`, "dirs"}},
		{"mem://x", map[string]string{"dirs": "hush"}, []string{"dirs", "true or false"}},
		{"mem://u:hush@x", nil, []string{"credentials"}},
		{"mem://x?key=hush", nil, []string{"options"}},
		{"mem://x:hush%zz", nil, []string{"scheme://host/path"}},
	} {
		_, err := r.Open(t.Context(), c.uri, c.options)
		if !errors.Is(err, errs.Invalid) {
			t.Errorf("%s %v: got %v, want errs.Invalid", c.uri, c.options, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the message %q does not say %q", c.uri, err, w)
			}
		}
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("the secret is in the message %q", err)
		}
	}
}

// plain hides all abilities of a store.
type plain struct{ ufs.Store }

func (p plain) Features() ufs.Features {
	f := p.Store.Features()
	return ufs.Features{Kind: "plain", Dirs: f.Dirs, Flat: f.Flat, OddNames: f.OddNames, Conditional: f.Conditional}
}

func TestMissingAbilities(t *testing.T) {
	for _, dirs := range []bool{false, true} {
		inner := memufs.New(memufs.Options{Dirs: dirs})
		s, ctx := plain{inner}, t.Context()
		for _, name := range []string{"a", "d/b", "d/e/c"} {
			if _, err := ufs.WriteFile(ctx, s, name, []byte(name), ufs.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		_, mkdir := ufs.Mkdir(ctx, s, "x/", ufs.Attr{})
		_, cp := ufs.Copy(ctx, s, "a", "", "b", nil)
		_, app := ufs.Append(ctx, s, "a", "", ufs.Attr{})
		_, set := ufs.SetAttr(ctx, s, "a", "", ufs.Attr{})
		_, compose := ufs.ComposerOf(s)
		for what, err := range map[string]error{
			"rename": ufs.Rename(ctx, s, "a", "b", true), "mkdir": mkdir, "trash": ufs.Trash(ctx, s, "d/"), "copy": cp,
			"append": app, "setattr": set, "compose": compose,
		} {
			if !errors.Is(err, errs.Unsupported) {
				t.Errorf("%s: got %v, want errs.Unsupported", what, err)
			}
		}
		in, err := ufs.CopyFile(ctx, s, "a", "", "d/copy", nil)
		if err != nil || in.Size != 1 {
			t.Errorf("copy through the process: got %+v, %v", in, err)
		}
		if err := errors.Join(ufs.Probe(ctx, s, true), ufs.RemoveTree(ctx, s, "d/")); err != nil {
			t.Error(err)
		}
		if _, err := s.Stat(ctx, "d/"); !errors.Is(err, errs.NotExist) {
			t.Errorf("after RemoveTree: got %v", err)
		}
		err = ufs.RemoveFiles(ctx, s, []ufs.Versioned{{Name: "none"}, {Name: "a", Version: "0"}, {Name: "a"}})
		if _, serr := s.Stat(ctx, "a"); err != nil || !errors.Is(serr, errs.NotExist) {
			t.Errorf("RemoveFiles: got %v, and a is %v", err, serr)
		}
	}
}

// TestPackAttr checks that packed attributes are ASCII and come back, and that what is none is no attribute.
func TestPackAttr(t *testing.T) {
	want := ufs.Attr{
		Headers: map[string]string{"Expires": "ü\x00\x7f\u2028"}, User: map[string]string{"日": "😀<&>"}, ETag: `"e"`, Checksums: "c", Origin: "o",
		Mode: 0o1777, Owner: "ann\n", Group: "\\g",
	}
	text := ufs.PackAttr(want)
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		t.Errorf("%q cannot be a header's value", text)
	}
	if got := ufs.UnpackAttr(text); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, text := range []string{"", "{", "[]", `"x"`, `{"m":-1}`} {
		if got := ufs.UnpackAttr(text); fmt.Sprint(got) != fmt.Sprint(ufs.Attr{}) {
			t.Errorf("%s: got %+v", text, got)
		}
	}
	if text := ufs.PackAttr(ufs.Attr{Marker: true}); text != "" {
		t.Errorf("nothing is %q", text)
	}
}

// FuzzCheckName checks that a name that a store of real directories accepts stays below its root, and clear of staging.
func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"", "a", "a/b/", "../x", "a/../../x", ".sluice", ".sluice/tmp", "a//b", "/", "\xff", "a\x00"} {
		f.Add(s)
	}
	features := ufs.Features{Dirs: true, MaxName: 255, MaxKey: 4095}
	f.Fuzz(func(t *testing.T, name string) {
		if ufs.CheckName(features, "fuzz", name) != nil || name == "" {
			return
		}
		path := filepath.FromSlash(strings.TrimSuffix(name, "/"))
		if !filepath.IsLocal(path) || filepath.Clean(path) != path || strings.HasPrefix(path+"/", ufs.Staging) {
			t.Errorf("%q was accepted", name)
		}
	})
}
