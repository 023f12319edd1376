// Package httpufs is the driver for what a web server hands out: a store that is only read. What is there it learns from the
// index pages that servers make of directories (index.go), or from a manifest that its owner keeps (manifest.go); a file's
// facts are those of a HEAD. It passes ufs/ufstest, where something else makes the changes.
//
// A version is a file's ETag, Last-Modified and size. Reads are conditional where the server can be asked so, and are looked
// at again before their end, for a server reads from files that are written into while it sends them.
package httpufs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
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

// Options name a tree of a web server and how to reach it.
type Options struct {
	Root     string // URL of the tree's root; a "/" at the end is added
	Manifest string // URL of the manifest, absolute or seen from Root; "": index pages are read
	Username string // of HTTP basic authentication, with Password
	Password string
	Token    string // of bearer authentication
	// SkipUnreadable leaves files out of listings that the server names and does not give: those it forbids (403), and those
	// without a length or a version. Otherwise one of them fails the listing of its directory: whether it was readable before
	// is not known here, and a name that is left out is taken for a removed one.
	SkipUnreadable bool
	// Client sends the requests; nil makes one with an own pool of connections. It must not follow redirects.
	Client *http.Client
}

const (
	maxName  = 255     // bytes of a segment
	maxKey   = 4096    // bytes of a name
	maxDepth = 64      // segments of a name: a link to a directory above itself has no end
	maxPage  = 8 << 20 // bytes of an index page
	maxLinks = 100_000 // of an index page
	parallel = 16      // HEAD requests of a listing
)

// granularity is that of Last-Modified, and of the ETags that servers make of it.
const granularity = 2 * time.Second

// Store is a ufs.Store of a web server. It has directories if it reads index pages, and is flat if it has a manifest. Every
// change of it is errs.Permission.
type Store struct {
	o        Options
	root     *url.URL // its path ends in "/"
	manifest *manifest

	turn  chan struct{} // held by who looks for the root; the field below is its
	there time.Time     // when a request was sent whose answer said that the root is there
}

// Open returns the store at o.Root. It does not talk to it: see Probe. Errors: errs.Invalid.
func Open(o Options) (*Store, error) {
	const op = "httpufs.Open"
	root, err := url.Parse(o.Root)
	if err != nil || root.Scheme != "http" && root.Scheme != "https" || root.Host == "" || root.User != nil || root.RawQuery != "" || root.Fragment != "" {
		return nil, errs.New(op, "", errs.Invalid, "the root must be a URL like https://host/directory/")
	}
	if (o.Username != "" || o.Password != "") && o.Token != "" {
		return nil, errs.New(op, "", errs.Invalid, "give the options username and password, or token, not both")
	}
	for segment := range strings.SplitSeq(strings.Trim(root.Path, "/"), "/") {
		if segment == "." || segment == ".." || segment == "" && strings.Trim(root.Path, "/") != "" {
			return nil, errs.New(op, "", errs.Invalid, `the root's path must not have empty, "." or ".." segments`)
		}
	}
	if o.Client == nil {
		o.Client = web.NewClient()
	}
	root = &url.URL{Scheme: root.Scheme, Host: root.Host, Path: strings.TrimRight(root.Path, "/") + "/"}
	s := &Store{o: o, root: root, turn: make(chan struct{}, 1)}
	if o.Manifest != "" {
		at, err := root.Parse(o.Manifest)
		if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" || at.User != nil {
			return nil, errs.New(op, "", errs.Invalid, "the option manifest must be a URL, or a path on the same server")
		}
		s.manifest = newManifest(s, at)
	}
	return s, nil
}

// OpenURI is the ufs.Opener of the schemes "http" and "https": http://host/directory/ with the options manifest, username,
// password and token, and unreadable, which is "fail" or "skip".
func OpenURI(_ context.Context, uri *url.URL, options map[string]string) (ufs.Store, error) {
	const op = "httpufs.Open"
	if err := ufs.CheckOptions(op, options, "manifest", "username", "password", "token", "unreadable"); err != nil {
		return nil, err
	}
	unreadable := options["unreadable"]
	if unreadable != "" && unreadable != "fail" && unreadable != "skip" {
		return nil, errs.New(op, "", errs.Invalid, `the option unreadable must be "fail" or "skip"`)
	}
	return Open(Options{
		Root: uri.String(), Manifest: options["manifest"], Username: options["username"], Password: options["password"], Token: options["token"],
		SkipUnreadable: unreadable == "skip",
	})
}

// Features implements ufs.Store.
func (s *Store) Features() ufs.Features {
	return ufs.Features{
		Kind: "http", Root: "http:" + web.Service(s.root) + s.root.Path, Remote: true, Dirs: s.manifest == nil, Flat: s.manifest != nil,
		MaxName: maxName, MaxKey: maxKey, Probe: true, Racy: granularity,
	}
}

// Close implements ufs.Store.
func (s *Store) Close() error {
	s.o.Client.CloseIdleConnections()
	return nil
}

func (s *Store) begin(ctx context.Context, op, name string, check func(f ufs.Features, op, name string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := check(s.Features(), op, name); err != nil {
		return err
	}
	if tooDeep(name) {
		return errs.New(op, name, errs.Invalid, fmt.Sprintf("the name has more than %d segments", maxDepth))
	}
	return nil
}

func tooDeep(name string) bool { return strings.Count(strings.TrimSuffix(name, "/"), "/") >= maxDepth }

// at returns the URL of a name.
func (s *Store) at(name string) *url.URL {
	return &url.URL{Scheme: s.root.Scheme, Host: s.root.Host, Path: s.root.Path + name}
}

// do sends a request for u and returns the answer, whatever its status; its body is the caller's to close. Credentials are
// sent to the root's server alone.
func (s *Store) do(ctx context.Context, op, method, name string, u *url.URL, header ...string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, errs.New(op, name, errs.Invalid, "the name makes no URL")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	if u.Scheme == s.root.Scheme && u.Host == s.root.Host {
		if s.o.Token != "" {
			r.Header.Set("Authorization", "Bearer "+s.o.Token)
		} else if s.o.Username != "" || s.o.Password != "" {
			r.SetBasicAuth(s.o.Username, s.o.Password)
		}
	}
	r.Header.Set("Accept-Encoding", "identity")
	r.Header.Set("User-Agent", "sluice")
	answer, err := s.o.Client.Do(r)
	if err != nil {
		return nil, unanswered(ctx, op, name, err)
	}
	return answer, nil
}

// unanswered is a failure that no server has told.
func unanswered(ctx context.Context, op, name string, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // without the URL, whose query may be a secret
	}
	return errs.E(op, name, errs.Unavailable, err)
}

// refused is the error of an answer that is no success.
func refused(op, name string, answer *http.Response) error {
	kind, status := web.Kind(answer.StatusCode), fmt.Sprintf("HTTP status %d", answer.StatusCode)
	switch {
	case answer.StatusCode/100 == 3:
		status += ", a redirect, which is not followed; mount the address it leads to"
	case kind == errs.Permission:
		status += "; the options username and password, or token, are sent if they are set"
	}
	return errs.New(op, name, kind, status)
}

// facts are what a server says of a file.
type facts struct {
	etag     string // as it is sent, with its quotes; "" if there is none
	modified int64  // Last-Modified in seconds since 1970, 0 if there is none
	size     int64  // -1 if it is not told
	once     string // not "" if the file may change again with the same facts: a random text that no other version has
}

func (f facts) version() string {
	v := f.etag + "|" + strconv.FormatInt(f.modified, 10) + "|" + strconv.FormatInt(f.size, 10)
	if f.once != "" {
		v += "~" + f.once
	}
	return v
}

// certain reports whether the facts tell one version of a file from the next. A weak ETag alone may stay when bytes change.
func (f facts) certain() bool {
	return f.size >= 0 && (strings.HasPrefix(f.etag, `"`) || f.modified != 0)
}

// parseVersion is the reverse of version.
func parseVersion(version string) (f facts, ok bool) {
	j := strings.LastIndexByte(version, '|')
	if j < 0 {
		return f, false
	}
	i := strings.LastIndexByte(version[:j], '|')
	if i < 0 {
		return f, false
	}
	var err1, err2 error
	f.etag = version[:i]
	f.modified, err1 = strconv.ParseInt(version[i+1:j], 10, 64)
	size, once, _ := strings.Cut(version[j+1:], "~")
	f.size, err2 = strconv.ParseInt(size, 10, 64)
	f.once = once
	return f, err1 == nil && err2 == nil
}

// agrees reports whether what a server says now is of the version want, of which a manifest may know less than the server.
// That one of them is for once says nothing against it.
func (f facts) agrees(want facts) bool {
	return f.size == want.size && (want.etag == "" || f.etag == want.etag) && (want.modified == 0 || f.modified == want.modified)
}

func factsOf(h http.Header, size int64) facts {
	f := facts{etag: h.Get("ETag"), size: size}
	if len(f.etag) > 256 {
		f.etag = ""
	}
	if t, err := http.ParseTime(h.Get("Last-Modified")); err == nil && t.Unix() > 0 {
		f.modified = t.Unix()
		if fresh(h, t) {
			f.once = rand.Text()
		}
	}
	return f
}

// fresh reports whether what was modified at the time t may have changed again in the same second after the answer with the
// headers h was made. Both times are by the server's clock, or nothing is proved. It matters with an ETag, too: many servers
// make it of the time and the size.
func fresh(h http.Header, t time.Time) bool {
	date, err := http.ParseTime(h.Get("Date"))
	return err != nil || date.Sub(t) < granularity
}

// info describes the file of these facts. h is nil if no server was asked: then there are no headers to keep.
func (f facts) info(name string, h http.Header) ufs.Info {
	in := ufs.Info{Name: name, Size: f.size, Version: f.version(), Racy: f.once != "", Full: true}
	if f.modified != 0 {
		in.ModTime = time.Unix(f.modified, 0)
	}
	in.Attr.Headers = map[string]string{}
	for _, k := range []string{"Content-Type", "Content-Encoding", "Content-Language", "Content-Disposition"} {
		if v := h.Get(k); v != "" {
			in.Attr.Headers[k] = v
		}
	}
	return in
}

// Stat implements ufs.Store.
func (s *Store) Stat(ctx context.Context, name string) (ufs.Info, error) {
	const op = "httpufs.Stat"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	switch {
	case name == "":
		return ufs.Info{Dir: true}, nil
	case s.manifest != nil:
		return s.manifest.stat(ctx, op, name)
	case ufs.IsDir(name):
		return s.statDir(ctx, op, name)
	}
	return s.file(ctx, op, name)
}

// file describes the file name, whose absence is looked into.
func (s *Store) file(ctx context.Context, op, name string) (ufs.Info, error) {
	in, err := s.head(ctx, op, name)
	return in, s.absent(ctx, op, name, err)
}

// head describes the file name. A redirect to the name with a "/" says that it is a directory.
func (s *Store) head(ctx context.Context, op, name string) (ufs.Info, error) {
	answer, err := s.do(ctx, op, http.MethodHead, name, s.at(name))
	if err != nil {
		return ufs.Info{}, err
	}
	web.Drain(answer.Body)
	if answer.StatusCode/100 == 3 && s.leadsTo(answer, name, name+"/") {
		return ufs.Info{}, errs.E(op, name, errs.NotExist, errDirectory)
	}
	if answer.StatusCode == http.StatusForbidden {
		return ufs.Info{}, errs.E(op, name, errs.Permission, errForbidden)
	}
	if answer.StatusCode != http.StatusOK {
		return ufs.Info{}, refused(op, name, answer)
	}
	f := factsOf(answer.Header, answer.ContentLength)
	if f.size < 0 {
		return ufs.Info{}, errs.E(op, name, errs.Unsupported, errNoLength)
	}
	if !f.certain() {
		return ufs.Info{}, errs.E(op, name, errs.Unsupported, errNoVersion)
	}
	return f.info(name, answer.Header), nil
}

var (
	errDirectory = errors.New("it is a directory")
	errForbidden = errors.New("HTTP status 403; the options username and password, or token, are sent if they are set")
	errNoLength  = errors.New("the server does not tell the length of the file")
	errNoVersion = errors.New("the server tells neither a strong ETag nor Last-Modified of the file, so that its versions cannot be told apart")
)

// unreadable reports whether an error of head is of a file that is there and that the server does not give.
func unreadable(err error) bool {
	return errors.Is(err, errForbidden) || errors.Is(err, errNoLength) || errors.Is(err, errNoVersion)
}

// leadsTo reports whether the redirect of an answer for name leads to other.
func (s *Store) leadsTo(answer *http.Response, name, other string) bool {
	at := s.at(name)
	to, err := at.Parse(answer.Header.Get("Location"))
	// Servers behind proxies do not know by what name and scheme they were asked.
	return err == nil && to.Path == s.at(other).Path && to.RawQuery == ""
}

func (s *Store) statDir(ctx context.Context, op, dir string) (ufs.Info, error) {
	answer, err := s.do(ctx, op, http.MethodHead, dir, s.at(dir))
	if err != nil {
		return ufs.Info{}, err
	}
	web.Drain(answer.Body)
	switch {
	case answer.StatusCode/100 == 3 && s.leadsTo(answer, dir, strings.TrimSuffix(dir, "/")):
		err = errs.New(op, dir, errs.NotExist, "it is a file")
	case answer.StatusCode != http.StatusOK:
		err = refused(op, dir, answer)
	}
	if err != nil {
		return ufs.Info{}, s.absent(ctx, op, dir, err)
	}
	return ufs.Info{Name: dir, Dir: true}, nil
}

// absent judges an errs.NotExist about name, which cannot say whether a file or all of the tree is missing. The name is gone
// if the manifest, or the server for its root, says after it that the rest is there; else it is errs.Unavailable. Other errors
// are returned as they are.
func (s *Store) absent(ctx context.Context, op, name string, err error) error {
	switch {
	case !errors.Is(err, errs.NotExist):
		return err
	case s.manifest != nil:
		l, merr := s.manifest.get(ctx, op)
		if merr != nil {
			return merr
		}
		if _, there := slices.BinarySearch(l.names, name); there {
			return errs.New(op, name, errs.Unavailable, "the manifest names the file, and the server does not have it")
		}
		return err
	case errors.Is(err, errDirectory):
		return err // the server knows it
	}
	if rerr := s.rooted(ctx, op); rerr != nil {
		return rerr
	}
	return err
}

// rooted returns nil if the server says, asked after the call began, that the store's root is there. Callers share an answer.
func (s *Store) rooted(ctx context.Context, op string) error {
	called := time.Now()
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.there.After(called) {
		return nil
	}
	sent := time.Now()
	answer, err := s.do(ctx, op, http.MethodHead, "", s.root)
	if err != nil {
		return err
	}
	web.Drain(answer.Body)
	// A server without index pages forbids what is there.
	if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusForbidden {
		return errs.New(op, "", errs.Unavailable, fmt.Sprintf("the server has nothing at the store's root: HTTP status %d", answer.StatusCode))
	}
	s.there = sent
	return nil
}

// Open implements ufs.Store.
func (s *Store) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	const op = "httpufs.Open"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	want, ok := parseVersion(version)
	if version != "" && !ok {
		return nil, s.other(op, name)
	}
	if s.manifest != nil { // what it does not name is not there, whatever the server has
		in, err := s.manifest.stat(ctx, op, name)
		if err != nil {
			return nil, err
		}
		now, _ := parseVersion(in.Version)
		if now.once = want.once; version != "" && now != want {
			return nil, s.other(op, name)
		}
		if version == "" {
			now.once = "any" // who asks for no version takes one that may change again
		}
		want, version = now, in.Version
	}
	if off < 0 || n == 0 {
		return s.openNothing(ctx, op, name, off, n, version, want)
	}
	header := []string{"If-Match", "", "If-Unmodified-Since", "", "Range", ""}
	if strings.HasPrefix(want.etag, `"`) { // a weak one never matches
		header[1] = want.etag
	} else if want.modified != 0 {
		header[3] = time.Unix(want.modified, 0).UTC().Format(http.TimeFormat)
	}
	if n > 0 {
		header[5] = fmt.Sprintf("bytes=%d-%d", off, off+min(n-1, 1<<62-off))
	} else if off > 0 {
		header[5] = fmt.Sprintf("bytes=%d-", off)
	}
	answer, err := s.do(ctx, op, http.MethodGet, name, s.at(name), header...)
	if err != nil {
		return nil, err
	}
	r, err := s.body(ctx, op, name, answer, off, n, version, want)
	if err != nil {
		web.Drain(answer.Body)
		if errors.Is(err, errs.Range) { // it may be of the end, where nothing is left
			return s.openNothing(ctx, op, name, off, n, version, want)
		}
		return nil, s.absent(ctx, op, name, err)
	}
	return r, nil
}

func (s *Store) other(op, name string) error {
	return errs.New(op, name, errs.Precondition, "the file is another version")
}

// body returns the n bytes from off of an answer to a GET that asked for them. A server may give more, or all.
func (s *Store) body(ctx context.Context, op, name string, answer *http.Response, off, n int64, version string, want facts) (io.ReadCloser, error) {
	size, skip := answer.ContentLength, off
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusPartialContent:
		var from, to int64
		if _, err := fmt.Sscanf(answer.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &size); err != nil || from != off || to < from || to >= size || answer.ContentLength != to-from+1 {
			return nil, errs.New(op, name, errs.Unavailable, "the server answered with another range of the file")
		}
		skip = 0
	default:
		if answer.StatusCode/100 == 3 && s.leadsTo(answer, name, name+"/") {
			return nil, errs.E(op, name, errs.NotExist, errDirectory)
		}
		return nil, refused(op, name, answer)
	}
	f := factsOf(answer.Header, size)
	switch {
	case size < 0:
		return nil, errs.E(op, name, errs.Unsupported, errNoLength)
	case version != "" && !f.agrees(want):
		return nil, s.other(op, name)
	case version != "" && f.once != "" && want.once == "":
		// The version was told by a manifest, or by a server with another clock.
		return nil, errs.New(op, name, errs.Unavailable, "by the server's Date the file has just been modified and may change again unseen; try again in some seconds")
	case !f.certain():
		return nil, errs.E(op, name, errs.Unsupported, errNoVersion)
	}
	left, err := ufs.Span(op, name, off, n, size)
	if err != nil {
		return nil, err
	}
	// From here on it is the version that this answer is of, of which the server may have told more than want.
	return &reader{s: s, ctx: ctx, name: name, body: answer.Body, skip: skip, left: left, want: f}, nil
}

// openNothing opens an empty range, which a GET cannot ask for, or fails for one that the server has not satisfied.
func (s *Store) openNothing(ctx context.Context, op, name string, off, n int64, version string, want facts) (io.ReadCloser, error) {
	in, err := s.file(ctx, op, name)
	if err != nil {
		return nil, err
	}
	now, _ := parseVersion(in.Version)
	if version != "" && !now.agrees(want) {
		return nil, s.other(op, name)
	}
	left, err := ufs.Span(op, name, off, n, in.Size)
	if err != nil {
		return nil, err
	}
	if left > 0 {
		return nil, errs.New(op, name, errs.Unavailable, fmt.Sprintf("the server refuses a range that lies in the %d bytes of the file", in.Size))
	}
	return io.NopCloser(strings.NewReader("")), nil
}

// reader reads the wanted bytes of a body, and looks whether the file is still the same before it says that they are all.
type reader struct {
	s       *Store
	ctx     context.Context // of Open, whose end breaks the body off
	name    string
	body    io.ReadCloser
	skip    int64 // bytes before the wanted ones, of a server without ranges
	left    int64 // wanted bytes still to come
	want    facts
	checked bool
}

func (r *reader) Read(p []byte) (int, error) {
	const op = "httpufs.Read"
	if r.left == 0 {
		if !r.checked {
			if err := r.Check(); err != nil {
				return 0, err
			}
			r.checked = true
		}
		return 0, io.EOF
	}
	if r.skip > 0 {
		if err := r.skipSome(); err != nil || r.skip > 0 {
			return 0, err
		}
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case r.left == 0 || err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("the body ended with %d bytes missing", r.left)
	}
	return n, unanswered(r.ctx, op, r.name, err)
}

// skipSome reads a part of what is before the wanted bytes, so that a call takes no longer for much of it: who has a deadline
// for each Read sees that the server is alive.
func (r *reader) skipSome() error {
	const op, slice = "httpufs.Read", 100 * time.Millisecond
	buf := make([]byte, min(r.skip, 64<<10))
	for began := time.Now(); r.skip > 0 && time.Since(began) < slice; {
		n, err := r.body.Read(buf[:min(int64(len(buf)), r.skip)])
		if r.skip -= int64(n); r.skip > 0 && err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the body ended %d bytes before those that are read", r.skip)
			}
			return unanswered(r.ctx, op, r.name, err)
		}
	}
	return nil
}

// Check implements ufs.Checker.
func (r *reader) Check() error {
	const op = "httpufs.Read"
	in, err := r.s.head(r.ctx, op, r.name)
	if errors.Is(err, errs.NotExist) {
		return errs.New(op, r.name, errs.Precondition, "the file is gone")
	}
	if err != nil {
		return err
	}
	if now, _ := parseVersion(in.Version); !now.agrees(r.want) {
		return r.s.other(op, r.name)
	}
	return nil
}

func (r *reader) Close() error { return r.body.Close() }

// readOnly is the error of every change.
func readOnly(op, name string) error {
	return errs.New(op, name, errs.Permission, "a store behind a web server is only read; mount it with --read-only")
}

// Create implements ufs.Store: it is errs.Permission, or errs.Invalid.
func (s *Store) Create(ctx context.Context, name string, _ int64, _ ufs.CreateOptions) (ufs.Writer, error) {
	const op = "httpufs.Create"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	return nil, readOnly(op, name)
}

// Remove implements ufs.Store: it is errs.Permission, or errs.Invalid.
func (s *Store) Remove(ctx context.Context, name, _ string) error {
	const op = "httpufs.Remove"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return err
	}
	return readOnly(op, name)
}

// CleanStaging implements ufs.Store. There is nothing.
func (s *Store) CleanStaging(context.Context, func(token string) bool) error { return nil }

// Probe implements ufs.Prober. With write it is errs.Permission.
func (s *Store) Probe(ctx context.Context, write bool) error {
	const op = "httpufs.Probe"
	if err := s.probe(ctx, op); err != nil {
		return err
	}
	if write {
		return readOnly(op, "")
	}
	return nil
}

// probe checks that the root's names can be read, and, if files are among the first ones, that one of them can be described.
func (s *Store) probe(ctx context.Context, op string) error {
	what, names := "index", []string(nil)
	var err error
	if s.manifest != nil {
		var l *listed
		what = "manifest"
		if l, err = s.manifest.get(ctx, op); err == nil {
			names = l.names
			if len(l.files) > 0 && l.files[0].certain() {
				return nil
			}
		}
	} else {
		names, err = s.index(ctx, op, "")
		names = slices.DeleteFunc(names, ufs.IsDir)
	}
	if err != nil {
		return fmt.Errorf("read the %s of %s: %w", what, s.root.Host, err)
	}
	var failed error
	for _, name := range names[:min(len(names), parallel)] {
		switch _, err := s.file(ctx, op, name); {
		case err == nil:
			return nil
		case errors.Is(err, errs.NotExist), s.o.SkipUnreadable && unreadable(err): // not listed either
		case !unreadable(err):
			return fmt.Errorf("ask for a file of the %s of %s: %w", what, s.root.Host, err)
		case failed == nil:
			failed = fmt.Errorf("the first files of the %s of %s cannot be read: %w", what, s.root.Host, err)
		}
	}
	return failed
}
