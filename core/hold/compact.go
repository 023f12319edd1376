package hold

import (
	"errors"
	"io"
	"os"

	"github.com/sluicefs/sluice/core/errs"
)

// compactSome has logs of which not more than half is held written anew, one after the other, unless that is being done. A
// byte is copied for each that is gained, and no more than half a log is in memory.
func (s *Store) compactSome() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.compacting && s.refuses() == nil && s.sparse() != nil {
		s.compacting = true
		s.running.Go(s.compact)
	}
}

// sparse returns the log of which the least is held, nil if more than half is of all. mu must be held.
func (s *Store) sparse() (g *segment) {
	for c := range s.sealed {
		if !c.stuck && c.live > 0 && c.live*2 <= c.size && (g == nil || c.live < g.live) {
			g = c
		}
	}
	return g
}

func (s *Store) compact() {
	for {
		s.mu.Lock()
		g := s.sparse()
		if g == nil || s.refuses() != nil {
			s.compacting = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if err := s.empty(g); err != nil {
			s.mu.Lock()
			g.stuck = errs.KindOf(err) != errs.NoSpace
			s.compacting = false
			s.mu.Unlock()
			s.log.Warn("a log of held bytes cannot be made smaller", "file", g.path, "err", err)
			return
		}
		s.mu.Lock()
		g.stuck = g.live > 0 // a header is damaged
		s.mu.Unlock()
	}
}

// empty moves what is held in g to the active log.
func (s *Store) empty(g *segment) error {
	f, err := os.Open(g.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // all of it was released meanwhile
	}
	if err != nil {
		return err
	}
	var all []*commit
	var bad error
	_, _, err = scan(io.NewSectionReader(readerAt{s, f}, 0, g.size), g.nonce, false, func(h header, off int64) {
		s.mu.Lock()
		a := s.held[h.id]
		here := a != nil && a.log == g && a.off == off
		s.mu.Unlock()
		if !here || bad != nil {
			return
		}
		c := &commit{a: &attempt{id: h.id, size: h.size, at: h.at}, durable: !s.memory, moves: a, done: make(chan error, 1)}
		c.body = make([]byte, bodyBytes(h.size))
		if _, bad = s.dev.pread(f, c.body, off+headerBytes); bad == nil {
			all = append(all, c)
		}
	})
	if err = errors.Join(err, bad, f.Close()); err != nil {
		return err
	}
	for _, c := range all {
		s.enqueue(c)
	}
	for _, c := range all {
		err = errors.Join(err, <-c.done)
	}
	return err
}
