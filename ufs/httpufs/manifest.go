package httpufs

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

const (
	maxManifest = 256 << 20 // bytes
	maxFiles    = 2_000_000 // of a manifest
)

// manifest is the list of a store's files that its owner keeps beside them. It is JSON, an array whose elements are paths or
// objects {"path", "size", "etag", "mtime"}, or {"files": such an array}; or text, a path in each line, with size, etag and
// mtime after tabs, where "#" begins a comment. A path is relative to the root and not escaped; mtime is in RFC 3339, that of
// HTTP, or seconds since 1970. Of a file with a size and an etag (not a weak one) or mtime the server is not asked before it
// is read, nor are its content headers known.
//
// It is asked for again, conditionally, at every use. What it does not name is gone, so an answer that may be something else
// is an error. Any text would make a text manifest: its name must not be that of JSON, its length must be told, and a file of
// it must be there.
type manifest struct {
	s    *Store
	at   *url.URL
	turn chan struct{} // held by who asks; the fields below are its
	now  *listed
	sent time.Time // when the request was sent that now is from, or is confirmed by
	etag string    // of now; "": none, or now is too fresh to be told from the next one
	mod  string    // Last-Modified of now, likewise
}

// listed is what a manifest has said. It does not change.
type listed struct {
	names []string // sorted
	files []facts  // of the names; size is -1 if not all is known
	json  bool     // what it was written in
}

func newManifest(s *Store, at *url.URL) *manifest {
	return &manifest{s: s, at: at, turn: make(chan struct{}, 1)}
}

// get returns what the manifest says now: what was asked for after the call began.
func (m *manifest) get(ctx context.Context, op string) (*listed, error) {
	called := time.Now()
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if m.now != nil && m.sent.After(called) {
		return m.now, nil
	}
	sent := time.Now()
	header := []string{"If-None-Match", "", "If-Modified-Since", ""}
	if m.now != nil {
		header[1], header[3] = m.etag, m.mod
	}
	answer, err := m.s.do(ctx, op, http.MethodGet, "", m.at, header...)
	if err != nil {
		return nil, err
	}
	defer web.Drain(answer.Body)
	if answer.StatusCode == http.StatusNotModified && m.now != nil && (m.etag != "" || m.mod != "") {
		m.sent = sent
		return m.now, nil
	}
	if answer.StatusCode != http.StatusOK {
		err := refused(op, "", answer)
		if web.Kind(answer.StatusCode) == errs.NotExist { // the store is gone, not a file
			err = errs.New(op, "", errs.Unavailable, "the manifest is not there: HTTP status 404")
		}
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxManifest+1))
	if err != nil {
		return nil, unanswered(ctx, op, "", fmt.Errorf("the manifest: %w", err))
	}
	if len(text) > maxManifest {
		return nil, errs.New(op, "", errs.TooLarge, fmt.Sprintf("the manifest has more than %d bytes", maxManifest))
	}
	now, err := parseManifest(m.s.Features(), text, m.mustBeJSON(answer))
	if err != nil {
		return nil, errs.E(op, "", errs.Unavailable, fmt.Errorf("the manifest: %w", err))
	}
	if !now.json {
		if err := m.plausible(ctx, op, answer, now); err != nil {
			return nil, err
		}
	}
	// What was modified just now may be another one of the same age and size, too: see fresh.
	date, err := http.ParseTime(answer.Header.Get("Date"))
	for i, f := range now.files {
		if f.modified != 0 && (err != nil || date.Sub(time.Unix(f.modified, 0)) < granularity) {
			now.files[i].size = -1 // the server is asked, which knows its clock
		}
	}
	m.now, m.sent, m.etag, m.mod = now, sent, answer.Header.Get("ETag"), answer.Header.Get("Last-Modified")
	switch t, err := http.ParseTime(m.mod); {
	case err == nil && fresh(answer.Header, t):
		m.etag, m.mod = "", ""
	case err != nil && strings.HasPrefix(m.etag, `"`):
		m.mod = ""
	case err != nil:
		m.etag, m.mod = "", ""
	}
	return now, nil
}

// mustBeJSON reports whether an answer for the manifest that is not JSON is no manifest.
func (m *manifest) mustBeJSON(answer *http.Response) bool {
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	return strings.HasSuffix(strings.ToLower(m.at.Path), ".json") || kind == "application/json" || strings.HasSuffix(kind, "+json") ||
		m.now != nil && m.now.json && len(m.now.names) > 0
}

// plausible returns nil if a text is taken for the manifest: it is not cut off, and one of its files is there.
func (m *manifest) plausible(ctx context.Context, op string, answer *http.Response, l *listed) error {
	if answer.ContentLength < 0 && answer.ProtoMajor < 2 && !slices.Contains(answer.TransferEncoding, "chunked") {
		return errs.New(op, "", errs.Unavailable, "the manifest: the server does not tell its length, so that it may have been cut off")
	}
	_, err := m.s.head(ctx, op, l.names[0])
	if errors.Is(err, errs.NotExist) && len(l.names) > 1 { // it may have been removed just now
		_, err = m.s.head(ctx, op, l.names[len(l.names)-1])
	}
	switch {
	case errors.Is(err, errs.NotExist):
		return errs.New(op, "", errs.Unavailable, "the manifest: the server does not have the first and the last file that it names; it may be no manifest")
	case unreadable(err) && !errors.Is(err, errForbidden):
		return nil
	}
	return err
}

func (m *manifest) stat(ctx context.Context, op, name string) (ufs.Info, error) {
	l, err := m.get(ctx, op)
	if err != nil {
		return ufs.Info{}, err
	}
	i, there := slices.BinarySearch(l.names, name)
	if ufs.IsDir(name) {
		if i < len(l.names) && strings.HasPrefix(l.names[i], name) {
			return ufs.Info{Name: name, Dir: true}, nil
		}
		return ufs.Info{}, errs.E(op, name, errs.NotExist, nil)
	}
	switch {
	case !there:
		return ufs.Info{}, errs.E(op, name, errs.NotExist, nil)
	case l.files[i].certain():
		return l.files[i].info(name, nil), nil
	}
	return m.s.file(ctx, op, name)
}

func (m *manifest) list(ctx context.Context, op, dir, after string, flat bool, yield func(ufs.Info, error) bool) {
	l, err := m.get(ctx, op)
	if err != nil {
		yield(ufs.Info{}, err)
		return
	}
	next := func(from string) (name string, known facts, ok bool) { // the first entry greater than from
		for {
			i, there := slices.BinarySearch(l.names, max(from, dir))
			if there {
				i++
			}
			if i == len(l.names) || !strings.HasPrefix(l.names[i], dir) {
				return "", known, false
			}
			name = l.names[i]
			j := strings.IndexByte(name[len(dir):], '/')
			if flat || j < 0 {
				return name, l.files[i], true
			}
			if name = name[:len(dir)+j+1]; name > from {
				return name, known, true
			}
			from = name[:len(name)-1] + "0" // what follows all that is below it: "0" comes after "/"
			if k, there := slices.BinarySearch(l.names, from); there {
				return from, l.files[k], true
			}
		}
	}
	for from := after; ; {
		// What the manifest does not know of is asked for, some at a time.
		var names []string
		var rows []ufs.Info
		for len(names) < 4*parallel && len(rows) < 1000 {
			name, known, ok := next(from)
			if !ok {
				break
			}
			from = name
			switch {
			case ufs.IsDir(name):
				rows = append(rows, ufs.Info{Name: name, Dir: true})
			case known.certain():
				rows = append(rows, known.info(name, nil))
			default:
				names = append(names, name)
			}
		}
		if len(names)+len(rows) == 0 {
			return
		}
		for in, err := range m.s.describe(ctx, op, names) {
			if err != nil {
				yield(ufs.Info{}, err)
				return
			}
			rows = append(rows, in)
		}
		slices.SortFunc(rows, func(a, b ufs.Info) int { return cmp.Compare(a.Name, b.Name) })
		for _, in := range rows {
			if !yield(in, nil) {
				return
			}
		}
	}
}

// entry is one file of a manifest.
type entry struct {
	Path  string          `json:"path"`
	Size  *int64          `json:"size"`
	ETag  string          `json:"etag"`
	MTime json.RawMessage `json:"mtime"`
}

// UnmarshalJSON takes a string for a path.
func (e *entry) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &e.Path)
	}
	type plain entry
	return json.Unmarshal(b, (*plain)(e))
}

// parseManifest reads a manifest. One line that is wrong spoils it: what it meant would seem to be gone.
func parseManifest(f ufs.Features, text []byte, mustBeJSON bool) (*listed, error) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	b := &builder{features: f}
	var err error
	switch first := bytes.TrimLeft(text, " \t\r\n"); {
	case len(first) == 0:
		err = fmt.Errorf("it is empty; that of a store without files is []")
	case first[0] == '[' || first[0] == '{':
		b.json = true
		err = b.readJSON(first)
	case first[0] == '<':
		err = fmt.Errorf("it is a page of HTML or XML")
	case mustBeJSON:
		err = fmt.Errorf("it is text, though its name or type, or what it was before, is JSON")
	case text[len(text)-1] != '\n':
		err = fmt.Errorf("its last line has no end; it may have been cut off")
	default:
		if err = b.readLines(text); err == nil && len(b.files) == 0 {
			err = fmt.Errorf("it names no file; that of a store without files is []")
		}
	}
	if err != nil {
		return nil, err
	}
	return b.listed()
}

// builder collects the files of a manifest as they are read, so that a bad one, or one too many, ends the reading.
type builder struct {
	features ufs.Features
	json     bool
	files    []named
}

type named struct {
	name  string
	facts facts
}

func (b *builder) add(e entry) error {
	nth := len(b.files) + 1
	if nth > maxFiles {
		return fmt.Errorf("it has more than %d files", maxFiles)
	}
	name := strings.TrimPrefix(e.Path, "./")
	if err := ufs.CheckFile(b.features, "httpufs.manifest", name); err != nil {
		return fmt.Errorf("its file %d: %w", nth, err)
	}
	if tooDeep(name) {
		return fmt.Errorf("its file %d has more than %d segments", nth, maxDepth)
	}
	known, err := e.facts()
	if err != nil {
		return fmt.Errorf("its file %d: %w", nth, err)
	}
	b.files = append(b.files, named{name, known})
	return nil
}

func (b *builder) listed() (*listed, error) {
	slices.SortFunc(b.files, func(x, y named) int { return cmp.Compare(x.name, y.name) })
	l := &listed{names: make([]string, len(b.files)), files: make([]facts, len(b.files)), json: b.json}
	for i, f := range b.files {
		if i > 0 && f.name == b.files[i-1].name {
			return nil, fmt.Errorf("it names the file %.200q twice", f.name)
		}
		l.names[i], l.files[i] = f.name, f.facts
	}
	return l, nil
}

// readJSON reads an array of files, or an object whose "files" is one.
func (b *builder) readJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	start, err := d.Token() // it is "[" or "{"
	if start == json.Delim('[') {
		err = b.readArray(d)
	} else if err == nil {
		err = b.readObject(d)
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("its JSON has no end")
	}
	if err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("something follows the end of its JSON")
	}
	return nil
}

// readArray reads what is behind the "[" of an array of files.
func (b *builder) readArray(d *json.Decoder) error {
	for d.More() {
		var e entry
		if err := d.Decode(&e); err != nil {
			return err
		}
		if err := b.add(e); err != nil {
			return err
		}
	}
	_, err := d.Token() // "]"
	return err
}

// readObject reads what is behind the "{" of an object that has files.
func (b *builder) readObject(d *json.Decoder) error {
	found := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if key != "files" {
			var other json.RawMessage
			if err := d.Decode(&other); err != nil {
				return err
			}
			continue
		}
		if start, err := d.Token(); err != nil || start != json.Delim('[') || found {
			return fmt.Errorf(`its "files" is not one array`)
		}
		found = true
		if err := b.readArray(d); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil { // "}"
		return err
	}
	if !found {
		return fmt.Errorf(`it is a JSON object without "files"`)
	}
	return nil
}

func (e entry) facts() (facts, error) {
	f := facts{etag: e.ETag, size: -1}
	if e.Size != nil {
		if f.size = *e.Size; f.size < 0 {
			return f, fmt.Errorf("the size %d is negative", f.size)
		}
	}
	if len(e.ETag) > 256 {
		return f, fmt.Errorf("the etag has %d bytes", len(e.ETag))
	}
	if f.etag != "" && !strings.HasSuffix(f.etag, `"`) {
		f.etag = `"` + f.etag + `"`
	}
	if text := strings.Trim(string(e.MTime), `"`); text != "" && text != "null" {
		if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds > 0 && seconds < 1e11 {
			f.modified = int64(seconds)
		} else if t, err := time.Parse(time.RFC3339, text); err == nil {
			f.modified = t.Unix()
		} else if t, err := http.ParseTime(text); err == nil {
			f.modified = t.Unix()
		} else {
			return f, fmt.Errorf("the mtime is neither a time nor seconds since 1970")
		}
	}
	return f, nil
}

// readLines reads a file from each line that is neither empty nor a comment.
func (b *builder) readLines(text []byte) error {
	i := 0
	for line := range bytes.Lines(text) {
		i++
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		parts := strings.SplitN(string(line), "\t", 5)
		e := entry{Path: parts[0]}
		for k, part := range parts[1:] {
			switch {
			case part == "":
			case k == 0:
				size, err := strconv.ParseInt(part, 10, 64)
				if err != nil {
					return fmt.Errorf("line %d: the size is no number", i)
				}
				e.Size = &size
			case k == 1:
				e.ETag = part
			case k == 2:
				e.MTime = json.RawMessage(part)
			default:
				return fmt.Errorf("line %d has more than path, size, etag and mtime", i)
			}
		}
		if err := b.add(e); err != nil {
			return fmt.Errorf("line %d: %w", i, err)
		}
	}
	return nil
}
