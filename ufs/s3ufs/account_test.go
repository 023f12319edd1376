package s3ufs

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

// inBucket is what an account has in one bucket: an object store to which the suite applies.
type inBucket struct {
	*Account
	dir string // the bucket, with its slash
}

func (s inBucket) Features() ufs.Features {
	f := s.Account.Features()
	f.Root, f.Buckets = "", false
	return f
}

func (s inBucket) name(name string) string { return s.dir + name }

func (s inBucket) info(in ufs.Info, err error) (ufs.Info, error) {
	if err == nil && !strings.HasPrefix(in.Name, s.dir) {
		return in, fmt.Errorf("%q is not the name of anything in %s", in.Name, s.dir)
	}
	in.Name = strings.TrimPrefix(in.Name, s.dir)
	return in, err
}

func (s inBucket) Stat(ctx context.Context, name string) (ufs.Info, error) {
	if name == "" {
		return ufs.Info{Dir: true}, nil
	}
	return s.info(s.Account.Stat(ctx, s.name(name)))
}

func (s inBucket) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		if after != "" {
			after = s.name(after)
		}
		for in, err := range s.Account.List(ctx, s.name(dir), after, flat) {
			if err == nil && in.Name == s.dir {
				continue // the bucket itself
			}
			if in, err = s.info(in, err); !yield(in, err) {
				return
			}
		}
	}
}

func (s inBucket) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	return s.Account.Open(ctx, s.name(name), off, n, version)
}

func (s inBucket) Create(ctx context.Context, name string, size int64, o ufs.CreateOptions) (ufs.Writer, error) {
	w, err := s.Account.Create(ctx, s.name(name), size, o)
	if err != nil {
		return nil, err
	}
	return bucketSuiteWriter{w, s}, nil
}

type bucketSuiteWriter struct {
	ufs.Writer
	s inBucket
}

func (w bucketSuiteWriter) Commit(ctx context.Context) (ufs.Info, error) {
	return w.s.info(w.Writer.Commit(ctx))
}

func (s inBucket) Remove(ctx context.Context, name, version string) error {
	if name == "" {
		return s.Account.Remove(ctx, "", version)
	}
	return s.Account.Remove(ctx, s.name(name), version)
}

func (s inBucket) RemoveFiles(ctx context.Context, files []ufs.Versioned) error {
	all := slices.Clone(files)
	for i := range all {
		all[i].Name = s.name(all[i].Name)
	}
	return s.Account.RemoveFiles(ctx, all)
}

func (s inBucket) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	if name == "" {
		return ufs.Info{Dir: true}, nil
	}
	return s.info(s.Account.Mkdir(ctx, s.name(name), attr))
}

func (s inBucket) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	return s.info(s.Account.Copy(ctx, s.name(from), version, s.name(to), attr))
}

func (s inBucket) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Info, error) {
	return s.info(s.Account.SetAttr(ctx, s.name(name), version, attr))
}

func (s inBucket) Begin(ctx context.Context, name string, attr ufs.Attr) (string, error) {
	return s.Account.Begin(ctx, s.name(name), attr)
}

func (s inBucket) PutPart(ctx context.Context, name, id string, number int, size int64, r io.Reader) (string, error) {
	return s.Account.PutPart(ctx, s.name(name), id, number, size, r)
}

func (s inBucket) CopyPart(ctx context.Context, name, id string, number int, from, version string, off, n int64) (string, error) {
	return s.Account.CopyPart(ctx, s.name(name), id, number, s.name(from), version, off, n)
}

func (s inBucket) Complete(ctx context.Context, name, id string, parts []ufs.Part, o ufs.CreateOptions) (ufs.Info, error) {
	return s.info(s.Account.Complete(ctx, s.name(name), id, parts, o))
}

func (s inBucket) Cancel(ctx context.Context, name, id string) error {
	return s.Account.Cancel(ctx, s.name(name), id)
}

func (s inBucket) Lost(ctx context.Context, name string, from, to time.Time) ([]string, error) {
	return s.Account.Lost(ctx, s.name(name), from, to)
}

// openAccount opens the account at endpoint.
func openAccount(t *testing.T, endpoint, access, secret string, manage bool) *Account {
	t.Helper()
	a, err := OpenAccount(Options{Endpoint: endpoint, AccessKey: access, SecretKey: secret, PathStyle: true, backoff: time.Millisecond}, manage)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// bucketOpener returns a function that opens stores at endpoint, each a bucket of its own.
func bucketOpener(t *testing.T, endpoint, access, secret string) func(t *testing.T) ufs.Store {
	var n atomic.Int32
	return func(t *testing.T) ufs.Store {
		a := openAccount(t, endpoint, access, secret, true)
		dir := fmt.Sprintf("suite-%d/", n.Add(1))
		if _, err := a.Mkdir(t.Context(), dir, ufs.Attr{}); err != nil {
			t.Fatal(err)
		}
		if err := a.Probe(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		return inBucket{a, dir}
	}
}

func TestAccountOverGofakes3(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves out what starts servers")
	}
	server := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	t.Cleanup(server.Close)
	ufstest.Run(t, bucketOpener(t, server.URL, "access", "secret"), append(slices.Clone(gofakes3Deviations),
		ufstest.Deviation{Test: "Names/odd segments are segments", Reason: "lists a key that begins with a slash without it"})...)
}

func TestAccountOverVersitygw(t *testing.T) {
	ufstest.Run(t, bucketOpener(t, versitygw(t), "access", "secretsecret"), versitygwDeviations...)
}

// names returns the names that a listing yields.
func names(t *testing.T, s ufs.Store, dir, after string, flat bool) []string {
	t.Helper()
	var all []string
	for in, err := range s.List(t.Context(), dir, after, flat) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, in.Name)
	}
	return all
}

func putFile(t *testing.T, s ufs.Store, name, data string) ufs.Info {
	t.Helper()
	in, err := ufs.WriteFile(t.Context(), s, name, []byte(data), ufs.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// TestAccount checks what an account has beside what a bucket has.
func TestAccount(t *testing.T) {
	for service, start := range map[string]func(t *testing.T) (endpoint, secret string){
		"gofakes3": func(t *testing.T) (string, string) {
			server := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
			t.Cleanup(server.Close)
			return server.URL, "secret"
		},
		"versitygw": func(t *testing.T) (string, string) { return versitygw(t), "secretsecret" },
	} {
		t.Run(service, func(t *testing.T) {
			endpoint, secret := start(t)
			testAccount(t, openAccount(t, endpoint, "access", secret, true), openAccount(t, endpoint, "access", secret, false))
		})
	}
}

func testAccount(t *testing.T, a, fixed *Account) {
	ctx := t.Context()
	if got := names(t, a, "", "", false); len(got) != 0 {
		t.Errorf("an empty account has %q", got)
	}
	for _, dir := range []string{"tables/", "tables-2/", "empty/", "deep/a/b/"} {
		if in, err := a.Mkdir(ctx, dir, ufs.Attr{}); err != nil || in.Name != dir || !in.Marker {
			t.Fatalf("mkdir %s: %+v, %v", dir, in, err)
		}
	}
	if _, err := a.Mkdir(ctx, "tables/", ufs.Attr{}); err != nil {
		t.Errorf("a bucket that is there: %v", err)
	}
	for _, dir := range []string{"ab/", "Upper/", "a_b/", "-ab/", "a..b/", "10.1.2.3/", "xn--a/", "ü-umlaut/", strings.Repeat("n", 64) + "/", "ab/c/"} {
		_, err := a.Mkdir(ctx, dir, ufs.Attr{})
		wantKind(t, "mkdir "+dir, err, errs.Invalid)
	}
	_, err := fixed.Mkdir(ctx, "more/", ufs.Attr{})
	wantKind(t, "make a bucket where that is forbidden", err, errs.Permission)
	wantKind(t, "remove a bucket where that is forbidden", fixed.Remove(ctx, "empty/", ""), errs.Permission)

	in := putFile(t, a, "tables/x/f", "one")
	putFile(t, a, "tables/y", "two")
	putFile(t, a, "tables-2/z", "three")
	if in.Name != "tables/x/f" {
		t.Errorf("what was written is named %q", in.Name)
	}
	if got, want := names(t, a, "", "", false), []string{"deep/", "empty/", "tables-2/", "tables/"}; !slices.Equal(got, want) {
		t.Errorf("buckets: got %q, want %q", got, want)
	}
	all := []string{"deep/", "deep/a/b/", "empty/", "tables-2/", "tables-2/z", "tables/", "tables/x/f", "tables/y"}
	if got := names(t, fixed, "", "", true); !slices.Equal(got, all) {
		t.Errorf("everything: got %q, want %q", got, all)
	}
	for i, after := range all {
		if got := names(t, a, "", after, true); !slices.Equal(got, all[i+1:]) {
			t.Errorf("everything after %q: got %q, want %q", after, got, all[i+1:])
		}
	}
	if got, want := names(t, a, "", "empty/\xff", true), all[3:]; !slices.Equal(got, want) {
		t.Errorf("everything after the bucket empty: got %q, want %q", got, want)
	}
	if got, want := names(t, a, "tables/", "", false), []string{"tables/", "tables/x/", "tables/y"}; !slices.Equal(got, want) {
		t.Errorf("in a bucket: got %q, want %q", got, want)
	}
	if got := names(t, a, "none/", "", true); len(got) != 0 {
		t.Errorf("in no bucket: got %q", got)
	}

	// Neither a file beside the buckets nor one in a bucket that is not there makes anything.
	for _, name := range []string{"file", "typo-in-name/file"} {
		_, err := ufs.WriteFile(ctx, a, name, nil, ufs.CreateOptions{})
		wantKind(t, "write "+name, err, errs.Invalid)
		_, err = a.Copy(ctx, "tables/y", "", name, nil)
		wantKind(t, "copy to "+name, err, errs.Invalid)
		_, err = a.Begin(ctx, name, ufs.Attr{})
		wantKind(t, "upload to "+name, err, errs.Invalid)
		_, err = a.Stat(ctx, name)
		wantKind(t, "stat "+name, err, errs.NotExist)
		wantKind(t, "remove "+name, a.Remove(ctx, name, ""), errs.NotExist)
		_, err = a.Open(ctx, name, 0, -1, "")
		wantKind(t, "open "+name, err, errs.NotExist)
	}

	// From one bucket to another.
	if in, err := a.Copy(ctx, "tables/y", "", "empty/copy", nil); err != nil || in.Name != "empty/copy" || in.Size != 3 {
		t.Errorf("copy to another bucket: %+v, %v", in, err)
	}
	if b, err := ufs.ReadAll(ctx, fixed, "empty/copy", "", 10); err != nil || string(b) != "two" {
		t.Errorf("the copy is %q, %v", b, err)
	}

	wantKind(t, "remove a bucket that holds something", a.Remove(ctx, "empty/", ""), errs.NotEmpty)
	if err := a.RemoveFiles(ctx, []ufs.Versioned{{Name: "empty/"}, {Name: "empty/copy"}, {Name: "none/f"}}); err != nil {
		t.Errorf("remove a bucket with what is in it: %v", err)
	}
	_, err = a.Stat(ctx, "empty/")
	wantKind(t, "stat a bucket that was removed", err, errs.NotExist)
	wantKind(t, "remove it again", a.Remove(ctx, "empty/", ""), errs.NotExist)
	if err := a.CleanStaging(ctx, func(string) bool { return false }); err != nil {
		t.Error(err)
	}
	if err := a.Probe(ctx, false); err != nil {
		t.Error(err)
	}
}

// TestAccountCopyPart checks that a part may be of another bucket's bytes.
func TestAccountCopyPart(t *testing.T) {
	a := openAccount(t, versitygw(t), "access", "secretsecret", true)
	ctx := t.Context()
	for _, dir := range []string{"from-here/", "to-there/"} {
		if _, err := a.Mkdir(ctx, dir, ufs.Attr{}); err != nil {
			t.Fatal(err)
		}
	}
	putFile(t, a, "from-here/f", "0123456789")
	id, err := a.Begin(ctx, "to-there/f", ufs.Attr{})
	if err != nil {
		t.Fatal(err)
	}
	etag, err := a.CopyPart(ctx, "to-there/f", id, 1, "from-here/f", "", 2, 5)
	if err != nil {
		t.Fatal(err)
	}
	in, err := a.Complete(ctx, "to-there/f", id, []ufs.Part{{Number: 1, ETag: etag, Size: 5}}, ufs.CreateOptions{})
	if err != nil || in.Name != "to-there/f" {
		t.Fatalf("complete: %+v, %v", in, err)
	}
	if b, err := ufs.ReadAll(ctx, a, "to-there/f", "", 10); err != nil || string(b) != "23456" {
		t.Errorf("the file is %q, %v", b, err)
	}
}

// redirected sends every request to a test's server, which sees the host that was meant.
type redirected struct{ to *url.URL }

func (r redirected) RoundTrip(q *http.Request) (*http.Response, error) {
	q = q.Clone(q.Context())
	q.Host = q.URL.Host
	q.URL.Scheme, q.URL.Host = r.to.Scheme, r.to.Host
	return http.DefaultTransport.RoundTrip(q)
}

// TestAccountRegions checks that on AWS requests for a bucket go to the region it is in, and that a listing of buckets in pages is read whole.
func TestAccountRegions(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		region := strings.Split(r.Header.Get("Authorization"), "/")[2]
		mu.Lock()
		seen = append(seen, r.Method+" "+r.Host+" "+region)
		mu.Unlock()
		const list = `<ListAllMyBucketsResult><Buckets><Bucket><Name>%s</Name><CreationDate>2026-01-02T03:04:05Z</CreationDate>%s</Bucket></Buckets>%s</ListAllMyBucketsResult>`
		bucket, _, _ := strings.Cut(r.Host, ".s3.")
		switch q := r.URL.Query(); {
		case bucket == "s3.us-east-1.amazonaws.com" || bucket == "s3.amazonaws.com":
			switch q.Get("continuation-token") {
			case "":
				fmt.Fprintf(w, list, "told", "<BucketRegion>eu-north-1</BucketRegion>", "<ContinuationToken>2</ContinuationToken>")
			case "2":
				fmt.Fprintf(w, list, "headed", "", "<ContinuationToken>3</ContinuationToken>")
			default:
				fmt.Fprintf(w, list, "located", "", "")
			}
		case bucket == "headed" && region != "ap-east-1":
			w.Header().Set("X-Amz-Bucket-Region", "ap-east-1")
			w.WriteHeader(http.StatusMovedPermanently)
		case bucket == "located" && region != "eu-west-1" && r.Method == http.MethodHead:
			w.WriteHeader(http.StatusForbidden)
		case bucket == "located" && q.Has("location"):
			fmt.Fprint(w, `<LocationConstraint>EU</LocationConstraint>`)
		default:
			w.Header().Set("ETag", `"e"`)
			w.Header().Set("Last-Modified", "Mon, 02 Jan 2026 03:04:05 GMT")
			w.Header().Set("Content-Length", "0")
		}
	}))
	t.Cleanup(server.Close)
	to, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenAccount(Options{AccessKey: "AK", SecretKey: "secret", Client: &http.Client{Transport: redirected{to}}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, a, "", "", false), []string{"headed/", "located/", "told/"}; !slices.Equal(got, want) {
		t.Errorf("buckets: got %q, want %q", got, want)
	}
	for bucket, region := range map[string]string{"told": "eu-north-1", "headed": "ap-east-1", "located": "eu-west-1"} {
		if _, err := a.Stat(t.Context(), bucket+"/f"); err != nil {
			t.Errorf("%s: %v", bucket, err)
		}
		if want := fmt.Sprintf("HEAD %s.s3.%s.amazonaws.com %s", bucket, region, region); !slices.Contains(seen, want) {
			t.Errorf("no request %q among %q", want, seen)
		}
	}
}

func TestEndpointIn(t *testing.T) {
	for _, c := range [][4]string{
		{"", "us-east-1", "eu-west-1", ""},
		{"https://s3.us-east-1.amazonaws.com", "us-east-1", "eu-west-1", "https://s3.eu-west-1.amazonaws.com"},
		{"https://s3.dualstack.us-east-1.amazonaws.com", "us-east-1", "eu-west-1", "https://s3.dualstack.eu-west-1.amazonaws.com"},
		{"https://s3.amazonaws.com", "us-east-1", "eu-west-1", ""},
		{"https://s3.amazonaws.com", "us-east-1", "us-east-1", "https://s3.amazonaws.com"},
	} {
		if got := endpointIn(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("endpointIn(%q, %q, %q): got %q, want %q", c[0], c[1], c[2], got, c[3])
		}
	}
}

// TestAccountURI checks what an account's URI and options may say, and whose roots overlap.
func TestAccountURI(t *testing.T) {
	keys := map[string]string{"access_key": "AK", "secret_key": "SK"}
	open := func(uri string, more ...string) (ufs.Store, error) {
		o := map[string]string{}
		for k, v := range keys {
			o[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			o[more[i]] = more[i+1]
		}
		var r ufs.Registry
		r.Register("s3", OpenURI)
		return r.Open(t.Context(), uri, o)
	}
	a, err := open("s3://*", "endpoint", "http://127.0.0.1:7070")
	if err != nil {
		t.Fatal(err)
	}
	b, err := open("s3://one", "endpoint", "http://localhost:7070")
	if err != nil {
		t.Fatal(err)
	}
	if ra, rb := a.Features().Root, b.Features().Root; ra != "s3:localhost:7070/" || !strings.HasPrefix(rb, ra) {
		t.Errorf("the root of an account is %q, that of a bucket of it %q", ra, rb)
	}
	if f := a.Features(); !f.Buckets || f.Mark || b.Features().Buckets {
		t.Errorf("features: %+v", f)
	}
	for _, c := range [][]string{
		{"s3://*/prefix"}, {"s3://*", "anonymous", "true"}, {"s3://*", "manage_buckets", "perhaps"}, {"s3://one", "manage_buckets", "false"}, {"s3://*", "access_key", ""}, {"s3://"},
	} {
		_, err := open(c[0], c[1:]...)
		wantKind(t, fmt.Sprint(c), err, errs.Invalid)
	}
}

// TestAccountUntold checks that buckets stay that a listing leaves out, that cannot be listed, or that may not be written.
func TestAccountUntold(t *testing.T) {
	var hide, refuse, readonly atomic.Bool
	inner := gofakes3.New(s3mem.New()).Server()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lists := r.Method == http.MethodGet && r.URL.Path == "/"
		switch {
		case lists && hide.Load():
			fmt.Fprint(w, `<ListAllMyBucketsResult><Buckets></Buckets></ListAllMyBucketsResult>`)
		case lists && refuse.Load(), r.Method == http.MethodPut && readonly.Load():
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `<Error><Code>AccessDenied</Code><Message>no</Message></Error>`)
		default:
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	a, behind := openAccount(t, server.URL, "access", "secret", true), openAccount(t, server.URL, "access", "secret", true)
	ctx := t.Context()
	for _, dir := range []string{"kept/", "lost/"} {
		if _, err := behind.Mkdir(ctx, dir, ufs.Attr{}); err != nil {
			t.Fatal(err)
		}
	}
	putFile(t, behind, "kept/f", "data")
	if got, want := names(t, a, "", "", false), []string{"kept/", "lost/"}; !slices.Equal(got, want) {
		t.Fatalf("buckets: got %q, want %q", got, want)
	}
	if err := behind.Remove(ctx, "lost/", ""); err != nil {
		t.Fatal(err)
	}
	hide.Store(true)
	if got, want := names(t, a, "", "", false), []string{"kept/"}; !slices.Equal(got, want) {
		t.Errorf("buckets by a listing that has none: got %q, want %q", got, want)
	}
	hide.Store(false)
	refuse.Store(true)
	a.buckets.Lock()
	a.buckets.at = time.Time{}
	a.buckets.Unlock()
	for _, name := range []string{"kept/", "kept/f"} {
		if _, err := a.Stat(ctx, name); err != nil {
			t.Errorf("stat %s while the buckets cannot be listed: %v", name, err)
		}
	}
	_, err := a.Stat(ctx, "none/")
	wantKind(t, "stat what was never told of", err, errs.Permission)
	refuse.Store(false)
	readonly.Store(true)
	if err := openAccount(t, server.URL, "access", "secret", true).Probe(ctx, true); err != nil {
		t.Errorf("probe where no bucket may be written: %v", err)
	}
}
