package gateway

import (
	"slices"
	"sync"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/gateway/telemetry"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// isolations are those of the stores that this process has opened.
type isolations struct {
	mu  sync.Mutex
	all []isolation
}

type isolation struct {
	store, mount string
	*wrap.Isolation
}

// add puts an isolation around the store of a mount.
func (x *isolations) add(mount core.MountSpec, s ufs.Store, o wrap.IsolateOptions) ufs.Store {
	s = wrap.Isolate(s, o)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = append(x.open(), isolation{mount.URI, mount.Path.File().String(), wrap.IsolationOf(s)})
	return s
}

// open returns those of stores that are not closed. mu must be held.
func (x *isolations) open() []isolation {
	x.all = slices.DeleteFunc(x.all, func(i isolation) bool { return i.Closed() })
	return x.all
}

// numbers is a reading of all of them. Of a store that was opened again, as another is probed with new options, the last one counts.
func (x *isolations) numbers(value func(h wrap.Health) int64) telemetry.Reading {
	return func(report func(int64, telemetry.Labels)) {
		x.mu.Lock()
		last := map[[2]string]*wrap.Isolation{}
		for _, i := range x.open() {
			last[[2]string{i.store, i.mount}] = i.Isolation
		}
		x.mu.Unlock()
		for of, i := range last {
			report(value(i.Health()), telemetry.Labels{"store": of[0], "mount": of[1]})
		}
	}
}

func (x *isolations) counters() []number {
	return []number{
		{"sluice_ufs_breaker_opened_total", "Times that a store was found not to answer, and was not asked any more until it did.",
			x.numbers(func(h wrap.Health) int64 { return h.Opened })},
		{"sluice_ufs_refused_total", "Answers by which a store said that it is asked too much.",
			x.numbers(func(h wrap.Health) int64 { return h.Refused })},
	}
}

func (x *isolations) gauges() []number {
	return []number{
		{"sluice_ufs_breaker_open", "1 while a store does not answer and only probes ask it.",
			x.numbers(func(h wrap.Health) int64 {
				if h.Outage != nil {
					return 1
				}
				return 0
			})},
		{"sluice_ufs_budget_calls", "Calls of a store that may run at once; fewer after it said that it is asked too much.",
			x.numbers(func(h wrap.Health) int64 { return int64(h.Budget) })},
		{"sluice_ufs_running_calls", "Calls of a store that run.", x.numbers(func(h wrap.Health) int64 { return int64(h.Running) })},
		{"sluice_ufs_queued_calls", "Calls of a store that wait for others to end.", x.numbers(func(h wrap.Health) int64 { return int64(h.Waiting) })},
	}
}
