package remote

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

/*
What core.Holder does, on the page stream, for masters: a call is believed because it is signed under the key that masters and
workers share, so that nobody else can have bytes held, read or released.

	call = text, signed (seal.Sealer.SignCall)
	text = worker:string op:byte life:8 bytes term list of attempt off n, of which an op uses what it needs; life and term are core.Reign
	ops    'h' hold the one attempt; 'g' its bytes [off, off+n); 'd' release all attempts; 'l' list what is held

	answer of 'h'  = 'O' none; what of it fails, at any time, is 'F', after which the connection ends
	client then      'B' bytes…, and at last 'C' flags (durable) sum:4 bytes, which is answered by 'E' when the bytes are held,
	                 with 'H' every Heartbeat until then; or 'X' none, to drop them: 'E'
	answer of 'g'  = 'O' none, 'B' bytes…, 'S' sum:4 bytes, 'E'
	answer of 'd'  = 'O' none, 'E'
	answer of 'l'  = 'O' none, 'B' list of (attempt size)…, 'E'

A sum is the CRC-32C of all bytes in 'B', big-endian: neither side keeps, or hands out to the end, what came damaged over the network.
*/
const (
	heldHold, heldGet, heldDrop, heldList byte = 'h', 'g', 'd', 'l'

	// heldVersion is that of these calls alone: processes of another release read pages of each other all the same, and writes go to
	// their stores meanwhile.
	heldVersion = 2

	// maxHeldIDs bounds the attempts that one call names; each takes 26 bytes at most.
	maxHeldIDs = 4000
	// heldEntries is how many attempts a frame of a list has.
	heldEntries = 1000
)

// castagnoli returns the table of the sums, which the standard library makes once.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// heldCall is the text of a call.
type heldCall struct {
	worker string
	op     byte
	reign  core.Reign
	ids    []core.HeldID
	off, n int64
}

func (c *coder) heldCall(p *heldCall) {
	text(c, &p.worker)
	c.byte(&p.op)
	for i := range p.reign.Life {
		c.byte(&p.reign.Life[i])
	}
	c.uvarint(&p.reign.Term)
	list(c, &p.ids, (*coder).heldID)
	c.varint(&p.off)
	c.varint(&p.n)
}

func (c *coder) heldID(id *core.HeldID) {
	for i := range id.ID {
		c.byte(&id.ID[i])
	}
	c.uvarint(&id.Rev)
}

func (c *coder) held(h *core.Held) {
	c.heldID(&h.HeldID)
	c.varint(&h.Size)
}

// heldCall returns what a request asks for. Errors: errs.Unsupported, errs.Permission, errs.Invalid, errs.Unavailable.
func (s *PageServer) heldCall(ask string) (call heldCall, err error) {
	const op = "remote.Hold"
	if s.o.Holder == nil || s.o.Verify == nil {
		return call, errs.New(op, "", errs.Unsupported, "this process holds no bytes for others")
	}
	c := reader(ask, true)
	var kind byte
	var v uint64
	var signed []byte
	c.byte(&kind)
	c.uvarint(&v)
	if v != heldVersion {
		c.fail("not a request of this version")
	}
	c.bytes(&signed)
	if err := c.finish(); err != nil {
		return call, err
	}
	words, err := s.o.Verify(signed)
	if err != nil {
		return call, err
	}
	c = reader(string(words), true)
	c.heldCall(&call)
	if err := c.finish(); err != nil {
		return call, err
	}
	switch {
	case call.worker != s.o.Holder.Name():
		return call, errs.New(op, call.worker, errs.Unavailable, "another worker has the address of this one")
	case (call.op == heldHold || call.op == heldGet) && len(call.ids) != 1:
		return call, errs.New(op, "", errs.Invalid, "the call is about one attempt, and names another number of them")
	}
	return call, nil
}

// takeHeld takes the bytes of an attempt, and returns what commits or aborts it.
func (s *PageServer) takeHeld(ctx context.Context, in *bufio.Reader, out *pageSink, call heldCall) (answer func() error, err error) {
	w, refused := s.o.Holder.Hold(core.WithReign(ctx, call.reign), call.ids[0])
	if refused != nil {
		return func() error { return out.fault(refused) }, nil
	}
	ended := false
	defer func() {
		if !ended {
			err = both(err, w.Abort())
		}
	}()
	out.held = frameHeader(kindOpen, 0)
	if err := out.send(nil); err != nil {
		return nil, err
	}
	buf := make([]byte, pageBuffer, chunk)
	var bad error // after which what comes is read so that the client reads the fault
	sum := uint32(0)
	for {
		var head [pageHeader]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return nil, err
		}
		n := int(binary.BigEndian.Uint32(head[1:]))
		switch {
		case n > maxPageFrame:
			return nil, errors.New("a frame that is too long")
		case head[0] == kindBytes:
			for n > 0 {
				if n > len(buf) {
					buf = buf[:cap(buf)]
				}
				b := buf[:min(n, len(buf))]
				if _, err := io.ReadFull(in, b); err != nil {
					return nil, err
				}
				n -= len(b)
				if bad != nil {
					continue
				}
				sum = crc32.Update(sum, castagnoli(), b)
				if _, bad = w.Write(b); bad != nil {
					if err := out.fault(bad); err != nil {
						return nil, err
					}
				}
			}
		case bad != nil:
			return nil, bad
		case head[0] == kindAbort && n == 0:
			ended = true
			err := w.Abort()
			return func() error { return out.conclude(err) }, nil
		case head[0] == kindCommit:
			b := make([]byte, n)
			if _, err := io.ReadFull(in, b); err != nil {
				return nil, err
			}
			var durable bool
			c := reader(string(b), false)
			c.flags(&durable)
			if err := c.err; err != nil || len(c.s) != 4 {
				return nil, errors.New("an end that is none")
			}
			if binary.BigEndian.Uint32([]byte(c.s)) != sum {
				return func() error {
					return out.fault(errs.New("remote.Hold", "", errs.Unavailable, "the bytes were damaged on their way to the worker; send them again"))
				}, nil
			}
			ended = true
			return func() error {
				out.start()
				err := w.Commit(ctx, durable)
				out.quiet()
				if err != nil && ctx.Err() != nil { // nobody is there any more, or this process stops
					return err
				}
				return out.conclude(err)
			}, nil
		default:
			return nil, errors.New("something else than bytes to hold")
		}
	}
}

// conclude says that all has been done, or why not.
func (o *pageSink) conclude(err error) error {
	if err != nil {
		return o.fault(err)
	}
	o.held = append(o.held, frameHeader(kindEnd, 0)...)
	return o.send(nil)
}

// answerHeld answers a call that nothing comes after.
func (s *PageServer) answerHeld(ctx context.Context, out *pageSink, call heldCall) error {
	opened := frameHeader(kindOpen, 0)
	ctx = core.WithReign(ctx, call.reign)
	switch call.op {
	case heldGet:
		rd, err := s.o.Holder.Held(ctx, call.ids[0], call.off, call.n)
		if err != nil {
			return out.fault(err)
		}
		out.held, out.left = opened, -1 // the end comes after the sum
		w := &summed{w: out}
		_, err = io.Copy(w, rd)
		if err = both(err, rd.Close()); err != nil {
			if out.err != nil {
				return out.err
			}
			return out.fault(err)
		}
		out.held = binary.BigEndian.AppendUint32(append(out.held, frameHeader(kindSum, 4)...), w.sum)
	case heldDrop:
		out.held = opened
		out.start()
		err := s.o.Holder.Release(ctx, call.ids...)
		out.quiet()
		return out.conclude(err)
	case heldList:
		out.held, out.left = opened, -1
		var some []core.Held
		send := func() error {
			var c coder
			list(&c, &some, (*coder).held)
			some = some[:0]
			return out.send(c.b)
		}
		for h, err := range s.o.Holder.Holds(ctx) {
			if err != nil {
				return out.fault(err)
			}
			if some = append(some, h); len(some) == heldEntries {
				if err := send(); err != nil {
					return err
				}
			}
		}
		if len(some) > 0 {
			if err := send(); err != nil {
				return err
			}
		}
	default:
		return out.fault(errs.New("remote.Hold", "", errs.Unsupported, "this worker does not know the operation; it is of another release"))
	}
	return out.conclude(nil)
}

// summed computes the sum of what goes through it.
type summed struct {
	w   io.Writer
	sum uint32
}

// Write implements io.Writer.
func (s *summed) Write(p []byte) (int, error) {
	s.sum = crc32.Update(s.sum, castagnoli(), p)
	return s.w.Write(p)
}
