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
// begun since, hold no part and are nobody else's: those are cancelled. The store is asked once when nothing that was
// under way can still arrive (Settle), and for certain once more after WatchOpen.

// lostUpload is a cut-off upload.
type lostUpload struct {
	until time.Time // when it can have been begun at the latest
	due   time.Time // when its store is looked through next
	last  bool      // for the last time
}

// lose leaves the upload id to findLost.
func (n *Namespace) lose(id string) {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	now := time.Now()
	n.lost[id] = lostUpload{until: now, due: now.Add(n.o.Settle)}
}

// sweepUploads finds the uploads that the end of the last process cut off. It runs before any is created.
func (n *Namespace) sweepUploads() {
	n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(meta.UploadsDir, "") {
			if e.Class == meta.Directory && e.Extra["store_id"] == "" {
				n.lose(strings.TrimSuffix(edge, "/"))
			}
		}
	})
}

// findLost looks for the lost uploads that are due.
func (n *Namespace) findLost(ctx context.Context) {
	due := map[string]lostUpload{}
	n.resolving.Lock()
	for id, l := range n.lost {
		if time.Now().After(l.due) {
			due[id] = l
		}
	}
	n.resolving.Unlock()
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	for id, l := range due {
		found, err := n.cancelLost(ctx, id, l)
		gone := err == nil && (found || l.last)
		if gone {
			_, err = n.commit(ctx, n.endUpload(id)...)
		}
		n.resolving.Lock()
		switch {
		case gone && err == nil:
			delete(n.lost, id)
		case err == nil:
			n.lost[id] = lostUpload{until: l.until, due: l.until.Add(n.o.WatchOpen), last: true}
		case errs.KindOf(err) == errs.Busy || ctx.Err() != nil: // soon again
		default:
			n.o.Logger.Warn("what a multipart upload may have left in its store could not be cleaned up; it is tried again", "upload", id, "err", err)
			n.lost[id] = lostUpload{until: l.until, due: time.Now().Add(n.o.Settle), last: l.last}
		}
		n.resolving.Unlock()
	}
}

// cancelLost cancels what the store has of the upload; found says that there was something, so that no more can turn up.
func (n *Namespace) cancelLost(ctx context.Context, id string, l lostUpload) (found bool, err error) {
	var e *meta.Entry
	known := false
	n.tree.View(func(v meta.View) { e, known = v.Get(meta.UploadsDir, id+"/") })
	if !known {
		return true, nil
	}
	m := n.mountOf(e.Extra["mount"])
	if m == nil || m.ReadOnly { // nothing there may be changed any more
		return true, nil
	}
	if m.err != nil {
		return false, m.unavailable()
	}
	composer, err := ufs.ComposerOf(m.store)
	if err != nil {
		return false, err
	}
	key := e.Extra["key"]
	ids, err := composer.Lost(ctx, key, time.Unix(0, e.MTime).Add(-clockSkew), l.until.Add(clockSkew))
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
		found = true
	}
	return found, nil
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
