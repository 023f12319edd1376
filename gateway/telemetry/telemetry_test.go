package telemetry

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

func TestLoggerNamesTheRequest(t *testing.T) {
	var b bytes.Buffer
	l := NewLogger(&b, "info", "auto").With("proto", "s3")
	ctx := core.WithRequestID(t.Context(), "R1")
	l.InfoContext(ctx, "served")
	l.InfoContext(ctx, "served", "req", "R2")
	l.DebugContext(ctx, "hidden")
	d := json.NewDecoder(&b)
	for _, want := range []string{"R1", "R2"} {
		var got map[string]any
		if err := d.Decode(&got); err != nil {
			t.Fatalf("not JSON: %v", err)
		}
		if got["req"] != want || got["proto"] != "s3" {
			t.Errorf("got %v, want req %s", got, want)
		}
	}
	if d.More() {
		t.Error("a debug record was written at level info")
	}
	b.Reset()
	NewLogger(&b, "debug", "text").Debug("m", "k", "v")
	if got := b.String(); !strings.Contains(got, "k=v") {
		t.Errorf("text form: got %q", got)
	}
}

// TestLines has lines wait for each other, but not for long, and not where a warning follows.
func TestLines(t *testing.T) {
	w := make(chan string, 10)
	lines := NewLines(writerFunc(func(p []byte) (int, error) {
		w <- string(p)
		return len(p), nil
	}))
	l := NewLogger(lines, "info", "text")
	l.Info("one")
	l.Info("two")
	if got := <-w; strings.Count(got, "\n") == 0 { // the test ends in a timeout if the lines wait for ever
		t.Errorf("got %q", got)
	}
	for len(w) > 0 {
		<-w
	}
	l.Info("three")
	l.Warn("four")
	if n := len(w); n == 0 {
		t.Error("a warning waits")
	}
	got := ""
	for len(w) > 0 {
		got += <-w
	}
	if !strings.HasSuffix(got, "msg=four\n") {
		t.Errorf("got %q before a warning returned", got)
	}
	big := strings.Repeat("x", lineBytes)
	l.Info(big)
	if got := <-w; !strings.Contains(got, big) {
		t.Errorf("got %d bytes of a long line", len(got))
	}
	l.Info("last")
	if err := lines.Close(); err != nil || len(w) == 0 {
		t.Errorf("%d writes at the end, %v", len(w), err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestMetrics(t *testing.T) {
	m, err := NewMetrics(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(t.Context())
	s3 := m.Requests("s3")
	s3(core.Served{Op: "GetObject", Status: 200, Sent: 17, Took: time.Millisecond, Cache: core.Hit, Mount: "/lake/"})
	s3(core.Served{Op: "GetObject", Status: 200, Sent: 3, Took: time.Millisecond, Cache: core.Miss, Mount: "/"})
	s3(core.Served{Op: "HeadObject", Status: 412, Took: time.Millisecond, Cache: core.Hit, Mount: "/lake/"})
	s3(core.Served{Status: 400, Took: time.Millisecond})
	s3(core.Served{Status: 42, Took: time.Millisecond})
	s3(core.Served{Status: 43, Took: time.Millisecond})
	m.StoreCall("s3://lake", "Open", 5, time.Second, nil)
	m.StoreCall("s3://lake", "Open", 0, time.Second, errs.Unavailable)
	both := func(report func(int64, Labels)) { report(42, Labels{"tier": "mem"}); report(43, Labels{"tier": "ssd"}) }
	if err := m.Gauge("sluice_cache_bytes", "Bytes kept.", both); err != nil {
		t.Fatal(err)
	}
	if err := m.Counter("sluice_cache_hits_total", "Hits.", func(report func(int64, Labels)) { report(7, nil) }); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	got := w.Body.String()
	for _, want := range []string{
		`sluice_build_info{go_version="go1`, `version="v1"} 1`,
		`sluice_requests_total{code="200",op="GetObject",proto="s3"} 2`,
		`sluice_requests_total{code="400",op="unknown",proto="s3"} 1`,
		`sluice_requests_total{code="0",op="unknown",proto="s3"} 2`,
		`sluice_request_duration_seconds_bucket{op="GetObject",proto="s3",le="0.001"} 2`,
		`sluice_response_bytes_total{op="GetObject",proto="s3"} 20`,
		`sluice_reads_total{cache="HIT",mount="/lake",op="GetObject",proto="s3"} 1`,
		`sluice_reads_total{cache="MISS",mount="/",op="GetObject",proto="s3"} 1`,
		`sluice_read_bytes_total{cache="HIT",mount="/lake",op="GetObject",proto="s3"} 17`,
		`sluice_request_duration_seconds_count{op="GetObject",proto="s3"} 2`,
		`sluice_ufs_calls_total{kind="ok",op="Open",store="s3://lake"} 1`,
		`sluice_ufs_calls_total{kind="temporarily unavailable",op="Open",store="s3://lake"} 1`,
		`sluice_ufs_bytes_total{op="Open",store="s3://lake"} 5`,
		`sluice_cache_bytes{tier="mem"} 42`, `sluice_cache_bytes{tier="ssd"} 43`, `sluice_cache_hits_total 7`, `go_goroutines`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("metrics do not hold %s", want)
		}
	}
	if strings.Contains(got, `mount="/lake",op="HeadObject"`) {
		t.Error("what failed is counted as a read")
	}
	if t.Failed() {
		t.Log(got)
	}
}

func BenchmarkRequest(b *testing.B) {
	m, err := NewMetrics(b.Context(), "v1")
	if err != nil {
		b.Fatal(err)
	}
	observe := m.Requests("s3")
	b.ReportAllocs()
	for b.Loop() {
		observe(core.Served{Op: "HeadObject", Status: 200, Took: 100 * time.Microsecond, Cache: core.Hit, Mount: "/lake/"})
	}
}
