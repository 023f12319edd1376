package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/wait"
)

// nodePrefix starts the key n/<role>/<name> of every registered process, whose value is its cluster.Node as JSON.
const nodePrefix = "n/"

// registry is the cluster.Registry: one key per node, on the node's lease.
type registry struct {
	client *clientv3.Client
	log    *slog.Logger
	ttl    time.Duration
}

// newRegistry returns a registry whose nodes are gone ttl after they were last heard of; 0: 10 s, and not less than 2.
func newRegistry(client *clientv3.Client, log *slog.Logger, ttl time.Duration) *registry {
	return &registry{client, log, withDefaultTTL(ttl)}
}

func withDefaultTTL(ttl time.Duration) time.Duration {
	if ttl <= 0 {
		ttl = defaultTTL
	}
	return max(ttl, minTTL)
}

// Register implements cluster.Registry.
func (r *registry) Register(ctx context.Context, n cluster.Node) error {
	const op = "etcd.Register"
	if n.Name == "" || n.Role == "" || n.Incarnation == "" || strings.Contains(n.Name+string(n.Role), "/") {
		return errs.New(op, n.Name, errs.Invalid, "a node needs a name and a role, both without a slash, and an incarnation")
	}
	value, err := json.Marshal(n)
	if err != nil {
		return errs.E(op, n.Name, errs.Invalid, err)
	}
	key := nodePrefix + string(n.Role) + "/" + n.Name
	if err := meta.CheckKey(op, key); err != nil {
		return err
	}
	for listed, complained := false, false; ; {
		err := r.stay(ctx, key, string(value), n.Incarnation, &listed)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case r.client.Ctx().Err() != nil:
			return errClosed
		case errors.Is(err, errs.Conflict):
			return err
		case err != nil:
			if !complained {
				complained = true
				r.log.Warn("the registration of a node waits", "node", n.Name, "role", n.Role, "error", err)
			}
			if err := wait.For(ctx, retryEvery); err != nil {
				return err
			}
		default: // lost, and put back at once
			complained = false
		}
	}
}

// stay lists the node under key until it is lost, which is no error, or ctx ends. listed says whether it has been listed
// before, and is set.
func (r *registry) stay(ctx context.Context, key, value, incarnation string, listed *bool) error {
	l, err := grant(ctx, r.client, r.ttl)
	if err != nil {
		return err
	}
	defer func() {
		if errors.Is(context.Cause(ctx), cluster.ErrMoved) {
			l.cancel() // it runs out, unless the key is on another lease by then
		} else {
			l.release(ctx)
		}
	}()
	seen, err := r.client.Get(ctx, key)
	if err != nil {
		return err
	}
	// Who comes new replaces an earlier start of itself. Who comes back must not replace a later one.
	rev := int64(0)
	if len(seen.Kvs) > 0 {
		rev = seen.Kvs[0].ModRevision
		if *listed && incarnationOf(seen.Kvs[0].Value) != incarnation {
			return replaced(key)
		}
	}
	put, err := r.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(clientv3.OpPut(key, value, clientv3.WithLease(l.id))).Commit()
	if err != nil {
		return err
	}
	if !put.Succeeded {
		return nil // changed meanwhile: look again
	}
	*listed = true
	return r.watch(ctx, l, key, incarnation, put.Header.Revision)
}

// watch returns when the key put at rev on the lease l is gone, which is no error, or another node's.
func (r *registry) watch(ctx context.Context, l *lease, key, incarnation string, rev int64) error {
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	changes := r.client.Watch(watching, key, clientv3.WithRev(rev+1))
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.lost:
			return nil
		case w, ok := <-changes:
			if err := w.Err(); err != nil || !ok {
				return errors.Join(errors.New("the watch of the node's own key ended"), err)
			}
			for _, e := range w.Events {
				if e.Type == clientv3.EventTypePut && incarnationOf(e.Kv.Value) != incarnation {
					return replaced(key)
				}
				return nil
			}
		}
	}
}

func replaced(key string) error {
	return errs.New("etcd.Register", key, errs.Conflict, "another start of this node, or another node of its name, has taken its place")
}

// incarnationOf returns the incarnation of a stored node, "" if it is not stored as one.
func incarnationOf(value []byte) string {
	n, err := decodeNode(value)
	if err != nil {
		return ""
	}
	return n.Incarnation
}

// decodeNode decodes a stored node. Errors: errs.Corrupt.
func decodeNode(value []byte) (cluster.Node, error) {
	var n cluster.Node
	if err := json.Unmarshal(value, &n); err != nil {
		return cluster.Node{}, errs.E("etcd.Nodes", "", errs.Corrupt, err)
	}
	if n.Name == "" || n.Role == "" {
		return cluster.Node{}, errs.New("etcd.Nodes", "", errs.Corrupt, fmt.Sprintf("a stored node has no name or no role: %q", value))
	}
	return n, nil
}

// Nodes implements cluster.Registry.
func (r *registry) Nodes(ctx context.Context) ([]cluster.Node, error) {
	answer, err := r.client.Get(ctx, nodePrefix, clientv3.WithPrefix())
	if err != nil {
		return nil, classify(ctx, "etcd.Nodes", "", err)
	}
	var all []entry
	for _, kv := range answer.Kvs {
		all = append(all, entry{string(kv.Key), kv.Value})
	}
	return r.nodes(all), nil
}

// nodes decodes entries. One that is damaged is logged and left out: it must not keep the others from being seen.
func (r *registry) nodes(all []entry) []cluster.Node {
	nodes := make([]cluster.Node, 0, len(all))
	for _, e := range all {
		n, err := decodeNode(e.value)
		if err != nil {
			r.log.Warn("a registered node is left out", "key", e.key, "error", err)
			continue
		}
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b cluster.Node) int {
		if a.Role != b.Role {
			return strings.Compare(string(a.Role), string(b.Role))
		}
		return strings.Compare(a.Name, b.Name)
	})
	return nodes
}

// Watch implements cluster.Registry.
func (r *registry) Watch(ctx context.Context) iter.Seq2[[]cluster.Node, error] {
	return func(yield func([]cluster.Node, error) bool) {
		err := follow(ctx, r.client, nodePrefix, meta.PrefixEnd(nodePrefix), func(all []entry) bool {
			return yield(r.nodes(all), nil)
		})
		if err != nil {
			yield(nil, err)
		}
	}
}
