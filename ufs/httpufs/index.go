package httpufs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// List implements ufs.Store. Of a directory's index page only the names are believed: sizes there are rounded, and times cut.
// The files' facts are asked for as far as the listing is read.
func (s *Store) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	const op = "httpufs.List"
	return func(yield func(ufs.Info, error) bool) {
		if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
			yield(ufs.Info{}, err)
			return
		}
		if s.manifest != nil {
			s.manifest.list(ctx, op, dir, after, flat, yield)
			return
		}
		if flat {
			yield(ufs.Info{}, errs.New(op, dir, errs.Unsupported, "index pages are of one directory each"))
			return
		}
		names, err := s.index(ctx, op, dir)
		if err != nil {
			yield(ufs.Info{}, err)
			return
		}
		i, _ := slices.BinarySearch(names, after)
		if i < len(names) && names[i] == after {
			i++
		}
		for in, err := range s.describe(ctx, op, names[i:]) {
			if !yield(in, err) || err != nil {
				return
			}
		}
	}
}

// describe yields the entries of these names in order, with the facts of the files, of which it asks for some at a time. What
// is gone meanwhile is left out, and what cannot be read as Options say.
func (s *Store) describe(ctx context.Context, op string, names []string) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		for batch := range slices.Chunk(names, 4*parallel) {
			rows := make([]ufs.Info, len(batch))
			g, gctx := errgroup.WithContext(ctx)
			g.SetLimit(parallel)
			for i, name := range batch {
				if ufs.IsDir(name) {
					rows[i] = ufs.Info{Name: name, Dir: true}
					continue
				}
				g.Go(func() (err error) {
					rows[i], err = s.file(gctx, op, name)
					if errors.Is(err, errs.NotExist) || s.o.SkipUnreadable && unreadable(err) {
						rows[i], err = ufs.Info{}, nil
					}
					return err
				})
			}
			if err := g.Wait(); err != nil {
				if cerr := ctx.Err(); cerr != nil {
					err = cerr
				}
				yield(ufs.Info{}, err)
				return
			}
			for _, in := range rows {
				if in.Name != "" && !yield(in, nil) {
					return
				}
			}
		}
	}
}

// index returns the full names that the index page of dir links to, in order.
func (s *Store) index(ctx context.Context, op, dir string) ([]string, error) {
	at := s.at(dir)
	answer, err := s.do(ctx, op, http.MethodGet, dir, at)
	if err != nil {
		return nil, err
	}
	defer web.Drain(answer.Body)
	switch {
	case answer.StatusCode/100 == 3 && dir != "" && s.leadsTo(answer, dir, strings.TrimSuffix(dir, "/")):
		return nil, s.absent(ctx, op, dir, errs.New(op, dir, errs.NotExist, "it is a file"))
	case answer.StatusCode != http.StatusOK && dir == "" && web.Kind(answer.StatusCode) == errs.NotExist:
		return nil, errs.New(op, "", errs.Unavailable, fmt.Sprintf("the server has nothing at the store's root: HTTP status %d", answer.StatusCode))
	case answer.StatusCode != http.StatusOK:
		return nil, s.absent(ctx, op, dir, refused(op, dir, answer))
	}
	page, err := io.ReadAll(io.LimitReader(answer.Body, maxPage+1))
	if err != nil {
		return nil, unanswered(ctx, op, dir, err)
	}
	if len(page) > maxPage {
		return nil, errs.New(op, dir, errs.TooLarge, fmt.Sprintf("the index page has more than %d bytes; give the store a manifest", maxPage))
	}
	names, err := parseIndex(page, at)
	if err != nil {
		return nil, errs.E(op, dir, errs.Other, err)
	}
	names = slices.DeleteFunc(names, func(segment string) bool {
		name := dir + strings.TrimSuffix(segment, "/")
		return ufs.Staged(name) || tooDeep(name) || ufs.CheckFile(s.Features(), op, name) != nil
	})
	for i := range names {
		names[i] = dir + names[i]
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		if !ufs.IsDir(name) {
			continue
		}
		if _, twice := slices.BinarySearch(names, strings.TrimSuffix(name, "/")); twice {
			return nil, errs.New(op, name, errs.Unsupported, "the index page links to a file and to a directory of this name; give the store a manifest")
		}
	}
	return names, nil
}

// parseIndex returns the names that the index page at the URL at links to: single segments, those of directories with their
// "/". A page that somebody has written is not taken for an index, for what it does not link to would seem to be gone; nor is
// one of which the end is missing, and a page without names must look like that of an empty directory.
func parseIndex(page []byte, at *url.URL) (names []string, err error) {
	const op = "httpufs.index"
	low := bytes.ToLower(bytes.TrimSpace(page))
	if !isIndex(low) {
		return nil, errNoIndex(op)
	}
	if !bytes.HasSuffix(low, []byte("</html>")) && !bytes.HasSuffix(low, []byte("</pre>")) {
		return nil, errs.New(op, "", errs.Unavailable, "the index page has no end")
	}
	known, strange := 0, 0 // links that are no names
	for href := range links(page) {
		segment, is := linked(at, href)
		switch is {
		case other:
			strange++
		case navigation, nameless:
			known++
		case child:
			if names = append(names, segment); len(names) > maxLinks {
				return nil, errs.New(op, "", errs.TooLarge, fmt.Sprintf("the index page has more than %d links; give the store a manifest", maxLinks))
			}
		}
	}
	// If nothing is left of all links they are not understood here. An index without any link is an empty list.
	if len(names) == 0 && (strange > 0 || known == 0 && !emptyList.Match(low)) {
		return nil, errNoIndex(op)
	}
	return names, nil
}

func errNoIndex(op string) error {
	return errs.New(op, "", errs.Unsupported,
		"the server shows a page that is no index of the directory; remove its index.html, turn the server's index on, or give the store a manifest")
}

var emptyList = regexp.MustCompile(`<ul>\s*</ul>|<pre>\s*</pre>`)

// link is what a link of an index page leads to.
type link int

const (
	other      link = iota
	navigation      // the page itself, perhaps sorted otherwise, or a directory above it
	child           // a name in the directory
	nameless        // one that cannot be a name here
)

// linked says what the href of the index page at the URL at leads to, and the segment of a child. Servers behind proxies do
// not know by what scheme they were asked, and escape names as they like.
func linked(at *url.URL, href string) (segment string, is link) {
	u, err := at.Parse(strings.TrimSpace(href))
	if err != nil || u.Opaque != "" || u.Scheme != "http" && u.Scheme != "https" || web.Service(u) != web.Service(at) {
		return "", other
	}
	// The escaped path is taken apart: a "%2F" is no separator.
	dir := strings.Split(strings.Trim(at.Path, "/"), "/")
	if dir[0] == "" {
		dir = nil
	}
	path, isDir := strings.CutSuffix(strings.TrimPrefix(u.EscapedPath(), "/"), "/")
	segments := strings.Split(path, "/")
	if path == "" {
		segments, isDir = nil, true
	}
	for i, escaped := range segments {
		if segments[i], err = url.PathUnescape(escaped); err != nil || i < len(dir) && segments[i] != dir[i] {
			return "", other
		}
	}
	switch {
	case len(segments) < len(dir) || len(segments) == len(dir) && isDir:
		return "", navigation
	case len(segments) != len(dir)+1, u.RawQuery != "", u.Fragment != "":
		return "", other
	}
	segment = segments[len(dir)]
	if segment == "" || segment == "." || segment == ".." ||
		strings.ContainsAny(segment, "/\x00") || !utf8.ValidString(segment) {
		return "", nameless
	}
	if isDir {
		segment += "/"
	}
	return segment, child
}

// isIndex reports whether a page, in lower case, is one that a server makes of a directory: Apache, nginx, lighttpd and others
// name it "Index of", Python's server and Tomcat "Directory listing for"; Go's has no title and is a list with no other text.
func isIndex(page []byte) bool {
	if _, title, ok := bytes.Cut(page, []byte("<title>")); ok {
		title = bytes.TrimSpace(title)
		return bytes.HasPrefix(title, []byte("index of")) || bytes.HasPrefix(title, []byte("directory listing for"))
	}
	page = bytes.TrimSpace(bytes.TrimPrefix(page, []byte("<!doctype html>")))
	if bytes.HasPrefix(page, []byte("<meta ")) {
		_, page, _ = bytes.Cut(page, []byte(">"))
	}
	page, ok := bytes.CutPrefix(bytes.TrimSpace(page), []byte("<pre>"))
	for ok {
		page = bytes.TrimSpace(page)
		if bytes.HasPrefix(page, []byte("</pre>")) {
			return len(page) == len("</pre>")
		}
		if ok = bytes.HasPrefix(page, []byte("<a ")); ok {
			_, page, ok = bytes.Cut(page, []byte("</a>"))
		}
	}
	return false
}

// links yields the href of every <a> of a page. It reads what servers write, and nothing of what hides in comments, scripts
// and other attributes.
func links(page []byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			i := bytes.IndexByte(page, '<')
			if i < 0 {
				return
			}
			page = page[i+1:]
			if rest, ok := bytes.CutPrefix(page, []byte("!--")); ok {
				_, page, _ = bytes.Cut(rest, []byte("-->"))
				continue
			}
			tag, attrs, rest := cutTag(page)
			page = rest
			switch tag {
			case "script", "style", "textarea", "title":
				if j := indexFold(page, "</"+tag); j >= 0 {
					page = page[j:]
				} else {
					return
				}
			case "a":
				if href, ok := attrs["href"]; ok && !yield(html.UnescapeString(href)) {
					return
				}
			}
		}
	}
}

// indexFold returns where low, in lower case, first is in b, -1 if it is not.
func indexFold(b []byte, low string) int {
	for i := 0; i+len(low) <= len(b); i++ {
		j := bytes.IndexByte(b[i:], low[0])
		if j < 0 || i+j+len(low) > len(b) {
			return -1
		}
		if i += j; strings.EqualFold(string(b[i:i+len(low)]), low) {
			return i
		}
	}
	return -1
}

// cutTag takes a tag apart, whose "<" is gone already: its name, in lower case, and its first href.
func cutTag(b []byte) (name string, attrs map[string]string, rest []byte) {
	const space = " \t\r\n\f"
	const longest = 16 // of the names that matter; the end of a longer one is not looked for, which may be far away
	i := bytes.IndexAny(b[:min(len(b), longest+1)], space+"/>")
	if i < 0 {
		return "", nil, b
	}
	name, b, attrs = strings.ToLower(string(b[:i])), b[i:], map[string]string{}
	for {
		b = bytes.TrimLeft(b, space+"/")
		if len(b) == 0 {
			return name, attrs, nil
		}
		if b[0] == '>' {
			return name, attrs, b[1:]
		}
		i = bytes.IndexAny(b[1:], space+"/>=")
		if i < 0 {
			return name, attrs, nil
		}
		key := b[:i+1]
		b = bytes.TrimLeft(b[i+1:], space)
		value := []byte(nil)
		if len(b) > 0 && b[0] == '=' {
			b = bytes.TrimLeft(b[1:], space)
			switch {
			case len(b) > 0 && (b[0] == '"' || b[0] == '\''):
				j := bytes.IndexByte(b[1:], b[0])
				if j < 0 {
					return name, attrs, nil
				}
				value, b = b[1:j+1], b[j+2:]
			default:
				j := bytes.IndexAny(b, space+">")
				if j < 0 {
					return name, attrs, nil
				}
				value, b = b[:j], b[j:]
			}
		}
		if _, twice := attrs["href"]; !twice && len(key) == 4 && strings.EqualFold(string(key), "href") {
			attrs["href"] = string(value)
		}
	}
}
