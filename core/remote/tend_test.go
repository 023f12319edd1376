package remote_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/remote"
)

// tender is a core.Tender that does what its hook says.
type tender func(ctx context.Context, ticket []byte, op core.PageOp, off, n int64) (core.PageReport, error)

func (t tender) Tend(ctx context.Context, ticket []byte, op core.PageOp, off, n int64) (core.PageReport, error) {
	return t(ctx, ticket, op, off, n)
}

// tending is a worker of no pages that does as its tender says.
type tending struct {
	tender
	*memoryPages
}

// TestTend has a worker look after pages: it is told what to do, it may take its time, and it says what became of it.
func TestTend(t *testing.T) {
	var asked atomic.Pointer[[]any]
	at := time.Unix(1_800_000_000, 7).UTC()
	misses := map[string]core.Misses{
		"missed": {Forgotten: true, Since: at, Last: &core.MissedRead{At: at, Off: 3 << 40, Len: 5, Why: core.MissCold, Since: at.Add(-time.Hour), Other: true}},
		"never":  {Since: at},
	}
	node, _ := servePages(t, "w", tending{tender(func(ctx context.Context, ticket []byte, op core.PageOp, off, n int64) (core.PageReport, error) {
		asked.Store(&[]any{string(ticket), op, off, n})
		switch string(ticket) {
		case "slow":
			select {
			case <-time.After(2500 * time.Millisecond): // longer than Silence and StorePatience below
			case <-ctx.Done():
			}
		case "bad":
			return core.PageReport{}, errs.New("test.Tend", "", errs.Permission, "no such ticket")
		case "long":
			return core.PageReport{Pages: make([]byte, 3<<20)}, nil
		}
		report := core.PageReport{Media: []string{"memory", "disk"}, Pages: []byte{0, 1, 2}}
		if op == core.MissedPages || op == core.LookPages { // of which it is not passed on
			report.Misses = misses[string(ticket)]
		}
		return report, nil
	}), &memoryPages{}})
	mute, _ := servePages(t, "mute", &memoryPages{})
	r := &roll{}
	r.set(node, mute)
	addr, _ := serve(t, remote.ServerOptions{Tree: &placing{}, Authenticator: users{}, Members: r}, 0)
	c := dial(t, remote.Options{Addrs: []string{addr}, Heartbeat: 50 * time.Millisecond, Silence: time.Second, StorePatience: time.Second})
	waitFor(t, "the workers to be known", func() bool { return len(c.Nodes()) == 2 })
	if names := c.Workers(); !slices.Equal(names, []string{"mute", "w"}) {
		t.Errorf("the workers are %v", names)
	}
	for _, k := range []struct {
		worker, ticket string
		want           error
	}{
		{"w", "slow", nil}, {"w", "quick", nil}, {"w", "bad", errs.Permission}, {"w", "long", errs.TooLarge}, {"w", "again", nil},
		{"mute", "x", errs.Unsupported}, {"nobody", "x", errs.Unavailable},
	} {
		report, err := c.Tend(t.Context(), k.worker, []byte(k.ticket), core.LoadPages, 7, 8)
		if !errors.Is(err, k.want) || k.want == nil && err != nil {
			t.Errorf("%s, %s: got %v", k.worker, k.ticket, err)
		}
		if k.want == nil && (!slices.Equal(report.Media, []string{"memory", "disk"}) || string(report.Pages) != "\x00\x01\x02") {
			t.Errorf("%s: got %v", k.ticket, report)
		}
		if want := []any{k.ticket, core.LoadPages, int64(7), int64(8)}; k.worker == "w" && !slices.Equal(*asked.Load(), want) {
			t.Errorf("the worker was asked %v, want %v", *asked.Load(), want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Tend(ctx, "w", []byte("slow"), core.LoadPages, 0, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that gives up gets %v", err)
	}
	for _, k := range []struct {
		ticket string
		op     core.PageOp
		want   core.Misses
	}{{"missed", core.MissedPages, misses["missed"]}, {"never", core.MissedPages, misses["never"]}, {"missed", core.LookPages, core.Misses{}}} {
		report, err := c.Tend(t.Context(), "w", []byte(k.ticket), k.op, 7, 0)
		if diff := cmp.Diff(k.want, report.Misses); err != nil || diff != "" || len(report.Pages) != 3 {
			t.Errorf("%s, %c: %v, %+v\n%s", k.ticket, k.op, err, report, diff)
		}
	}
	// Every byte has an owner, the same for a block.
	run := core.Run{ID: [16]byte{1}, Off: 10, Len: 300 << 20}
	for off := run.Off; off < run.Off+run.Len; {
		owner, end := c.Keepers(run, off)
		if len(owner) != 1 || end <= off || end > run.Off+run.Len {
			t.Fatalf("at %d: %q until %d", off, owner, end)
		}
		if same, _ := c.Keepers(run, end-1); !slices.Equal(same, owner) {
			t.Errorf("at %d: %q and %q in one block", off, owner, same)
		}
		off = end
	}
}
