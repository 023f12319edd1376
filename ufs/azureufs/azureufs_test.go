package azureufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

func wantKind(t *testing.T, what string, err error, kind errs.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want %v", what, err, kind)
	}
}

func write(t *testing.T, s ufs.Store, name, data string) ufs.Info {
	t.Helper()
	in, err := ufs.WriteFile(t.Context(), s, name, []byte(data), ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func TestURIs(t *testing.T) {
	k := map[string]string{"account_key": key}
	with := func(more ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = more[i+1]
		}
		return m
	}
	for _, c := range []struct {
		uri     string
		options map[string]string
		root    string // "": refused
	}{
		{"azure://c@acct/p", k, "azure:acct.blob.core.windows.net/c/p/"},
		{"wasbs://c@acct.blob.core.windows.net/p/", k, "azure:acct.blob.core.windows.net/c/p/"},
		{"abfss://c@acct.dfs.core.windows.net", k, "azure:acct.blob.core.windows.net/c/"},
		{"abfs://c@acct.dfs.core.chinacloudapi.cn/a/b", k, "azure:acct.blob.core.chinacloudapi.cn/c/a/b/"},
		{"azure://c@devstoreaccount1", with("account_key", key, "endpoint", "http://127.0.0.1:10000/devstoreaccount1/"), "azure:localhost:10000/devstoreaccount1/c/"},
		{"azure://c@acct", with("sas", "?sv=2024-01-01&sig=abc"), "azure:acct.blob.core.windows.net/c/"},
		{"azure://c@acct", with("anonymous", "true"), "azure:acct.blob.core.windows.net/c/"},
		{"azure://c@acct", with("connection_string", "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey="+key+";EndpointSuffix=core.usgovcloudapi.net"), "azure:acct.blob.core.usgovcloudapi.net/c/"},
		{"azure://c@acct", with("connection_string", "BlobEndpoint=https://h:1/acct;SharedAccessSignature=sv=1&sig=abc"), "azure:h:1/acct/c/"},
		{"azure://c@acct", with("connection_string", "BlobEndpoint=http://h:1/acct;SharedAccessSignature=sv=1&sig=abc"), ""},
		{"azure://c@acct", with("connection_string", "DefaultEndpointsProtocol=http;AccountName=acct;AccountKey="+key+";EndpointSuffix=core.windows.net"), ""},
		{"azure://c@acct", with("account_key", key, "endpoint", "http://store.example"), ""},
		{"azure://c@acct", with("anonymous", "true", "endpoint", "http://store.example"), "azure:store.example/c/"},
		{"azure://c@acct", nil, ""}, {"azure://acct/c", k, ""}, {"azure://c@acct:10000", k, ""},
		{"azure://c@acct", with("account_key", "not base64 !"), ""}, {"azure://c@acct", with("sas", "sv=1"), ""},
		{"azure://c@acct", with("account_key", key, "sas", "sig=1"), ""}, {"azure://c@acct", with("anonymous", "maybe"), ""},
		{"azure://c@acct", with("connection_string", "AccountName=other;AccountKey="+key), ""}, {"azure://c@acct", with("connection_string", key), ""},
		{"azure://c@acct", with("connection_string", "UseDevelopmentStorage=true"), ""}, {"azure://c@acct", with("acount_key", key), ""},
		{"azure://c@acct", with("account_key", key, "endpoint", "ftp://h"), ""},
	} {
		u, err := url.Parse(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		s, err := OpenURI(t.Context(), u, c.options)
		switch {
		case c.root == "" && !errors.Is(err, errs.Invalid):
			t.Errorf("%s %v: got %v", c.uri, c.options, err)
		case c.root == "" && strings.Contains(err.Error(), key[:20]):
			t.Errorf("%v tells the key", err)
		case c.root != "" && (err != nil || s.Features().Root != c.root):
			t.Errorf("%s: got %v, %v, want %s", c.uri, s, err, c.root)
		}
	}
}

func TestAttr(t *testing.T) {
	want := ufs.Attr{
		Headers: map[string]string{"Content-Type": "text/plain", "Expires": "soon", "Cache-Control": "ä"},
		User:    map[string]string{"plain_1": "v", "with-dash": "w", "Upper": "u", "sluice": "mine", "1digit": "d", "empty": "", "space": " a ", "text": "日本\n\x7f😀"},
		ETag:    "e-2", Checksums: `["x"]`, Origin: "a.1.2", Mode: 0o1640, Owner: "ann", Group: "ü",
	}
	f := encode(want)
	for k, v := range f.meta {
		if k != metaAttr && !identifier(k) || strings.ContainsFunc(*v, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("metadata %s: %q cannot be sent", k, *v)
		}
	}
	got := decode(map[string]*string{"Content-Type": f.headers.BlobContentType, "Cache-Control": f.headers.BlobCacheControl}, f.meta)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	foreign := "not ours"
	if a := decode(nil, map[string]*string{"Sluice": &foreign}); len(a.User) > 0 || a.Owner != "" {
		t.Errorf("got %+v", a)
	}
}

// TestSharedAccess runs what a signature allows through one, and checks that no error tells it.
func TestSharedAccess(t *testing.T) {
	endpoint := azurite(t)
	byKey := open(t, Options{Container: "shared", Endpoint: endpoint})
	makeContainer(t, byKey)
	sign := func(p sas.ContainerPermissions) string {
		signed, err := byKey.container.GetSASURL(p, time.Now().Add(time.Hour), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, token, _ := strings.Cut(signed, "?")
		return token
	}
	s := open(t, Options{Container: "shared", Endpoint: endpoint, SAS: sign(sas.ContainerPermissions{Read: true, Write: true, Create: true, Delete: true, List: true})})
	if err := s.Probe(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	in := write(t, s, "a", "data")
	if _, err := s.Copy(t.Context(), "a", in.Version, "b", &ufs.Attr{}); err != nil {
		t.Fatal(err)
	}
	if b, err := ufs.ReadAll(t.Context(), s, "b", "", 100); err != nil || string(b) != "data" {
		t.Errorf("got %q, %v", b, err)
	}
	reads := sign(sas.ContainerPermissions{Read: true, List: true})
	r := open(t, Options{Container: "shared", Endpoint: endpoint, SAS: reads})
	if err := r.Probe(t.Context(), false); err != nil {
		t.Error(err)
	}
	_, err := ufs.WriteFile(t.Context(), r, "c", nil, ufs.CreateOptions{})
	wantKind(t, "a write without the permission", err, errs.Permission)
	if !errors.Is(err, ufs.ErrUnsent) {
		t.Errorf("a refused write may have happened: %v", err)
	}
	q, _ := url.ParseQuery(reads)
	for _, err := range []error{err, r.Probe(t.Context(), true)} {
		if text := err.Error(); strings.Contains(text, q.Get("sig")) || strings.Contains(text, url.QueryEscape(q.Get("sig"))) {
			t.Errorf("%v tells the signature", err)
		}
	}
	wrong := open(t, Options{Container: "shared", Endpoint: endpoint, Key: "d3Jvbmc="})
	wantKind(t, "a wrong key", wrong.Probe(t.Context(), false), errs.Permission)
}

// TestOvertakenBlocks checks a write whose blocks the service has dropped for another's: it is a conflict, which has not happened.
func TestOvertakenBlocks(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.URL.Query().Get("comp") == "blocklist" {
			w.Header().Set("x-ms-error-code", "InvalidBlockList")
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
	})
	_, err := ufs.WriteFile(t.Context(), s, "a", make([]byte, firstBlock+1), ufs.CreateOptions{})
	wantKind(t, "commit", err, errs.Conflict)
	if !errors.Is(err, ufs.ErrUnsent) {
		t.Errorf("it may have happened: %v", err)
	}
}

// TestUploadsOfOthers checks that clean-up takes an upload that nobody names, but none that is named or of this process, and
// that another process can complete one.
func TestUploadsOfOthers(t *testing.T) {
	s := open(t, Options{Container: "uploads", Endpoint: azurite(t)})
	makeContainer(t, s)
	begin := func() string {
		id, err := s.Begin(t.Context(), "a", ufs.Attr{Origin: "o"})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	ours, named, left := begin(), begin(), begin()
	etag, err := s.PutPart(t.Context(), "a", named, 1, 4, strings.NewReader("data"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{named, left} { // as if this process had not begun them
		begun.End(s.root, id)
	}
	stopped := ufs.WithGuard(t.Context(), func() error { return errs.New("test", "", errs.Unavailable, "not any more") })
	wantKind(t, "clean-up by who may not", s.CleanStaging(stopped, func(string) bool { return false }), errs.Unavailable)
	if err := s.CleanStaging(t.Context(), func(id string) bool { return id == named }); err != nil {
		t.Fatal(err)
	}
	_, err = s.PutPart(t.Context(), "a", left, 1, 1, strings.NewReader("x"))
	wantKind(t, "a part of what was cleaned up", err, errs.NotExist)
	if _, err := s.PutPart(t.Context(), "a", ours, 1, 1, strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	_, err = s.PutPart(t.Context(), "a", named, 2, 10, strings.NewReader("short"))
	wantKind(t, "a part that falls short", err, errs.Invalid)
	_, err = s.Complete(t.Context(), "other", named, nil, ufs.CreateOptions{})
	wantKind(t, "completion of another name", err, errs.NotExist)
	in, err := s.Complete(t.Context(), "a", named, []ufs.Part{{Number: 1, ETag: etag, Size: 4}}, ufs.CreateOptions{IfNew: true})
	if err != nil || in.Attr.Origin != "o" {
		t.Errorf("got %+v, %v", in, err)
	}
}

// TestFolders checks the directories that Hadoop keeps as blobs.
func TestFolders(t *testing.T) {
	s := open(t, Options{Container: "folders", Endpoint: azurite(t)})
	makeContainer(t, s)
	yes := "true"
	for _, name := range []string{"d", "empty"} {
		o := &blockblob.UploadOptions{Metadata: map[string]*string{"hdi_isfolder": &yes}}
		if _, err := s.container.NewBlockBlobClient(name).Upload(t.Context(), streaming.NopCloser(strings.NewReader("")), o); err != nil {
			t.Fatal(err)
		}
	}
	write(t, s, "d/a", "x")
	var got []string
	for in, err := range s.List(t.Context(), "", "", false) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, in.Name)
	}
	if fmt.Sprint(got) != "[d/ empty/]" {
		t.Errorf("got %q", got)
	}
	if in, err := s.Stat(t.Context(), "empty/"); err != nil || !in.Dir {
		t.Errorf("got %+v, %v", in, err)
	}
	_, err := s.Stat(t.Context(), "empty")
	wantKind(t, "stat as a file", err, errs.NotExist)
	_, err = s.Open(t.Context(), "empty", 0, -1, "")
	wantKind(t, "open as a file", err, errs.NotExist)
	if err := s.Remove(t.Context(), "empty/", ""); err != nil {
		t.Error(err)
	}
	_, err = s.Stat(t.Context(), "empty/")
	wantKind(t, "stat after its removal", err, errs.NotExist)
}

// serve opens a store of a service that answers as h does.
func serve(t *testing.T, h http.HandlerFunc) *Store {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return open(t, Options{Container: "c", Endpoint: server.URL})
}

// TestUnclear checks which failures of a change say that it has not happened.
func TestUnclear(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		kind   errs.Kind
		unsent bool
	}{
		{500, "InternalError", errs.Unavailable, false}, {503, "ServerBusy", errs.Unavailable, false}, {408, "", errs.Unavailable, false},
		{403, "AuthenticationFailed", errs.Permission, true}, {404, "ContainerNotFound", errs.Unavailable, true}, {412, "LeaseIdMissing", errs.Busy, true},
		{302, "", errs.Unavailable, true}, {400, "MetadataTooLarge", errs.TooLarge, true}, {429, "", errs.Unavailable, true},
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("x-ms-error-code", c.code)
			w.Header().Set("Location", "http://127.0.0.1:1/")
			w.WriteHeader(c.status)
		})
		_, err := ufs.WriteFile(t.Context(), s, "a", []byte("data"), ufs.CreateOptions{})
		wantKind(t, c.code, err, c.kind)
		if errors.Is(err, ufs.ErrUnsent) != c.unsent {
			t.Errorf("status %d: unsent is %v: %v", c.status, !c.unsent, err)
		}
	}
	s := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	_, err := ufs.WriteFile(t.Context(), s, "a", []byte("data"), ufs.CreateOptions{})
	if !errors.Is(err, errs.Unavailable) || errors.Is(err, ufs.ErrUnsent) {
		t.Errorf("no answer: %v", err)
	}
}

// TestUnsafeNames checks that names which the service could take for others are refused before any probe.
func TestUnsafeNames(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the service was asked") })
	for _, name := range []string{`a\b`, "a.", "d./x", "x/../y"} {
		_, err := ufs.WriteFile(t.Context(), s, name, nil, ufs.CreateOptions{})
		wantKind(t, name, err, errs.Invalid)
	}
}

// TestNotFound checks that only the service's own word makes a blob or a directory seem to be gone.
func TestNotFound(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		kind   errs.Kind
	}{
		{404, "BlobNotFound", errs.NotExist}, {404, "", errs.Unavailable}, {410, "", errs.Unavailable}, {404, "ContainerNotFound", errs.Unavailable},
		{404, "ResourceNotFound", errs.Unavailable}, {404, "CannotVerifyCopySource", errs.Unavailable},
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("comp") == "list" {
				w.Header().Set("Content-Type", "application/xml")
				_, _ = io.WriteString(w, "<EnumerationResults><Blobs></Blobs><NextMarker/></EnumerationResults>")
				return
			}
			if c.code != "" {
				w.Header().Set("x-ms-error-code", c.code)
			}
			w.WriteHeader(c.status)
		})
		for _, name := range []string{"a", "d/"} {
			_, err := s.Stat(t.Context(), name)
			wantKind(t, fmt.Sprint("stat ", name, " ", c.status, c.code), err, c.kind)
		}
		_, err := s.Open(t.Context(), "a", 0, -1, "")
		wantKind(t, fmt.Sprint("open ", c.status, c.code), err, c.kind)
		wantKind(t, fmt.Sprint("remove ", c.status, c.code), s.Remove(t.Context(), "a", ""), c.kind)
	}
}

// TestCopyUnverified checks a copy whose source the service does not get at: the bytes go through this process, and the source
// is not said to be gone.
func TestCopyUnverified(t *testing.T) {
	for _, data := range []string{"data", ""} {
		var got *string
		tried := false
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			to := strings.HasSuffix(r.URL.Path, "/to")
			switch {
			case r.Header.Get("x-ms-copy-source") != "":
				tried = true
				w.Header().Set("x-ms-error-code", "CannotVerifyCopySource")
				w.WriteHeader(http.StatusNotFound)
			case r.Method == http.MethodPut:
				b, _ := io.ReadAll(r.Body)
				text := string(b)
				got = &text
				w.Header().Set("ETag", `"2"`)
				w.WriteHeader(http.StatusCreated)
			case to && got == nil:
				w.Header().Set("x-ms-error-code", "BlobNotFound")
				w.WriteHeader(http.StatusNotFound)
			default:
				w.Header().Set("ETag", map[bool]string{true: `"2"`, false: `"1"`}[to])
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
				if r.Method == http.MethodGet {
					_, _ = io.WriteString(w, data)
				}
			}
		})
		in, err := s.Copy(t.Context(), "from", "1", "to", nil)
		if err != nil || got == nil || *got != data || in.Size != int64(len(data)) || tried != (data != "") {
			t.Errorf("copy of %q: got %v, %+v, %v, tried %v", data, got, in, err, tried)
		}
	}
}

// TestListingsThatLie checks that a listing out of order, without end, or of something else is an error.
func TestListingsThatLie(t *testing.T) {
	blob := func(name string) string {
		return "<Blob><Name>" + name + "</Name><Properties><Etag>1</Etag></Properties></Blob>"
	}
	for what, pages := range map[string][]string{
		"out of order":     {blob("b"), blob("a")},
		"without end":      {blob("a"), "", "", ""},
		"something else":   {"<html>Welcome</html>"},
		"cut off half-way": {blob("a"), "<Blob><Name>"},
	} {
		n := 0
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			page := pages[min(n, len(pages)-1)]
			n++
			w.Header().Set("Content-Type", "application/xml")
			if strings.HasPrefix(page, "<html>") {
				_, _ = io.WriteString(w, page)
				return
			}
			_, _ = fmt.Fprintf(w, "<EnumerationResults><Blobs>%s</Blobs><NextMarker>m%d</NextMarker></EnumerationResults>", page, min(n, 2))
		})
		var err error
		for _, err = range s.List(t.Context(), "", "", false) {
			if err != nil {
				break
			}
		}
		wantKind(t, what, err, errs.Unavailable)
	}
}

// TestListsInTurns checks that the pages of a listing are decoded, and made entries of, in turns that nobody has while the service is
// waited for.
func TestListsInTurns(t *testing.T) {
	var turns ufstest.Turns
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		turns.Want(t, 0, "while the service is asked")
		name, next := "a", "m"
		if r.URL.Query().Get("marker") != "" {
			name, next = "b", ""
		}
		w.Header().Set("Content-Type", "application/xml")
		_, _ = fmt.Fprintf(w, "<EnumerationResults><Blobs><Blob><Name>%s</Name><Properties><Etag>1</Etag></Properties></Blob></Blobs><NextMarker>%s</NextMarker></EnumerationResults>", name, next)
	})
	turns.WantTurns(t, s, 2, 2)
}

// TestDeadServer checks that calls of a service that says nothing end with their ctx, and that one which is not there is
// errs.Unavailable at once, a change of it surely not made.
func TestDeadServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, Options{Container: "c", Endpoint: "http://" + l.Addr().String()})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Stat(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a silent service: got %v", err)
	}
	_ = l.Close()
	_, err = s.Stat(t.Context(), "a")
	wantKind(t, "a service that is not there", err, errs.Unavailable)
	_, err = ufs.WriteFile(t.Context(), s, "a", nil, ufs.CreateOptions{})
	if !errors.Is(err, ufs.ErrUnsent) || !errors.Is(err, errs.Unavailable) {
		t.Errorf("a write to it: got %v", err)
	}
}
