package webhdfs

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzParseQuery(f *testing.F) {
	for _, s := range []string{"op=OPEN&offset=1", "a=b;c&A=d", "%6fp=x+y", "a=%zz", "&&=&=x&a", "createflag=CREATE%252COVERWRITE", "permission=777&overwrite=TRUE"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseQuery(raw)
		if err != nil {
			return
		}
		var names []string
		for name := range q.values {
			names = append(names, name)
		}
		again, err := parseQuery(q.encode(names...))
		if err != nil || cmp.Diff(q.values, again.values) != "" {
			t.Errorf("%q: %v became %v, %v", raw, q.values, again, err)
		}
		q.long("offset", 0, 0)
		q.mode("permission", 0)
		q.boolean("overwrite", false)
		q.set("createflag", "CREATE")
	})
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"", ".", "..", "a:b", "%3A", "%253A", "%2525", "%2E.", "%2F", "%252F", ":%3A:", "%2", "%25253A:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if strings.Contains(name, "/") {
			return
		}
		s := spell(name)
		if got := unspell(s); got != name {
			t.Errorf("%q is spelled %q, which is %q", name, s, got)
		}
		if got, err := parseName("/" + s); err != nil || got != "/"+s {
			t.Errorf("%q is spelled %q, which no client can send: %q, %v", name, s, got, err)
		}
		if p, err := url.PathUnescape(escape("/" + s)); err != nil || p != "/"+s {
			t.Errorf("%q is escaped %q", s, escape("/"+s))
		}
		if !strings.Contains(name, ":") && name != "" && name != "." && name != ".." && spell(unspell(name)) != name {
			t.Errorf("%q is another spelling of %q", name, unspell(name))
		}
	})
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"", "/", "//a//b/", "/a/../b", "/a b/%41", "/\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		name, err := parseName(raw)
		if err != nil {
			return
		}
		if name[0] != '/' || strings.Contains(name, "//") || name != "/" && strings.HasSuffix(name, "/") {
			t.Errorf("%q became %q", raw, name)
		}
		if again, err := parseName(name); err != nil || again != name {
			t.Errorf("%q became %q", name, again)
		}
	})
}

func FuzzTicket(f *testing.F) {
	s := New(Options{})
	good, _ := s.seal(f.Context(), ticket{Op: "OPEN", User: "bob", Expires: 1 << 60}, "/a")
	f.Add(good, "/a")
	f.Add("", "")
	f.Add(strings.Repeat(".", 3), "/a")
	f.Fuzz(func(t *testing.T, text, name string) {
		if _, err := s.unseal(t.Context(), text, name); err == nil && (text != good || name != "/a") {
			t.Errorf("%q is a ticket for %q", text, name)
		}
	})
}

func FuzzGlob(f *testing.F) {
	for _, s := range []string{"*", "a?b", "[a-c]*", "{a,b}", `\*`, "[!x]", "é*", "{", "]", "a,b"} {
		f.Add(s, "ab")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		match, err := glob(pattern)
		if err != nil {
			return
		}
		got := match(name)
		if regexp.QuoteMeta(pattern) == pattern && !strings.ContainsAny(pattern, ",") && pattern != "" && got != (pattern == name) {
			t.Errorf("glob %q matches %q: %v", pattern, name, got)
		}
	})
}
