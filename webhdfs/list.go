package webhdfs

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

const (
	// pageEntries is how many entries LISTSTATUS_BATCH answers at once. Source: dfs.ls.limit.
	pageEntries = 1000
	// listBuffer is how much of a listing is made before its first byte leaves; up to then an error is an exception.
	listBuffer = 64 << 10
)

// getFileStatus serves GETFILESTATUS, and GETFILELINKSTATUS: there are no links.
func (s *Server) getFileStatus(w http.ResponseWriter, r *request) error {
	info, err := s.stat(r)
	if err != nil {
		return err
	}
	r.describe(w.Header(), info)
	writeJSON(w, r, http.StatusOK, map[string]fileStatus{"FileStatus": statusOf(info, "")})
	return nil
}

// stat returns what is known of the request's name, with HDFS's message if it is missing.
func (s *Server) stat(r *request) (core.Info, error) {
	info, err := s.ns.Stat(r.Context(), r.path)
	return info, absent(err, "File does not exist: %s", r.name)
}

// listStatus serves LISTSTATUS: a directory's entries as they come, or the file itself.
func (s *Server) listStatus(w http.ResponseWriter, r *request) error {
	keep, err := glob(r.q.text("filter"))
	if err != nil {
		return err
	}
	info, err := s.ns.Stat(r.Context(), r.path)
	if err != nil {
		return absent(err, "File %s does not exist.", r.name)
	}
	buf := bufio.NewWriterSize(&listing{w, r}, listBuffer)
	buf.WriteString(`{"FileStatuses":{"FileStatus":[`)
	if !info.Dir {
		buf.Write(marshal(statusOf(info, "")))
	} else if err := s.entries(r, buf, keep); err != nil {
		return absent(err, "File %s does not exist.", r.name)
	}
	buf.WriteString("]}}")
	return buf.Flush()
}

// entries writes the entries of the request's directory that keep accepts.
func (s *Server) entries(r *request, buf *bufio.Writer, keep func(string) bool) error {
	comma := ""
	for i, err := range s.ns.List(r.Context(), r.path.Dir(), core.ListOptions{Children: true, HideShadowed: true}) {
		if err != nil {
			return err
		}
		st := entryOf(i)
		if !keep(st.PathSuffix) {
			continue
		}
		buf.WriteString(comma)
		if _, err := buf.Write(marshal(st)); err != nil {
			return err
		}
		comma = ",\n"
	}
	return nil
}

// listing starts the response with its first bytes.
type listing struct {
	w http.ResponseWriter
	r *request
}

func (l *listing) Write(b []byte) (int, error) {
	if l.r.status == 0 {
		l.w.Header().Set("Content-Type", "application/json")
		l.r.status = http.StatusOK
		l.w.WriteHeader(http.StatusOK)
	}
	return l.w.Write(b)
}

// listStatusBatch serves LISTSTATUS_BATCH: a page of entries after the name startafter. Clients take remainingEntries only
// for "there is more"; it is not counted.
func (s *Server) listStatusBatch(w http.ResponseWriter, r *request) error {
	info, err := s.ns.Stat(r.Context(), r.path)
	if err != nil {
		return absent(err, "File %s does not exist.", r.name)
	}
	page, remaining := []fileStatus{}, 0
	if !info.Dir {
		page = append(page, statusOf(info, ""))
	} else if page, remaining, err = s.page(r); err != nil {
		return absent(err, "File %s does not exist.", r.name)
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"DirectoryListing": map[string]any{
		"partialListing":   map[string]any{"FileStatuses": map[string]any{"FileStatus": page}},
		"remainingEntries": remaining,
	}})
	return nil
}

// page returns the entries after the request's startafter, and 1 if there are more.
func (s *Server) page(r *request) (page []fileStatus, remaining int, err error) {
	dir := r.path.Dir()
	after, err := s.after(r.Context(), dir, r.q.text("startafter"))
	if err != nil {
		return nil, 0, err
	}
	o := core.ListOptions{Children: true, HideShadowed: true, After: after, Limit: pageEntries + 1}
	page = []fileStatus{}
	for i, err := range s.ns.List(r.Context(), dir, o) {
		if err != nil {
			return nil, 0, err
		}
		if len(page) == pageEntries {
			return page, 1, nil
		}
		page = append(page, entryOf(i))
	}
	return page, 0, nil
}

// after returns the edge that a token, the last name of the page before, stands for. Listings go in the order of edges, in
// which "a.b" comes before the directory "a/", so that it matters which of the two "a" was. A name that has gone counts as
// a file: then some entries may come twice, none is left out.
func (s *Server) after(ctx context.Context, dir core.Path, token string) (string, error) {
	if token == "" {
		return "", nil
	}
	edge := unspell(token)
	p, err := dir.Join(edge + "/")
	if err != nil {
		return "", err
	}
	switch _, err := s.ns.Stat(ctx, p); {
	case err == nil:
		return edge + "/", nil
	case missing(err), errors.Is(err, errs.Invalid):
		return edge, nil
	default:
		return "", err
	}
}

// glob returns a test for names by HttpFS's filter: "*", "?", "[abc]", "[^a-c]", "{a,b}" and "\" before a character.
// An empty pattern accepts all.
func glob(pattern string) (func(name string) bool, error) {
	if pattern == "" {
		return func(string) bool { return true }, nil
	}
	var b strings.Builder
	b.WriteString(`(?s)^`)
	class, group := false, 0
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		switch {
		case c == '\\' && i+1 < len(pattern):
			i++
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		case class:
			class = c != ']'
			if strings.IndexByte(`[\`, c) >= 0 {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
		case c == '*':
			b.WriteString(`.*`)
		case c == '?':
			b.WriteByte('.')
		case c == '[':
			class = true
			b.WriteByte(c)
			if i+1 < len(pattern) && pattern[i+1] == '!' {
				i++
				b.WriteByte('^')
			}
		case c == '{':
			group++
			b.WriteString(`(?:`)
		case c == '}' && group > 0:
			group--
			b.WriteByte(')')
		case c == ',' && group > 0:
			b.WriteByte('|')
		default:
			b.WriteString(regexp.QuoteMeta(pattern[i : i+1]))
		}
	}
	b.WriteByte('$')
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil, illegalArgument(`Invalid value for webhdfs parameter "filter": %q is not a glob pattern`, pattern)
	}
	return re.MatchString, nil
}
