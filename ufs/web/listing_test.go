package web_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// TestEntries lists names that come in pages.
func TestEntries(t *testing.T) {
	type answer struct {
		names []string
		next  string
		err   error
	}
	down := errs.New("test", "", errs.Unavailable, "no answer")
	for _, c := range []struct {
		name, after string
		pages       map[string]answer
		want        []string
		fails       bool
	}{
		{"two pages, a prefix in both", "", map[string]answer{"": {[]string{"a", "b/"}, "1", nil}, "1": {[]string{"b/", "c"}, "", nil}}, []string{"a", "b/", "c"}, false},
		{"from a name on", "b", map[string]answer{"": {[]string{"a", "b", "c"}, "", nil}}, []string{"c"}, false},
		{"an empty page", "", map[string]answer{"": {nil, "1", nil}, "1": {[]string{"a"}, "", nil}}, []string{"a"}, false},
		{"what is staged", "", map[string]answer{"": {[]string{ufs.Staging + "x", "a"}, "", nil}}, []string{"a"}, false},
		{"a failure", "", map[string]answer{"": {[]string{"a"}, "1", nil}, "1": {nil, "", down}}, []string{"a"}, true},
		{"another order", "", map[string]answer{"": {[]string{"b"}, "1", nil}, "1": {[]string{"a"}, "", nil}}, []string{"b"}, true},
		{"another order of what is left out", "c", map[string]answer{"": {[]string{"b"}, "1", nil}, "1": {[]string{"a"}, "", nil}}, nil, true},
		{"no end", "", map[string]answer{"": {[]string{"a"}, "1", nil}, "1": {[]string{"b"}, "1", nil}}, []string{"a", "b"}, true},
	} {
		var got []string
		var failed error
		for e, err := range web.Entries("test", "", c.after, func(yield func([]ufs.Info, error) bool) {
			for names, err := range web.Pages(func(at string) ([]string, string, error) { a := c.pages[at]; return a.names, a.next, a.err }) {
				page := make([]ufs.Info, len(names))
				for i, name := range names {
					page[i].Name = name
				}
				if !yield(page, err) {
					return
				}
			}
		}) {
			if failed = err; err == nil {
				got = append(got, e.Name)
			}
		}
		if !slices.Equal(got, c.want) || (failed != nil) != c.fails {
			t.Errorf("%s: got %q, %v; want %q, an error %v", c.name, got, failed, c.want, c.fails)
		}
	}
}

// TestUploads begins uploads and reads their notes, as this version and those before it write them.
func TestUploads(t *testing.T) {
	var begun web.Uploads
	text := ""
	id, err := begun.Begin("test", "root/", "a", ufs.Attr{Origin: "o"}, func(_, s string) error { text = s; return nil })
	if err != nil || id == "" || !begun.Has("root/", id) || begun.Has("other/", id) {
		t.Fatalf("begun is %q, %v", id, err)
	}
	if begun.End("root/", id); begun.Has("root/", id) {
		t.Error("it has not ended")
	}
	failed, at := errors.New("no room"), ""
	if _, err := begun.Begin("test", "root/", "a", ufs.Attr{}, func(id, _ string) error { at = id; return failed }); !errors.Is(err, failed) || begun.Has("root/", at) {
		t.Errorf("an upload without a note: %v", err)
	}
	for _, c := range []struct {
		what, text string
		err        error
		want       errs.Kind
		origin     string
	}{
		{"its own", text, nil, errs.Other, "o"},
		{"that of before", `{"name":"YQ==","attr":{"Origin":"before"}}`, nil, errs.Other, "before"},
		{"of another name", `{"name":"Yg==","attr":{}}`, nil, errs.NotExist, ""},
		{"damaged", `{"name":`, nil, errs.Corrupt, ""},
		{"none", "", errs.New("test", "", errs.NotExist, "no such file"), errs.NotExist, ""},
		{"no answer", "", errs.New("test", "", errs.Unavailable, "no answer"), errs.Unavailable, ""},
	} {
		attr, err := web.ReadNote("test", "a", c.text, c.err)
		if (err != nil) != (c.want != errs.Other) || err != nil && errs.KindOf(err) != c.want || attr.Origin != c.origin {
			t.Errorf("%s: got %+v, %v", c.what, attr, err)
		}
	}
}
