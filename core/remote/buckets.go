package remote

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// aliasesAge is for how long the leader is not asked again which bucket aliases there are: every request over S3 wants to know.
const aliasesAge = time.Second

// aliases are the bucket aliases as the leader last told them.
type aliases struct {
	mu     sync.Mutex
	at     time.Time          // when it was asked
	all    []core.BucketAlias // by name
	asking *aliasAnswer       // nil: nobody asks
}

// aliasAnswer is what one asker is told, for all who come while it asks.
type aliasAnswer struct {
	done chan struct{} // closed when the rest is set
	all  []core.BucketAlias
	err  error
	left bool // the asker gave up: that says nothing of the leader
}

// BucketAliases implements core.Buckets. It is up to a second old, in which another process may have changed one. One at a time asks.
func (c *Client) BucketAliases(ctx context.Context) ([]core.BucketAlias, error) {
	a := &c.aliases
	for {
		a.mu.Lock()
		if all := a.all; time.Since(a.at) < aliasesAge {
			a.mu.Unlock()
			return all, nil
		}
		answer := a.asking
		if answer == nil {
			answer = &aliasAnswer{done: make(chan struct{})}
			a.asking = answer
			a.mu.Unlock()
			c.askAliases(ctx, answer)
			return answer.all, answer.err
		}
		a.mu.Unlock()
		select {
		case <-answer.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if !answer.left {
			return answer.all, answer.err
		}
	}
}

// askAliases asks the leader and tells who waits for the answer.
func (c *Client) askAliases(ctx context.Context, to *aliasAnswer) {
	asked := time.Now()
	var all []core.BucketAlias
	err := c.call(ctx, methodAliases, nil, func(in *coder) { in.own = true; bucketAliases(in, &all) })
	if errors.Is(err, errs.Unsupported) { // the leader is of a release that has none
		all, err = nil, nil
	}
	a := &c.aliases
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asking = nil; err == nil {
		to.all, a.at, a.all = all, asked, all
	}
	to.err, to.left = err, err != nil && ctx.Err() != nil
	close(to.done)
}

// BucketAlias implements core.Buckets.
func (c *Client) BucketAlias(ctx context.Context, name string) (core.Path, bool, error) {
	all, err := c.BucketAliases(ctx)
	i, ok := slices.BinarySearchFunc(all, name, func(a core.BucketAlias, name string) int { return strings.Compare(a.Name, name) })
	if err != nil || !ok {
		return core.Path{}, false, err
	}
	return all[i].Path, true, nil
}
