package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// health answers whether the process lives and whether it should be sent requests. It is safe for concurrent use.
type health struct {
	mu     sync.Mutex
	phase  string // why the process is not ready, "" while it serves
	checks []check
	note   func() string        // what an operator should know although the process is ready; nil: nothing
	aside  func() string        // why it should be sent no requests although it serves them, "" if it should; nil: never
	since  map[string]time.Time // the first failure after the last success, by the check's name; zero after a success
}

// check is one thing that must work for the process to be ready. Once it has worked, it may fail for the time of hold: what
// all processes of a cluster wait for at the same time, a new leader, is no reason to send requests to none of them.
type check struct {
	name string
	run  func(context.Context) error
	hold time.Duration
}

// leaderHold is how long a process stays ready without a leading master. Its requests wait for one, for less than that.
const leaderHold = 10 * time.Second

// checkTimeout bounds a check: a store that hangs must not hang the prober.
const checkTimeout = time.Second

func newHealth() *health { return &health{phase: "starting", since: map[string]time.Time{}} }

// held notes what became of a check, and reports whether its failure does not count yet.
func (h *health) held(c check, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	since, worked := h.since[c.name]
	switch {
	case err == nil:
		h.since[c.name] = time.Time{}
	case !worked:
	case since.IsZero():
		h.since[c.name] = time.Now()
		return c.hold > 0
	default:
		return time.Since(since) < c.hold
	}
	return false
}

// enter sets why the process is not ready; "" says that it is, as far as its checks agree.
func (h *health) enter(phase string, checks ...check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.phase = phase
	h.checks = append(h.checks, checks...)
}

// remark sets what tells an operator of trouble that is none of whoever sends requests.
func (h *health) remark(note func() string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note = note
}

// stepAside sets what says why the process should be sent no requests although it serves them.
func (h *health) stepAside(why func() string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.aside = why
}

// live serves /livez: the process answers. It depends on nothing else, or a store's outage would get it killed.
func (h *health) live(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

// ready serves /readyz: 200 if every check passes, else 503. With ?verbose it lists the checks; a check that failed is
// always listed, by the kind of its error only, since anybody may ask.
func (h *health) ready(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	phase, checks, aside, note := h.phase, h.checks, h.aside, h.note
	h.mu.Unlock()
	if phase == "" && aside != nil {
		phase = aside()
	}
	results := make([]error, len(checks))
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i] = c.run(ctx) })
	}
	wg.Wait()

	var passed, failed strings.Builder
	if phase == "" {
		passed.WriteString("[+]serving ok\n")
	} else {
		fmt.Fprintf(&failed, "[-]serving failed: %s\n", phase)
	}
	if note != nil {
		if text := note(); text != "" {
			fmt.Fprintf(&passed, "[!]%s\n", text)
		}
	}
	for i, c := range checks {
		held := h.held(c, results[i])
		switch err := results[i]; {
		case err == nil:
			fmt.Fprintf(&passed, "[+]%s ok\n", c.name)
		case held:
			fmt.Fprintf(&passed, "[+]%s fails for less than %v\n", c.name, c.hold)
		case ctx.Err() != nil:
			fmt.Fprintf(&failed, "[-]%s failed: no answer within %v\n", c.name, checkTimeout)
		default:
			fmt.Fprintf(&failed, "[-]%s failed: %v\n", c.name, errs.KindOf(err))
		}
	}
	status, last := http.StatusOK, "ok\n"
	if failed.Len() > 0 {
		status, last = http.StatusServiceUnavailable, "not ready\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if r.URL.Query().Has("verbose") {
		fmt.Fprint(w, passed.String())
	}
	fmt.Fprint(w, failed.String(), last)
}
