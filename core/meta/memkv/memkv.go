// Package memkv is a meta.KV in memory, for tests and for a server whose metadata may be lost. It keeps every change until
// Compact, as etcd does, and nothing after Close. Its suite is core/meta/kvtest.
package memkv

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"sort"
	"sync"

	"github.com/tidwall/btree"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// chunk is how many keys one step of DeleteRange deletes.
const chunk = 1000

// KV is a meta.KV in memory.
type KV struct {
	mu        sync.RWMutex
	keys      btree.Map[string, meta.KeyValue]
	rev       int64
	compacted int64        // no change at or below it is kept for Watch
	events    []meta.Event // by revision
	changed   chan struct{}
	closed    bool
}

var _ meta.KV = (*KV)(nil)

// New returns an empty KV.
func New() *KV { return &KV{rev: 1, changed: make(chan struct{})} }

// Get implements meta.KV.
func (m *KV) Get(ctx context.Context, key string) (meta.KeyValue, error) {
	const op = "memkv.Get"
	if err := meta.CheckKey(op, key); err != nil {
		return meta.KeyValue{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(ctx, op); err != nil {
		return meta.KeyValue{}, err
	}
	kv, ok := m.keys.Get(key)
	if !ok {
		return meta.KeyValue{}, errs.E(op, key, errs.NotExist, nil)
	}
	return kv, nil
}

// Scan implements meta.KV.
func (m *KV) Scan(ctx context.Context, from, to string, limit int) (meta.Page, error) {
	const op = "memkv.Scan"
	if err := meta.CheckScan(op, from, to, limit); err != nil {
		return meta.Page{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(ctx, op); err != nil {
		return meta.Page{}, err
	}
	p := meta.Page{Revision: m.rev}
	m.keys.Ascend(from, func(key string, kv meta.KeyValue) bool {
		if key >= to {
			return false
		}
		if len(p.KVs) == limit {
			p.More = true
			return false
		}
		p.KVs = append(p.KVs, kv)
		return true
	})
	return p, nil
}

// Txn implements meta.KV.
func (m *KV) Txn(ctx context.Context, t meta.Txn) (ok bool, rev int64, err error) {
	if err := t.Check(); err != nil {
		return false, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx, "memkv.Txn"); err != nil {
		return false, 0, err
	}
	for _, c := range t.If {
		kv, _ := m.keys.Get(c.Key)
		if !c.Holds(kv.CreateRev, kv.ModRev) {
			return false, m.rev, nil
		}
	}
	before := len(m.events)
	for _, kv := range t.Puts {
		m.put(kv)
	}
	for _, key := range t.Deletes {
		m.remove(key)
	}
	m.publish(before)
	return true, m.rev, nil
}

// DeleteRange implements meta.KV.
func (m *KV) DeleteRange(ctx context.Context, from, to string) (int64, error) {
	var deleted int64
	for {
		page, err := m.Scan(ctx, from, to, chunk)
		if err != nil {
			return deleted, err
		}
		n, err := m.deleteAll(ctx, page.KVs)
		deleted += n
		if err != nil || !page.More {
			return deleted, err
		}
	}
}

func (m *KV) deleteAll(ctx context.Context, kvs []meta.KeyValue) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx, "memkv.DeleteRange"); err != nil {
		return 0, err
	}
	before := len(m.events)
	for _, kv := range kvs {
		m.remove(kv.Key)
	}
	n := len(m.events) - before
	m.publish(before)
	return int64(n), nil
}

// Watch implements meta.KV.
func (m *KV) Watch(ctx context.Context, from, to string, rev int64) iter.Seq2[meta.Event, error] {
	const op = "memkv.Watch"
	return func(yield func(meta.Event, error) bool) {
		err := meta.CheckRange(op, from, to)
		next := rev
		for err == nil {
			var events []meta.Event
			var changed chan struct{}
			events, next, changed, err = m.since(ctx, op, next)
			for _, e := range events {
				if e.Key >= from && e.Key < to && !yield(e, nil) {
					return
				}
			}
			if err != nil || len(events) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
		yield(meta.Event{}, err)
	}
}

// since returns the changes at and after rev (0: none yet), the revision to ask for next, and what is closed when there is
// more to ask for.
func (m *KV) since(ctx context.Context, op string, rev int64) ([]meta.Event, int64, chan struct{}, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.usable(ctx, op); err != nil {
		return nil, rev, nil, err
	}
	if rev == 0 {
		return nil, m.rev + 1, m.changed, nil
	}
	if rev <= m.compacted {
		return nil, rev, nil, errs.New(op, "", errs.Precondition, "the revision was compacted; scan and watch again")
	}
	i := sort.Search(len(m.events), func(i int) bool { return m.events[i].ModRev >= rev })
	return slices.Clone(m.events[i:]), max(rev, m.rev+1), m.changed, nil
}

// Compact implements meta.KV.
func (m *KV) Compact(ctx context.Context, rev int64) error {
	const op = "memkv.Compact"
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx, op); err != nil {
		return err
	}
	if rev > m.rev {
		return errs.New(op, "", errs.Precondition, "the revision lies in the future")
	}
	if rev-1 <= m.compacted {
		return nil
	}
	m.compacted = rev - 1
	i := sort.Search(len(m.events), func(i int) bool { return m.events[i].ModRev >= rev })
	m.events = slices.Clone(m.events[i:])
	return nil
}

// Close implements meta.KV.
func (m *KV) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed = true
		close(m.changed)
	}
	return nil
}

// usable reports why a call cannot be answered. mu must be held.
func (m *KV) usable(ctx context.Context, op string) error {
	if m.closed {
		return errs.New(op, "", errs.Unavailable, "the store is closed")
	}
	return ctx.Err()
}

// put records kv at the next revision. mu must be held.
func (m *KV) put(kv meta.KeyValue) {
	old, ok := m.keys.Get(kv.Key)
	kv.Value = bytes.Clone(kv.Value)
	kv.ModRev, kv.CreateRev = m.rev+1, old.CreateRev
	if !ok {
		kv.CreateRev = kv.ModRev
	}
	m.keys.Set(kv.Key, kv)
	m.events = append(m.events, meta.Event{KeyValue: kv})
}

// remove deletes key at the next revision. mu must be held.
func (m *KV) remove(key string) {
	if _, ok := m.keys.Delete(key); ok {
		m.events = append(m.events, meta.Event{KeyValue: meta.KeyValue{Key: key, ModRev: m.rev + 1}, Deleted: true})
	}
}

// publish makes the changes recorded after the first before events one revision and wakes the watchers. mu must be held.
func (m *KV) publish(before int) {
	if len(m.events) == before {
		return
	}
	m.rev++
	close(m.changed)
	m.changed = make(chan struct{})
}
