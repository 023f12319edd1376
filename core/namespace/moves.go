package namespace

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// moves remembers the latest renames on stores, so that an open reader finds its bytes under their new name. A rename is added when the
// journal has it: who looked the file up before has a position before it, who does so afterwards has the new name.
type moves struct {
	total atomic.Uint64

	mu    sync.Mutex
	begun []*move // renames that their stores may have done and that are not in the list
	last  []move
	made  int // names in the copies of last
}

type move struct {
	store, from, to string // a file, or a directory with the slash

	// Of a file: its version before and after. The files of a directory keep theirs, but those that were copied.
	was, version string

	copies map[string]twin // what was copied, by the originals' names; nil if nothing was, or too much
}

const (
	maxMoves = 1024    // how many renames a reader that stays open can follow
	maxMade  = 1 << 16 // names of copies among them. Beyond, only those are found that say what they were made from
	maxHops  = 8       // renames that come one after the other while a reader looks for its bytes
)

// position returns how many renames there have been. What is found to be somewhere after that can be followed from there.
func (m *moves) position() uint64 { return m.total.Load() }

// begin notes that the store is about to rename, until done is called.
func (m *moves) begin(mv move) (done func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun = append(m.begun, &mv)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.begun = slices.DeleteFunc(m.begun, func(x *move) bool { return x == &mv })
	}
}

// under reports whether the store is about to rename the file, or a directory above it.
func (m *moves) under(store, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.begun, func(mv *move) bool { _, ok := mv.rest(store, key); return ok })
}

// rest returns what follows in key on the name of what was renamed; false if it is no part of that.
func (mv *move) rest(store, key string) (string, bool) {
	rest, ok := strings.CutPrefix(key, mv.from)
	return rest, ok && mv.store == store && (rest == "" || strings.HasSuffix(mv.from, "/"))
}

// add takes a rename that the journal has into the list.
func (m *moves) add(mv move) {
	if len(mv.copies) > maxMade {
		mv.copies = nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = append(m.last, mv)
	m.made += len(mv.copies)
	if len(m.last) > maxMoves {
		m.made -= len(m.last[0].copies)
		m.last[0] = move{}
		m.last = m.last[1:]
	}
	for i := 0; m.made > maxMade; i++ {
		m.made -= len(m.last[i].copies)
		m.last[i].copies = nil
	}
	m.total.Add(1)
}

// follow returns what the file key, of the given version at the given position, is called now: key, if it was not renamed, or too many
// have been since. Whoever opens it there has to ask for the version: something else may be there by now.
func (m *moves) follow(store, key, version string, since uint64) (string, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := m.total.Load() - uint64(len(m.last))
	if since < first {
		return key, version
	}
	for _, mv := range m.last[since-first:] {
		key, version = mv.follow(store, key, version)
	}
	return key, version
}

// follow returns what the rename made of the file key of the given version: key, if it was no part of that.
func (mv *move) follow(store, key, version string) (string, string) {
	rest, ok := mv.rest(store, key)
	copied := mv.copies[key]
	switch {
	case !ok:
	case copied.made != "" && copied.of == version:
		return mv.to + rest, copied.made
	case rest != "":
		return mv.to + rest, version
	case mv.version != "" && mv.was == version:
		return mv.to, mv.version
	}
	return key, version
}

// followLast is follow for who does not know the position: it is that of the last rename that the file may have been part of.
func (m *moves) followLast(store, key, version string) (string, string) {
	m.mu.Lock()
	at := m.total.Load()
	for i, mv := range slices.Backward(m.last) {
		if to, _ := mv.follow(store, key, version); to != key {
			at -= uint64(len(m.last) - i)
			break
		}
	}
	m.mu.Unlock()
	return m.follow(store, key, version, at)
}

// awaitMove waits for a rename of the key that its store may have done, if there is one. It does not wait for one that gets no answer.
func (n *Namespace) awaitMove(ctx context.Context, m *mounted, key string, until time.Time) {
	if !n.moves.under(m.ID, key) {
		return
	}
	limit := time.NewTimer(time.Until(until))
	defer limit.Stop()
	select {
	case <-m.derived.Settled(key):
	case <-limit.C:
	case <-ctx.Done():
	}
}

// moved returns the copies, for the list of renames.
func (c *copied) moved(from, to string) map[string]twin {
	if len(c.of) > maxMade {
		return nil
	}
	all := make(map[string]twin, len(c.of))
	for key, version := range c.of {
		all[key] = twin{version, c.made[to+key[len(from):]]}
	}
	return all
}

// brought reports whether what a rename has brought to its new name, by info, is for sure the file that was of the version was before, and
// of which the overlay has e, if anything: others may have put another there before or since.
func (m *mounted) brought(info ufs.Info, was string, e *meta.Entry) bool {
	switch {
	case sameVersion(info.Version, was):
		return true
	case e != nil && e.Class == meta.Persisted && m.features.Attrs:
		return ours(info, e)
	}
	return was != "" && ufs.MayBeSame(m.features, info.Version, was) // no more is known of a file that says nothing
}
