package remote

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core"
)

/*
Loans: a gateway on the machine of a worker reads the worker's pages where they lie. Over a Unix-domain socket the worker passes
it the descriptors of its segment files, open for reading only, and says where in them the bytes are that a ticket is for. The
bytes themselves do not cross the worker. Version 1.

	request = 'L' version ticket off n most:byte, after its length in 4 bytes: lend the first bytes of that range, in so many pieces
	        | 'G', likewise: all is given back; no answer
	answer  = kind:byte length:4 bytes body
	kinds     'O': resident, list of piece, with the descriptors of the files that this connection has not been given yet, in
	          the order of their first pieces; 'F': fault
	piece   = file:uvarint off n

What is lent stays where it is, and what it is, until it is given back: by 'G'; by the next request but one; or by the end of the
connection from the client's side, which comes when it reads no more, or exists no more. A client so can ask for what comes next
before it has done with what it has. A worker that ends, as planned or not, takes nothing back: page.Loan says what keeps the bytes
of a lender that is gone.

A piece is refused, not waited for: who is lent nothing reads from the page stream, where the worker fetches what it lacks.

# Who is answered

The ticket is checked as on the page stream. Before it, and whether or not processes show certificates, the peer must be a process of the
same user, or of root, by what the kernel says of it (SO_PEERCRED); so must the worker be for the gateway, which believes the bytes. The
socket is that user's alone, too. A certificate would say no more: a process of the same user can read the key that proves it, and the
files of the cache. For the same reason a descriptor of a whole segment file gives away nothing: it goes to a process that
could ask the leader for a ticket for any of its bytes.
*/
const (
	loansVersion = 1

	kindLend, kindGiveBack byte = 'L', 'G'

	// maxLoan bounds the pieces of an answer, so that its descriptors fit into one message (SCM_MAX_FD is 253).
	maxLoan = 64
	// maxLoanAnswer bounds the body of an answer in bytes.
	maxLoanAnswer = 64 << 10
)

// Socket returns the path of the socket on which the worker of that incarnation lends, in a directory that gateways share with it.
func Socket(dir, incarnation string) string { return filepath.Join(dir, incarnation+".sock") }

// LoanServer lends a worker's pages.
type LoanServer struct {
	*acceptor
	lender core.Lender

	naming sync.Mutex
	files  map[*os.File]uint64 // by what they are called
}

// NewLoanServer returns a server. Values of ctx stay; its end does not end the server.
func NewLoanServer(ctx context.Context, l core.Lender) *LoanServer {
	return &LoanServer{acceptor: newAcceptor(ctx), lender: l, files: map[*os.File]uint64{}}
}

// Listen makes the socket, in a directory that it makes if it is missing, for this user alone, and takes away those that dead processes have
// left there. Errors: of the system.
func (s *LoanServer) Listen(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	sweep(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	s.listen(l)
	return nil
}

// sweepAge is how old a socket is that may be taken for a dead process's: between the making of one and its first answer there is
// a moment.
const sweepAge = time.Minute

// sweep removes the sockets on which nobody listens.
func sweep(dir string) {
	names, _ := filepath.Glob(Socket(dir, "*")) // only ever ErrBadPattern; what is left is swept by the next
	for _, name := range names {
		st, err := os.Stat(name)
		if err != nil || st.Mode().Type() != os.ModeSocket || time.Since(st.ModTime()) < sweepAge {
			continue
		}
		c, err := net.Dial("unix", name)
		if err == nil {
			c.Close()
		} else if errors.Is(err, unix.ECONNREFUSED) {
			os.Remove(name)
		}
	}
}

// Serve answers on the socket of Listen, which it removes, until Stop, and returns nil then.
func (s *LoanServer) Serve() error {
	return s.accept(func(c net.Conn) bool { return sameUser(c.(*net.UnixConn)) == nil }, func(c net.Conn) { s.serve(c.(*net.UnixConn)) })
}

// Stop closes all connections. What is lent stays lent: the clients still read it. The cache may be closed then.
func (s *LoanServer) Stop() { s.stop() }

// sameUser refuses a peer that is neither this process's user nor root.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("the peer is a process of user %d", peer.Uid)
	}
	return nil
}

// lending is one connection of a LoanServer.
type lending struct {
	s        *LoanServer
	conn     *net.UnixConn
	in       *bufio.Reader
	was, now []core.Piece          // what the last two requests were lent
	given    map[*os.File]struct{} // the files that the client has
}

// serve answers the requests of one connection until it ends. What went wrong is not told: the client sees that it has ended.
func (s *LoanServer) serve(c *net.UnixConn) {
	l := &lending{s: s, conn: c, in: bufio.NewReaderSize(c, 4<<10), given: map[*os.File]struct{}{}}
	for l.next() == nil {
	}
	_ = c.CloseWrite()            // the client may still read what it was lent: only its own end says that it does not
	_, _ = io.Copy(io.Discard, c) // its error is the end too, of a client that had not read everything
	if s.ctx.Err() == nil {       // else it may be Stop that has closed the connection
		l.giveBack()
	}
}

// next answers one request.
func (l *lending) next() error {
	var head [4]byte
	if _, err := io.ReadFull(l.in, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxPageRequest {
		return errors.New("a request of an impossible length")
	}
	ask := make([]byte, n)
	if _, err := io.ReadFull(l.in, ask); err != nil {
		return err
	}
	if ask[0] == kindGiveBack {
		l.giveBack()
		return nil
	}
	return l.lend(string(ask))
}

func (l *lending) giveBack() {
	for _, p := range slices.Concat(l.was, l.now) {
		p.GiveBack()
	}
	l.was, l.now = nil, nil
}

// lend answers one request for pages.
func (l *lending) lend(ask string) error {
	for _, p := range l.was {
		p.GiveBack()
	}
	l.was, l.now = l.now, nil
	c := reader(ask, true)
	var kind, most byte
	var v uint64
	var ticket []byte
	var off, n int64
	c.byte(&kind)
	c.uvarint(&v)
	if kind != kindLend || v != loansVersion {
		c.fail("not a request of this version")
	}
	c.bytes(&ticket)
	c.varint(&off)
	c.varint(&n)
	c.byte(&most)
	if err := c.finish(); err != nil {
		return l.fault(err)
	}
	pieces, resident, err := l.s.lender.Lend(l.s.ctx, ticket, off, n, min(int(most), maxLoan))
	l.now = pieces
	if err != nil {
		return l.fault(err)
	}
	out := coder{b: make([]byte, pageHeader, 16+24*len(pieces))}
	out.flags(&resident)
	var fresh []int
	list(&out, &pieces, func(c *coder, p *core.Piece) {
		name := l.s.name(p.File)
		if _, has := l.given[p.File]; !has {
			l.given[p.File] = struct{}{}
			fresh = append(fresh, int(p.File.Fd()))
		}
		c.uvarint(&name)
		c.varint(&p.Off)
		c.varint(&p.Len)
	})
	return l.send(kindOpen, out.b, fresh)
}

// name returns what the file is called, which no other is ever.
func (s *LoanServer) name(f *os.File) uint64 {
	s.naming.Lock()
	defer s.naming.Unlock()
	n, ok := s.files[f]
	if !ok {
		n = uint64(len(s.files))
		s.files[f] = n
	}
	return n
}

func (l *lending) fault(err error) error {
	out := coder{b: make([]byte, pageHeader)}
	out.fault(&err)
	return l.send(kindFault, out.b, nil)
}

// send sends a frame, whose header is still to be written, with descriptors.
func (l *lending) send(kind byte, frame []byte, fds []int) error {
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(frame)-pageHeader))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := l.conn.SetWriteDeadline(time.Now().Add(Silence)); err != nil {
		return err
	}
	n, _, err := l.conn.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = l.conn.Write(frame[n:])
	}
	return err
}
