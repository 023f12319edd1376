package remote

import (
	"context"
	"slices"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
)

// tendPatience is how long a worker may load pages that it was asked to load: a block over a slow line.
const tendPatience = 10 * time.Minute

var _ core.Caches = (*Client)(nil)

// Workers implements core.Caches. Those that are being drained are among them: they may have pages.
func (c *Client) Workers() (names []string) {
	for _, n := range c.Nodes() {
		if n.Role == cluster.Worker && n.Pages != "" {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Keepers implements core.Caches.
func (c *Client) Keepers(of core.Run, off int64) (workers []string, end int64) {
	end = min(of.Off+of.Len, (off/blockSize+1)*blockSize)
	if m := c.cluster.Load(); m != nil {
		for _, n := range c.keepers(m.ring, blockKey(&of, off), of.Copies) {
			workers = append(workers, n.Name)
		}
	}
	return workers, end
}

// Tend implements core.Caches.
func (c *Client) Tend(ctx context.Context, worker string, ticket []byte, op core.PageOp, off, n int64) (core.PageReport, error) {
	var owner []cluster.Node
	for _, x := range c.Nodes() {
		if x.Role == cluster.Worker && x.Pages != "" && x.Name == worker {
			owner = []cluster.Node{x}
		}
	}
	if owner == nil {
		return core.PageReport{}, errs.New("remote.Tend", worker, errs.Unavailable, "the worker is not there")
	}
	s := &pageStream{c: c, ticket: ticket, off: off, left: n, owners: owner, op: op, patience: tendPatience}
	if _, err := s.open(ctx); err != nil {
		s.close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return core.PageReport{}, err
	}
	s.end()
	return s.report, nil
}
