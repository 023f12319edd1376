// Package mempage is a page.Store in the memory of the process: for tests of what stands on a cache, and of the suite. It
// evicts first in, first out, and survives nothing. The suite is core/page/pagetest.
package mempage

import (
	"bytes"
	"sync"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
)

// Store is a page.Store in memory.
type Store struct {
	mu     sync.Mutex
	idle   sync.Cond
	room   int // pages, of whatever length
	pages  map[page.Key][]byte
	order  []page.Key // as they came; may name pages that were dropped
	held   int
	closed bool
}

// New returns a store of at most the given number of pages.
func New(pages int) *Store {
	s := &Store{room: pages, pages: map[page.Key][]byte{}}
	s.idle.L = &s.mu
	return s
}

type handle struct {
	s    *Store
	data []byte
	once sync.Once
}

func (h *handle) Bytes() []byte { return h.data }

func (h *handle) Release() {
	h.once.Do(func() {
		h.s.mu.Lock()
		defer h.s.mu.Unlock()
		h.s.held--
		h.s.idle.Broadcast()
	})
}

// Get implements page.Store.
func (s *Store) Get(k page.Key) (page.Handle, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.pages[k]
	if !ok || s.closed {
		return nil, false
	}
	s.held++
	return &handle{s: s, data: data}, true
}

// Has implements page.Store.
func (s *Store) Has(k page.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.pages[k]
	return ok && !s.closed
}

// Put implements page.Store.
func (s *Store) Put(k page.Key, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errs.New("mempage.Put", "", errs.Unavailable, "the store is closed")
	case len(data) == 0:
		return errs.New("mempage.Put", "", errs.Invalid, "a page has at least one byte")
	case len(data) > page.Size:
		return errs.New("mempage.Put", "", errs.TooLarge, "a page has at most 1 MiB")
	case s.room < 1:
		return errs.New("mempage.Put", "", errs.NoSpace, "the store has no room for a page")
	}
	if _, here := s.pages[k]; here {
		return nil
	}
	for len(s.order) >= s.room {
		delete(s.pages, s.order[0])
		s.order = s.order[1:]
	}
	s.pages[k] = bytes.Clone(data)
	s.order = append(s.order, k)
	return nil
}

// Drop implements page.Store.
func (s *Store) Drop(k page.Key, from, to uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.pages {
		if p.ID == k.ID && p.Rev == k.Rev && p.Index >= from && p.Index < to {
			delete(s.pages, p)
		}
	}
}

// Close implements page.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for s.held > 0 {
		s.idle.Wait()
	}
	return nil
}
