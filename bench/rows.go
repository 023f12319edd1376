package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// A row is one kind of work, measured on one server, the subject, and its peers.
type row struct {
	name, unit string
	conns      int
	subject    string
	peers      []string
	upload     int64         // bytes that one operation uploads
	turn       time.Duration // 0: 0.7 s
	// loads returns what the connections do in the given round.
	loads func(s *server, conns, round int) []load
	// whole, if not nil, measures instead of loads.
	whole func(s *server, conns, round int, d time.Duration) (sample, error)
	needs need
}

// among returns the row with the peers that are asked for, another build of sluice among them if there is one.
func (r row) among(o options) row {
	peers := r.peers
	if o.base != "" && r.subject == sluice {
		peers = append([]string{sluiceBase}, peers...)
	}
	r.peers = slices.DeleteFunc(slices.Clone(peers), func(name string) bool { return !o.peers.MatchString(name) })
	return r
}

// need is what objects must be there.
type need uint8

const (
	need64m need = 1 << iota
	need1m
	need4k
	needList
)

func needs(rows []row) (all need) {
	for _, r := range rows {
		all |= r.needs
	}
	return all
}

const (
	mib      = 1 << 20
	kib      = 1 << 10
	rangeLen = 256 * kib
	listKeys = 10_000
	listPage = 1_000
	partLen  = 8 * mib
)

// sizes are the objects that are read: how many of each size, and below which prefix.
var sizes = []struct {
	need   need
	prefix string
	count  int
	bytes  int64
}{{need64m, "64m/", 4, 64 * mib}, {need1m, "1m/", 64, mib}, {need4k, "4k/", 1000, 4 * kib}}

// rows are all rows, in the order in which they are measured.
func rows() []row {
	reads := []string{versitygw, serveContent, rawWrite, rawSendfile}
	small := append([]string{rclone}, reads...)
	writes := []string{minio, versitygw, durable}
	all := []row{
		{name: "get64m_c1", unit: "MiB/s", conns: 1, subject: sluice, peers: reads, loads: gets("64m/", 4, 64*mib), needs: need64m},
		{name: "get64m_c8", unit: "MiB/s", conns: 8, subject: sluice, peers: reads, loads: gets("64m/", 4, 64*mib), needs: need64m},
		{name: "get64m_c8_disk", unit: "MiB/s", conns: 8, subject: sluiceDisk, peers: []string{versitygw, rawWriteD, rawSendfileD}, loads: gets("64m/", 4, 64*mib), needs: need64m},
		{name: "get1m_c8", unit: "MiB/s", conns: 8, subject: sluice, peers: reads, loads: gets("1m/", 64, mib), needs: need1m},
		{name: "range256k_c8", unit: "MiB/s", conns: 8, subject: sluice, peers: small, loads: ranges, needs: need64m},
		{name: "get4k_c16", unit: "op/s", conns: 16, subject: sluice, peers: small, loads: gets("4k/", 1000, 4*kib), needs: need4k},
		{name: "head_c16", unit: "op/s", conns: 16, subject: sluice, peers: []string{versitygw, rclone, serveContent}, loads: heads, needs: need4k},
		{name: "list1000_c4", unit: "op/s", conns: 4, subject: sluice, peers: []string{versitygw}, loads: lists, needs: needList},
		{name: "put4k_c16", unit: "op/s", conns: 16, subject: sluice, peers: writes, upload: 4 * kib, whole: puts(4 * kib)},
		{name: "put4k_async_c16", unit: "op/s", conns: 16, subject: sluiceAsync, peers: writes, upload: 4 * kib, whole: puts(4 * kib)},
		{name: "put1m_c8", unit: "MiB/s", conns: 8, subject: sluice, peers: writes, upload: mib, whole: puts(mib)},
		{name: "multipart64m", unit: "MiB/s", conns: 4, subject: sluice, peers: []string{versitygw}, upload: 64 * mib, whole: multipart},
	}
	all = append(append(all, remoteRows()...), coldRow())
	for _, medium := range []struct{ name, write, sendfile string }{{"mem", rawWrite, rawSendfile}, {"disk", rawWriteD, rawSendfileD}} {
		for _, size := range sizes {
			for _, conns := range []int{1, 8} {
				name := fmt.Sprintf("send%s_c%d_%s", size.prefix[:len(size.prefix)-1], conns, medium.name)
				all = append(all, row{name: name, unit: "MiB/s", conns: conns, subject: medium.write, peers: []string{medium.sendfile},
					loads: gets(size.prefix, size.count, size.bytes), needs: size.need, turn: 300 * time.Millisecond})
			}
		}
		all = append(all, row{name: "send256k_c8_" + medium.name, unit: "MiB/s", conns: 8, subject: medium.write, peers: []string{medium.sendfile},
			loads: ranges, needs: need64m, turn: 300 * time.Millisecond})
	}
	return all
}

// signed returns loads that repeat the calls, each connection from another one on.
func signed(s *server, conns int, calls []call, l load) []load {
	wires := make([][]byte, len(calls))
	now := time.Now()
	for i := range calls {
		wires[i] = calls[i].wire(s.addr, now)
	}
	loads := make([]load, conns)
	for c := range loads {
		from := c * len(wires) / conns
		loads[c] = l
		loads[c].request = func(i int) [][]byte { i = (from + i) % len(wires); return wires[i : i+1] }
	}
	return loads
}

func gets(prefix string, count int, size int64) func(*server, int, int) []load {
	return func(s *server, conns, _ int) []load {
		calls := make([]call, count)
		for i := range calls {
			calls[i] = call{method: "GET", path: "/bench/" + prefix + strconv.Itoa(i), length: -1}
		}
		return signed(s, conns, calls, load{status: 200, length: size})
	}
}

// ranges reads 256 KiB from anywhere in the large objects.
func ranges(s *server, conns, _ int) []load {
	calls := make([]call, 512)
	for i := range calls {
		off := int64(i) * 7_654_321 % (64*mib - rangeLen)
		calls[i] = call{method: "GET", path: "/bench/64m/" + strconv.Itoa(i%4), length: -1,
			header: []string{fmt.Sprintf("Range: bytes=%d-%d", off, off+rangeLen-1)}}
	}
	return signed(s, conns, calls, load{status: 206, length: rangeLen})
}

func heads(s *server, conns, _ int) []load {
	calls := make([]call, 1000)
	for i := range calls {
		calls[i] = call{method: "HEAD", path: "/bench/4k/" + strconv.Itoa(i), length: -1}
	}
	return signed(s, conns, calls, load{status: 200, length: 4 * kib, head: true})
}

func listKey(i int) string { return fmt.Sprintf("key-%05d", i) }

// lists reads the ten pages of the bucket list.
func lists(s *server, conns, _ int) []load {
	calls := make([]call, listKeys/listPage)
	for i := range calls {
		q := url.Values{"list-type": {"2"}, "max-keys": {strconv.Itoa(listPage)}}
		if i > 0 {
			q.Set("start-after", listKey(i*listPage-1))
		}
		calls[i] = call{method: "GET", path: "/list", query: q, length: -1}
	}
	return signed(s, conns, calls, load{status: 200, length: -1})
}

// puts writes objects of one size under names that did not exist.
func puts(size int64) func(*server, int, int, time.Duration) (sample, error) {
	return func(s *server, conns, round int, d time.Duration) (sample, error) {
		if s.name == durable {
			return durableLoop(s.dir, conns, round, size, d)
		}
		body := content("put", size)
		loads := make([]load, conns)
		for c := range loads {
			loads[c] = load{status: 200, length: 0, held: s.name == sluiceAsync, request: func(i int) [][]byte {
				p := call{method: "PUT", path: fmt.Sprintf("/put/%d-%d-%d-%d", size, round, c, i), length: size}
				head := p.wire(s.addr, time.Now())
				if size > 64*kib {
					return [][]byte{head, body}
				}
				return [][]byte{append(head, body...)}
			}}
		}
		got, err := run(s.addr, d, loads)
		if err == nil && s.name == sluiceAsync {
			err = s.persisted()
		}
		return got, err
	}
}

// result is one row against one peer, as it is printed.
type result struct {
	Name         string  `json:"name"`
	Value        float64 `json:"value"` // median of the rounds
	Unit         string  `json:"unit"`
	Against      string  `json:"against"`
	AgainstValue float64 `json:"against_value"`
	Ratio        float64 `json:"ratio"` // median of the rounds' ratios
	RatioQ1      float64 `json:"ratio_q1"`
	RatioQ3      float64 `json:"ratio_q3"`
	Pairs        int     `json:"pairs"`
	Subject      string  `json:"subject"`
	Connections  int     `json:"connections"`
	P50          float64 `json:"p50_us"` // of whole operations of all rounds
	P99          float64 `json:"p99_us"`
	AgainstP50   float64 `json:"against_p50_us"`
	AgainstP99   float64 `json:"against_p99_us"`
	CPU          float64 `json:"cpu_us"` // processor time of the server for one operation
	AgainstCPU   float64 `json:"against_cpu_us"`
}

// turns is what one server did in all rounds of a row.
type turns struct {
	values    []float64
	latencies []time.Duration
	ops       float64
	cpu       time.Duration
}

// measure runs the rounds. Every other round goes through the servers in the opposite order.
func (r *row) measure(ctx context.Context, o options, servers []*server) ([]result, error) {
	d := cmp.Or(r.turn, 700*time.Millisecond)
	if o.short {
		d /= 8
	}
	var turn []*server
	for _, name := range append([]string{r.subject}, r.peers...) {
		i := slices.IndexFunc(servers, func(s *server) bool { return s.name == name })
		turn = append(turn, servers[i])
	}
	found := map[string]*turns{}
	for _, s := range turn {
		found[s.name] = &turns{}
	}
	for round := range o.pairs + 1 { // the first warms up
		for _, s := range turn {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			t := found[s.name]
			if round == 0 {
				t = &turns{}
			}
			if err := r.take(s, round, d, t); err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
		}
		slices.Reverse(turn)
	}
	var all []result
	a := found[r.subject]
	for _, name := range r.peers {
		b := found[name]
		ratios := make([]float64, len(a.values))
		for i := range ratios {
			ratios[i] = a.values[i] / b.values[i]
		}
		res := result{
			Name: r.name, Unit: r.unit, Subject: r.subject, Against: name, Pairs: len(ratios), Connections: r.conns,
			Value: quantile(a.values, .5), AgainstValue: quantile(b.values, .5),
			Ratio: quantile(ratios, .5), RatioQ1: quantile(ratios, .25), RatioQ3: quantile(ratios, .75),
			P50: micros(a.latencies, .5), P99: micros(a.latencies, .99), AgainstP50: micros(b.latencies, .5), AgainstP99: micros(b.latencies, .99),
			CPU: a.perOp(), AgainstCPU: b.perOp(),
		}
		all = append(all, res)
	}
	return all, nil
}

// take gives one server its turn.
func (r *row) take(s *server, round int, d time.Duration, t *turns) error {
	before := s.total()
	var got sample
	var err error
	var length int64
	if r.whole != nil {
		got, err = r.whole(s, r.conns, round, d)
	} else {
		loads := r.loads(s, r.conns, round)
		length = loads[0].length
		got, err = run(s.addr, d, loads)
	}
	if err != nil {
		return err
	}
	t.cpu += s.total() - before
	ops := float64(got.ops)
	value := ops / got.took.Seconds()
	if r.unit == "MiB/s" {
		bytes := float64(got.bytes)
		if r.upload > 0 {
			bytes = ops * float64(r.upload)
		} else if length > 0 { // the last bodies were not read to their ends, and count as far as they were
			ops = bytes / float64(length)
		}
		value = bytes / mib / got.took.Seconds()
	}
	if value == 0 {
		return fmt.Errorf("nothing was done in %v", d)
	}
	t.values = append(t.values, value)
	t.ops += ops
	t.latencies = append(t.latencies, got.latencies...)
	return nil
}

func (t *turns) perOp() float64 {
	if t.ops == 0 {
		return 0
	}
	return round2(float64(t.cpu.Microseconds()) / t.ops)
}

// quantile returns the value below which the fraction q of the values lies, between the two next to it where it is none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	at := q * float64(len(v)-1)
	i := int(at)
	if i+1 == len(v) {
		return round2(v[i])
	}
	return round2(v[i] + (at-float64(i))*(v[i+1]-v[i]))
}

// round2 rounds to three digits after the point.
func round2(v float64) float64 {
	r, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'f', 3, 64), 64)
	return r
}

func micros(ds []time.Duration, q float64) float64 {
	if len(ds) == 0 {
		return 0
	}
	slices.Sort(ds)
	return float64(ds[int(q*float64(len(ds)-1))].Microseconds())
}
