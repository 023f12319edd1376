package etcd

import (
	"context"
	"errors"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
)

// errClosed is why nothing can be done any more.
var errClosed = errs.New("etcd", "", errs.Unavailable, "the metadata store is closed")

// entry is a key with its value.
type entry struct {
	key   string
	value []byte
}

// follow calls see with the keys k with from <= k < to, or the key from alone if to is empty, by key: at once and after every
// change, until see returns false or ctx or the client ends. An outage only delays it: it then starts anew. It returns nil if
// see ended it.
func follow(ctx context.Context, client *clientv3.Client, from, to string, see func([]entry) bool) error {
	for {
		more, err := followOnce(ctx, client, from, to, see)
		switch {
		case !more:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case client.Ctx().Err() != nil:
			return errClosed
		case err != nil:
			if err := wait.For(ctx, retryEvery); err != nil {
				return err
			}
		}
	}
}

// followOnce is follow until the first failure. more is false if see ended it.
func followOnce(ctx context.Context, client *clientv3.Client, from, to string, see func([]entry) bool) (more bool, err error) {
	var ranged []clientv3.OpOption
	if to != "" {
		ranged = append(ranged, clientv3.WithRange(to))
	}
	r, err := client.Get(ctx, from, ranged...)
	if err != nil {
		return true, err
	}
	all := map[string][]byte{}
	for _, kv := range r.Kvs {
		all[string(kv.Key)] = kv.Value
	}
	if !see(sorted(all)) {
		return false, nil
	}
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for w := range client.Watch(watching, from, append(ranged, clientv3.WithRev(r.Header.Revision+1))...) {
		if err := w.Err(); err != nil {
			return true, err
		}
		for _, e := range w.Events {
			if e.Type == clientv3.EventTypeDelete {
				delete(all, string(e.Kv.Key))
			} else {
				all[string(e.Kv.Key)] = e.Kv.Value
			}
		}
		if len(w.Events) > 0 && !see(sorted(all)) {
			return false, nil
		}
	}
	return true, errors.New("the watch ended")
}

func sorted(all map[string][]byte) []entry {
	entries := make([]entry, 0, len(all))
	for k, v := range all {
		entries = append(entries, entry{k, v})
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	return entries
}
