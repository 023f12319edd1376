package meta

import (
	"context"
	"errors"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
)

// Follow applies what the leader writes, until ctx ends, whose error it returns: the life of a standby. Load has been called;
// Claim may follow. A standby that is so far behind that records it needs are gone loads the newest checkpoint, and readers
// of the tree see it change in one step.
//
// Errors: ctx's; errs.Corrupt if what the leader wrote cannot be read. Outages are waited out.
func (l *Log) Follow(ctx context.Context) error {
	_, done, err := l.begin("Follow", lifeLoaded)
	if err != nil {
		return err
	}
	backoff := firstBackoff
	for {
		before := l.seq.Load()
		err := l.watch(ctx)
		if errors.Is(err, errGap) {
			err = l.load(ctx)
		}
		switch {
		case ctx.Err() != nil:
			done(lifeLoaded)
			return ctx.Err()
		case errs.KindOf(err) == errs.Corrupt || errs.KindOf(err) == errs.Invalid:
			done(lifeOpened)
			return err
		case err != nil:
			l.o.Logger.Warn("following the journal was interrupted", "group", l.o.Group, "seq", l.Seq(), "err", err)
		}
		if l.seq.Load() != before {
			backoff = firstBackoff
		}
		if wait.For(ctx, backoff) == nil {
			backoff = min(2*backoff, lastBackoff)
		}
	}
}

// watch applies records as they come, after those that are there.
func (l *Log) watch(ctx context.Context) error {
	if err := l.catchUp(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for event, err := range l.kv.Watch(ctx, l.recordPrefix(), PrefixEnd(l.recordPrefix()), l.lastRev+1) {
		if err != nil {
			return err
		}
		if event.Deleted || event.Key < l.recordKey(l.seq.Load()+1) {
			continue
		}
		if err := l.follow(ctx, event.KeyValue, event.ModRev); err != nil {
			return err
		}
		l.lastRev = event.ModRev
	}
	return nil
}
