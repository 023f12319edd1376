package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/kvtest"
	"github.com/sluicefs/sluice/etcd"
)

// freeAddrs returns n addresses on which nobody listens now.
func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	var all []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // only after all are known, so that they differ
		all = append(all, l.Addr().String())
	}
	return all
}

// within returns a context that ends with the test, or fails it after d.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// members is a cluster in one process.
type members []*etcd.Server

// options returns the options of n members named m0, m1 …, on loopback.
func options(t testing.TB, n int) []etcd.ServerOptions {
	t.Helper()
	all, join := make([]etcd.ServerOptions, n), map[string]string{}
	for i, addr := range freeAddrs(t, n) {
		name := fmt.Sprint("m", i)
		join[name] = "http://" + addr
		all[i] = etcd.ServerOptions{
			Dir: t.TempDir(), Name: name, InternalListen: addr, Join: join, Addr: name + ".example:7000", UnsafeNoFsync: true,
		}
	}
	return all
}

// startAll starts the members at the same time, as they need each other.
func startAll(t testing.TB, all []etcd.ServerOptions) members {
	t.Helper()
	started, failed := make(members, len(all)), make([]error, len(all))
	var wg sync.WaitGroup
	ctx := within(t, 20*time.Second)
	for i, o := range all {
		wg.Go(func() { started[i], failed[i] = etcd.Start(ctx, o) })
	}
	wg.Wait()
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, s := range started {
			if s != nil {
				wg.Go(func() {
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
	})
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	return started
}

// leader waits until one of the members but those without reigns.
func (m members) leader(t testing.TB, without ...*etcd.Server) (*etcd.Server, *cluster.Reign) {
	t.Helper()
	type won struct {
		s *etcd.Server
		r *cluster.Reign
	}
	winners := make(chan won)
	ctx, cancel := context.WithCancel(within(t, 10*time.Second))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, s := range m {
		if s == nil || slices.Contains(without, s) {
			continue
		}
		wg.Go(func() {
			if r, err := s.Election().Campaign(ctx); err == nil {
				select {
				case winners <- won{s, r}:
				case <-ctx.Done():
				}
			}
		})
	}
	select {
	case w := <-winners:
		return w.s, w.r
	case <-ctx.Done():
		t.Fatal("nobody leads")
		return nil, nil
	}
}

// ended waits for the end of a reign.
func ended(t testing.TB, r *cluster.Reign) {
	t.Helper()
	select {
	case <-r.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the reign goes on")
	}
}

// TestCluster is what three members do while all of them live.
func TestCluster(t *testing.T) {
	t.Parallel()
	m := startAll(t, options(t, 3))
	t.Run("Status", func(t *testing.T) { testClusterStatus(t, m) })
	t.Run("Observe", func(t *testing.T) { testObserve(t, m) })
	t.Run("Handover", func(t *testing.T) { testHandover(t, m) })
	t.Run("KV", func(t *testing.T) { testClusterKV(t, m) }) // the last, as it closes the stores
}

// testClusterKV runs the suite against the leader and the followers.
func testClusterKV(t *testing.T, m members) {
	lead, _ := m.leader(t)
	for i, s := range m {
		name := fmt.Sprint("m", i)
		if s == lead {
			name += ", leader"
		}
		t.Run(name, func(t *testing.T) {
			kvtest.Run(t, func(t *testing.T) meta.KV {
				if _, err := s.KV().DeleteRange(t.Context(), "\x00", "\xff"); err != nil {
					t.Fatal(err)
				}
				return s.KV()
			})
		})
	}
}

// fence claims a journal as a leader does, and returns what holds as long as nobody else claims it.
func fence(t testing.TB, kv meta.KV, who string) meta.Compare {
	t.Helper()
	const key = "g/root/leader"
	ok, rev, err := kv.Txn(within(t, 10*time.Second), meta.Txn{Puts: []meta.KeyValue{{Key: key, Value: []byte(who)}}})
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	return meta.ModRevIs(key, rev)
}

// TestFailover kills the leader: another leads soon, knows all that was acknowledged, and its claim fences the old one.
func TestFailover(t *testing.T) {
	t.Parallel()
	m := startAll(t, options(t, 3))
	lead, reign := m.leader(t)
	put(t, lead.KV(), "acknowledged", "yes")
	old := fence(t, lead.KV(), "old")

	died := time.Now()
	lead.Kill()
	next, _ := m.leader(t, lead)
	t.Logf("a new leader after %v", time.Since(died).Round(time.Millisecond))
	if took := time.Since(died); took > 3*time.Second {
		t.Errorf("nobody led for %v", took)
	}
	ended(t, reign)
	if got, err := next.KV().Get(t.Context(), "acknowledged"); err != nil || string(got.Value) != "yes" {
		t.Errorf("what was acknowledged: got %q, %v", got.Value, err)
	}
	fence(t, next.KV(), "new")
	if ok, _, err := next.KV().Txn(t.Context(), meta.Txn{If: []meta.Compare{old}, Puts: []meta.KeyValue{{Key: "late"}}}); ok || err != nil {
		t.Errorf("a write in the name of the old leader: %v, %v", ok, err)
	}
	if _, err := lead.Election().Campaign(t.Context()); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Campaign of a stopped member: got %v, want Unavailable", err)
	}
}

// TestFive goes on without two of five members, the leader among them.
func TestFive(t *testing.T) {
	t.Parallel()
	m := startAll(t, options(t, 5))
	lead, _ := m.leader(t)
	put(t, lead.KV(), "k", "v")
	other := m[slices.IndexFunc(m, func(s *etcd.Server) bool { return s != lead })]
	other.Kill()
	lead.Kill()
	next, _ := m.leader(t, lead, other)
	if got, err := next.KV().Get(within(t, 10*time.Second), "k"); err != nil || string(got.Value) != "v" {
		t.Errorf("got %q, %v", got.Value, err)
	}
	put(t, next.KV(), "k", "w")
}

// TestPartition cuts the leader off: its reign ends by itself, its writes fail, and they fail after it is back.
func TestPartition(t *testing.T) {
	t.Parallel()
	m := startAll(t, options(t, 3))
	lead, reign := m.leader(t)
	old := fence(t, lead.KV(), "old")
	late := meta.Txn{If: []meta.Compare{old}, Puts: []meta.KeyValue{{Key: "late", Value: []byte("x")}}}

	cut := time.Now()
	lead.Cut()
	next, _ := m.leader(t, lead)
	t.Logf("a new leader after %v", time.Since(cut).Round(time.Millisecond))
	ended(t, reign)
	t.Logf("the old one's reign over after %v", time.Since(cut).Round(time.Millisecond))
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, _, err := lead.KV().Txn(short, late); err == nil {
		t.Error("a member without the others wrote")
	}
	if _, err := lead.KV().Get(short, "g/root/leader"); err == nil {
		t.Error("a member without the others read linearizably")
	}
	fence(t, next.KV(), "new")

	lead.Mend()
	ok, _, err := lead.KV().Txn(within(t, 10*time.Second), late)
	for err != nil && errors.Is(err, errs.Unavailable) {
		ok, _, err = lead.KV().Txn(within(t, 10*time.Second), late)
	}
	if ok || err != nil {
		t.Errorf("a write in the old term after the partition: %v, %v", ok, err)
	}
	if _, err := next.KV().Get(t.Context(), "late"); !errors.Is(err, errs.NotExist) {
		t.Errorf("the old leader's write: got %v, want NotExist", err)
	}
}

// testHandover moves leadership as planned: to a named member, and to any.
func testHandover(t *testing.T, m members) {
	lead, reign := m.leader(t)
	for i := range 4 {
		var to string
		for j, s := range m {
			if s != lead && i%2 == 0 {
				to = fmt.Sprint("m", j)
			}
		}
		began := time.Now()
		if err := lead.Election().Handover(within(t, 5*time.Second), to); err != nil {
			t.Fatal(err)
		}
		select {
		case <-reign.Done():
		default:
			t.Error("the reign outlived the handover")
		}
		next, r := m.leader(t, lead)
		took := time.Since(began)
		t.Logf("handover took %v", took.Round(time.Millisecond))
		if took > 500*time.Millisecond {
			t.Errorf("handover took %v", took)
		}
		if got, err := next.Election().Leader(t.Context()); err != nil || to != "" && got.Name != to || got.Addr != got.Name+".example:7000" {
			t.Errorf("Leader: got %+v, %v, want %q", got, err, to)
		}
		if err := lead.Election().Handover(t.Context(), ""); !errors.Is(err, errs.Precondition) {
			t.Errorf("Handover by who does not lead: got %v, want Precondition", err)
		}
		lead, reign = next, r
	}
	if err := lead.Election().Handover(t.Context(), "nobody"); !errors.Is(err, errs.NotExist) {
		t.Errorf("Handover to nobody: got %v, want NotExist", err)
	}
}

// testObserve sees one leader after the other from a member that never leads.
func testObserve(t *testing.T, m members) {
	lead, _ := m.leader(t)
	i := slices.IndexFunc(m, func(s *etcd.Server) bool { return s != lead })
	seen := make(chan cluster.Member)
	ctx := within(t, 10*time.Second)
	go func() {
		defer close(seen)
		for l, err := range m[i].Election().Observe(ctx) {
			if err != nil {
				return
			}
			if l.Name != "" {
				seen <- l
			}
		}
	}()
	first := <-seen
	if want, err := lead.Election().Leader(ctx); err != nil || first != want {
		t.Errorf("got %+v, want %+v, %v", first, want, err)
	}
	others := slices.DeleteFunc([]string{"m0", "m1", "m2"}, func(n string) bool { return n == first.Name || n == fmt.Sprint("m", i) })
	if err := lead.Election().Handover(ctx, others[0]); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got.Name != others[0] {
		t.Errorf("got %+v, want %s", got, others[0])
	}
}

// TestSingleLeads requires that a member alone leads for good, at once.
func TestSingleLeads(t *testing.T) {
	s := start(t, t.TempDir(), etcd.ServerOptions{UnsafeNoFsync: true})
	r, err := s.Election().Campaign(within(t, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Election().Handover(t.Context(), ""); !errors.Is(err, errs.NotExist) {
		t.Errorf("Handover: got %v, want NotExist", err)
	}
	again, err := s.Election().Campaign(t.Context())
	if err != nil || again != r {
		t.Errorf("a second Campaign in one reign: %v, %v", again, err)
	}
	s.Close()
	ended(t, r)
	if !errors.Is(r.Err(), cluster.ErrClosed) {
		t.Errorf("the reign ended by %v", r.Err())
	}
}

// eventually calls f until it returns nil.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	ctx := within(t, 15*time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

// TestReplace restarts a member, and then replaces it for good with a new one that learns first.
func TestReplace(t *testing.T) {
	t.Parallel()
	all := options(t, 3)
	m := startAll(t, all)
	put(t, m[0].KV(), "k", "1")
	if err := m[2].Close(); err != nil {
		t.Fatal(err)
	}
	put(t, m[0].KV(), "k", "2")
	m[2] = startAll(t, all[2:])[0]
	if got, err := m[2].KV().Get(t.Context(), "k"); err != nil || string(got.Value) != "2" {
		t.Fatalf("after a restart: got %q, %v", got.Value, err)
	}
	m[2].Kill()

	fresh := all[2]
	fresh.Name, fresh.Dir, fresh.InternalListen, fresh.Existing = "m3", t.TempDir(), freeAddrs(t, 1)[0], true
	fresh.Join = map[string]string{"m0": all[0].Join["m0"], "m1": all[0].Join["m1"], "m2": all[0].Join["m2"], "m3": "http://" + fresh.InternalListen}
	eventually(t, func() error { return m[0].AddLearner(t.Context(), fresh.Join["m3"]) })
	if err := m[1].AddLearner(t.Context(), fresh.Join["m3"]); !errors.Is(err, errs.Exist) {
		t.Errorf("AddLearner again: got %v, want Exist", err)
	}
	for _, c := range []struct {
		change etcd.Change
		want   error
	}{
		{etcd.Change{Promote: []string{fresh.Join["m3"]}}, errs.Invalid}, // 4 voters
		{etcd.Change{Remove: []string{"m2"}}, errs.Invalid},              // 2 voters
		{etcd.Change{Promote: []string{"m9"}, Remove: []string{"m2"}}, errs.NotExist},
		{etcd.Change{Promote: []string{fresh.Join["m3"]}, Remove: []string{"m0"}}, errs.Invalid},      // itself
		{etcd.Change{Promote: []string{fresh.Join["m3"]}, Remove: []string{"m2"}}, errs.Precondition}, // not started
	} {
		if err := m[0].Change(t.Context(), c.change); !errors.Is(err, c.want) {
			t.Errorf("%+v: got %v, want %v", c.change, err, c.want)
		}
	}
	m = append(m, startAll(t, []etcd.ServerOptions{fresh})...)
	change := etcd.Change{Promote: []string{"m3"}, Remove: []string{"m2"}}
	for range 2 { // the second finds all done
		eventually(t, func() error { return m[0].Change(within(t, 10*time.Second), change) })
	}
	got, err := m[3].Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, info := range got {
		if info.Learner {
			t.Errorf("%s still learns", info.Name)
		}
		names = append(names, info.Name)
	}
	if want := []string{"m0", "m1", "m3"}; !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	lead, _ := m.leader(t, m[2])
	if lead != m[3] {
		eventually(t, func() error { return lead.Election().Handover(t.Context(), "m3") })
	}
	put(t, m[3].KV(), "k", "3")
}

// TestGrow makes three members of one that began alone, without a port.
func TestGrow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, dir, etcd.ServerOptions{UnsafeNoFsync: true})
	put(t, s.KV(), "k", "alone")
	if err := s.AddLearner(t.Context(), "http://127.0.0.1:1"); !errors.Is(err, errs.Invalid) {
		t.Errorf("AddLearner without a port: got %v, want Invalid", err)
	}
	s.Close()
	all := options(t, 3)
	first := all[0]
	first.Dir, first.Join = dir, nil
	m := startAll(t, []etcd.ServerOptions{first})
	for i := 1; i < 3; i++ {
		all[i].Existing = true
		added, grown, url := make(chan error, 1), m[0], all[i].Join[all[i].Name]
		time.AfterFunc(300*time.Millisecond, func() { // it asks before the others know of it, and again
			err := grown.AddLearner(t.Context(), url)
			for range 20 { // the one before is still learning
				if err != nil {
					err = grown.AddLearner(within(t, time.Second), url)
				}
			}
			added <- err
		})
		all[i].Join = map[string]string{"m0": all[0].Join["m0"], "m1": all[0].Join["m1"], "m2": all[0].Join["m2"]}
		if i == 1 {
			delete(all[i].Join, "m2")
		}
		m = append(m, startAll(t, all[i:i+1])...)
		if err := <-added; err != nil {
			t.Fatal(err)
		}
	}
	if !m[0].OnlyVoter() || m[1].OnlyVoter() {
		t.Error("beside learners the first member votes alone")
	}
	if err := m[0].Change(within(t, 15*time.Second), etcd.Change{Promote: []string{"m1", "m2"}}); err != nil {
		t.Fatal(err)
	}
	if m[0].OnlyVoter() {
		t.Error("one of three voters takes itself for the only one")
	}
	m[0].Kill()
	next, _ := m.leader(t, m[0])
	if got, err := next.KV().Get(within(t, 5*time.Second), "k"); err != nil || string(got.Value) != "alone" {
		t.Errorf("got %q, %v", got.Value, err)
	}
}

func TestOptionsRefused(t *testing.T) {
	join := func(names ...string) map[string]string {
		m := map[string]string{}
		for i, n := range names {
			m[n] = fmt.Sprintf("http://127.0.0.1:%d", 7000+i)
		}
		return m
	}
	for name, o := range map[string]etcd.ServerOptions{
		"two members":            {Name: "a", InternalListen: "127.0.0.1:0", Join: join("a", "b")},
		"four members":           {Name: "a", InternalListen: "127.0.0.1:0", Join: join("a", "b", "c", "d")},
		"six members":            {Name: "a", InternalListen: "127.0.0.1:0", Join: join("a", "b", "c", "d", "e", "f")},
		"not among them":         {Name: "x", InternalListen: "127.0.0.1:0", Join: join("a", "b", "c")},
		"no address":             {Name: "a", Join: join("a", "b", "c")},
		"a host name":            {Name: "a", InternalListen: "example.com:1"},
		"no port":                {Name: "a", InternalListen: "127.0.0.1"},
		"any address":            {Name: "a", InternalListen: "0.0.0.0:7000"},
		"any port":               {Name: "a", InternalListen: "127.0.0.1:0"},
		"join nobody":            {Name: "a", InternalListen: "127.0.0.1:1", Existing: true},
		"half a certificate":     {Name: "a", InternalListen: "127.0.0.1:1", TLS: etcd.TLS{CA: "ca.pem"}},
		"TLS for nobody":         {Name: "a", TLS: etcd.TLS{CA: "ca.pem", Cert: "c.pem", Key: "k.pem"}},
		"http beside TLS":        {Name: "a", InternalListen: "127.0.0.1:1", Join: join("a"), TLS: etcd.TLS{CA: "ca.pem", Cert: "c.pem", Key: "k.pem"}},
		"a path":                 {Name: "a", InternalListen: "127.0.0.1:1", Join: map[string]string{"a": "http://127.0.0.1:1/x"}},
		"two addresses":          {Name: "a", InternalListen: "127.0.0.1:1", Join: map[string]string{"a": "http://127.0.0.1:1,http://127.0.0.1:2"}},
		"a name with a comma":    {Name: "a,b", InternalListen: "127.0.0.1:1"},
		"too quick an election":  {Name: "a", InternalListen: "127.0.0.1:1", ElectionMs: 100, TickMs: 50},
		"a nameless other":       {Name: "a", InternalListen: "127.0.0.1:1", Join: join("a", "", "c")},
		"an address that is not": {Name: "a", InternalListen: "127.0.0.1:1", Join: map[string]string{"a": "127.0.0.1:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Dir = t.TempDir()
			s, err := etcd.Start(t.Context(), o)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, errs.Invalid) {
				t.Errorf("got %v, want Invalid", err)
			}
		})
	}
}
