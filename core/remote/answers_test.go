package remote

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

func mustClaim(t *testing.T, m *MemoryAnswers, id CallID) {
	t.Helper()
	if _, answer, err := m.Begin(t.Context(), id); err != nil || answer != nil {
		t.Fatalf("got %q, %v; want a change to make", answer, err)
	}
}

func TestAnswersAreRememberedUntilAcknowledged(t *testing.T) {
	var m MemoryAnswers
	s := Session{1}
	m.Attach(t.Context(), s)
	for seq := uint64(1); seq <= 3; seq++ {
		mustClaim(t, &m, CallID{s, seq})
	}
	m.End(CallID{s, 1}, []byte("one"))
	m.End(CallID{s, 2}, []byte("two"))
	m.End(CallID{s, 3}, nil)
	if _, answer, err := m.Begin(t.Context(), CallID{s, 1}); string(answer) != "one" || err != nil {
		t.Errorf("got %q, %v", answer, err)
	}
	mustClaim(t, &m, CallID{s, 3}) // it was not made
	m.Acknowledge(s, 2, nil)
	if _, _, err := m.Begin(t.Context(), CallID{s, 1}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("an acknowledged change: got %v", err)
	}
	if _, answer, err := m.Begin(t.Context(), CallID{s, 2}); string(answer) != "two" || err != nil {
		t.Errorf("got %q, %v", answer, err)
	}
	m.Acknowledge(s, 10, nil)
	m.End(CallID{s, 3}, []byte("three")) // acknowledged while it was in progress
	if len(m.sessions[s].outcomes) != 0 || m.bytes != 0 {
		t.Errorf("%d answers and %d bytes are left", len(m.sessions[s].outcomes), m.bytes)
	}
	if _, _, err := m.Begin(t.Context(), CallID{Session{2}, 1}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("an unknown session: got %v", err)
	}
}

func TestAnswersWaitForTheChangeInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m MemoryAnswers
		s := Session{1}
		m.Attach(t.Context(), s)
		id := CallID{s, 1}
		mustClaim(t, &m, id)
		got := make(chan string, 2)
		for range 2 {
			go func() {
				_, answer, err := m.Begin(t.Context(), id)
				if err != nil {
					t.Error(err)
				}
				got <- string(answer)
			}()
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := m.Begin(gone, id); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		m.End(id, []byte("done"))
		if a, b := <-got, <-got; a != "done" || b != "done" {
			t.Errorf("got %q and %q", a, b)
		}
	})
}

func TestSessionsAreForgottenWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m MemoryAnswers
		idle, busy, attached := Session{1}, Session{2}, Session{3}
		epoch, err := m.Attach(t.Context(), idle)
		if err != nil {
			t.Fatal(err)
		}
		m.Attach(t.Context(), busy)
		m.Attach(t.Context(), attached)
		mustClaim(t, &m, CallID{idle, 1})
		m.End(CallID{idle, 1}, []byte("x"))
		mustClaim(t, &m, CallID{busy, 1})
		m.Detach(idle)
		m.Detach(busy)
		if again, _ := m.Attach(t.Context(), idle); again != epoch {
			t.Errorf("a session that came back has another epoch")
		}
		m.Detach(idle)
		time.Sleep(sessionIdle + time.Second)
		for i := len(m.sessions); i < maxSessions; i++ {
			m.Attach(t.Context(), Session{4, byte(i), byte(i >> 8)})
		}
		if _, err := m.Attach(t.Context(), Session{5}); err != nil {
			t.Errorf("no room, although a session was idle: %v", err)
		}
		if m.sessions[idle] != nil || m.sessions[busy] == nil || m.sessions[attached] == nil || m.bytes != 0 {
			t.Errorf("the wrong sessions were forgotten, or %d bytes were not", m.bytes)
		}
		if _, err := m.Attach(t.Context(), Session{6}); !errors.Is(err, errs.Unavailable) {
			t.Errorf("one session too many: got %v", err)
		}
		if again, err := m.Attach(t.Context(), attached); err != nil || again == epoch {
			t.Errorf("got %v", err)
		}
	})
}

func TestOneInProgressHoldsNoOther(t *testing.T) {
	var m MemoryAnswers
	s := Session{1}
	m.Attach(t.Context(), s)
	for seq := uint64(1); seq <= 9; seq++ {
		mustClaim(t, &m, CallID{s, seq})
		if seq != 3 && seq != 7 {
			m.End(CallID{s, seq}, []byte("x"))
		}
	}
	m.Acknowledge(s, 9, []uint64{3, 5, 7})
	if got := len(m.sessions[s].outcomes); got != 4 || m.bytes != 2 { // 3 and 7 in progress, 5 and 9
		t.Errorf("%d answers of %d bytes are left", got, m.bytes)
	}
	if got := m.watermark(s); got != 3 {
		t.Errorf("the watermark is %d", got)
	}
	if _, _, err := m.Begin(t.Context(), CallID{s, 4}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("an acknowledged change: got %v", err)
	}
	m.Acknowledge(s, 6, []uint64{3, 4}) // what comes late takes nothing back
	if _, _, err := m.Begin(t.Context(), CallID{s, 5}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("an acknowledged change: got %v", err)
	}
	m.End(CallID{s, 3}, []byte("three"))
	if _, answer, err := m.Begin(t.Context(), CallID{s, 3}); string(answer) != "three" || err != nil {
		t.Errorf("got %q, %v", answer, err)
	}
	m.Acknowledge(s, 7, nil)
	m.Acknowledge(s, 12, []uint64{7, 11})
	m.End(CallID{s, 7}, []byte("seven"))
	mustClaim(t, &m, CallID{s, 11})
	if got := m.watermark(s); got != 7 {
		t.Errorf("the watermark is %d", got)
	}
	m.Acknowledge(s, 13, nil)
	m.End(CallID{s, 11}, []byte("eleven"))
	if got := len(m.sessions[s].outcomes); got != 0 || m.bytes != 0 || m.watermark(s) != 13 {
		t.Errorf("%d answers of %d bytes are left, the watermark is %d", got, m.bytes, m.watermark(s))
	}
}

func TestAnswersAreBounded(t *testing.T) {
	var m MemoryAnswers
	s := Session{1}
	m.Attach(t.Context(), s)
	for seq := uint64(1); seq <= maxSessionAnswers; seq++ {
		mustClaim(t, &m, CallID{s, seq})
		m.End(CallID{s, seq}, []byte("x"))
	}
	over := CallID{s, maxSessionAnswers + 1}
	if _, _, err := m.Begin(t.Context(), over); !errors.Is(err, errs.Unavailable) {
		t.Errorf("got %v", err)
	}
	m.Acknowledge(s, maxSessionAnswers, nil)
	mustClaim(t, &m, over)
}
