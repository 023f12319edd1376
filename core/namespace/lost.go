package namespace

import (
	"context"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// A multipart upload is journaled before its store is asked for one, and the store's id of it when that has answered.
// Between the two, a crash or an answer that got lost leaves an upload that the store may have and nobody can name. Its
// entry then stays in the journal, unseen by clients, until the store was looked through for uploads of the key that were
// begun at that time, hold no part and are nobody else's: those are cancelled. See ufs.Settle for what that leaves open.

// lose leaves the upload id, noted in the journal at that time, to findLost.
func (n *Namespace) lose(id string, at time.Time) {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	n.lost[id] = at.Add(3 * n.o.Settle)
}

// sweepUploads finds the uploads that the end of the last process cut off. It runs before any is created.
func (n *Namespace) sweepUploads() {
	n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(meta.UploadsDir, "") {
			if e.Class == meta.Directory && e.Extra["store_id"] == "" {
				n.lose(strings.TrimSuffix(edge, "/"), time.Unix(0, e.MTime))
			}
		}
	})
}

// findLost looks for the lost uploads that are due.
func (n *Namespace) findLost(ctx context.Context) {
	var due []string
	n.resolving.Lock()
	for id, at := range n.lost {
		if time.Now().After(at) {
			due = append(due, id)
		}
	}
	n.resolving.Unlock()
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	for _, id := range due {
		gone, err := n.cancelLost(ctx, id)
		if gone {
			_, err = n.commit(ctx, n.endUpload(id)...)
		}
		n.resolving.Lock()
		switch {
		case gone && err == nil:
			delete(n.lost, id)
		case errs.KindOf(err) == errs.Busy: // soon again
		default:
			n.lost[id] = time.Now().Add(lostRetry)
			if err != nil {
				n.o.Logger.Warn("what a multipart upload may have left in its store could not be cleaned up; it is tried again", "upload", id, "err", err)
			}
		}
		n.resolving.Unlock()
	}
}

// lostRetry is the pause between two looks for a lost upload that failed.
const lostRetry = time.Minute

// cancelLost cancels what the store has of the upload. gone says that there is nothing, or nothing any more.
func (n *Namespace) cancelLost(ctx context.Context, id string) (gone bool, err error) {
	var e *meta.Entry
	known := false
	n.tree.View(func(v meta.View) { e, known = v.Get(meta.UploadsDir, id+"/") })
	if !known {
		return true, nil
	}
	m := n.mountOf(e.Extra["mount"])
	switch {
	case m == nil:
		return true, nil
	case m.err != nil:
		return false, m.unavailable()
	case m.ReadOnly:
		return false, nil
	}
	composer, err := ufs.ComposerOf(m.store)
	if err != nil {
		return false, err
	}
	key, at := e.Extra["key"], time.Unix(0, e.MTime)
	ids, err := composer.Lost(ctx, key, at.Add(-2*n.o.Settle), at.Add(2*n.o.Settle))
	if err != nil {
		return false, err
	}
	named := n.stagedNames()
	for _, lost := range ids {
		if named[lost] {
			continue
		}
		if err := composer.Cancel(ctx, key, lost); err != nil {
			return false, err
		}
		n.o.Logger.Info("cancelled a multipart upload that was cut off while it was begun", "mount", m.Path.String(), "key", key)
	}
	return true, nil
}

// stagedNames are the names of staged bytes that an open intent or an upload still needs.
func (n *Namespace) stagedNames() map[string]bool {
	live := map[string]bool{}
	n.resolving.Lock()
	for _, in := range n.open {
		live[in.token] = true
	}
	n.resolving.Unlock()
	n.tree.View(func(v meta.View) {
		for _, e := range v.Children(meta.UploadsDir, "") {
			live[e.Extra["store_id"]] = true
		}
	})
	return live
}
