package namespace

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sluicefs/sluice/core"
)

// skipped are the names that a listing found to differ from the store and left alone, because a change through Sluice was under way
// there. They are listed as the overlay has them for as long as that lasts: who lists may be who makes the change, and would ask
// again for ever. Once it is over the next listing of the directory asks the store for them again, at any interval.
type skipped struct {
	any   atomic.Bool // so that no listing waits for mu where there is none
	mu    sync.Mutex
	names map[core.Path]skippedName
}

type skippedName struct {
	m   *mounted
	key string
}

// maxSkipped bounds how many are remembered.
const maxSkipped = 1024

// add remembers a name; false if there are too many.
func (s *skipped) add(p core.Path, m *mounted, key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.names[p]; !known && len(s.names) >= maxSkipped {
		return false
	}
	if s.names == nil {
		s.names = map[core.Path]skippedName{}
	}
	s.names[p] = skippedName{m, key}
	s.any.Store(true)
	return true
}

// below returns those below the directory.
func (s *skipped) below(dir core.Path) map[core.Path]skippedName {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[core.Path]skippedName{}
	for p, x := range s.names {
		if strings.HasPrefix(p.String(), dir.String()) {
			all[p] = x
		}
	}
	return all
}

// take forgets a name; false if somebody else did meanwhile.
func (s *skipped) take(p core.Path, x skippedName) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[p] != x {
		return false
	}
	delete(s.names, p)
	s.any.Store(len(s.names) > 0)
	return true
}

// askSkipped has the listing of the directory that begins ask for the names in it or below it that a listing skipped, unless the
// change because of which it did is still under way.
func (n *Namespace) askSkipped(dir core.Path) {
	if !n.skipped.any.Load() {
		return
	}
	for p, x := range n.skipped.below(dir) {
		pl := n.walk(p)
		if pl.mount != nil && n.renaming(&pl) {
			continue
		}
		unlock, ok := n.tryCompare(p)
		if !ok {
			continue
		}
		unlock()
		if n.skipped.take(p, x) {
			x.m.forgetListed(x.key)
		}
	}
}

// tryCompare keeps away who changes what is at p through Sluice, without waiting; ok is false if somebody does.
func (n *Namespace) tryCompare(p core.Path) (unlock func(), ok bool) {
	if p.IsDir() {
		return n.locks.tryLock(p)
	}
	return n.locks.tryShare(p) // a file may have the name of a directory in which something is changed
}

// forgetListed has who lists past the name ask the store again.
func (m *mounted) forgetListed(key string) {
	if strings.HasSuffix(key, "/") {
		m.derived.Forget(key)
	} else {
		m.derived.ForgetListed(key)
	}
}
