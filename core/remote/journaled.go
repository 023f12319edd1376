package remote

import (
	"context"

	"github.com/sluicefs/sluice/core"
)

// Journal is what a Tree remembers beyond the life of its process of the changes that it makes under a core.Call.
type Journal interface {
	// OpenSession begins a stream of a session and returns the session's epoch, as Answers.Attach. Each is followed by one
	// CloseSession.
	OpenSession(ctx context.Context, session [16]byte) (epoch uint64, err error)
	CloseSession(session [16]byte)
	// Acknowledge says that no change of the session below the sequence will be asked again but those of open, which are
	// sorted. What it says is not journaled: the client says it again to whoever leads.
	Acknowledge(session [16]byte, below uint64, open []uint64)
	// Answered returns what EncodeAnswer made of the outcome of a change, nil if it was not made. It may wait. Errors: ctx's;
	// errs.Unavailable if that cannot be told.
	Answered(ctx context.Context, c core.Call) ([]byte, error)
}

// JournaledAnswers are Answers of changes that a Tree journals together with what they answer: a change that was made under
// one leader is not made again under the next. What failed is remembered by this process only: it has changed nothing.
type JournaledAnswers struct {
	memory  MemoryAnswers
	journal Journal
}

// NewJournaledAnswers returns Answers of the Tree that j belongs to. They live as long as its reign.
func NewJournaledAnswers(j Journal) *JournaledAnswers { return &JournaledAnswers{journal: j} }

// Attach implements Answers.
func (a *JournaledAnswers) Attach(ctx context.Context, s Session) (uint64, error) {
	if _, err := a.memory.Attach(ctx, s); err != nil {
		return 0, err
	}
	epoch, err := a.journal.OpenSession(ctx, s)
	if err != nil {
		a.memory.Detach(s)
	}
	return epoch, err
}

// Detach implements Answers.
func (a *JournaledAnswers) Detach(s Session) {
	a.memory.Detach(s)
	a.journal.CloseSession(s)
}

// Begin implements Answers.
func (a *JournaledAnswers) Begin(ctx context.Context, id CallID) (context.Context, []byte, error) {
	ctx, answer, err := a.memory.Begin(ctx, id)
	if err != nil || answer != nil {
		return ctx, answer, err
	}
	call := core.Call{Session: id.Session, Sequence: id.Sequence, Below: a.memory.watermark(id.Session)}
	answer, err = a.journal.Answered(ctx, call)
	if err != nil || answer != nil {
		a.memory.End(id, answer)
		return ctx, answer, err
	}
	return core.WithCall(ctx, call), nil, nil
}

// End implements Answers.
func (a *JournaledAnswers) End(id CallID, answer []byte) { a.memory.End(id, answer) }

// Acknowledge implements Answers.
func (a *JournaledAnswers) Acknowledge(s Session, below uint64, open []uint64) {
	a.memory.Acknowledge(s, below, open)
	if len(open) > 0 { // else the next change tells the Tree
		a.journal.Acknowledge(s, below, open)
	}
}

// EncodeAnswer returns what is sent of a change that was made and returned v: a core.Info, a core.MountInfo, a string, or nil
// for nothing. This is a stored format, and the protocol's.
func EncodeAnswer(v any) []byte {
	c := coder{b: make([]byte, 0, 256)}
	c.b = append(c.b, outcomeValues)
	switch v := v.(type) {
	case core.Info:
		c.info(&v)
	case core.MountInfo:
		c.mountInfo(&v)
	case string:
		text(&c, &v)
	}
	return c.b
}
