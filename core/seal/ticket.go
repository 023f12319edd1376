package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// Ticket is a master's word that its holder may read the bytes of one content, and where a worker finds them; if it says so, also
// that its holder may have pages of the content be loaded, pinned and dropped. A gateway carries it and does not look into it. It
// says nothing of names or users: who got it was allowed to open the file.
type Ticket struct {
	ID           [16]byte // of the content
	Rev          uint64
	Len          int64  // bytes of the content
	NoCache      bool   // the content's pages are not kept
	Promote      bool   // those that are read again move to the first tier
	Tends        bool   // it is a master's own, for more than reading
	Copies       int    // how many workers may have them, more than 1 or negative for all; else only the first that owns them has
	Store        string // id of the mount that has the bytes
	Key, Version string // of the file there
	Base         int64  // where the content begins in that file, which may be before its first byte
	Expires      time.Time
}

/*
A ticket as it travels:

	version:byte flags:byte id:16 bytes rev:uvarint len:uvarint base:varint expires:varint (unix seconds) copies:varint (if its flag is set)
	store key version: each length:uvarint bytes
	signature: the first 16 bytes of HMAC-SHA-256 of what comes before

It is for one release and the one before it, and is not kept.
*/
const (
	ticketVersion byte = 1
	flagNoCache   byte = 1
	flagPromote   byte = 2
	flagCopies    byte = 4
	flagTends     byte = 8
	signatureSize      = 16
	// maxTicket is more than any ticket has: a key has at most a few KiB.
	maxTicket = 64 << 10
)

// Sign returns t as it travels. A nil Sealer returns nil.
func (s *Sealer) Sign(t *Ticket) []byte {
	if s == nil {
		return nil
	}
	b := make([]byte, 0, 96+len(t.Store)+len(t.Key)+len(t.Version))
	flags := byte(0)
	if t.NoCache {
		flags |= flagNoCache
	}
	if t.Promote {
		flags |= flagPromote
	}
	if t.Tends {
		flags |= flagTends
	}
	if t.copied() { // what an earlier release does not know is not there unless it is asked for
		flags |= flagCopies
	}
	b = append(append(b, ticketVersion, flags), t.ID[:]...)
	b = binary.AppendUvarint(b, t.Rev)
	b = binary.AppendUvarint(b, uint64(t.Len))
	b = binary.AppendVarint(b, t.Base)
	b = binary.AppendVarint(b, t.Expires.Unix())
	if t.copied() {
		b = binary.AppendVarint(b, int64(t.Copies))
	}
	for _, text := range []string{t.Store, t.Key, t.Version} {
		b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
	}
	return append(b, s.signature(b)...)
}

func (t *Ticket) copied() bool { return t.Copies > 1 || t.Copies < 0 }

func (s *Sealer) signature(b []byte) []byte {
	h := hmac.New(sha256.New, s.tickets)
	h.Write(b)
	return h.Sum(nil)[:signatureSize]
}

// Verify returns the ticket that b is. Errors: errs.Permission if it was not signed under this key, or has expired at now,
// or is of another release.
func (s *Sealer) Verify(b []byte, now time.Time) (*Ticket, error) {
	refuse := func(why string) (*Ticket, error) {
		return nil, errs.New("seal.Verify", "", errs.Permission, "the ticket "+why)
	}
	if s == nil || len(b) < signatureSize+2 || len(b) > maxTicket {
		return refuse("is none")
	}
	text, signature := b[:len(b)-signatureSize], b[len(b)-signatureSize:]
	if !hmac.Equal(signature, s.signature(text)) {
		return refuse("was not signed under this cluster's secret key")
	}
	if text[0] != ticketVersion || text[1]&^(flagNoCache|flagPromote|flagCopies|flagTends) != 0 {
		return refuse("is of another release")
	}
	t := &Ticket{NoCache: text[1]&flagNoCache != 0, Promote: text[1]&flagPromote != 0, Tends: text[1]&flagTends != 0}
	r := ticketReader{b: text[2:]}
	copy(t.ID[:], r.take(len(t.ID)))
	t.Rev = r.uvarint()
	length := r.uvarint()
	t.Base = r.varint()
	t.Expires = time.Unix(r.varint(), 0)
	if text[1]&flagCopies != 0 {
		t.Copies = int(r.varint())
	}
	t.Store, t.Key, t.Version = r.text(), r.text(), r.text()
	if r.bad || len(r.b) > 0 || length > math.MaxInt64 {
		return refuse("is of another release")
	}
	t.Len = int64(length)
	if now.After(t.Expires) {
		return refuse("has expired; open the file again")
	}
	return t, nil
}

// ticketReader reads values off the front of b; after a bad one all are zero.
type ticketReader struct {
	b   []byte
	bad bool
}

func (r *ticketReader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.b, r.bad = nil, true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *ticketReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *ticketReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *ticketReader) text() string {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return ""
	}
	return string(r.take(int(n)))
}
