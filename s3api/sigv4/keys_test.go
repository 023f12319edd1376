package sigv4

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
	"time"
)

// TestMAC compares mac with crypto/hmac for keys and messages of all lengths around where it changes its way.
func TestMAC(t *testing.T) {
	for k := range 2*sha256.BlockSize + 1 {
		for _, n := range []int{0, 1, 100, maxMessage - 1, maxMessage, maxMessage + 1, 1000} {
			key, message := bytes.Repeat([]byte{byte(k + 1)}, k), bytes.Repeat([]byte{byte(n)}, n)
			h := hmac.New(sha256.New, key)
			h.Write(message)
			if got := mac(key, message); !bytes.Equal(got[:], h.Sum(nil)) {
				t.Fatalf("a key of %d bytes, a message of %d: %x", k, n, got)
			}
		}
	}
}

// TestStamp compares parseStamp with time.Parse for times with a byte or two changed.
func TestStamp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for i := range 200_000 {
		b := []byte([]string{"20130524T000000Z", "20240229T235959Z", "19000131T100907Z", "00010101T000000Z"}[i%4])
		for range r.IntN(3) {
			b[r.IntN(len(b))] = "0123456789TZ.:/ -"[r.IntN(17)]
		}
		s := string(b)
		want, err := time.Parse(stampForm, s)
		if got, ok := parseStamp(s); ok != (err == nil) || ok && !got.Equal(want) {
			t.Fatalf("%q: got %v, %v; want %v, %v", s, got, ok, want, err)
		} else if ok {
			taken++
		}
	}
	if taken < 50_000 {
		t.Errorf("only %d were times", taken)
	}
	for _, s := range []string{"", "20130524T000000", "20130524T000000.5Z", "20130524T000000ZZ"} {
		if _, ok := parseStamp(s); ok {
			t.Errorf("%q was taken for a time", s)
		}
	}
}
