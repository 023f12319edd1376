package remote

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// Session is the id of a client, drawn at random when it is made.
type Session [16]byte

// CallID is the id of a change: the Sequence-th of its session, from 1.
type CallID struct {
	Session  Session
	Sequence uint64
}

// Answers remembers what changes were answered, so that one that is asked again is not made again.
//
// JournaledAnswers survive their process: the Tree writes the answer in the record of the change itself, under the name that
// Begin's context has. MemoryAnswers state in their epoch that they do not.
type Answers interface {
	// Attach begins or continues a session and returns the epoch of what is remembered of it. Two equal epochs say that
	// nothing was forgotten in between but what was acknowledged. Each Attach is followed by one Detach; a session that is
	// not attached may be forgotten. Errors: errs.Unavailable if there are too many sessions.
	Attach(ctx context.Context, s Session) (epoch uint64, err error)
	// Detach says that a stream of the session has ended.
	Detach(s Session)
	// Begin claims a change. If it was answered before, the answer is returned; if it is in progress, Begin waits for that.
	// Otherwise the caller makes the change under the context returned, and calls End. Errors: ctx's; errs.Unavailable if
	// the change was acknowledged, the session is not known, or there is no room, and then the change must not be made.
	Begin(ctx context.Context, id CallID) (call context.Context, answer []byte, err error)
	// End remembers the answer of a change that Begin gave out. A nil answer says that the change was not made and may be
	// made under the same id. The answer must not be changed afterwards.
	End(id CallID, answer []byte)
	// Acknowledge says that no change of the session below the sequence will be asked again but those of open, which are
	// sorted. What was said once holds; it may come late, or again.
	Acknowledge(s Session, below uint64, open []uint64)
}

// The bounds of MemoryAnswers.
const (
	maxSessions = 4096
	sessionIdle = 10 * time.Minute // after which a session without a stream may be forgotten
	// A client has no more than maxCalls in progress. While one of them takes long, it acknowledges the others with each
	// heartbeat only: 100,000 a second are 25,000 between two.
	maxSessionAnswers  = 4 * maxCalls
	maxRememberedBytes = 128 << 20
)

// MemoryAnswers are Answers that live as long as their process. The zero value is ready for use.
type MemoryAnswers struct {
	mu       sync.Mutex
	sessions map[Session]*session
	bytes    int
}

// session is what is remembered of one.
type session struct {
	epoch    uint64
	streams  int
	left     time.Time // when the last stream ended
	below    uint64    // acknowledged, but for open
	open     []uint64  // below it, sorted
	outcomes map[uint64]*outcome
}

// outcome is a change in progress until done is closed, then its answer.
type outcome struct {
	done   chan struct{}
	answer []byte
}

// Attach implements Answers.
func (m *MemoryAnswers) Attach(_ context.Context, id Session) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[id]; s != nil {
		s.streams++
		return s.epoch, nil
	}
	if len(m.sessions) >= maxSessions {
		m.forgetIdle(time.Now())
	}
	if len(m.sessions) >= maxSessions {
		return 0, errs.New("remote.Attach", "", errs.Unavailable, "too many clients")
	}
	var epoch [8]byte
	rand.Read(epoch[:]) // never fails
	s := &session{epoch: binary.LittleEndian.Uint64(epoch[:]), streams: 1, outcomes: map[uint64]*outcome{}}
	if m.sessions == nil {
		m.sessions = map[Session]*session{}
	}
	m.sessions[id] = s
	return s.epoch, nil
}

// forgetIdle drops the sessions whose clients have been away for long. m.mu must be held.
func (m *MemoryAnswers) forgetIdle(now time.Time) {
	for id, s := range m.sessions {
		if s.streams == 0 && now.Sub(s.left) > sessionIdle && !s.busy() {
			for _, o := range s.outcomes {
				m.bytes -= len(o.answer)
			}
			delete(m.sessions, id)
		}
	}
}

// busy reports whether a change of the session is in progress.
func (s *session) busy() bool {
	for _, o := range s.outcomes {
		if o.answer == nil {
			return true
		}
	}
	return false
}

// Detach implements Answers.
func (m *MemoryAnswers) Detach(id Session) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.sessions[id]; s != nil {
		s.streams--
		s.left = time.Now()
	}
}

// Begin implements Answers.
func (m *MemoryAnswers) Begin(ctx context.Context, id CallID) (context.Context, []byte, error) {
	for {
		o, mine, err := m.claim(id)
		if err != nil || mine {
			return ctx, nil, err
		}
		select {
		case <-o.done:
		case <-ctx.Done():
			return ctx, nil, context.Cause(ctx)
		}
		if o.answer != nil {
			return ctx, o.answer, nil
		}
	}
}

// claim returns what is known of a change; mine says that it was nothing, and that the caller makes it.
func (m *MemoryAnswers) claim(id CallID) (o *outcome, mine bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bytes >= maxRememberedBytes {
		m.forgetIdle(time.Now())
	}
	s := m.sessions[id.Session]
	switch {
	case s == nil:
		return nil, false, errs.New("remote.Begin", "", errs.Unavailable, "the session is not known here; ask again")
	case s.outcomes[id.Sequence] != nil:
		return s.outcomes[id.Sequence], false, nil
	case s.acknowledged(id.Sequence):
		return nil, false, errs.New("remote.Begin", "", errs.Unavailable, "the client has said that it would not ask for this change again")
	case len(s.outcomes) >= maxSessionAnswers || m.bytes >= maxRememberedBytes:
		return nil, false, errs.New("remote.Begin", "", errs.Unavailable, "too many changes that are not acknowledged")
	}
	o = &outcome{done: make(chan struct{})}
	s.outcomes[id.Sequence] = o
	return o, true, nil
}

// End implements Answers.
func (m *MemoryAnswers) End(id CallID, answer []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[id.Session]
	if s == nil {
		return
	}
	o := s.outcomes[id.Sequence]
	if o == nil {
		return
	}
	o.answer = answer
	close(o.done)
	if answer == nil || s.acknowledged(id.Sequence) {
		delete(s.outcomes, id.Sequence)
		return
	}
	m.bytes += len(answer)
}

// Acknowledge implements Answers.
func (m *MemoryAnswers) Acknowledge(id Session, below uint64, open []uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[id]
	if s == nil {
		return
	}
	from := s.below
	s.below = max(s.below, below)
	at, _ := slices.BinarySearch(s.open, below)
	told := s.open[:at]
	s.open = s.open[at:]
	var still []uint64
	for _, seq := range told {
		if _, in := slices.BinarySearch(open, seq); in {
			still = append(still, seq)
		} else {
			m.drop(s, seq)
		}
	}
	if len(still) > 0 {
		s.open = append(still, s.open...)
	}
	for _, seq := range open {
		if seq >= from && seq < below {
			s.open = append(s.open, seq) // behind those that were there: it is sorted still
		}
	}
	if below <= from {
		return
	}
	// A change in progress stays until it ends. The client is the one that numbers: few lie between two watermarks.
	if below-from > uint64(len(s.outcomes)) {
		for seq := range s.outcomes {
			if s.acknowledged(seq) {
				m.drop(s, seq)
			}
		}
	} else {
		for seq := from; seq < below; seq++ {
			if s.acknowledged(seq) {
				m.drop(s, seq)
			}
		}
	}
}

// acknowledged reports whether the client has said that it will not ask for the change again.
func (s *session) acknowledged(seq uint64) bool {
	_, open := slices.BinarySearch(s.open, seq)
	return seq < s.below && !open
}

// watermark returns the sequence below which no change of the session is asked again.
func (m *MemoryAnswers) watermark(id Session) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch s := m.sessions[id]; {
	case s == nil:
		return 0
	case len(s.open) > 0:
		return s.open[0]
	default:
		return s.below
	}
}

// drop forgets the answer of a change that is acknowledged. m.mu must be held.
func (m *MemoryAnswers) drop(s *session, seq uint64) {
	if o := s.outcomes[seq]; o != nil && o.answer != nil {
		m.bytes -= len(o.answer)
		delete(s.outcomes, seq)
	}
}
