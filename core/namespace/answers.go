package namespace

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// A change that comes with a name (core.Call) is answered once, by whoever leads: the record that makes it visible holds the
// answer too. A session is a directory of meta.AnswersDir, whose ID is the epoch, drawn when it began. Its answers are Notes
// with the edges "0", "1" …: ID is the sequence, Rev the acknowledged watermark as the client said it then, and Extra has
// the answer as it is sent. An answer takes the edge of one that is acknowledged, so that a session has about as many as its
// client has changes in progress, and none has to be deleted. One that takes long holds the watermark, and the edges of those
// after it only until the client says that it is the one.
//
// A change whose name is not there was not made: it left no record, or one whose intent is open. The intent has the name
// too, and the record that closes it as something that happened has the answer.
//
// A session begins although the journal takes nothing, for its client has to read: this process alone remembers it. Once there
// is room the journal gets the session's directory, with another epoch, and its answers from then on; and the session's own
// epoch when all that was answered before is acknowledged. A leader that follows sooner has an epoch that the client does not
// know, as after any loss of what is remembered.

const (
	// maxSessions bounds the sessions. A client has one for its life.
	maxSessions = 4096
	// sessionIdle is how long a session is kept without a stream, as this process counts: longer than any client waits for
	// an answer. Where there is no room for another, sessionRest is enough.
	sessionIdle = 10 * time.Minute
	sessionRest = time.Minute
	// answerWait is how long a change that is asked for again waits for the store that has to say what became of it.
	answerWait = 4 * time.Second
)

// answers is what the journal holds of answers, and who may still ask for them.
type answers struct {
	mu       sync.Mutex
	sessions map[[16]byte]*session
}

// session is one client's.
type session struct {
	edge    string     // in meta.AnswersDir
	dir     meta.DirID // 0: the journal does not have it
	epoch   uint64
	noted   bool   // the journal has the epoch
	unnoted uint64 // the last change whose answer the journal did not get, 0 if none
	streams int
	left    time.Time // when the last stream ended, or this process found the session

	below uint64
	slots map[uint64]uint32 // of the answers that may be asked for, by sequence
	free  []uint32
	made  uint32 // slots there are
	// writing are the changes whose answers are on their way to the journal, and whether they are acknowledged. Nobody else
	// takes their slots: he could be first in the journal, and would lose his answer to one that nobody asks for.
	writing map[uint64]bool
}

// restore finds the sessions that the journal holds.
func (a *answers) restore(v meta.View) {
	a.sessions = map[[16]byte]*session{}
	for edge, e := range v.Children(meta.AnswersDir, "") {
		id, err := hex.DecodeString(strings.TrimSuffix(edge, "/"))
		if err != nil || len(id) != 16 || e.Class != meta.Directory {
			continue
		}
		s := newSession(edge, e.Dir, e.ID)
		s.noted = true
		for slot, row := range v.Children(e.Dir, "") {
			at, err := strconv.ParseUint(slot, 36, 32)
			if err == nil && at < maxSlot {
				s.below = max(s.below, row.Rev)
				s.slots[row.ID] = uint32(at)
				s.made = max(s.made, uint32(at)+1)
			}
		}
		used := make([]bool, s.made)
		for seq, slot := range s.slots {
			if used[slot] = seq >= s.below; !used[slot] {
				delete(s.slots, seq)
			}
		}
		for slot, in := range used {
			if !in {
				s.free = append(s.free, uint32(slot))
			}
		}
		a.sessions[[16]byte(id)] = s
	}
}

// maxSlot is more than any session has slots.
const maxSlot = 1 << 20

func newSession(edge string, dir meta.DirID, epoch uint64) *session {
	return &session{edge: edge, dir: dir, epoch: epoch, left: time.Now(), slots: map[uint64]uint32{}, writing: map[uint64]bool{}}
}

// acknowledge frees the slots of what is not asked for again.
func (s *session) acknowledge(below uint64) {
	if below <= s.below {
		return
	}
	if below-s.below > uint64(len(s.slots)) {
		for seq, slot := range s.slots {
			if seq < below {
				s.release(seq, slot)
			}
		}
	} else {
		for seq := s.below; seq < below; seq++ {
			if slot, ok := s.slots[seq]; ok {
				s.release(seq, slot)
			}
		}
	}
	s.below = below
}

// release frees the slot of a change that is not asked for again, at once or when its answer is written.
func (s *session) release(seq uint64, slot uint32) {
	if _, writing := s.writing[seq]; writing {
		s.writing[seq] = true
		return
	}
	delete(s.slots, seq)
	s.free = append(s.free, slot)
}

// wrote says that the answer of a change is in the journal, or will not get there.
func (s *session) wrote(seq uint64) {
	acknowledged := s.writing[seq]
	delete(s.writing, seq)
	if acknowledged {
		s.release(seq, s.slots[seq])
	}
}

// wrote says that the record with the answer of call, if it has one, is in the journal or will not get there.
func (a *answers) wrote(call core.Call) {
	if call.Sequence == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.sessions[call.Session]; s != nil {
		s.wrote(call.Sequence)
	}
}

// Acknowledge says that no change of the session below the sequence is asked for again but those of open, which are sorted.
// The slots of the others are taken again. After a change of leader that is not known until it is said again.
func (n *Namespace) Acknowledge(id [16]byte, below uint64, open []uint64) {
	n.answers.mu.Lock()
	defer n.answers.mu.Unlock()
	s := n.answers.sessions[id]
	if s == nil {
		return
	}
	for seq, slot := range s.slots {
		if _, in := slices.BinarySearch(open, seq); seq < below && !in {
			s.release(seq, slot)
		}
	}
}

// take returns the slot of a change's answer. wrote follows.
func (s *session) take(seq uint64) uint32 {
	slot, ok := s.slots[seq]
	switch last := len(s.free) - 1; {
	case ok:
	case last >= 0:
		slot, s.free = s.free[last], s.free[:last]
	default:
		slot = s.made
		s.made++
	}
	s.slots[seq] = slot
	s.writing[seq] = false
	return slot
}

func slotEdge(slot uint32) string { return strconv.FormatUint(uint64(slot), 36) }

// answered returns the operation that journals v as the answer of call, none if nobody asks for it again. v is what the
// method returns beside its error: a core.Info, a core.MountInfo, a string, or nil for nothing. A commit under a context with
// the call follows.
func (n *Namespace) answered(call core.Call, v any) []meta.Op {
	if call.Sequence == 0 || n.o.Answer == nil {
		return nil
	}
	n.answers.mu.Lock()
	defer n.answers.mu.Unlock()
	s := n.answers.sessions[call.Session]
	if s == nil {
		return nil // it was forgotten, and the client finds another epoch
	}
	s.acknowledge(call.Below)
	if call.Sequence < s.below {
		return nil
	}
	if s.dir == 0 {
		s.unnoted = max(s.unnoted, call.Sequence)
		return nil
	}
	return []meta.Op{{Kind: meta.Set, Dir: s.dir, Edge: slotEdge(s.take(call.Sequence)), Entry: meta.Entry{
		Class: meta.Note, ID: call.Sequence, Rev: s.below, Extra: map[string]string{"answer": string(n.o.Answer(v))},
	}}}
}

// unanswer returns the operation that takes back what answered journaled for call: the change was undone.
func (n *Namespace) unanswer(call core.Call) []meta.Op {
	n.answers.mu.Lock()
	defer n.answers.mu.Unlock()
	if s := n.answers.sessions[call.Session]; s != nil {
		if slot, ok := s.slots[call.Sequence]; ok {
			return []meta.Op{{Kind: meta.Del, Dir: s.dir, Edge: slotEdge(slot)}}
		}
	}
	return nil
}

// Answered returns what was answered to call by whoever led when it was made, nil if it was not made. While the store has to
// say what became of it, Answered waits. Errors: ctx's; errs.Unavailable if the store says nothing in time.
func (n *Namespace) Answered(ctx context.Context, call core.Call) ([]byte, error) {
	timer := time.NewTimer(answerWait)
	defer timer.Stop()
	for {
		open, resolved := n.openCall(call)
		if !open {
			return n.answerOf(call), nil
		}
		select {
		case <-resolved:
		case <-timer.C:
			return nil, errs.New("namespace.Answered", "", errs.Unavailable,
				"the change got no answer from its store, and may have taken place; it is being looked into, try again")
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// openCall reports whether an intent of the change is open, and returns what is closed when one is resolved.
func (n *Namespace) openCall(call core.Call) (open bool, resolved <-chan struct{}) {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	for _, in := range n.open {
		if in.call.Sequence == call.Sequence && in.call.Session == call.Session {
			return true, n.resolved
		}
	}
	return false, nil
}

func (n *Namespace) answerOf(call core.Call) (answer []byte) {
	n.answers.mu.Lock()
	s := n.answers.sessions[call.Session]
	if s == nil {
		n.answers.mu.Unlock()
		return nil
	}
	slot, ok := s.slots[call.Sequence]
	dir := s.dir
	n.answers.mu.Unlock()
	if !ok {
		return nil
	}
	n.tree.View(func(v meta.View) {
		if e, ok := v.Get(dir, slotEdge(slot)); ok && e.ID == call.Sequence {
			answer = []byte(e.Extra["answer"])
		}
	})
	return answer
}

// OpenSession begins a stream of a session, and the session if there is none, and returns its epoch: as long as that is the
// same, every change of the session that was made and not acknowledged is remembered. A journal that takes nothing hinders no
// session. Each OpenSession is followed by one CloseSession. Errors: errs.Unavailable if another leads, or there are too many
// sessions.
func (n *Namespace) OpenSession(ctx context.Context, id [16]byte) (epoch uint64, err error) {
	for range chase {
		if epoch, ok := n.answers.attach(id); ok {
			return epoch, nil
		}
		if _, err, _ := n.loads.Do("session "+string(id[:]), func() (any, error) { return nil, n.beginSession(ctx, id) }); err != nil {
			return 0, err
		}
	}
	return 0, errs.New("namespace.OpenSession", "", errs.Unavailable, "the session is forgotten as soon as it begins; try again")
}

// attach counts one more stream of a session that is there.
func (a *answers) attach(id [16]byte) (epoch uint64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sessions[id]
	if s == nil {
		return 0, false
	}
	s.streams++
	return s.epoch, true
}

// CloseSession ends one stream of a session.
func (n *Namespace) CloseSession(id [16]byte) {
	n.answers.mu.Lock()
	defer n.answers.mu.Unlock()
	if s := n.answers.sessions[id]; s != nil {
		s.streams--
		s.left = time.Now()
	}
}

func (n *Namespace) beginSession(ctx context.Context, id [16]byte) error {
	if !n.roomForSession(ctx) {
		return errs.New("namespace.OpenSession", "", errs.Unavailable, "too many clients")
	}
	s := newSession(hex.EncodeToString(id[:])+"/", 0, newEpoch())
	dir, err := n.noteSession(ctx, s.edge, 0, s.epoch)
	if err != nil {
		if n.leads() != nil {
			return err
		}
		n.o.Logger.Warn("the journal takes no session, so that this one's changes are remembered by this process only", "err", err)
	}
	s.dir, s.noted = dir, err == nil
	n.answers.mu.Lock()
	defer n.answers.mu.Unlock()
	n.answers.sessions[id] = s
	return nil
}

func newEpoch() uint64 {
	var epoch [8]byte
	rand.Read(epoch[:]) // never fails
	return binary.LittleEndian.Uint64(epoch[:]) | 1
}

// noteSession journals a session and returns the directory of its answers: dir, or another one if that is 0.
func (n *Namespace) noteSession(ctx context.Context, edge string, dir meta.DirID, epoch uint64) (meta.DirID, error) {
	if dir == 0 {
		id, err := n.draw(ctx, &n.dirs)
		if err != nil {
			return 0, err
		}
		dir = meta.DirID(id)
	}
	e := meta.Entry{Class: meta.Directory, Dir: dir, Explicit: true, ID: epoch, MTime: time.Now().UnixNano()}
	if _, err := n.record(ctx, meta.Op{Kind: meta.Set, Dir: meta.AnswersDir, Edge: edge, Entry: e}); err != nil {
		return 0, err
	}
	return dir, nil
}

// noteSessions journals the sessions that began while the journal took none, in two steps: first a directory for what is
// answered from then on, under an epoch that is nobody's, and the session's own when nothing older may be asked for.
func (n *Namespace) noteSessions(ctx context.Context) {
	due := map[*session]meta.DirID{}
	n.answers.mu.Lock()
	for _, s := range n.answers.sessions {
		if !s.noted && (s.dir == 0 || s.unnoted == 0 || s.below > s.unnoted) {
			due[s] = s.dir
		}
	}
	n.answers.mu.Unlock()
	for s, dir := range due {
		noted, epoch := dir != 0, s.epoch
		if !noted {
			epoch = newEpoch()
		}
		dir, err := n.noteSession(ctx, s.edge, dir, epoch)
		if err != nil {
			return // soon again
		}
		n.answers.mu.Lock()
		s.dir, s.noted = dir, noted
		n.answers.mu.Unlock()
	}
}

func (n *Namespace) roomForSession(ctx context.Context) bool {
	room := func() bool {
		n.answers.mu.Lock()
		defer n.answers.mu.Unlock()
		return len(n.answers.sessions) < maxSessions
	}
	if room() {
		return true
	}
	n.endIdleSessions(ctx, sessionIdle)
	return room() || n.endIdleSessions(ctx, sessionRest)
}

// endIdleSessions forgets the sessions that have been without a stream for so long. It reports whether there was one.
func (n *Namespace) endIdleSessions(ctx context.Context, idle time.Duration) bool {
	var ops []meta.Op
	n.answers.mu.Lock()
	for id, s := range n.answers.sessions {
		if s.streams == 0 && time.Since(s.left) > idle {
			delete(n.answers.sessions, id)
			if s.dir == 0 {
				continue
			}
			ops = append(ops, meta.Op{Kind: meta.Del, Dir: meta.AnswersDir, Edge: s.edge}, meta.Op{Kind: meta.DropDir, Dir: s.dir})
		}
	}
	n.answers.mu.Unlock()
	if len(ops) == 0 {
		return false
	}
	if _, err := n.record(ctx, ops...); err != nil { // the next leader finds them idle again
		n.o.Logger.Warn("sessions that have ended could not be forgotten", "err", err)
	}
	return true
}

// appendCall appends the name of a change as an intent holds it.
func appendCall(b []byte, c core.Call) []byte {
	b = append(b, c.Session[:]...)
	return binary.AppendUvarint(binary.AppendUvarint(b, c.Sequence), c.Below)
}

// callOf reads what appendCall wrote, the zero value from anything else.
func callOf(s string) (c core.Call) {
	b := []byte(s)
	if len(b) < len(c.Session) {
		return core.Call{}
	}
	copy(c.Session[:], b)
	b = b[len(c.Session):]
	for _, to := range []*uint64{&c.Sequence, &c.Below} {
		v, size := binary.Uvarint(b)
		if size <= 0 {
			return core.Call{}
		}
		*to, b = v, b[size:]
	}
	return c
}
