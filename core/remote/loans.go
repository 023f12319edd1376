package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/page"
)

const (
	// leastLoan is how many bytes must be wanted for a loan to be asked for: fewer are copied into the response either way, and
	// the page stream brings them with one answer.
	leastLoan = 64 << 10
	// firstLoan and nextLoan are how many pieces, of 1 MiB at most, are asked for at first and then. A client that stops reading
	// holds them all.
	firstLoan, nextLoan = 2, 8
	// LoanPace is how long a piece may take on its way to the client. What a slower client reads comes from the page stream, which
	// holds one page for it.
	LoanPace = 250 * time.Millisecond
	// maxIdleLoans bounds the connections to one worker that are kept without a request.
	maxIdleLoans = 64
	// loanBuffer holds the answers that there are: an answer of nextLoan pieces takes some hundred bytes.
	loanBuffer = 512
)

// borrower is the way to the pages of one start of one worker on this machine.
type borrower struct {
	c     *Client
	path  string
	watch *net.UnixConn // says when the worker ends; nothing is asked on it

	mu    sync.Mutex
	views map[uint64]*lentFile // the files that it has passed, by what it calls them
	idle  []*loanConn
	gone  bool // the worker has ended, or the client: what nothing is read from is let go of, and nothing is added
}

// lentFile is a file that was passed. The borrower's mu guards it.
type lentFile struct {
	*page.View
	pieces int // of loans that are not read to their end
}

// loanConn is a connection that pages are lent on.
type loanConn struct {
	*net.UnixConn
	b     *borrower
	given map[uint64]bool // the files that were passed on it
	buf   []byte          // the last answer
}

// borrower returns the way to the pages of a worker, nil if there is none now.
func (c *Client) borrower(n cluster.Node) *borrower {
	if c.o.Sockets == "" || n.Incarnation == "" {
		return nil
	}
	path := Socket(c.o.Sockets, n.Incarnation)
	c.mu.Lock()
	b, refused := c.loans[path], c.pages.shun[path].After(time.Now())
	c.mu.Unlock()
	if refused {
		return nil
	}
	if b != nil {
		return b
	}
	watch, err := dialLoans(path)
	if err != nil {
		c.shun(path) // as on every other machine
		return nil
	}
	b = &borrower{c: c, path: path, watch: watch, views: map[uint64]*lentFile{}}
	c.mu.Lock()
	defer c.mu.Unlock()
	if other := c.loans[path]; other != nil || c.closed {
		watch.Close()
		return other
	}
	c.loans[path] = b
	c.watching.Go(b.await)
	return b
}

// dialLoans connects to a process of this user.
func dialLoans(path string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := sameUser(conn); err != nil {
		return nil, both(err, conn.Close())
	}
	return conn, nil
}

// await waits for the end of the worker, or of the client, and lets go of its files: until then its successor cannot use them.
func (b *borrower) await() {
	_, _ = b.watch.Read(make([]byte, 1)) // nothing ever comes
	b.watch.Close()
	b.c.mu.Lock()
	if b.c.loans[b.path] == b {
		delete(b.c.loans, b.path)
	}
	b.c.mu.Unlock()
	b.mu.Lock()
	b.gone = true
	idle := b.idle
	b.idle = nil
	for _, f := range b.views {
		b.letGo(f)
	}
	clear(b.views)
	b.mu.Unlock()
	for _, conn := range idle {
		conn.Close()
	}
}

// letGo ends the view of a file of a worker that is gone, unless something is still read from it. b.mu must be held.
func (b *borrower) letGo(f *lentFile) {
	if b.gone && f.pieces == 0 {
		_ = f.Close() // only ever an error for an address that is none
	}
}

var errWorkerEnded = errors.New("the worker has ended")

// conn returns a connection to ask on.
func (b *borrower) conn() (*loanConn, error) {
	b.mu.Lock()
	if n := len(b.idle); n > 0 {
		defer b.mu.Unlock()
		conn := b.idle[n-1]
		b.idle = b.idle[:n-1]
		return conn, nil
	}
	b.mu.Unlock()
	conn, err := dialLoans(b.path)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return nil, both(errWorkerEnded, conn.Close())
	}
	return &loanConn{UnixConn: conn, b: b, given: map[uint64]bool{}, buf: make([]byte, loanBuffer)}, nil
}

// keep keeps the connection for the next loan, or ends it. Nothing of it is read any more.
func (l *loanConn) keep() {
	l.b.mu.Lock()
	full := l.b.gone || len(l.b.idle) >= maxIdleLoans
	if !full {
		l.b.idle = append(l.b.idle, l)
	}
	l.b.mu.Unlock()
	if full {
		l.Close()
	}
}

// loan reads a part of one content where a worker of this machine has it. It is for one goroutine.
type loan struct {
	conn     *loanConn
	ticket   []byte
	off      int64       // of the next byte in the content
	left     int64       // bytes from there on that are wanted
	pieces   []lentPiece // what is lent of them, in order
	asked    bool        // an answer to what comes after the pieces is on its way
	silence  time.Duration
	pace     time.Duration
	began    time.Time // when the first of the pieces was there
	slow     bool      // the client takes too long for loans
	count    int       // how many pieces there were then
	resident bool      // the worker has all that was asked for, lent or not
}

// lentPiece is bytes that lie in a file.
type lentPiece struct {
	file   *lentFile
	off, n int64
}

// borrow returns what a worker lends of the bytes [off, off+n) of a content, nil if it is nothing now.
func (c *Client) borrow(w cluster.Node, ticket []byte, off, n int64) *loan {
	if n < leastLoan {
		return nil
	}
	b := c.borrower(w)
	if b == nil {
		return nil
	}
	conn, err := b.conn()
	if err != nil {
		c.shun(b.path)
		return nil
	}
	l := &loan{conn: conn, ticket: ticket, off: off, left: n, silence: c.o.Silence, pace: c.o.LoanPace}
	if err = l.ask(0, firstLoan); err == nil {
		err = l.answer()
	}
	if err != nil {
		c.shun(b.path)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) { // its page stream would be as silent
		c.shun(w.Pages)
	}
	if err != nil || len(l.pieces) == 0 {
		l.close()
		return nil
	}
	return l
}

// ask asks for what comes after the next bytes, of that number, in so many pieces.
func (l *loan) ask(skip int64, most int) error {
	kind, v, few := kindLend, uint64(loansVersion), byte(most)
	off, n := l.off+skip, l.left-skip
	ask := coder{b: make([]byte, 4, 64+len(l.ticket))}
	ask.byte(&kind)
	ask.uvarint(&v)
	ask.bytes(&l.ticket)
	ask.varint(&off)
	ask.varint(&n)
	ask.byte(&few)
	l.asked = true
	return l.conn.send(ask.b, l.silence)
}

// send sends a request, whose length is still to be written in its first bytes. It, and its answer, may take the time of silence.
func (l *loanConn) send(ask []byte, silence time.Duration) error {
	binary.BigEndian.PutUint32(ask, uint32(len(ask)-4))
	if err := l.SetDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	_, err := l.Write(ask)
	return err
}

// answer takes the answer to what was asked for from the next byte on. There are no pieces if the worker refuses: its page stream will
// say why, to those who know what it means.
func (l *loan) answer() error {
	kind, body, files, err := l.conn.receive()
	defer func() {
		for _, f := range files {
			f.Close() // the view needs it no more
		}
	}()
	if err != nil {
		return err
	}
	l.pieces, l.resident = l.pieces[:0], false
	if kind == kindFault {
		l.asked = false
		return nil
	}
	c := reader(string(body), true)
	var all []place
	c.flags(&l.resident)
	list(&c, &all, (*coder).place)
	if err := c.finish(); err != nil {
		return err
	}
	if err := l.open(all, files); err != nil {
		l.done(len(l.pieces))
		return err
	}
	l.asked, l.began, l.count = false, time.Now(), len(l.pieces)
	return nil
}

// open makes the places the pieces of the loan. files are those of them that this connection was not given before, in order.
func (l *loan) open(all []place, files []*os.File) error {
	b, lent := l.conn.b, int64(0)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return errWorkerEnded
	}
	for _, p := range all {
		if !l.conn.given[p.file] {
			if len(files) == 0 {
				return errors.New("a file that was not passed")
			}
			if b.views[p.file] == nil {
				v, err := page.OpenView(files[0])
				if err != nil {
					return err
				}
				b.views[p.file] = &lentFile{View: v}
			}
			files, l.conn.given[p.file] = files[1:], true
		}
		f := b.views[p.file]
		if lent += p.n; p.n <= 0 || lent > l.left || !f.Has(p.off, p.n) {
			return errors.New("something else than the bytes that were asked for")
		}
		f.pieces++
		l.pieces = append(l.pieces, lentPiece{f, p.off, p.n})
	}
	return nil
}

// place is a piece as it travels.
type place struct {
	file   uint64
	off, n int64
}

func (c *coder) place(p *place) {
	c.uvarint(&p.file)
	c.varint(&p.off)
	c.varint(&p.n)
}

// ready reports whether the next bytes are lent. If not, they are to be had elsewhere.
func (l *loan) ready() bool {
	if len(l.pieces) > 0 {
		return true
	}
	if l.left == 0 || l.slow || !l.asked && l.ask(0, nextLoan) != nil {
		return false
	}
	return l.answer() == nil && len(l.pieces) > 0
}

// send writes some of the bytes to w. Its errors are w's, but if lost says that the disk could not read the rest.
func (l *loan) send(w io.Writer) (n int, lost bool, err error) {
	p := l.pieces[0]
	if rest := l.left - p.n; len(l.pieces) == 1 && rest > 0 && !l.asked {
		_ = l.ask(p.n, nextLoan) // a failure shows when the answer is taken
	}
	n, lost, err = p.file.Send(w, p.off, p.n)
	l.took(int64(n))
	return n, lost, err
}

// read copies some of the bytes.
func (l *loan) read(to []byte) (int, error) {
	p := l.pieces[0]
	n, err := p.file.Copy(to[:min(int64(len(to)), p.n)], p.off)
	l.took(int64(n))
	return n, err
}

func (l *loan) took(n int64) {
	p := &l.pieces[0]
	p.off, p.n, l.off, l.left = p.off+n, p.n-n, l.off+n, l.left-n
	if p.n > 0 {
		return
	}
	if l.done(1); len(l.pieces) == 0 {
		l.slow = time.Since(l.began) > time.Duration(l.count)*l.pace
	}
}

// done takes the first n pieces off the loan. Nothing of them is read any more.
func (l *loan) done(n int) {
	b := l.conn.b
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range l.pieces[:n] {
		p.file.pieces--
		b.letGo(p.file)
	}
	l.pieces = l.pieces[n:]
}

// close gives back what is lent.
func (l *loan) close() {
	l.done(len(l.pieces))
	if l.asked || l.conn.send([]byte{0, 0, 0, 0, kindGiveBack}, l.silence) != nil {
		l.conn.Close()
		return
	}
	l.conn.keep()
}

// receive reads an answer, and the files that were passed with it, which are the caller's to close even if there is an error.
func (l *loanConn) receive() (kind byte, body []byte, files []*os.File, err error) {
	var rights [4*maxLoan + 64]byte
	for have := 0; ; {
		n, k, flags, _, err := l.ReadMsgUnix(l.buf[have:], rights[:unix.CmsgSpace(4*maxLoan)])
		passed, perr := takeFiles(rights[:max(0, k)])
		files = append(files, passed...)
		switch {
		case err == nil && n == 0:
			err = io.ErrUnexpectedEOF
		case err == nil && flags&unix.MSG_CTRUNC != 0:
			err = errors.New("this process can have no more descriptors")
		}
		if err = both(err, perr); err != nil {
			return 0, nil, files, err
		}
		if have += n; have < pageHeader {
			continue
		}
		want := pageHeader + int(binary.BigEndian.Uint32(l.buf[1:]))
		if want > pageHeader+maxLoanAnswer || have > want {
			return 0, nil, files, fmt.Errorf("an answer of %d bytes of which %d have come", want, have)
		}
		if have == want {
			return l.buf[0], l.buf[pageHeader:want], files, nil
		}
		if want > len(l.buf) {
			l.buf = append(l.buf, make([]byte, want-len(l.buf))...)
		}
	}
}

// takeFiles returns the files that came with a message.
func takeFiles(rights []byte) (files []*os.File, err error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	for _, m := range messages {
		fds, perr := unix.ParseUnixRights(&m)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "lent"))
		}
		err = both(err, perr)
	}
	return files, err
}
