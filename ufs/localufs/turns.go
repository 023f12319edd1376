package localufs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// turns lets those who wait for the same directory to be durable share an fsync: while one runs, those who come wait for the
// next, which serves all of them. What each has changed is done before it comes, so the shared fsync covers it as one of its
// own would; sixteen writers into a directory cost the disk one or two fsyncs and not sixteen.
type turns struct {
	last    atomic.Uint64
	mu      sync.Mutex
	running map[inode]*turn // by directory being synced: the turn after the one that runs, nil if nobody waits for one
}

// turn is one fsync of a directory, which is yet to begin.
type turn struct {
	fd     int // of those who wait, the one with the lowest number
	opened uint64
	begin  chan struct{} // closed when the turn before it has ended
	done   chan struct{} // closed when err is set
	err    error
}

// number returns a number greater than those returned before.
func (t *turns) number() uint64 { return t.last.Add(1) }

// sync returns what fsync says of the directory dir, whose descriptor p holds, in a call of it that begins after sync does. Of
// those who share a call, the descriptor with the lowest number is used: the kernel tells a failure to write once to each
// descriptor that was open when it happened, and that one was open before any of them made its change.
func (t *turns) sync(dir inode, p place, fsync func(fd int) error) error {
	t.mu.Lock()
	next, busy := t.running[dir]
	switch {
	case !busy:
		if t.running == nil {
			t.running = map[inode]*turn{}
		}
		t.running[dir] = nil
		t.mu.Unlock()
		defer t.end(dir)
		return fsync(p.dir)
	case next != nil:
		if p.opened < next.opened {
			next.fd, next.opened = p.dir, p.opened
		}
		t.mu.Unlock()
		<-next.done
		return next.err
	}
	own := &turn{fd: p.dir, opened: p.opened, begin: make(chan struct{}), done: make(chan struct{})}
	t.running[dir] = own
	t.mu.Unlock()
	<-own.begin
	defer t.end(dir)
	own.err = fsync(own.fd)
	close(own.done)
	return own.err
}

// end lets the next turn of dir begin, to which from now on nobody is added.
func (t *turns) end(dir inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := t.running[dir]
	if next == nil {
		delete(t.running, dir)
		return
	}
	t.running[dir] = nil
	close(next.begin)
}

// syncDir syncs the directory of p, after a change in it. On file systems that a server or a process of the user's
// implements each descriptor is synced by itself: what they do for one need not be done for another.
func (s *Store) syncDir(p place, why string) error {
	var st unix.Stat_t
	if s.network || unix.Fstat(p.dir, &st) != nil {
		return s.fsync(p.dir, why)
	}
	return s.turns.sync(inodeOf(&st), p, func(fd int) error { return s.fsync(fd, why) })
}
