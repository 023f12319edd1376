package meta

import (
	"context"
	"encoding/json"

	"github.com/sluicefs/sluice/core/errs"
)

/*
A planned end of a reign. A new leader waits out the read leases of those before it because it cannot know whether they still
answer. A leader that goes because it is told to can say so: it ends its own lease, and only then puts into the leader key, under
its fence, that it was released. Who claims the journal under the condition that the key is as it read it, released, knows
that nobody answers any more: not the one who wrote that, whose lease had ended before the transaction was sent, and which
cannot renew it; not one before that, whose lease the released leader had waited out before it answered anything; and nobody
in between, for a claim would have changed the key. What the released leader looked up while its lease was valid and has
yet to send is as old as the moment of that look, at which nobody else could have changed anything.

If the transaction's outcome is not known, nothing is lost but time: who does not see the mark waits.
*/

// errReleased is why a Log that was released does nothing any more.
func (l *Log) errReleased() error {
	return errs.New("meta.Log.Append", l.o.Group, errs.Unavailable, "leadership is being handed over; try again there")
}

// Release ends this member's leadership as planned: what is queued is committed, nothing more is taken or answered, and the
// next leader is told that it need not wait for the read lease. Run then returns an error of errs.Unavailable. If Release
// fails with ctx's error, this member leads on.
//
// Errors: ctx's; errs.Invalid unless Run is running; errs.Unavailable if leadership is lost, or the metadata store does not
// confirm the release: this member does not lead then, and the next leader may have to wait.
func (l *Log) Release(ctx context.Context) error {
	l.lifeMu.Lock()
	now := l.life
	l.lifeMu.Unlock()
	if now != lifeRunning {
		return errs.New("meta.Log.Release", l.o.Group, errs.Invalid, "the journal is not being written by this member")
	}
	l.refuse(l.errReleased())
	asked := make(chan error, 1)
	select {
	case l.releases <- asked:
		return <-asked
	case <-l.ended:
		return l.lease.lost()
	case <-ctx.Done():
		l.refuse(nil)
		return ctx.Err()
	}
}

// refuse keeps batches from being queued, because of why; nil lets them in again. What is queued stays.
func (l *Log) refuse(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = why
}

// release is the end of writeAll on a Release: nothing is in flight, and nothing queued.
func (l *Log) release(ctx context.Context) error {
	l.lease.end(l.errReleased())
	who := l.claimed
	who.Released = true
	value, err := json.Marshal(who)
	if err != nil {
		return errs.E("meta.Log.Release", l.o.Member, errs.Invalid, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), proposeLimit)
	defer cancel()
	ok, _, err := l.kv.Txn(ctx, Txn{
		If:   []Compare{ModRevIs(l.leaderKey(), l.Term())},
		Puts: []KeyValue{{Key: l.leaderKey(), Value: value}},
	})
	switch {
	case err != nil:
		return errs.E("meta.Log.Release", l.o.Group, errs.Unavailable, err)
	case !ok:
		return l.depose()
	}
	l.o.Logger.Info("journal released", "group", l.o.Group, "member", l.o.Member, "term", l.Term(), "seq", l.Seq())
	return nil
}

// released reports whether the leader key says that whoever wrote it answers no more.
func released(kv KeyValue) bool {
	var who Leader
	return json.Unmarshal(kv.Value, &who) == nil && who.Released
}
