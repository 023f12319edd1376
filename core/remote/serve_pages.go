package remote

import (
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicefs/sluice/core/errs"
)

// servePages serves one reader of pages.
func (w *Switch) servePages(s *Server, st grpc.ServerStream) error {
	kind, c, err := receive(st, true)
	if err != nil {
		return err
	}
	var ticket []byte
	var off, n int64
	c.bytes(&ticket)
	c.varint(&off)
	c.varint(&n)
	if err := c.finish(); err != nil || kind != kindOpen {
		return status.Error(codes.InvalidArgument, "the stream does not begin with what to read")
	}
	if w.pages == nil {
		return refuse(st, errs.New("remote.Pages", "", errs.Unsupported, "this process is no worker"))
	}
	rd, err := w.pages.Pages(st.Context(), ticket, off, n)
	if err != nil {
		return refuse(st, err)
	}
	resident := rd.Resident()
	head := coder{b: []byte{kindOpen}}
	head.flags(&resident)
	if err := st.SendMsg(plain(head.b)); err != nil {
		return both(err, rd.Close())
	}
	alive := &alive{rawStream: st}
	alive.timer = time.AfterFunc(Heartbeat, alive.beat)
	out := sender{st: alive, pool: s.buffers, left: n}
	if _, err = rd.WriteTo(&out); err == nil {
		err = out.flush()
	}
	alive.stop()
	if err = both(err, rd.Close()); err != nil {
		out.drop()
		return refuse(st, err)
	}
	return nil
}

// alive is a stream on which a message without bytes is sent when nothing else was for the time of Heartbeat: a store may
// take its time, and who waits for it must be able to tell that from a worker that has died.
type alive struct {
	rawStream
	mu    sync.Mutex // a stream sends one message at a time
	timer *time.Timer
	ended bool
}

// SendMsg implements rawStream.
func (a *alive) SendMsg(m any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer.Reset(Heartbeat)
	return a.rawStream.SendMsg(m)
}

func (a *alive) beat() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended || a.Context().Err() != nil {
		return
	}
	if a.rawStream.SendMsg(plain([]byte{kindBytes})) == nil {
		a.timer.Reset(Heartbeat)
	}
}

func (a *alive) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.timer.Stop()
}
