package seal_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/seal"
)

func TestCalls(t *testing.T) {
	s, err := seal.New(bytes.Repeat([]byte{1}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	other, err := seal.New(bytes.Repeat([]byte{2}, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, text := range []string{"", "release it"} {
		b := s.SignCall([]byte(text), now.Add(time.Minute))
		if got, err := s.VerifyCall(b, now); err != nil || string(got) != text {
			t.Errorf("VerifyCall = %q, %v; want %q", got, err, text)
		}
		for i := range b {
			bad := bytes.Clone(b)
			bad[i] ^= 1
			if _, err := s.VerifyCall(bad, now); !errors.Is(err, errs.Permission) {
				t.Errorf("with byte %d changed: %v", i, err)
			}
		}
		for n := range b {
			if _, err := s.VerifyCall(b[:n], now); !errors.Is(err, errs.Permission) {
				t.Errorf("cut off at %d: %v", n, err)
			}
		}
		if _, err := s.VerifyCall(b, now.Add(2*time.Minute)); !errors.Is(err, errs.Permission) {
			t.Errorf("expired: %v", err)
		}
		if _, err := other.VerifyCall(b, now); !errors.Is(err, errs.Permission) {
			t.Errorf("another key: %v", err)
		}
	}
	ticket := s.Sign(&seal.Ticket{Expires: now.Add(time.Minute)})
	if _, err := s.VerifyCall(ticket, now); !errors.Is(err, errs.Permission) {
		t.Errorf("a ticket for a call: %v", err)
	}
	var none *seal.Sealer
	if _, err := none.VerifyCall(none.SignCall(nil, now.Add(time.Minute)), now); !errors.Is(err, errs.Permission) {
		t.Errorf("no key: %v", err)
	}
}
