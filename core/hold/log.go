package hold

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// maxBatch bounds what is written to a log at once, in bytes; one attempt may be more.
const maxBatch = 8 << 20

// commit is an attempt on its way into a log.
type commit struct {
	a       *attempt
	body    []byte
	durable bool
	moves   *attempt // what is to be there instead of where it is, if it is held then; else nil

	done  chan error // takes one
	ended bool       // guarded by Store.mu, as the next
	left  bool       // nobody waits; what has come of it is given up
}

// zeros is what lies between records.
var zeros [sector]byte

// enqueue has c written with what else waits. Its done is told.
func (s *Store) enqueue(c *commit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refuses(); err != nil {
		s.finish(c, err)
		return
	}
	s.queue = append(s.queue, c)
	if !s.committing {
		s.committing = true
		s.running.Go(s.commitQueue)
	}
}

// await returns when c has ended, or with ctx.
func (s *Store) await(ctx context.Context, c *commit) error {
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.ended {
		return <-c.done
	}
	c.left = true
	return context.Cause(ctx)
}

// finish ends c; without an error it is held from now on. mu must be held. What it returns is to be cleared.
func (s *Store) finish(c *commit, err error) (gone []*attempt) {
	c.ended = true
	c.done <- err
	switch m := c.moves; {
	case m != nil && err == nil && !m.gone:
		from := &attempt{size: m.size, log: m.log, off: m.off}
		from.log.live -= recordBytes(m.size)
		m.log, m.off = c.a.log, c.a.off
		m.log.live += recordBytes(m.size)
		return []*attempt{from}
	case m == nil:
		delete(s.coming, c.a.id)
	}
	switch {
	case err != nil:
		return nil
	case c.left || c.moves != nil:
		return []*attempt{c.a}
	}
	s.commits.Add(1)
	if before := s.add(c.a); before != nil {
		return []*attempt{before}
	}
	return nil
}

// commitQueue writes what waits until nothing does. While it syncs others come, and share the next sync: that is all the grouping
// there is, so that one alone waits for nobody.
func (s *Store) commitQueue() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.committing, s.queue = false, nil
			s.mu.Unlock()
			return
		}
		batch := s.queue[:1]
		for n := recordBytes(batch[0].a.size); len(batch) < len(s.queue); batch = s.queue[:len(batch)+1] {
			if n += recordBytes(s.queue[len(batch)].a.size); n > maxBatch {
				break
			}
		}
		s.queue = s.queue[len(batch):]
		s.mu.Unlock()
		s.commit(batch)
	}
}

// commit ends the commits of a batch.
func (s *Store) commit(batch []*commit) {
	for len(batch) > 0 {
		n, err := s.fit(batch)
		if err != nil {
			s.end(batch, s.failed(err), nil)
			return
		}
		s.write(batch[:n])
		batch = batch[n:]
	}
}

// fit returns how many of the batch the active log has room for, which is another if it has for none.
func (s *Store) fit(batch []*commit) (n int, err error) {
	s.mu.Lock()
	off := s.off
	s.mu.Unlock()
	if off != nil {
		return 0, off
	}
	for range 2 {
		if s.active != nil {
			for left := s.active.size - s.active.end; n < len(batch); n++ {
				if left -= recordBytes(batch[n].a.size); left < 0 {
					break
				}
			}
			if n > 0 {
				return n, nil
			}
		}
		leave := s.logBytes
		if batch[0].moves != nil {
			leave = 0 // it gains more than it takes
		}
		if err := s.rotate(leave); err != nil {
			return 0, err
		}
	}
	return 0, errs.New("hold.Write", s.dir, errs.TooLarge, "larger than a log")
}

// rotate begins a log, and leaves so many bytes of the quota. That the log is there is synced before anything in it is.
func (s *Store) rotate(leave int64) error {
	if err := s.take(s.logBytes, leave); err != nil {
		return err
	}
	g, err := s.newLog()
	if err != nil {
		s.give(s.logBytes)
		return err
	}
	if old := s.active; old != nil {
		s.retiring.Wait()
		clean := s.synced
		s.retiring.Add(1)
		s.running.Go(func() {
			defer s.retiring.Done()
			if err := s.retire(old, clean); err != nil {
				_ = s.failed(err) // the next to commit is told
			}
		})
	}
	s.active, s.synced = g, true
	s.spare.Store(g.size)
	return nil
}

// retire seals a log that has been the active one; clean says that it is synced. Others are written while it is, and the next waits
// for it: so nothing is torn but in the last two.
func (s *Store) retire(g *segment, clean bool) error {
	var err error
	if !clean {
		err = s.sync(g.file)
	}
	err = errors.Join(err, g.file.Close())
	s.seal(g)
	return err
}

// seal lets g go when nothing in it is held.
func (s *Store) seal(g *segment) {
	s.mu.Lock()
	s.sealed[g] = true
	s.mu.Unlock()
	if _, err := s.removeEmpty(g); err != nil {
		s.left(err)
	}
}

// left says that a file could not be removed.
func (s *Store) left(err error) {
	s.log.Warn("held bytes that nobody needs stay on the disk until the next start", "dir", s.dir, "err", err)
}

func (s *Store) newLog() (*segment, error) {
	f, n, err := s.create(logPrefix)
	if err != nil {
		return nil, err
	}
	g := &segment{name: n, path: f.Name(), size: s.logBytes, file: f}
	if err = s.dev.allocate(f, g.size); err == nil {
		err = s.sync(f)
	}
	if err == nil {
		err = s.dev.syncDir(s.names)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), s.dev.remove(g.path))
	}
	return g, nil
}

// create makes a file of that kind.
func (s *Store) create(prefix string) (*os.File, name, error) {
	s.mu.Lock()
	s.number++
	n := name{s.number, rand.Uint64()}
	s.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(s.dir, n.of(prefix)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return f, n, err
}

func (s *Store) sync(f *os.File) error {
	s.syncs.Add(1)
	return s.dev.sync(f)
}

// write writes commits that the active log has room for, and ends them: what needs no sync before what does.
func (s *Store) write(batch []*commit) {
	g, now := s.active, time.Now()
	end, bufs := g.end, make([][]byte, 0, 3*len(batch))
	var safe, volatile []*commit
	for _, c := range batch {
		a := c.a
		a.log, a.off = g, end
		if c.moves == nil {
			a.at = now
		}
		head := header{a.id, a.size, a.at}.encode(g.nonce)
		next := end + recordBytes(a.size)
		bufs = append(bufs, head[:], c.body, zeros[:next-end-headerBytes-int64(len(c.body))])
		end = next
		if c.durable {
			safe = append(safe, c)
		} else {
			volatile = append(volatile, c)
		}
	}
	if err := s.dev.pwrite(g.file, bufs, g.end); err != nil {
		s.end(batch, s.failed(err), g)
		return
	}
	g.end = min(roundUp(end, sector), g.size)
	s.spare.Store(g.size - g.end)
	s.end(volatile, nil, g)
	if len(safe) == 0 {
		s.synced = false
		return
	}
	var err error
	if err = s.sync(g.file); err != nil {
		err = s.failed(err)
	} else {
		s.synced = true
	}
	s.end(safe, err, g)
}

// end ends commits to g.
func (s *Store) end(all []*commit, err error, g *segment) {
	var gone []*attempt
	s.mu.Lock()
	for _, c := range all {
		gone = append(gone, s.finish(c, err)...)
	}
	s.mu.Unlock()
	if err := s.clear(gone); err != nil {
		s.left(err)
	}
}
