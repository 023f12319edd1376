// Package hold keeps bytes of files that no store has yet, in one directory of a worker, so that they survive the process, and where
// it was asked for the loss of power. It knows attempts by their ids, not what they are attempts at, nor who may read them.
//
//	small attempts ─► queue ─► one write and one fdatasync for all that wait ─► log
//	large ones ─────────────────────────────────────────────────────────────► a file each
//
// format.go says what is in the files. They are all that a restart goes by. What a checksum says is damaged is never served.
//
// What is given up may come back after a loss of power: releases are noted, but not synced. It is then among Holds once more, and whoever
// knows that nobody needs it releases it again.
package hold

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/dirlock"
	"github.com/sluicefs/sluice/core/errs"
)

const (
	// maxSmall is the largest attempt that goes into a log, in bytes. It waits for its Commit in memory.
	maxSmall = 1 << 20
	// maxWaiting bounds the bytes of all attempts that wait in memory. Beyond it those of more than a chunk go to files of their own.
	maxWaiting = 64 << 20
	// A log is preallocated, so that a sync need not write its length, and an eighth of the quota at most.
	minLog, maxLog = 4 << 20, 64 << 20
	// MinQuota is the smallest quota, in bytes.
	MinQuota = 8 * minLog
)

// Options say where bytes are held.
type Options struct {
	Name   string // of the worker
	Dir    string // made if it is missing; used by one process at a time
	Quota  int64  // bytes of files at most, MinQuota at least
	Logger *slog.Logger

	device device // zero: the system's
}

// Store is a core.Holder in one directory. After a failed write or sync it takes nothing until the process starts again, and says so
// in Stats and one log line: what the kernel has dropped it would call synced at the next try. What it has it goes on serving.
type Store struct {
	name, dir string
	quota     int64
	logBytes  int64 // of a new log
	log       *slog.Logger
	dev       device
	memory    bool // the directory is gone with the power
	lock      *os.File
	names     *os.File // the directory

	waiting                             atomic.Int64 // bytes of attempts in memory
	damaged, torn, syncs, commits, back atomic.Int64
	running                             sync.WaitGroup

	spare    atomic.Int64   // bytes of active that are not written
	active   *segment       // what is appended to; the committer's
	synced   bool           // nothing of active waits for a sync; the committer's
	retiring sync.WaitGroup // of the log that was active before

	keeping sync.Mutex // while the file of reigns is written; taken before mu

	mu         sync.Mutex
	reigns     reigns // that were heard of
	kept       reigns // those that a restart finds
	closed     bool
	closeErr   error
	off        error // why nothing is taken
	held       map[core.HeldID]*attempt
	oldest     []*attempt // in the order in which they came, among those that have gone
	bytes      int64      // of what is held
	coming     map[core.HeldID]bool
	used       int64 // bytes of files, preallocated ones too
	number     uint64
	queue      []*commit
	committing bool
	compacting bool
	sealed     map[*segment]bool // logs that are not appended to
}

// segment is a log.
type segment struct {
	name
	path  string
	size  int64
	file  *os.File // only of the active one
	end   int64    // of what has been written; the committer's while it is active
	live  int64    // bytes of records that are held; guarded by Store.mu
	stuck bool     // it cannot be compacted; guarded by Store.mu
	gone  bool     // guarded by Store.mu
}

// attempt is what is held.
type attempt struct {
	id   core.HeldID
	size int64
	at   time.Time
	log  *segment // nil: a file of its own
	off  int64    // of its header in the log
	file name     // if it has one
	gone bool     // guarded by Store.mu, as the next
	bad  bool     // a checksum did not fit
}

// Stats are the numbers of a Store.
type Stats struct {
	Dir            string
	Quota, Used    int64 // bytes of files
	Bytes          int64 // that are held
	Attempts       int64
	Oldest         time.Time // when the oldest of them came; zero if there is none
	Damaged        int64     // attempts, or places in logs, that a checksum refused since the start
	Torn           int64     // unfinished ones that the start dropped
	Commits, Syncs int64     // since the start: many commits share one sync
	Off            string    // why nothing is taken, "" if it is
}

// Open opens the directory and finds what is held in it.
// Errors: errs.Invalid; errs.Busy if another process uses the directory; the kinds of io/fs errors, else errs.Unavailable.
func Open(o Options) (*Store, error) {
	const op = "hold.Open"
	if o.Quota < MinQuota {
		return nil, errs.New(op, o.Dir, errs.Invalid, fmt.Sprintf("a quota of %d bytes is too small; it takes %d at least", o.Quota, MinQuota))
	}
	s := &Store{
		name: o.Name, dir: o.Dir, quota: o.Quota, logBytes: max(minLog, min(maxLog, o.Quota/8)), log: o.Logger, dev: o.device, synced: true,
		held: map[core.HeldID]*attempt{}, coming: map[core.HeldID]bool{}, sealed: map[*segment]bool{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.dev.pread == nil {
		s.dev = systemDevice()
	}
	if err := s.open(); err != nil {
		return nil, errs.E(op, o.Dir, cmp.Or(errs.KindOf(err), errs.Unavailable), errors.Join(err, s.closeFiles()))
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if err = os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(s.dir))
	if err != nil {
		return err
	}
	if err = errors.Join(s.dev.syncDir(parent), parent.Close()); err != nil {
		return err
	}
	if s.names, err = os.Open(s.dir); err != nil {
		return err
	}
	if s.lock, err = dirlock.Take(s.dir, lockName); err != nil {
		return err
	}
	if s.memory, err = inMemory(s.dir); err != nil {
		return err
	}
	if err = s.recoverReigns(); err != nil {
		return err
	}
	return s.recover()
}

func (s *Store) closeFiles() error {
	var all []error
	if s.names != nil {
		all = append(all, s.names.Close())
	}
	if s.lock != nil {
		all = append(all, s.lock.Close())
	}
	return errors.Join(all...)
}

// Close waits for what is being committed, and gives the directory free. Nothing is taken after it; readers go on.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		defer s.mu.Unlock()
		return s.closeErr
	}
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
	var err error
	if s.active != nil {
		err = s.retire(s.active, s.synced)
		s.active = nil
		s.spare.Store(0)
	}
	err = errors.Join(err, s.closeFiles())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeErr = err
	return err
}

// Name implements core.Holder.
func (s *Store) Name() string { return s.name }

// Persistent reports whether what is committed durably survives the loss of power. Where it does not such a Commit is refused.
func (s *Store) Persistent() bool { return !s.memory }

// Room returns how many bytes of files there is room for, 0 if nothing is taken. One log's are kept for making others smaller.
func (s *Store) Room() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuses() != nil {
		return 0
	}
	return s.room()
}

// room is Room of one that takes something. mu must be held.
func (s *Store) room() int64 { return max(0, s.quota-s.used-s.logBytes) + s.spare.Load() }

// enough is how much room there has to be for an attempt to begin, so that a small one finds at its start, and not at its end, that
// there is none.
func enough() int64 { return recordBytes(maxSmall) }

// refuses returns why nothing is taken. mu must be held.
func (s *Store) refuses() error {
	switch {
	case s.closed:
		return errs.New("hold.Hold", s.dir, errs.Unavailable, "the worker is stopping")
	case s.off != nil:
		return errs.E("hold.Hold", s.dir, errs.Unavailable, fmt.Errorf("the disk failed; nothing is taken until the process starts again: %w", s.off))
	}
	return nil
}

// Hold implements core.Holder. Write and Commit end with ctx. Errors, too: errs.Busy while another writer of id has not ended.
func (s *Store) Hold(ctx context.Context, id core.HeldID) (core.HoldWriter, error) {
	const op = "hold.Hold"
	if err := s.hear(ctx); err != nil {
		return nil, s.failed(fmt.Errorf("%s: %w", reignsName, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.refuses(), s.succeeded(ctx)); err != nil {
		return nil, err
	}
	switch a := s.held[id]; {
	case a != nil && !a.bad:
		return nil, errs.New(op, s.dir, errs.Exist, "these bytes are held")
	case s.coming[id]:
		return nil, errs.New(op, s.dir, errs.Busy, "another writer of these bytes has not ended")
	case s.room() < enough():
		return nil, errFull(s.dir)
	}
	s.coming[id] = true
	return &writer{s: s, ctx: ctx, id: id, seed: seedOf(id)}, nil
}

// Held implements core.Holder. The reader reads on after Release and Close.
func (s *Store) Held(ctx context.Context, id core.HeldID, off, n int64) (io.ReadCloser, error) {
	const op = "hold.Held"
	s.heard(ctx)
	s.mu.Lock()
	a := s.held[id]
	var r *reader
	if a != nil {
		r = &reader{s: s, ctx: ctx, a: a, path: s.path(a)}
		if a.log != nil {
			r.body = a.off + headerBytes
		}
	}
	closed, bad := s.closed, a != nil && a.bad
	s.mu.Unlock()
	switch {
	case closed:
		return nil, errs.New(op, s.dir, errs.Unavailable, "the worker is stopping")
	case a == nil:
		return nil, errs.New(op, s.dir, errs.NotExist, "these bytes are not held")
	case bad:
		return nil, errs.New(op, s.dir, errs.Corrupt, "these bytes are damaged on the disk")
	case off < 0 || n < 0 || off > a.size || n > a.size-off:
		return nil, errs.New(op, s.dir, errs.Range, "the range lies outside the bytes")
	}
	if err := r.open(off, n); errors.Is(err, os.ErrNotExist) && s.moved(a, r.path) {
		return s.Held(ctx, id, off, n)
	} else if err != nil {
		return nil, errs.E(op, s.dir, errs.Unavailable, err)
	}
	return r, nil
}

// moved reports whether a is no longer at path.
func (s *Store) moved(a *attempt, path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return a.gone || s.path(a) != path
}

// path returns where a is. mu must be held, unless a is gone.
func (s *Store) path(a *attempt) string {
	if a.log != nil {
		return a.log.path
	}
	return filepath.Join(s.dir, a.file.of(filePrefix))
}

// Holds implements core.Holder. What is damaged is not among it.
func (s *Store) Holds(ctx context.Context) iter.Seq2[core.Held, error] {
	return func(yield func(core.Held, error) bool) {
		s.heard(ctx)
		s.mu.Lock()
		all := make([]core.Held, 0, len(s.held))
		for id, a := range s.held {
			if !a.bad {
				all = append(all, core.Held{HeldID: id, Size: a.size})
			}
		}
		s.mu.Unlock()
		for _, h := range all {
			if !yield(h, nil) {
				return
			}
		}
	}
}

// Release implements core.Holder.
func (s *Store) Release(ctx context.Context, ids ...core.HeldID) error {
	s.heard(ctx)
	s.mu.Lock()
	if err := s.succeeded(ctx); err != nil {
		s.mu.Unlock()
		return err
	}
	var gone []*attempt
	for _, id := range ids {
		if a := s.held[id]; a != nil {
			s.forget(a)
			gone = append(gone, a)
		}
	}
	s.mu.Unlock()
	return s.clear(gone)
}

// add makes a held, in the place of a damaged one. mu must be held.
func (s *Store) add(a *attempt) (before *attempt) {
	if before = s.held[a.id]; before != nil {
		s.forget(before)
	}
	s.held[a.id] = a
	s.bytes += a.size
	if a.log != nil {
		a.log.live += recordBytes(a.size)
	}
	s.oldest = append(s.oldest, a)
	return before
}

// forget makes a not held. What it leaves on the disk is clear's. mu must be held.
func (s *Store) forget(a *attempt) {
	delete(s.held, a.id)
	a.gone = true
	s.bytes -= a.size
	if a.log != nil {
		a.log.live -= recordBytes(a.size)
	}
	if n := 0; len(s.oldest) > 2*len(s.held)+1024 {
		for _, b := range s.oldest {
			if !b.gone {
				s.oldest[n] = b
				n++
			}
		}
		clear(s.oldest[n:])
		s.oldest = s.oldest[:n]
	}
}

// clear gives up the room of what is not held any more.
func (s *Store) clear(gone []*attempt) error {
	var all []error
	notes := map[*segment][]byte{}
	for _, a := range gone {
		if g := a.log; g != nil {
			notes[g] = freed(notes[g], a.off, g.nonce)
		} else {
			all = append(all, s.remove(s.path(a), a.fileBytes()))
		}
	}
	for g, b := range notes {
		all = append(all, s.note(g, b))
	}
	if err := errors.Join(all...); err != nil {
		return errs.E("hold.Release", s.dir, errs.Unavailable, err)
	}
	return nil
}

// fileBytes returns the length of a's own file.
func (a *attempt) fileBytes() int64 { return bodyBytes(a.size) + headerBytes }

// note writes down what of g is not held any more, or removes g if it is all.
func (s *Store) note(g *segment, notes []byte) error {
	if removed, err := s.removeEmpty(g); removed {
		return err
	}
	f, err := os.OpenFile(g.path+freedSuffix, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(notes)
	err = errors.Join(err, f.Close())
	s.mu.Lock()
	gone := g.gone
	s.mu.Unlock()
	if gone { // since it was looked at
		err = errors.Join(err, removeIfThere(g.path+freedSuffix))
	}
	s.compactSome()
	return err
}

// removeEmpty removes g if nothing in it is held and nothing more will be.
func (s *Store) removeEmpty(g *segment) (removed bool, err error) {
	s.mu.Lock()
	removed = g.live == 0 && s.sealed[g]
	if removed {
		delete(s.sealed, g)
		g.gone = true
	}
	s.mu.Unlock()
	if !removed {
		return false, nil
	}
	return true, errors.Join(s.remove(g.path, g.size), removeIfThere(g.path+freedSuffix))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// remove removes a file that has taken n bytes of the quota.
func (s *Store) remove(path string, n int64) error {
	err := s.dev.remove(path)
	if err == nil {
		s.give(n)
	}
	return err
}

// take takes n bytes of the quota, and leaves so many. Errors: errs.NoSpace.
func (s *Store) take(n, leave int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n+leave > s.quota-s.used {
		return errFull(s.dir)
	}
	s.used += n
	return nil
}

func errFull(dir string) error {
	return errs.New("hold.Write", dir, errs.NoSpace, "the quota of held bytes (hold_quota) is used up; they go as they are persisted")
}

func (s *Store) give(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// failed classifies a failed write, and turns the store off unless it is for want of space.
func (s *Store) failed(err error) error {
	const op = "hold.Write"
	switch {
	case errs.KindOf(err) == errs.NoSpace:
		return err
	case full(err):
		return errs.E(op, s.dir, errs.NoSpace, err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return errs.E(op, s.dir, errs.Unavailable, err) // not the disk's
	}
	s.mu.Lock()
	first := s.off == nil
	if first {
		s.off = err
	}
	s.mu.Unlock()
	if first {
		s.log.Error("the disk of held bytes failed: nothing is taken until this process starts again; what is held is still served",
			"dir", s.dir, "err", err)
	}
	return errs.E(op, s.dir, errs.Unavailable, err)
}

// Stats returns the store's numbers.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := Stats{
		Dir: s.dir, Quota: s.quota, Used: s.used, Bytes: s.bytes, Attempts: int64(len(s.held)),
		Damaged: s.damaged.Load(), Torn: s.torn.Load(), Commits: s.commits.Load(), Syncs: s.syncs.Load(),
	}
	for len(s.oldest) > 0 && s.oldest[0].gone {
		s.oldest = s.oldest[1:]
	}
	if len(s.oldest) > 0 {
		t.Oldest = s.oldest[0].at
	}
	if s.off != nil {
		t.Off = s.off.Error()
	}
	return t
}
