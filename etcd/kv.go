package etcd

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// chunk is how many keys one step of DeleteRange deletes: nothing else is applied meanwhile, and finding the end of a chunk
// counts all keys that are left.
const chunk = 5000

// kv is a meta.KV over an etcd client.
type kv struct {
	client *clientv3.Client
	space  *space // nil: the disk is not this machine's
	// limit is how long a request may take; 0: as long as its context, for a store that always answers in time.
	limit time.Duration
	done  chan struct{}
	close func()
}

func newKV(c *clientv3.Client, s *space) *kv {
	done := make(chan struct{})
	return &kv{client: c, space: s, done: done, close: sync.OnceFunc(func() { close(done) })}
}

// Get implements meta.KV.
func (k *kv) Get(ctx context.Context, key string) (meta.KeyValue, error) {
	const op = "etcd.Get"
	if err := k.usable(ctx, op, meta.CheckKey(op, key)); err != nil {
		return meta.KeyValue{}, err
	}
	request, cancel := k.bounded(ctx)
	defer cancel()
	r, err := k.client.Get(request, key)
	if err != nil {
		return meta.KeyValue{}, classify(ctx, op, key, err)
	}
	if len(r.Kvs) == 0 {
		return meta.KeyValue{}, errs.E(op, key, errs.NotExist, nil)
	}
	return keyValue(r.Kvs[0]), nil
}

// Scan implements meta.KV.
func (k *kv) Scan(ctx context.Context, from, to string, limit int) (meta.Page, error) {
	const op = "etcd.Scan"
	if err := k.usable(ctx, op, meta.CheckScan(op, from, to, limit)); err != nil {
		return meta.Page{}, err
	}
	request, cancel := k.bounded(ctx)
	defer cancel()
	r, err := k.client.Get(request, from, clientv3.WithRange(to), clientv3.WithLimit(int64(limit)))
	if err != nil {
		return meta.Page{}, classify(ctx, op, from, err)
	}
	p := meta.Page{More: r.More, Revision: r.Header.Revision}
	for _, e := range r.Kvs {
		p.KVs = append(p.KVs, keyValue(e))
	}
	return p, nil
}

// Txn implements meta.KV.
func (k *kv) Txn(ctx context.Context, t meta.Txn) (ok bool, rev int64, err error) {
	const op = "etcd.Txn"
	if err := k.usable(ctx, op, t.Check()); err != nil {
		return false, 0, err
	}
	if k.space != nil {
		if err := k.space.ensure(op); err != nil {
			return false, 0, err
		}
	}
	compares := make([]clientv3.Cmp, 0, len(t.If))
	for _, c := range t.If {
		compares = append(compares, compare(c))
	}
	changes := make([]clientv3.Op, 0, len(t.Puts)+len(t.Deletes))
	for _, p := range t.Puts {
		// The value becomes part of a message that is encoded before the call returns; the conversion copies it.
		changes = append(changes, clientv3.OpPut(p.Key, string(p.Value)))
	}
	for _, key := range t.Deletes {
		changes = append(changes, clientv3.OpDelete(key))
	}
	request, cancel := k.bounded(ctx)
	defer cancel()
	r, err := k.client.Txn(request).If(compares...).Then(changes...).Commit()
	if err != nil {
		return false, 0, classify(ctx, op, "", err)
	}
	return r.Succeeded, r.Header.Revision, nil
}

func compare(c meta.Compare) clientv3.Cmp {
	cmp := clientv3.ModRevision(c.Key)
	if c.Created {
		cmp = clientv3.CreateRevision(c.Key)
	}
	if c.Greater {
		return clientv3.Compare(cmp, ">", c.Revision)
	}
	return clientv3.Compare(cmp, "=", c.Revision)
}

// DeleteRange implements meta.KV.
func (k *kv) DeleteRange(ctx context.Context, from, to string) (deleted int64, err error) {
	const op = "etcd.DeleteRange"
	for more := true; more; {
		if err := k.usable(ctx, op, meta.CheckRange(op, from, to)); err != nil {
			return deleted, err
		}
		var n int64
		if n, from, more, err = k.deleteChunk(ctx, from, to); err != nil {
			return deleted, classify(ctx, op, from, err)
		}
		deleted += n
	}
	return deleted, nil
}

// deleteChunk deletes the first keys k with from <= k < to and returns how many, where the rest starts, and whether there is one.
func (k *kv) deleteChunk(ctx context.Context, from, to string) (n int64, next string, more bool, err error) {
	ctx, cancel := k.bounded(ctx)
	defer cancel()
	page, err := k.client.Get(ctx, from, clientv3.WithRange(to), clientv3.WithLimit(chunk), clientv3.WithKeysOnly())
	if err != nil || len(page.Kvs) == 0 {
		return 0, from, false, err
	}
	next = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	r, err := k.client.Delete(ctx, from, clientv3.WithRange(next))
	if err != nil {
		return 0, from, false, err
	}
	return r.Deleted, next, page.More, nil
}

// Watch implements meta.KV.
func (k *kv) Watch(ctx context.Context, from, to string, rev int64) iter.Seq2[meta.Event, error] {
	const op = "etcd.Watch"
	return func(yield func(meta.Event, error) bool) {
		if err := k.usable(ctx, op, meta.CheckRange(op, from, to)); err != nil {
			yield(meta.Event{}, err)
			return
		}
		if rev == 0 {
			now, err := k.revision(ctx, from)
			if err != nil {
				yield(meta.Event{}, classify(ctx, op, from, err))
				return
			}
			rev = now + 1
		}
		watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		defer cancel()
		changes := k.client.Watch(watching, from, clientv3.WithRange(to), clientv3.WithRev(rev))
		for {
			select {
			case <-k.done:
				yield(meta.Event{}, k.usable(ctx, op, nil))
				return
			case <-ctx.Done():
				yield(meta.Event{}, ctx.Err())
				return
			case r, ok := <-changes:
				if !k.deliver(ctx, op, r, ok, yield) {
					return
				}
			}
		}
	}
}

// revision returns the store's revision, by a read of key.
func (k *kv) revision(ctx context.Context, key string) (int64, error) {
	ctx, cancel := k.bounded(ctx)
	defer cancel()
	r, err := k.client.Get(ctx, key, clientv3.WithKeysOnly())
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

// deliver yields what a watch answered and reports whether more may follow.
func (k *kv) deliver(ctx context.Context, op string, r clientv3.WatchResponse, ok bool, yield func(meta.Event, error) bool) bool {
	err := r.Err()
	if !ok && err == nil {
		err = rpctypes.ErrStopped
	}
	if err != nil {
		yield(meta.Event{}, classify(ctx, op, "", err))
		return false
	}
	for _, e := range r.Events {
		event := meta.Event{KeyValue: meta.KeyValue{Key: string(e.Kv.Key), ModRev: e.Kv.ModRevision}, Deleted: true}
		if e.Type == mvccpb.Event_PUT {
			event = meta.Event{KeyValue: keyValue(e.Kv)}
		}
		if !yield(event, nil) {
			return false
		}
	}
	return true
}

// Compact implements meta.KV.
func (k *kv) Compact(ctx context.Context, rev int64) error {
	const op = "etcd.Compact"
	if err := k.usable(ctx, op, nil); err != nil {
		return err
	}
	request, cancel := k.bounded(ctx)
	defer cancel()
	_, err := k.client.Compact(request, rev)
	if err == nil || errors.Is(err, rpctypes.ErrCompacted) {
		return nil
	}
	return classify(ctx, op, "", err)
}

// Close implements meta.KV.
func (k *kv) Close() error {
	k.close()
	return nil
}

// bounded returns ctx with the limit of a request.
func (k *kv) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if k.limit == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, k.limit)
}

// usable returns err, or why no call can be answered.
func (k *kv) usable(ctx context.Context, op string, err error) error {
	if err != nil {
		return err
	}
	select {
	case <-k.done:
		return errs.New(op, "", errs.Unavailable, "the metadata store is closed")
	default:
		return ctx.Err()
	}
}

func keyValue(e *mvccpb.KeyValue) meta.KeyValue {
	return meta.KeyValue{Key: string(e.Key), Value: e.Value, CreateRev: e.CreateRevision, ModRev: e.ModRevision}
}

// kinds are etcd's errors that say more than that it does not answer. All of them but ErrCorrupt are given before anything is
// changed.
var kinds = []struct {
	err  error
	kind errs.Kind
}{
	{rpctypes.ErrNoSpace, errs.NoSpace},
	{rpctypes.ErrRequestTooLarge, errs.TooLarge},
	{rpctypes.ErrTooManyOps, errs.TooLarge},
	{rpctypes.ErrDuplicateKey, errs.Invalid},
	{rpctypes.ErrEmptyKey, errs.Invalid},
	{rpctypes.ErrCompacted, errs.Precondition},
	{rpctypes.ErrFutureRev, errs.Precondition},
	{rpctypes.ErrCorrupt, errs.Corrupt},
	{rpctypes.ErrMemberNotFound, errs.NotExist},
	{rpctypes.ErrMemberExist, errs.Exist},
	{rpctypes.ErrPeerURLExist, errs.Exist},
	{rpctypes.ErrMemberNotEnoughStarted, errs.Precondition},
	{rpctypes.ErrMemberLearnerNotReady, errs.Busy},
	{rpctypes.ErrTooManyLearners, errs.Busy},
	{rpctypes.ErrPermissionDenied, errs.Permission},
	{rpctypes.ErrAuthFailed, errs.Permission},
}

// classify gives etcd's error a kind; what is not known better is Unavailable. The context's error passes.
func classify(ctx context.Context, op, key string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return errs.E(op, key, k.kind, err)
		}
	}
	return errs.E(op, key, errs.Unavailable, err)
}
