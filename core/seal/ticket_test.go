package seal

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core/errs"
)

func testSealer(t testing.TB, b byte) *Sealer {
	t.Helper()
	s, err := New(bytes.Repeat([]byte{b}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTicket(t *testing.T) {
	s := testSealer(t, 7)
	now := time.Unix(1_800_000_000, 0)
	want := &Ticket{
		ID: [16]byte{1, 2, 15: 3}, Rev: 1 << 62, Len: 5 << 40, NoCache: true, Store: "m1", Key: "dir/a\x00b", Version: "\"etag\"", Base: -77,
		Expires: now.Add(time.Minute),
	}
	if got, err := s.Verify(s.Sign(&Ticket{Promote: true, Expires: want.Expires}), now); err != nil || !got.Promote || got.NoCache {
		t.Errorf("a ticket to promote is %+v, %v", got, err)
	}
	if got, err := s.Verify(s.Sign(&Ticket{Tends: true, Expires: want.Expires}), now); err != nil || !got.Tends || got.Promote || got.NoCache {
		t.Errorf("one for more than reading: got %+v, %v", got, err)
	}
	b := s.Sign(want)
	got, err := s.Verify(b, now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	refused := func(what string, s *Sealer, b []byte, now time.Time) {
		t.Helper()
		if got, err := s.Verify(b, now); errs.KindOf(err) != errs.Permission || got != nil {
			t.Errorf("%s: got %v, %v", what, got, err)
		}
	}
	refused("another key", testSealer(t, 8), b, now)
	refused("no key", nil, b, now)
	refused("later", s, b, want.Expires.Add(time.Second))
	for i := range b {
		for bit := range 8 {
			other := bytes.Clone(b)
			other[i] ^= 1 << bit
			refused("a flipped bit", s, other, now)
		}
		refused("cut short", s, b[:i], now)
	}
	refused("longer", s, append(bytes.Clone(b), 0), now)
	if (*Sealer)(nil).Sign(want) != nil {
		t.Error("a ticket signed without a key")
	}
}

// FuzzTicket has what is signed be anything: a ticket that verifies travels back as it came.
func FuzzTicket(f *testing.F) {
	s, err := New(make([]byte, KeySize))
	if err != nil {
		f.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	whole := s.Sign(&Ticket{Len: 1, Store: "root", Key: "k", Version: "v", Expires: now})
	f.Add(whole[:len(whole)-signatureSize])
	f.Add([]byte{ticketVersion, 0})
	f.Fuzz(func(t *testing.T, text []byte) {
		b := append(bytes.Clone(text), s.signature(text)...)
		got, err := s.Verify(b, now)
		if err != nil {
			if errs.KindOf(err) != errs.Permission {
				t.Fatal(err)
			}
			return
		}
		again, err := s.Verify(s.Sign(got), now)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
