package namespace

import (
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sluicefs/sluice/core"
)

// locks are the writers' locks on names. A writer holds a name exclusively and its ancestors shared; a file and a directory
// of one name share a lock. Locks are taken in the order of their names, so that writers never wait for each other in a
// circle. Waiting is first come, first served.
type locks struct {
	seed   maphash.Seed
	shards [64]lockShard
}

type lockShard struct {
	mu    sync.Mutex
	names map[string]*nameLock
}

// nameLock is one held or awaited name. Its fields are guarded by the shard's mutex.
type nameLock struct {
	shared  int
	held    bool
	waiting []*waiter
}

type waiter struct {
	exclusive bool
	granted   chan struct{}
}

func newLocks() *locks {
	l := &locks{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].names = map[string]*nameLock{}
	}
	return l
}

type want struct {
	name      string
	exclusive bool
}

// wants returns what a writer of the paths must hold, in lock order.
func wants(paths []core.Path) []want {
	all := make([]want, 0, 8)
	for _, p := range paths {
		name := strings.TrimSuffix(p.String(), "/") // the root is ""
		all = append(all, want{name, true})
		for name != "" {
			name = name[:strings.LastIndexByte(name, '/')]
			all = append(all, want{name, false})
		}
	}
	slices.SortFunc(all, func(a, b want) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		if a.exclusive == b.exclusive {
			return 0
		}
		if a.exclusive {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(all, func(a, b want) bool { return a.name == b.name })
}

// lock waits until it holds the paths and returns what gives them back. It fails only with ctx.
func (l *locks) lock(ctx context.Context, paths ...core.Path) (unlock func(), err error) {
	ws := wants(paths)
	for i, w := range ws {
		if err := l.take(ctx, w); err != nil {
			l.give(ws[:i])
			return nil, err
		}
	}
	return l.giving(ws), nil
}

// giving returns what gives ws back, and does nothing when it is called again.
func (l *locks) giving(ws []want) func() {
	var given atomic.Bool
	return func() {
		if !given.Swap(true) {
			l.give(ws)
		}
	}
}

// tryLock is lock without waiting; ok is false if a name is not free.
func (l *locks) tryLock(paths ...core.Path) (unlock func(), ok bool) { return l.try(wants(paths)) }

// tryShare keeps writers of p away without waiting, but not those of what is below it; ok is false if one has p.
func (l *locks) tryShare(p core.Path) (unlock func(), ok bool) {
	ws := wants([]core.Path{p})
	for i := range ws {
		ws[i].exclusive = false
	}
	return l.try(ws)
}

func (l *locks) try(ws []want) (unlock func(), ok bool) {
	for i, w := range ws {
		if !l.tryTake(w) {
			l.give(ws[:i])
			return nil, false
		}
	}
	return l.giving(ws), true
}

func (l *locks) shard(name string) *lockShard {
	return &l.shards[maphash.String(l.seed, name)%uint64(len(l.shards))]
}

func (s *lockShard) get(name string) *nameLock {
	n := s.names[name]
	if n == nil {
		n = &nameLock{}
		s.names[name] = n
	}
	return n
}

func (n *nameLock) free(exclusive bool) bool {
	return !n.held && (!exclusive || n.shared == 0)
}

func (n *nameLock) grant(exclusive bool) {
	if exclusive {
		n.held = true
	} else {
		n.shared++
	}
}

func (l *locks) tryTake(w want) bool {
	s := l.shard(w.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.get(w.name)
	if len(n.waiting) > 0 || !n.free(w.exclusive) {
		return false
	}
	n.grant(w.exclusive)
	return true
}

func (l *locks) take(ctx context.Context, w want) error {
	s := l.shard(w.name)
	s.mu.Lock()
	n := s.get(w.name)
	if len(n.waiting) == 0 && n.free(w.exclusive) {
		n.grant(w.exclusive)
		s.mu.Unlock()
		return nil
	}
	me := &waiter{w.exclusive, make(chan struct{})}
	n.waiting = append(n.waiting, me)
	s.mu.Unlock()
	select {
	case <-me.granted:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(n.waiting, me); i >= 0 {
		n.waiting = slices.Delete(n.waiting, i, i+1)
		s.wake(w.name, n)
	} else { // granted at the last moment
		s.release(w, n)
	}
	return context.Cause(ctx)
}

func (l *locks) give(ws []want) {
	for _, w := range slices.Backward(ws) {
		s := l.shard(w.name)
		s.mu.Lock()
		s.release(w, s.names[w.name])
		s.mu.Unlock()
	}
}

// release gives back w. s.mu must be held.
func (s *lockShard) release(w want, n *nameLock) {
	if w.exclusive {
		n.held = false
	} else {
		n.shared--
	}
	s.wake(w.name, n)
}

// wake grants what can be granted now, in order. s.mu must be held.
func (s *lockShard) wake(name string, n *nameLock) {
	for len(n.waiting) > 0 && n.free(n.waiting[0].exclusive) {
		next := n.waiting[0]
		n.waiting = n.waiting[1:]
		n.grant(next.exclusive)
		close(next.granted)
	}
	if len(n.waiting) == 0 && !n.held && n.shared == 0 {
		delete(s.names, name)
	}
}
