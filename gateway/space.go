package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/etcd"
	"github.com/sluicefs/sluice/gateway/admin"
	"github.com/sluicefs/sluice/gateway/telemetry"
)

/*
The journal's database has a quota. When it is reached etcd refuses everything that puts, and a delete is journaled by a put
as well: so etcd's own quota is greater than what the operator has set, by an eighth and by no less than what can be written before
that is noticed, and beyond what is set nothing but removals is accepted. They, and the checkpoints that take in what they journal, make room in the database; the file shrinks when it is
defragmented, which the leader has done as soon as that pays. etcd's own alarm comes only if the reserve is used up too, or
somebody else fills an etcd that is shared; it is ended in the same way.
*/

const (
	reservePart = 8        // of the quota is etcd's reserve
	minReserve  = 64 << 20 // bytes: more than a disk takes in spaceEvery
	spaceEvery  = time.Second
	defragAgain = time.Minute // between two that the leader has made by itself
	defragTime  = 10 * time.Minute
)

// journalSpace is how full the journal's databases are. It is safe for concurrent use.
type journalSpace struct {
	size, inUse, limit atomic.Int64 // of the largest that is known, in bytes
	why                atomic.Pointer[string]
	defragging         sync.Mutex
}

// refuse returns why nothing but a removal is accepted, nil if everything is.
func (s *journalSpace) refuse() error {
	if why := s.why.Load(); why != nil {
		return errs.New("namespace", "", errs.Full, *why)
	}
	return nil
}

// etcdQuota returns the quota of an etcd of this process's own.
func (g *gateway) etcdQuota() int64 {
	q := int64(g.cfg.Etcd.Quota)
	return q + max(q/reservePart, minReserve)
}

// limitOf returns the size of a database of that quota of etcd's from which on only removals are accepted, 0 if there is none.
func limitOf(quota int64) int64 {
	limit := quota / (reservePart + 1) * reservePart
	if quota > minReserve {
		limit = min(limit, quota-minReserve)
	}
	return limit
}

// watchSpace keeps how full the journal is, until the process stops.
func (g *gateway) watchSpace(ctx context.Context) error {
	s := &g.journalSpace
	g.health.remark(func() string {
		if why := s.why.Load(); why != nil {
			return "journal: " + *why
		}
		return ""
	})
	gauge := func(of func() int64) telemetry.Reading {
		return func(report func(int64, telemetry.Labels)) { report(of(), nil) }
	}
	err := errors.Join(
		g.metrics.Gauge("sluice_journal_database_bytes", "Size of the journal's database.", gauge(s.size.Load)),
		g.metrics.Gauge("sluice_journal_database_used_bytes", "Bytes of it that hold something.", gauge(s.inUse.Load)),
		g.metrics.Gauge("sluice_journal_quota_bytes", "Size from which on only reads and deletes are served; 0: not known.", gauge(s.limit.Load)),
		g.metrics.Gauge("sluice_journal_full", "1 if only reads and deletes are served.", gauge(func() int64 {
			if s.why.Load() != nil {
				return 1
			}
			return 0
		})))
	if err != nil {
		return err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	g.running.Go(func() {
		defer close(ended)
		tick := time.NewTicker(spaceEvery)
		defer tick.Stop()
		var last time.Time
		for {
			if g.lookAtSpace(life) && time.Since(last) > defragAgain {
				g.shrink(life)
				last = time.Now()
			}
			select {
			case <-tick.C:
			case <-life.Done():
				return
			}
		}
	})
	g.onClose(func() error { stop(); <-ended; return nil })
	return nil
}

// leads reports whether this process writes the journal.
func (g *gateway) leads() bool { return g.master == nil || g.master.turn.now() != nil }

// lookAtSpace finds out how full the journal is. It reports whether defragmenting pays.
func (g *gateway) lookAtSpace(ctx context.Context) (pays bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*spaceEvery)
	defer cancel()
	all, err := g.journalStatus(ctx)
	if err != nil || len(all) == 0 {
		return false // what is known stays
	}
	s := &g.journalSpace
	size, inUse, limit, alarm := int64(0), int64(0), int64(0), false
	for _, m := range all {
		size, inUse = max(size, m.DBSize), max(inUse, m.DBInUse)
		if m.Quota > 0 {
			limit = limitOf(m.Quota)
		}
		for _, a := range m.Alarms {
			alarm = alarm || a.Name == "NOSPACE"
		}
	}
	s.size.Store(all[0].DBSize)
	s.inUse.Store(all[0].DBInUse)
	s.limit.Store(limit)
	full := alarm || limit > 0 && size >= limit
	if was := s.why.Load() != nil; full != was {
		if !full {
			s.why.Store(nil)
			g.log.Info("the journal has room again", "size", size, "limit", limit)
			return false
		}
		g.log.Error("the journal is full: only reads and deletes are served", "size", size, "used", inUse, "limit", limit, "alarm", alarm)
	}
	if !full {
		return false
	}
	why := fmt.Sprintf("its database has reached %d of %d bytes; reads and deletes go on, nothing else does until it has shrunk: "+
		"delete what is not needed, raise etcd.quota, or run `sluice defrag`", size, limit)
	s.why.Store(&why)
	return g.leads() && (limit == 0 || inUse < limit/4*3 || size < limit)
}

// journalStatus returns the state of the members of the journal's etcd that answer, this process's first.
func (g *gateway) journalStatus(ctx context.Context) ([]etcd.Status, error) {
	if g.etcd == nil {
		return g.client.Status(ctx)
	}
	own, err := g.etcd.Status(ctx)
	if err != nil {
		return nil, err
	}
	all := []etcd.Status{own}
	if g.master == nil || !g.leads() {
		return all, nil
	}
	members, err := g.etcd.Members(ctx)
	if err != nil {
		return all, nil
	}
	for _, e := range members {
		if e.Name == "" || e.Name == g.cfg.Name {
			continue
		}
		if s, err := g.master.ask(ctx, e.Addr); err == nil {
			all = append(all, etcd.Status{DBSize: s.Size, DBInUse: s.InUse})
		}
	}
	return all, nil
}

// shrink defragments because the journal is full.
func (g *gateway) shrink(ctx context.Context) {
	done, err := g.defragAll(ctx)
	g.log.Info("the full journal was defragmented", "members", len(done), "err", err)
}

// defragOwn defragments the database of this process.
func (g *gateway) defragOwn(ctx context.Context) admin.Defragmented {
	d := admin.Defragmented{Member: cmp.Or(g.cfg.Name, hostname())}
	before, err := g.etcd.Status(ctx)
	began := time.Now()
	if err == nil {
		err = g.etcd.Defrag(ctx)
	}
	d.Ms = time.Since(began).Milliseconds()
	if err == nil {
		var after etcd.Status
		after, err = g.etcd.Status(ctx)
		d.Before, d.After = before.DBSize, after.DBSize
		g.lookAtSpace(ctx) // else whoever leads next refuses changes until it looks by itself
	}
	if err != nil {
		d.Error = err.Error()
	}
	return d
}

// defragAll defragments the databases of all members, one at a time, this process's last, and ends etcd's alarm.
func (g *gateway) defragAll(ctx context.Context) ([]admin.Defragmented, error) {
	if !g.journalSpace.defragging.TryLock() {
		return nil, errs.New("gateway.Defrag", "", errs.Busy, "the databases are being defragmented; wait for that")
	}
	defer g.journalSpace.defragging.Unlock()
	ctx, cancel := context.WithTimeout(ctx, defragTime)
	defer cancel()
	if g.etcd == nil {
		return g.defragTheirs(ctx)
	}
	var all []admin.Defragmented
	if g.master != nil {
		members, err := g.etcd.Members(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range members {
			if e.Name == "" || e.Name == g.cfg.Name {
				continue
			}
			var d admin.Defragmented
			if err := g.master.call(ctx, e.Addr, http.MethodPost, defragPath, &d); err != nil {
				d = admin.Defragmented{Member: e.Name, Error: err.Error()}
			}
			all = append(all, d)
		}
		if len(members) > 1 {
			if _, err := g.master.Handover(ctx, ""); err != nil {
				g.log.Warn("the leader is defragmented while it leads", "err", err)
			}
		}
	}
	all = append(all, g.defragOwn(ctx))
	if err := g.etcd.Disarm(ctx); err != nil && !errors.Is(err, errs.NoSpace) {
		return all, err
	}
	g.lookAtSpace(ctx)
	return all, nil
}

// defragTheirs is defragAll of an etcd cluster that somebody else runs.
func (g *gateway) defragTheirs(ctx context.Context) ([]admin.Defragmented, error) {
	before, err := g.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := g.client.Defrag(ctx); err != nil {
		return nil, err
	}
	took := time.Since(began).Milliseconds()
	after, err := g.client.Status(ctx)
	if err != nil {
		return nil, err
	}
	var all []admin.Defragmented
	for i, b := range before {
		all = append(all, admin.Defragmented{Member: b.Endpoint, Before: b.DBSize, After: after[i].DBSize, Ms: took})
	}
	if err := g.client.Disarm(ctx); err != nil && !errors.Is(err, errs.NoSpace) {
		return all, err
	}
	g.lookAtSpace(ctx)
	return all, nil
}

// Defrag implements admin.Masters.
func (m *master) Defrag(ctx context.Context) ([]admin.Defragmented, error) { return m.g.defragAll(ctx) }

// only implements admin.Masters in a process that is complete of its own.
type only struct{ g *gateway }

// Masters implements admin.Masters.
func (o only) Masters(ctx context.Context) ([]admin.Master, error) {
	members, err := o.g.etcd.Members(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]admin.Master, len(members))
	for i, e := range members {
		all[i] = admin.Master{Name: e.Name, Address: e.Addr, Peer: e.Peer, ID: e.ID, State: stateOf(e)}
	}
	return all, nil
}

// Handover implements admin.Masters.
func (o only) Handover(context.Context, string) (admin.Handover, error) {
	return admin.Handover{}, errAlone("Handover")
}

// AddMaster implements admin.Masters.
func (o only) AddMaster(context.Context, string) error { return errAlone("AddMaster") }

// ChangeMasters implements admin.Masters.
func (o only) ChangeMasters(context.Context, []string, []string) error {
	return errAlone("ChangeMasters")
}

// errAlone is the error of what only a cluster can do.
func errAlone(op string) error {
	return errs.New("gateway."+op, "", errs.Unsupported, "this process is complete of its own; start it with --join, as one master, for others to join it")
}

// Defrag implements admin.Masters.
func (o only) Defrag(ctx context.Context) ([]admin.Defragmented, error) { return o.g.defragAll(ctx) }
