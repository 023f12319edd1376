package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/gateway/admin"
)

/*
A planned change of leader. The one that goes knows more than one that died, and so nothing need be waited for that is not
under way:

	choose a successor that answers and follows      calls go on
	hold back new calls, let those in progress end    settleTime at most
	release the journal (meta.Log.Release)            nothing is answered any more
	have the successor lead (cluster.Election)
	send the calls held back to it                    where they wait until it is ready

What takes longer than settleTime, such as a copy within a store, fails there and is asked again at the successor.
*/

const (
	settleTime  = 200 * time.Millisecond // for calls in progress
	releaseTime = 2 * time.Second        // for the journal to be released
	heldTime    = time.Second            // how long a call is held back at most; well within remote.Silence
	unknownTime = 100 * time.Millisecond // how long one is held back because nobody is known to lead
	probeTime   = 500 * time.Millisecond // for a master to say how it is
	readyTime   = 10 * time.Second       // for a successor to answer
	readyEvery  = 5 * time.Millisecond
)

// reign is a time in which this master leads and answers.
type reign struct {
	ns     *namespace.Namespace
	log    *meta.Log
	server *remote.Server

	work    *work          // nil before server is there
	working sync.WaitGroup // runs it
}

// turn is what calls wait for that this master cannot answer now: that somebody leads, and who.
type turn struct {
	mu      sync.Mutex
	lead    cluster.Member // the zero Member: nobody
	leading *reign         // this master's, nil unless it answers
	leaving chan struct{}  // not nil while it hands over; closed when it has
	changed chan struct{}  // closed and replaced when any of these changes
}

func newTurn() *turn { return &turn{changed: make(chan struct{})} }

// set changes t with f and wakes those who wait.
func (t *turn) set(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
	close(t.changed)
	t.changed = make(chan struct{})
}

// now returns this master's reign, nil unless it answers.
func (t *turn) now() *reign {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leading
}

// answers reports whether this master leads and is not handing over.
func (t *turn) answers() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leading != nil && t.leaving == nil
}

// handing returns what is closed when a handover has ended, nil if there is none.
func (t *turn) handing() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leaving
}

// errHandedOver is why a reign ended that was handed over.
var errHandedOver = errors.New("leadership was handed over")

// elsewhere says who leads. While this master is about to, or hands over, or nobody is known to lead, it waits.
func (m *master) elsewhere(ctx context.Context) error {
	began := time.Now()
	for {
		m.turn.mu.Lock()
		lead, mine, leaving, changed := m.turn.lead, m.turn.leading != nil, m.turn.leaving != nil, m.turn.changed
		m.turn.mu.Unlock()
		limit := heldTime
		switch {
		case lead != cluster.Member{} && lead.Name != m.g.cfg.Name:
			return &remote.NotLeaderError{Leader: lead.Addr}
		case leaving: // until it is known whom to
		case mine:
			return &remote.NotLeaderError{Leader: m.g.internalAddr()}
		case lead == cluster.Member{}:
			limit = unknownTime
		}
		wait := time.NewTimer(limit - time.Since(began))
		select {
		case <-changed:
			wait.Stop()
		case <-wait.C:
			return &remote.NotLeaderError{}
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

// watchLeader keeps who leads until ctx ends.
func (m *master) watchLeader(ctx context.Context) {
	for ctx.Err() == nil {
		for lead, err := range m.election.Observe(ctx) {
			if err != nil {
				break
			}
			m.turn.set(func() { m.turn.lead = lead })
		}
		select {
		case <-time.After(readyEvery):
		case <-ctx.Done():
		}
	}
}

// lease is what a reign's calls are let through by.
func (m *master) lease(r *reign) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		m.turn.mu.Lock()
		answers := m.turn.leading == r && m.turn.leaving == nil
		m.turn.mu.Unlock()
		if !answers {
			return m.elsewhere(ctx)
		}
		err := r.log.Lease(ctx)
		if err != nil && ctx.Err() == nil {
			return m.elsewhere(ctx)
		}
		return err
	}
}

// Handover implements admin.Masters.
func (m *master) Handover(ctx context.Context, to string) (admin.Handover, error) {
	const op = "gateway.Handover"
	done := admin.Handover{From: m.g.cfg.Name}
	if to == m.g.cfg.Name {
		return done, errs.New(op, to, errs.Precondition, "this master leads already")
	}
	next, err := m.successor(ctx, to)
	if err != nil {
		return done, err
	}
	r, finish, err := m.leave()
	if err != nil {
		return done, err
	}
	began := time.Now()
	err = m.give(ctx, r, next.Name)
	finish()
	if err != nil {
		return done, err
	}
	done.To, err = m.taken(ctx, next)
	done.Ms = time.Since(began).Milliseconds()
	m.g.log.Info("handed over", "to", done.To, "ms", done.Ms, "err", err)
	return done, err
}

// leave begins to hold back calls. finish lets them go where the leader is by then.
func (m *master) leave() (r *reign, finish func(), err error) {
	left := make(chan struct{})
	busy := false
	m.turn.set(func() {
		if busy = m.turn.leaving != nil; !busy && m.turn.leading != nil {
			r, m.turn.leaving = m.turn.leading, left
		}
	})
	switch {
	case busy:
		return nil, nil, errs.New("gateway.Handover", "", errs.Busy, "a handover is under way")
	case r == nil:
		return nil, nil, errs.New("gateway.Handover", "", errs.Unavailable, "this master leads no more; try again")
	}
	return r, func() {
		m.turn.set(func() { m.turn.leaving = nil })
		close(left)
	}, nil
}

// give ends the reign r and has the master named to lead.
func (m *master) give(ctx context.Context, r *reign, to string) error {
	settle, cancel := context.WithTimeout(ctx, settleTime)
	err := r.server.Settle(settle)
	cancel()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		m.g.log.Info("calls go on while leadership is handed over; they are asked again at the successor")
	}
	// From here on it is not the caller's to give up.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), releaseTime+handoverTime)
	defer cancel()
	release, stop := context.WithTimeout(ctx, releaseTime)
	err = r.log.Release(release)
	stop()
	if errors.Is(err, context.DeadlineExceeded) {
		return errs.New("gateway.Handover", to, errs.Unavailable, "the journal does not take what is queued; this master leads on")
	}
	if err != nil {
		m.g.log.Warn("the next leader waits for the read lease", "err", err)
	}
	if err := m.election.Handover(ctx, to); err != nil && !errors.Is(err, errs.Precondition) { // it leads no more
		return err
	}
	return nil
}

// taken waits until the successor answers, and returns who leads.
func (m *master) taken(ctx context.Context, next cluster.Member) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		if next.Addr != "" {
			if s, err := m.ask(ctx, next.Addr); err == nil && s.Leading {
				return s.Name, nil
			}
		}
		if lead, err := m.election.Leader(ctx); err == nil && lead.Name != m.g.cfg.Name {
			next = lead
		}
		select {
		case <-time.After(readyEvery):
		case <-ctx.Done():
			return next.Name, errs.New("gateway.Handover", next.Name, errs.Unavailable, "the successor does not answer yet; look at its log")
		}
	}
}

// successor returns a master that can take over: the one named to, or of all others the one that has followed farthest.
func (m *master) successor(ctx context.Context, to string) (cluster.Member, error) {
	const op = "gateway.Handover"
	if m.g.etcd == nil { // the candidates are the election's to know
		return cluster.Member{Name: to}, nil
	}
	members, err := m.g.etcd.Members(ctx)
	if err != nil {
		return cluster.Member{}, err
	}
	var candidates []cluster.Member
	for _, e := range members {
		if !e.Learner && e.Name != "" && e.Name != m.g.cfg.Name && (to == "" || e.Name == to) {
			candidates = append(candidates, cluster.Member{Name: e.Name, Addr: e.Addr})
		}
	}
	if len(candidates) == 0 {
		return cluster.Member{}, errs.New(op, to, errs.NotExist, "no other master that votes has this name")
	}
	states, problems := make([]memberState, len(candidates)), make([]error, len(candidates))
	var asked sync.WaitGroup
	for i, c := range candidates {
		asked.Go(func() { states[i], problems[i] = m.ask(ctx, c.Addr) })
	}
	asked.Wait()
	best := -1
	for i, s := range states {
		switch {
		case problems[i] != nil:
		case !s.Following:
			problems[i] = errs.New(op, s.Name, errs.Precondition, "it does not follow the journal yet")
		case to == "" && s.Draining:
			problems[i] = errs.New(op, s.Name, errs.Precondition, "it is being drained")
		case best < 0 || s.Seq > states[best].Seq:
			best = i
		}
	}
	if best < 0 {
		return cluster.Member{}, errs.E(op, to, errs.Unavailable, errors.Join(problems...))
	}
	return candidates[best], nil
}

// memberState is how a master is, as it tells another.
type memberState struct {
	Name      string `json:"name"`
	Leading   bool   `json:"leading"`   // it answers
	Following bool   `json:"following"` // it can take over
	Draining  bool   `json:"draining"`
	Seq       uint64 `json:"seq"`  // the last record it has applied
	Size      int64  `json:"size"` // of its database, in bytes
	InUse     int64  `json:"in_use"`
}

func (m *master) state() memberState {
	s := memberState{Name: m.g.cfg.Name, Leading: m.turn.now() != nil, Following: m.following.Load(), Draining: m.draining()}
	if log := m.log.Load(); log != nil {
		s.Seq = log.Seq()
	}
	s.Size, s.InUse = m.g.journalSpace.size.Load(), m.g.journalSpace.inUse.Load()
	return s
}

// local is what a master answers that is asked for itself, whoever leads.
func (m *master) local() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statePath, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(m.state()) // who is gone needs no answer
	})
	mux.HandleFunc("POST "+defragPath, func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(m.g.defragOwn(r.Context()))
	})
	return mux
}

const (
	statePath  = "/member/state"
	defragPath = "/member/defrag"
)

// ask asks the master at addr how it is.
func (m *master) ask(ctx context.Context, addr string) (s memberState, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	return s, m.call(ctx, addr, http.MethodGet, statePath, &s)
}

// call has the master at addr answer for itself, and decodes what it answers.
func (m *master) call(ctx context.Context, addr, method, path string, out any) error {
	r, err := http.NewRequestWithContext(ctx, method, path, nil)
	if err != nil {
		return err
	}
	resp, err := m.g.masters.Tunnel(addr).RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errs.New("gateway.call", addr, errs.Unavailable, fmt.Sprintf("the master answered %s", resp.Status))
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// resign hands over because the process stops: to whoever can, or to nobody, so that the next leader need not wait.
func (m *master) resign(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handoverTime)
	defer cancel()
	if m.turn.now() == nil {
		return
	}
	_, err := m.Handover(ctx, "")
	if err == nil {
		return
	}
	m.g.log.Info("nobody takes over", "err", err)
	if r, finish, lerr := m.leave(); lerr == nil {
		if err := r.log.Release(ctx); err != nil {
			m.g.log.Info("the next leader waits for the read lease", "err", err)
		}
		finish()
	}
}
