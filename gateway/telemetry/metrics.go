package telemetry

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Metrics are the numbers of one process. Every label has a closed set of values: protocols, operation names of route
// tables, statuses, error kinds, stores; never a path or a name that a client chose. It is safe for concurrent use.
type Metrics struct {
	ctx      context.Context // carries nothing; the library asks for one with each measurement
	provider *sdk.MeterProvider
	meter    metric.Meter
	handler  http.Handler

	// The numbers of requests are the format's own: counting one must cost next to nothing.
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	sent     *prometheus.CounterVec
	reads    *prometheus.CounterVec
	read     *prometheus.CounterVec

	calls    metric.Int64Counter
	callTime metric.Float64Histogram
	moved    metric.Int64Counter

	sets atomic.Pointer[map[[6]string]options] // label sets by their values; the map is never changed
}

// NewMetrics returns the metrics of a process of the given version; they outlive ctx. Close releases them.
func NewMetrics(ctx context.Context, version string) (*Metrics, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := exporter.New(exporter.WithRegisterer(registry), exporter.WithoutScopeInfo(), exporter.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	m := &Metrics{
		ctx:      context.WithoutCancel(ctx),
		provider: sdk.NewMeterProvider(sdk.WithReader(reader)),
		handler:  promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry}),
	}
	m.meter = m.provider.Meter("sluice")
	if err := m.instruments(); err != nil {
		return nil, err
	}
	m.requestNumbers(registry)
	info := Labels{"version": version, "go_version": runtime.Version()}
	return m, m.Gauge("sluice_build_info", "Constant 1, labelled with what runs.", func(report func(int64, Labels)) { report(1, info) })
}

func (m *Metrics) instruments() (err error) {
	counter := func(name, help string) (c metric.Int64Counter) {
		if err == nil {
			c, err = m.meter.Int64Counter(name, metric.WithDescription(help))
		}
		return c
	}
	histogram := func(name, help string) (h metric.Float64Histogram) {
		if err == nil {
			h, err = m.meter.Float64Histogram(name, metric.WithDescription(help), metric.WithExplicitBucketBoundaries(durations...))
		}
		return h
	}
	m.calls = counter("sluice_ufs_calls_total", "Calls of under-stores, by store, operation and kind of error.")
	m.callTime = histogram("sluice_ufs_call_duration_seconds", "Duration of calls of under-stores.")
	m.moved = counter("sluice_ufs_bytes_total", "Bytes read from and written to under-stores.")
	return err
}

// durations are the bounds of the histograms, in seconds: from a warm HEAD, below a millisecond, to an upload that takes
// minutes.
var durations = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}

func (m *Metrics) requestNumbers(registry *prometheus.Registry) {
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_requests_total", Help: "Requests served, by protocol, operation and status."}, []string{"proto", "op", "code"})
	m.duration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sluice_request_duration_seconds", Help: "Time from a request's headers to the end of its response.", Buckets: durations}, []string{"proto", "op"})
	m.sent = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_response_bytes_total", Help: "Bytes of response bodies sent."}, []string{"proto", "op"})
	labels := []string{"proto", "op", "cache", "mount"}
	m.reads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_reads_total", Help: "Files that were read or looked at, by what X-Cache said of them: a HIT has come from caches as a whole."}, labels)
	m.read = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_read_bytes_total", Help: "Bytes of files sent to clients, by what X-Cache said of the whole response."}, labels)
	registry.MustRegister(m.requests, m.duration, m.sent, m.reads, m.read)
}

// Handler serves the metrics in Prometheus' format.
func (m *Metrics) Handler() http.Handler { return m.handler }

// Close releases the metrics.
func (m *Metrics) Close(ctx context.Context) error { return m.provider.Shutdown(ctx) }

// options are a label set as the library wants it with a measurement.
type options struct {
	add    []metric.AddOption
	record []metric.RecordOption
}

// labels returns the set of the given name-value pairs, built once for each combination. There are few of them, soon all
// known: measuring then takes neither a lock nor memory.
func (m *Metrics) labels(pairs [6]string) options {
	if known := m.sets.Load(); known != nil {
		if o, ok := (*known)[pairs]; ok {
			return o
		}
	}
	var attrs []attribute.KeyValue
	for i := 0; i < len(pairs) && pairs[i] != ""; i += 2 {
		attrs = append(attrs, attribute.String(strings.Clone(pairs[i]), strings.Clone(pairs[i+1])))
	}
	set := metric.WithAttributeSet(attribute.NewSet(attrs...))
	o := options{[]metric.AddOption{set}, []metric.RecordOption{set}}
	for i := range pairs {
		pairs[i] = strings.Clone(pairs[i])
	}
	for {
		old := m.sets.Load()
		grown := map[[6]string]options{pairs: o}
		if old != nil {
			maps.Copy(grown, *old)
		}
		if m.sets.CompareAndSwap(old, &grown) {
			return o
		}
	}
}

// Requests returns a function that counts the requests of one protocol, as the front-ends' Observe wants it.
func (m *Metrics) Requests(proto string) func(core.Served) {
	r := &requests{m: m, proto: proto}
	return r.observe
}

// requests are the numbers of one protocol's requests.
type requests struct {
	m     *Metrics
	proto string
	known atomic.Pointer[map[requestKind]requestNumbers] // the map is never changed
}

// requestKind is what tells requests apart. There are few kinds, soon all known.
type requestKind struct {
	op     string
	status int
	cache  core.CacheStatus
	mount  string
}

type requestNumbers struct {
	requests, sent prometheus.Counter
	duration       prometheus.Observer
	reads, read    prometheus.Counter // nil of what is no read
}

func (r *requests) observe(x core.Served) {
	kind := requestKind{x.Op, x.Status, x.Cache, x.Mount}
	var n requestNumbers
	ok := false
	if known := r.known.Load(); known != nil {
		n, ok = (*known)[kind]
	}
	if !ok {
		n = r.learn(kind)
	}
	n.requests.Inc()
	sent := float64(max(0, x.Sent))
	n.sent.Add(sent)
	n.duration.Observe(x.Took.Seconds())
	if n.reads != nil {
		n.reads.Inc()
		n.read.Add(sent)
	}
}

// learn returns the numbers of a kind of requests, for the next request of its kind too.
func (r *requests) learn(kind requestKind) requestNumbers {
	op := strings.Clone(kind.op)
	kind.op, kind.mount, kind.cache = op, strings.Clone(kind.mount), core.CacheStatus(strings.Clone(string(kind.cache)))
	if op == "" {
		op = "unknown"
	}
	n := requestNumbers{
		requests: r.m.requests.WithLabelValues(r.proto, op, statusLabel(kind.status)),
		sent:     r.m.sent.WithLabelValues(r.proto, op), duration: r.m.duration.WithLabelValues(r.proto, op),
	}
	if kind.cache != "" && kind.status < 400 {
		mount := "/" + strings.Trim(kind.mount, "/")
		n.reads = r.m.reads.WithLabelValues(r.proto, op, string(kind.cache), mount)
		n.read = r.m.read.WithLabelValues(r.proto, op, string(kind.cache), mount)
	}
	for {
		old := r.known.Load()
		grown := map[requestKind]requestNumbers{kind: n}
		if old != nil {
			maps.Copy(grown, *old)
		}
		if r.known.CompareAndSwap(old, &grown) {
			return n
		}
	}
}

// statusLabel is the status, or "0" for what is none: a connection that ended before its answer.
func statusLabel(status int) string {
	if status < 100 || status > 599 {
		return "0"
	}
	return strconv.Itoa(status)
}

// StoreCall counts one call of a store: its operation, the bytes it moved, the time it took and how it
// ended.
func (m *Metrics) StoreCall(store, op string, bytes int64, d time.Duration, err error) {
	kind := "ok"
	if err != nil {
		kind = errs.KindOf(err).Error()
	}
	byOp := m.labels([6]string{"store", store, "op", op})
	m.calls.Add(m.ctx, 1, m.labels([6]string{"store", store, "op", op, "kind", kind}).add...)
	m.callTime.Record(m.ctx, d.Seconds(), byOp.record...)
	if bytes > 0 {
		m.moved.Add(m.ctx, bytes, byOp.add...)
	}
}

// Labels are the label names and values of a number.
type Labels map[string]string

func (l Labels) set() metric.MeasurementOption {
	attrs := make([]attribute.KeyValue, 0, len(l))
	for name, value := range l {
		attrs = append(attrs, attribute.String(name, value))
	}
	return metric.WithAttributeSet(attribute.NewSet(attrs...))
}

// Reading reports the value of a number, once for each set of labels.
type Reading func(report func(value int64, l Labels))

// Gauge makes a number that is read with f whenever the metrics are. f must not block. A name is made once.
func (m *Metrics) Gauge(name, help string, f Reading) error {
	_, err := m.meter.Int64ObservableGauge(name, metric.WithDescription(help), metric.WithInt64Callback(f.callback))
	return err
}

// Counter makes a number that only grows, which is read with f whenever the metrics are. f must not block. A name is made
// once and ends in _total.
func (m *Metrics) Counter(name, help string, f Reading) error {
	_, err := m.meter.Int64ObservableCounter(name, metric.WithDescription(help), metric.WithInt64Callback(f.callback))
	return err
}

func (f Reading) callback(_ context.Context, o metric.Int64Observer) error {
	f(func(value int64, l Labels) { o.Observe(value, l.set()) })
	return nil
}
