package namespace

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// A journal belongs to one root store. A master on whose host that is not mounted, or that is configured with another, would
// find nothing of what the journal has there, and journal that it is gone: owners, modes and versions of names would be lost
// for all. So a root store that several processes share bears a mark, which the journal has too: drawn at random, journaled,
// put into the store, and journaled as put, by the first who leads. Who leads later must see it there before anything else is
// asked of the store, or leads no longer; a store that is far and does not answer at all says nothing of whose it is, and
// its part of the tree is unavailable until it does.

const rootMarkKey = "sys/mark/root"

// rootMark is the mark of the root store as it is journaled.
type rootMark struct {
	Mark string `json:"mark"`
	Put  bool   `json:"put"` // the store has it
}

func (n *Namespace) rootMark(ctx context.Context) (rootMark, error) {
	var m rootMark
	kvs, err := n.log.ListConfig(ctx, rootMarkKey)
	if err != nil || len(kvs) == 0 {
		return m, err
	}
	err = json.Unmarshal(kvs[0].Value, &m)
	if err == nil && m.Mark == "" {
		err = errors.New("it is empty")
	}
	if err != nil {
		return m, errs.E("namespace.Open", rootMarkKey, errs.Corrupt, err)
	}
	return m, nil
}

func (n *Namespace) keepRootMark(ctx context.Context, m rootMark) error {
	b, err := json.Marshal(m)
	if err == nil {
		_, err = n.log.Append(ctx, meta.Batch{Puts: []meta.KeyValue{{Key: rootMarkKey, Value: b}}})
	}
	return err
}

// checkRoot makes sure that the root store is the one the journal belongs to. An error is one to end the reign with. A store
// that is far and does not say whose it is makes the mount unavailable instead: other masters may ask in vain too, and what
// other stores hold can be served.
func (n *Namespace) checkRoot(ctx context.Context) error {
	m := n.mountOf(rootID)
	err := n.proveRoot(ctx, m)
	if err == nil || near(m) || refuted(err) || ctx.Err() != nil {
		return err
	}
	n.o.Logger.Error("the root store does not say whose it is; its part of the tree is unavailable until it does", "err", err)
	n.setRootError(err)
	return nil
}

// reopenRoot looks again whether the root store is the right one, if that could not be told at the start.
func (n *Namespace) reopenRoot(ctx context.Context, was *mounted) {
	err := n.proveRoot(ctx, was)
	switch {
	case err == nil:
		n.o.Logger.Info("the root store answers, and is the right one")
	case ctx.Err() != nil:
		return
	case refuted(err) && !refuted(was.err):
		n.o.Logger.Error("the root store answers, and is not taken", "err", err)
	}
	n.setRootError(err)
}

// refuted reports whether a root store was looked at, and is not the journal's or cannot be known for it.
func refuted(err error) bool {
	k := errs.KindOf(err)
	return k == errs.Precondition || k == errs.Conflict || k == errs.Corrupt
}

func (n *Namespace) setRootError(err error) {
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	old := n.mounts.Load()
	now := *old.byID[rootID]
	now.err = err
	n.mounts.Store(&mountSet{old.table, with(old.byID, &now)})
}

// proveRoot compares the mark of the root store m with the journal's, and gives it one if neither has. While changes are
// held it gives none.
func (n *Namespace) proveRoot(ctx context.Context, m *mounted) error {
	if !n.o.SharedRoot || !m.features.Mark {
		return nil
	}
	want, err := n.rootMark(ctx)
	if err != nil {
		return err
	}
	has, err := n.markOf(ctx, m)
	switch {
	case err != nil:
		return err
	case has != "" && has == want.Mark:
		if want.Put {
			return nil
		}
		return n.keepRootMark(ctx, rootMark{want.Mark, true}) // its leader was gone before it could
	case want.Put && has != "":
		return wrongRoot(fmt.Sprintf("bears the mark %q of another cluster", has), want.Mark)
	case want.Put:
		return wrongRoot("has no mark, as a directory has where it is not mounted", want.Mark)
	case n.holding():
		return nil // what a released journal finds is its own: adoptRoot
	case has != "":
		return errs.New("namespace.Open", "root_store", errs.Precondition, fmt.Sprintf(
			"the root store bears the mark %q of another cluster, and this one has none yet; give this cluster another root store, or, if it is to have this one, remove the file %s from it",
			has, ufs.MarkName))
	}
	return n.putRootMark(ctx, m, want)
}

func wrongRoot(why, mark string) error {
	return errs.New("namespace.Open", "root_store", errs.Precondition, fmt.Sprintf(
		"the root store is not the one that the journal belongs to: it %s; mount or configure the right one, or, if this is it, put the text %q into the file %s in it",
		why, mark, ufs.MarkName))
}

// markOf asks the store for its mark, for as long as a mount may be probed.
func (n *Namespace) markOf(ctx context.Context, m *mounted) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, n.o.ProbeTimeout)
	defer cancel()
	has, err := ufs.Mark(ctx, m.store)
	if err != nil {
		return "", fmt.Errorf("the mark of the root store: %w", err)
	}
	return has, nil
}

// putRootMark marks the root store, which has no mark.
func (n *Namespace) putRootMark(ctx context.Context, m *mounted, want rootMark) error {
	if want.Mark == "" {
		want.Mark = rand.Text()
		if err := n.keepRootMark(ctx, want); err != nil {
			return err
		}
	}
	if err := n.plausibleRoot(ctx, m, want.Mark); err != nil {
		return err
	}
	sctx, cancel := context.WithTimeout(ctx, n.o.ProbeTimeout)
	defer cancel()
	if err := ufs.SetMark(sctx, m.store, want.Mark); err != nil && errs.KindOf(err) != errs.Exist {
		return fmt.Errorf("mark the root store: %w", err)
	}
	has, err := n.markOf(ctx, m)
	if err != nil {
		return err
	}
	if has != want.Mark {
		return errs.New("namespace.Open", "root_store", errs.Conflict, fmt.Sprintf(
			"another cluster has marked the root store at the same time (%q); two cannot share one", has))
	}
	want.Put = true
	if err := n.keepRootMark(ctx, want); err != nil {
		return err
	}
	n.o.Logger.Info("marked the root store as this cluster's", "mark", want.Mark)
	return nil
}

// plausibleRoot refuses to mark a store that holds nothing of what the journal, which is older than marks are, has at its top.
func (n *Namespace) plausibleRoot(ctx context.Context, m *mounted, mark string) error {
	const enough = 100
	var names []string
	n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(meta.RootDir, "") {
			own := e.Class == meta.Persisted && e.StoreKey == "" ||
				e.Class == meta.Directory && e.Explicit && !e.Mount && e.Base == (meta.Base{}) && m.features.Dirs
			if own && len(names) < enough {
				names = append(names, edge)
			}
		}
	})
	for _, name := range names {
		_, err := m.store.Stat(ctx, name)
		if err == nil {
			return nil
		}
		if !isGone(err) {
			return fmt.Errorf("the root store: %w", err)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return wrongRoot(fmt.Sprintf("holds none of %s", strings.Join(names[:min(3, len(names))], ", ")), mark)
}

// adoptRoot takes the mark that the root store bears for this journal's, if that has none: an operator has said that the two
// belong together. It is called once changes are accepted again.
func (n *Namespace) adoptRoot(ctx context.Context) error {
	m := n.mountOf(rootID)
	if !n.o.SharedRoot || !m.features.Mark {
		return nil
	}
	want, err := n.rootMark(ctx)
	if err != nil || want.Put {
		return err
	}
	has, err := n.markOf(ctx, m)
	if err != nil {
		return err
	}
	if has == "" {
		return n.putRootMark(ctx, m, want)
	}
	return n.keepRootMark(ctx, rootMark{has, true})
}
