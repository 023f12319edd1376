package meta

import (
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// simStore is a store in memory, as plain as a model must be. On an object store keys ending in "/" are markers, otherwise
// directories.
type simStore struct {
	flat bool
	keys map[string]Row
}

func newSimStore(flat bool) *simStore { return &simStore{flat: flat, keys: map[string]Row{}} }

// put adds a key; on a store with directories also those above it, and nothing if a file is in the way.
func (s *simStore) put(name string, row Row) bool {
	if !s.flat {
		if _, taken := s.keys[strings.TrimSuffix(name, "/")]; taken && isDir(name) {
			return false
		}
		if _, taken := s.keys[name+"/"]; taken {
			return false
		}
		if dir, _ := split(name); dir != "" {
			if _, ok := s.keys[dir]; !ok && !s.put(dir, Row{Dir: true, Full: true}) {
				return false
			}
		}
	}
	row.Dir = isDir(name)
	row.Marker = row.Dir && s.flat
	s.keys[name] = row
	return true
}

func (s *simStore) remove(name string) {
	delete(s.keys, name)
	if isDir(name) {
		for k := range s.keys {
			if strings.HasPrefix(k, name) {
				delete(s.keys, k)
			}
		}
	}
}

func (s *simStore) sorted() []string {
	names := make([]string, 0, len(s.keys))
	for k := range s.keys {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

// stat returns the row of name, nil if it is not there.
func (s *simStore) stat(name string) *Row {
	if name == "" {
		return &Row{Dir: true}
	}
	if r, ok := s.keys[name]; ok {
		return &r
	}
	if s.flat && isDir(name) {
		for k := range s.keys {
			if strings.HasPrefix(k, name) {
				return &Row{Dir: true, Full: true}
			}
		}
	}
	return nil
}

// list returns up to max rows after after, and whether they are all; ok is false if a real directory is not there.
func (s *simStore) list(dir, after string, flat bool, max int) (rows []NamedRow, complete, ok bool) {
	if !s.flat && s.stat(dir) == nil {
		return nil, false, false
	}
	for _, k := range s.sorted() {
		rest, below := strings.CutPrefix(k, dir)
		if !below || rest == "" && !s.flat {
			continue
		}
		row := s.keys[k]
		if i := strings.IndexByte(rest, '/'); i >= 0 && !flat && (s.flat || i < len(rest)-1) {
			k, row = dir+rest[:i+1], Row{Dir: true}
			if n := len(rows); n > 0 && rows[n-1].Name == k {
				continue
			}
			if !s.flat {
				continue // its own row tells
			}
		}
		if k <= after || k == "" {
			continue
		}
		if len(rows) == max {
			return rows, false, true
		}
		rows = append(rows, NamedRow{k, row})
	}
	return rows, true, true
}

// answer runs the listing that need asks for and tells it to f.
func (s *simStore) answer(f *Flight, need *Need, max int) {
	rows, complete, ok := s.list(need.Dir, need.After, need.Flat, max)
	if !ok {
		f.Stat(need.Dir, nil)
		return
	}
	last := ""
	if len(rows) > 0 {
		last = rows[len(rows)-1].Name
	}
	if need.Flat {
		f.ListFlat(need.Dir, need.After, last, rows, complete)
	} else {
		f.List(need.Dir, need.After, last, rows, complete)
	}
}

var segments = []string{"a", "b", "c", "a-", "a.", "a0", "ab", "é", "-", "x-y"}

func pick[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// randomEdge returns an edge of a file, or of a directory; odd ones only for object stores.
func randomEdge(r *rand.Rand, dir, odd bool) string {
	switch {
	case dir && odd && r.IntN(12) == 0:
		return "/"
	case dir:
		return pick(r, segments) + "/"
	}
	return pick(r, segments)
}

func randomName(r *rand.Rand, dir, odd bool) string {
	var b strings.Builder
	for n := r.IntN(4); n > 0; n-- {
		b.WriteString(randomEdge(r, true, odd))
	}
	b.WriteString(randomEdge(r, dir, odd))
	return b.String()
}

var seedFlag = flag.Uint64("seed", 0, "seed of the randomized tests, 0: any")

// seed returns the seed of a randomized test and prints it if the test fails.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := *seedFlag
	if n == 0 {
		n = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat with -seed %d", n)
		}
	})
	return rand.New(rand.NewPCG(n, 0))
}
