package meta

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// Leader is who may write a journal.
type Leader struct {
	Member  string    `json:"member"`
	Address string    `json:"addr"`
	Claim   string    `json:"claim"` // at random, so that a claim whose answer was lost is known again
	Time    time.Time `json:"time"`  // of the claim, for people
	// Released: the member has stopped answering since, as planned, and leads no more.
	Released bool `json:"released,omitempty"`

	Term int64 `json:"-"` // revision of the claim
}

// Leader returns who claimed the journal last, as of a moment after the call began. Errors: errs.NotExist if nobody has;
// errs.Corrupt; errs.Unavailable.
func (l *Log) Leader(ctx context.Context) (Leader, error) {
	kv, err := l.leader(ctx)
	if err != nil {
		return Leader{}, err
	}
	if kv.ModRev == 0 {
		return Leader{}, errs.New("meta.Log.Leader", l.o.Group, errs.NotExist, "nobody has claimed the journal yet")
	}
	var who Leader
	if err := json.Unmarshal(kv.Value, &who); err != nil {
		return Leader{}, errs.E("meta.Log.Leader", kv.Key, errs.Corrupt, err)
	}
	who.Term = kv.ModRev
	return who, nil
}

// leader returns the leader key, the zero value if there is none.
func (l *Log) leader(ctx context.Context) (KeyValue, error) {
	kv, err := l.kv.Get(ctx, l.leaderKey())
	if errors.Is(err, errs.NotExist) {
		return KeyValue{}, nil
	}
	return kv, err
}

// Claim makes this member the journal's only writer, whoever was before: from then on no other member's record can be
// committed, and one that held the journal finds out with its next write, or when its read lease ends. Claim then applies
// every record that was committed before it, so that the tree is complete. It loads the journal if that has not been done.
//
// The claim is unconditional: that a member wants the journal only when it should is for the caller to see to. Nothing may
// be answered before ServeAfter has passed; Append and Lease wait for it.
//
// Errors: errs.Conflict if another member claims the journal at the same moment; errs.Corrupt; errs.Unavailable.
func (l *Log) Claim(ctx context.Context) error {
	was, done, err := l.begin("Claim", lifeOpened, lifeLoaded)
	if err != nil {
		return err
	}
	if was == lifeOpened {
		if err := l.load(ctx); err != nil {
			done(lifeOpened)
			return err
		}
	}
	if err := l.takeOver(ctx); err != nil {
		l.term.Store(0)
		l.lease.end(err)
		done(lifeLoaded)
		return err
	}
	done(lifeClaimed)
	l.o.Logger.Info("journal claimed", "group", l.o.Group, "member", l.o.Member, "term", l.Term(), "seq", l.Seq())
	return nil
}

// takeOver claims the journal and applies what was committed before.
func (l *Log) takeOver(ctx context.Context) error {
	l.claimed = Leader{Member: l.o.Member, Address: l.o.Address, Claim: rand.Text(), Time: time.Now().UTC()}
	claim, err := json.Marshal(l.claimed)
	if err != nil {
		return errs.E("meta.Log.Claim", l.o.Member, errs.Invalid, err)
	}
	seen, err := l.leader(ctx)
	if err != nil {
		return err
	}
	sent := l.o.Clock()
	term, err := l.claim(ctx, seen, claim)
	if err != nil {
		return err
	}
	l.term.Store(term)
	l.lease.begin(sent, l.o.Clock(), l.o.ReadLease, seen.ModRev != 0 && !released(seen))
	err = l.catchUp(ctx)
	if errors.Is(err, errGap) {
		err = l.load(ctx)
	}
	return err
}

// claim puts the leader key, which was seen before, and returns its revision. A claim whose answer was lost is looked up;
// proposed again under the same condition it cannot be put twice.
func (l *Log) claim(ctx context.Context, seen KeyValue, claim []byte) (int64, error) {
	const op = "meta.Log.Claim"
	for range claimTries {
		ok, rev, err := l.kv.Txn(ctx, Txn{
			If:   []Compare{ModRevIs(l.leaderKey(), seen.ModRev)},
			Puts: []KeyValue{{Key: l.leaderKey(), Value: claim}},
		})
		if ok && err == nil {
			return rev, nil
		}
		if err != nil && !unknown(err) {
			return 0, err
		}
		now, readErr := l.leader(ctx)
		switch {
		case readErr != nil:
			return 0, readErr
		case string(now.Value) == string(claim):
			return now.ModRev, nil
		case now.ModRev != seen.ModRev:
			return 0, errs.New(op, l.o.Group, errs.Conflict, "another member claimed the journal at the same moment")
		}
	}
	return 0, errs.New(op, l.o.Group, errs.Unavailable, "the metadata store does not confirm the claim of the journal")
}

// depose notes that another member leads, and returns the error that says so. Nothing is answered or written any more.
func (l *Log) depose() error {
	err := errs.New("meta.Log.Append", l.o.Group, errs.Unavailable, "leadership lost: another member has claimed the journal; try again there")
	l.lease.end(err)
	return err
}
