package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

/*
TestLister has a server mount a bucket of many objects, which is made up by a lister in the test's process, and lists it:

	go test ./bench -run TestLister -lister 1000000 [-lister.page 5ms] -v

It prints a line of JSON. It fails if a name is missing, or if the store is called where what is known answers; without -lister it
does so with 20,000 objects and measures no times.
*/
var (
	listerObjects = flag.Int("lister", 0, "measure listings of so many `objects`")
	listerPage    = flag.Duration("lister.page", 5*time.Millisecond, "how `long` the lister takes for a page")
	listerRounds  = flag.Int("lister.rounds", 3, "servers that list the bucket for the first time")
)

// lister is an S3 server with one bucket, whose names are counted and not kept: n objects, 1,000 in a directory.
type lister struct {
	n     int
	page  time.Duration // an answer takes so long
	lists atomic.Int64
	other atomic.Int64 // calls that are no listing
	mu    sync.Mutex
	calls map[string]int
}

func (l *lister) key(i int) string { return fmt.Sprintf("table/day=%05d/part-%08d.parquet", i/1000, i) }

// from returns the number of the first name not before key.
func (l *lister) from(key string) int {
	return sort.Search(l.n, func(i int) bool { return l.key(i) >= key })
}

func (l *lister) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	q := r.URL.Query()
	if r.Method != http.MethodGet || q.Get("list-type") != "2" {
		l.other.Add(1)
		l.mu.Lock()
		l.calls[r.Method+" "+r.URL.Path]++
		l.mu.Unlock()
		if r.Method == http.MethodGet && q.Has("versioning") {
			io.WriteString(w, `<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>`)
			return
		}
		w.WriteHeader(http.StatusNotFound)
		if r.Method != http.MethodHead {
			io.WriteString(w, `<Error><Code>NoSuchKey</Code><Message>there is none</Message></Error>`)
		}
		return
	}
	l.lists.Add(1)
	most := 1000
	if m, err := strconv.Atoi(q.Get("max-keys")); err == nil {
		most = min(m, most)
	}
	prefix, delimiter := q.Get("prefix"), q.Get("delimiter")
	i := l.from(prefix)
	if after := max(q.Get("start-after"), q.Get("continuation-token")); after >= prefix {
		i = max(i, l.from(after+"\x00"))
	}
	var b bytes.Buffer
	last, shown := "", 0
	for ; i < l.n && shown < most && strings.HasPrefix(l.key(i), prefix); shown++ {
		last = l.key(i)
		if at := strings.Index(last[len(prefix):], delimiter); delimiter != "" && at >= 0 {
			common := last[:len(prefix)+at+len(delimiter)]
			fmt.Fprintf(&b, "<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>", strings.ReplaceAll(common, "=", "%3D"))
			last = common + "~" // after all that it stands for
			i = l.from(last)
			continue
		}
		fmt.Fprintf(&b, "<Contents><Key>%s</Key><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>&quot;%032x&quot;</ETag><Size>%d</Size><StorageClass>STANDARD</StorageClass></Contents>",
			strings.ReplaceAll(last, "=", "%3D"), i, i)
		i++
	}
	more := i < l.n && strings.HasPrefix(l.key(i), prefix)
	head := fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><EncodingType>url</EncodingType><MaxKeys>%d</MaxKeys><KeyCount>%d</KeyCount><IsTruncated>%v</IsTruncated>`, most, shown, more)
	if more {
		head += "<NextContinuationToken>" + last + "</NextContinuationToken>"
	}
	time.Sleep(l.page - time.Since(began))
	w.Header().Set("Content-Type", "application/xml")
	io.WriteString(w, head)
	w.Write(b.Bytes())
	io.WriteString(w, "</ListBucketResult>")
}

func (l *lister) client(addr, key, secret string) *s3.Client {
	endpoint := "http://" + addr
	return s3.New(s3.Options{Region: region, BaseEndpoint: &endpoint, UsePathStyle: true, RetryMaxAttempts: 1,
		HTTPClient: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}, Credentials: credentials.NewStaticCredentialsProvider(key, secret, "")})
}

// all lists a bucket, checks the names, and returns how long that took.
func (l *lister) all(t *testing.T, c *s3.Client, bucket string) time.Duration {
	t.Helper()
	began, i := time.Now(), 0
	for pages := s3.NewListObjectsV2Paginator(c, &s3.ListObjectsV2Input{Bucket: &bucket}); pages.HasMorePages(); {
		page, err := pages.NextPage(t.Context())
		must(t, err)
		for _, o := range page.Contents {
			if name := strings.ReplaceAll(aws.ToString(o.Key), "%3D", "="); name != l.key(i) || aws.ToInt64(o.Size) != int64(i) {
				t.Fatalf("object %d is %s of %d bytes, want %s", i, name, aws.ToInt64(o.Size), l.key(i))
			}
			i++
		}
	}
	if i != l.n {
		t.Fatalf("%d objects are listed, want %d", i, l.n)
	}
	return time.Since(began)
}

// asked returns how many listings and other calls there were since it was last called.
func (l *lister) asked() (lists, others int64) { return l.lists.Swap(0), l.other.Swap(0) }

func TestLister(t *testing.T) {
	l := &lister{n: 20_000, calls: map[string]int{}}
	rounds := 1
	if *listerObjects > 0 {
		l.n, l.page, rounds = *listerObjects, *listerPage, *listerRounds
	}
	under := httptest.NewServer(l)
	defer under.Close()
	bin := os.Getenv("SLUICE_BIN")
	if bin == "" {
		bin = filepath.Join(t.TempDir(), "sluice")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/sluicefs/sluice").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	var row struct {
		Row                      string
		Objects                  int
		Page                     string
		Direct, First, Second    []float64 // seconds
		Sync                     []float64 // of a tree that has not changed
		Ratio                    float64   // median of the rounds: direct by first
		BaseMiB, AddedMiB        []float64 // resident memory before, and what the listings added
		Lists, SyncLists, Absent int64     // calls of the store: of a first listing, of a sync, and of 10,000 looks for names that are not there
	}
	row.Row, row.Objects, row.Page = "list_store", l.n, l.page.String()
	direct := l.client(under.Listener.Addr().String(), "k", "s")
	var ratios []float64
	for round := range rounds {
		s := l.serve(t, bin, under.URL)
		c := l.client(s.addr, accessKey, secretKey)
		base := resident(t, s)
		var d, f time.Duration
		if round%2 == 0 {
			d = l.all(t, direct, "b")
		}
		l.asked()
		f = l.all(t, c, "lake")
		lists, others := l.asked()
		if parts := int64((l.n + 999) / 1000); lists > parts+parts/50+2 || others > 0 { // a part asked for ahead may be asked for twice
			t.Errorf("the first listing made %d listings of %d parts, and other calls: %v", lists, parts, l.calls)
		}
		row.Lists = lists
		second := l.all(t, c, "lake")
		if lists, others := l.asked(); lists+others > 0 {
			t.Errorf("the second listing asked the store %d times", lists+others)
		}
		l.absent(t, c)
		lists, others = l.asked()
		if row.Absent = lists + others; row.Absent > 0 {
			t.Errorf("looking for names that are not there asked the store %d times: %v", row.Absent, l.calls)
		}
		began := time.Now()
		l.sync(t, s, bin)
		sync := time.Since(began)
		lists, others = l.asked()
		if parts := int64((l.n + 999) / 1000); lists > parts+1 || others > 0 {
			t.Errorf("a sync of what has not changed made %d listings of %d parts, and %d other calls: %v", lists, parts, others, l.calls)
		}
		row.SyncLists = lists
		if round%2 == 1 {
			d = l.all(t, direct, "b")
		}
		row.BaseMiB, row.AddedMiB = append(row.BaseMiB, base), append(row.AddedMiB, resident(t, s)-base)
		ratios = append(ratios, d.Seconds()/f.Seconds())
		row.Direct, row.First, row.Second, row.Sync = append(row.Direct, d.Seconds()), append(row.First, f.Seconds()), append(row.Second, second.Seconds()), append(row.Sync, sync.Seconds())
		s.stop()
	}
	if *listerObjects > 0 {
		row.Ratio = quantile(ratios, .5)
		b, err := json.Marshal(row)
		must(t, err)
		fmt.Println(string(b))
	}
}

// serve starts a server that has the bucket mounted, and waits until it serves.
func (l *lister) serve(t *testing.T, bin, store string) *server {
	t.Helper()
	s := &server{name: "sluice-lister", dir: t.TempDir()}
	var err error
	s.addr, err = freePort()
	must(t, err)
	s.admin, err = freePort()
	must(t, err)
	must(t, s.exec(t.Context(), []string{bin, "serve", "--data", s.dir, "--s3-listen", s.addr, "--webhdfs-listen", "off", "--admin-listen", s.admin,
		"--mount", "/lake=s3://b,read_only=true,sync_interval=-1,path_style=true,region=" + region + ",endpoint=" + store + ",access_key=k,secret_key=s"},
		append(os.Environ(), "SLUICE_ROOT_ACCESS_KEY="+accessKey, "SLUICE_ROOT_SECRET_KEY="+secretKey)))
	t.Cleanup(s.stop)
	ready := &server{name: s.name, addr: s.admin}
	must(t, ready.awaitStatus(t.Context(), "/readyz", http.StatusOK))
	return s
}

// absent looks for 10,000 names that are not there, in directories that were listed.
func (l *lister) absent(t *testing.T, c *s3.Client) {
	t.Helper()
	for i := range 10_000 {
		bucket, key := "lake", l.key(i*l.n/10_000)+".crc"
		_, err := c.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &bucket, Key: &key})
		var answer interface{ HTTPStatusCode() int }
		if !errors.As(err, &answer) || answer.HTTPStatusCode() != http.StatusNotFound {
			t.Fatalf("%s: %v", key, err)
		}
	}
}

func (l *lister) sync(t *testing.T, s *server, bin string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), bin, "sync", "/lake", "--recursive", "--admin-url", "http://"+s.admin)
	cmd.Env = append(os.Environ(), "SLUICE_ROOT_ACCESS_KEY="+accessKey, "SLUICE_ROOT_SECRET_KEY="+secretKey)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "0 added, 0 changed, 0 removed") {
		t.Fatalf("sync: %v\n%.1000s", err, out)
	}
}

// resident returns the resident memory of a process that is not backed by files, in MiB.
func resident(t *testing.T, s *server) float64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(text)[0], 64)
			must(t, err)
			return kib / 1024
		}
	}
	t.Fatal("no RssAnon")
	return 0
}
