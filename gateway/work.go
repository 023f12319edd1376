package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/job"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/worker"
)

// work is what the leader does for operators beside answering them, for as long as it leads.
type work struct {
	runner    *job.Runner
	cache     *job.Cache
	persister core.Persister // nil if workers hold nothing that stores do not have
	feed      func(ctx context.Context, rescan func(context.Context, core.Path) error)
	feeds     func() []core.FeedInfo
}

// newWork returns the work of who leads with ns, over the caches of workers. own is what job.CacheOptions say.
func (g *gateway) newWork(ns *namespace.Namespace, caches core.Caches, own core.Tender) *work {
	cache := job.NewCache(job.CacheOptions{Namespace: ns, Placer: namespace.Tending{Namespace: ns}, Caches: caches, Facts: facts{ns.Log(), ns}, Own: own, OwnName: g.node("").Name})
	w := &work{cache: cache, feed: ns.Feed, feeds: ns.FeedInfos}
	kinds := cache.Kinds()
	if p, ok := any(ns).(core.Persister); ok {
		w.persister, kinds[core.JobPersist] = p, job.Persist(p)
	}
	kinds[core.JobSync] = job.Sync(ns)
	w.runner = job.New(job.Options{Kinds: kinds, Reign: fmt.Sprint(ns.Log().Term()), Check: cache.Check})
	return w
}

// run works until ctx ends, by itself for the superuser.
func (w *work) run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { w.runner.Run(ctx) })
	all.Go(func() { w.cache.Run(ctx) })
	all.Go(func() { w.feed(ctx, w.rescan) })
	all.Wait()
}

// rescan compares all in a directory with its store, as a job that operators see. It takes the place of one job, and asks for one
// directory at a time.
func (w *work) rescan(ctx context.Context, dir core.Path) error {
	j, err := w.runner.StartJob(ctx, core.JobSpec{Kind: core.JobSync, Path: dir, Gentle: true})
	for err == nil && !j.State.Final() {
		j, err = w.runner.Job(ctx, j.ID, time.Minute)
	}
	if err == nil && j.State != core.JobDone {
		err = errs.New("gateway.rescan", dir.String(), errs.Unavailable, fmt.Sprintf("the job %s is %s: %d directories or files could not be compared. %s", j.ID, j.State, j.Failures, j.Why))
	}
	return err
}

// pinPrefix starts the key sys/pin<path> of every path that is pinned; a directory's ends in a slash.
const pinPrefix = "sys/pin"

// pinNote is the value of such a key.
type pinNote struct {
	Since time.Time `json:"since"`
	By    string    `json:"by"`
	Flat  bool      `json:"flat,omitempty"`
}

// facts implements job.Facts in the journal's configuration.
type facts struct {
	log *meta.Log
	ns  *namespace.Namespace
}

// Kept implements job.Facts.
func (f facts) Kept() []core.Path { return f.ns.Kept() }

// Pins implements job.Facts.
func (f facts) Pins(ctx context.Context) (pins []core.Pin, err error) {
	all, err := f.log.ListConfig(ctx, pinPrefix+"/")
	if err != nil {
		return nil, err
	}
	for _, kv := range all {
		var note pinNote
		path, err := core.ParsePath(strings.TrimPrefix(kv.Key, pinPrefix))
		if err == nil {
			err = json.Unmarshal(kv.Value, &note)
		}
		if err != nil {
			return nil, errs.E("gateway.Pins", kv.Key, errs.Corrupt, err)
		}
		pins = append(pins, core.Pin{Path: path, Flat: note.Flat, Since: note.Since, By: note.By})
	}
	return pins, nil
}

// SetPin implements job.Facts.
func (f facts) SetPin(ctx context.Context, p core.Pin) error {
	note, err := json.Marshal(pinNote{p.Since.UTC(), p.By, p.Flat})
	if err != nil {
		return errs.E("gateway.SetPin", p.Path.String(), errs.Invalid, err)
	}
	_, err = f.log.Append(ctx, meta.Batch{Puts: []meta.KeyValue{{Key: pinPrefix + p.Path.String(), Value: note}}})
	return err
}

// DropPin implements job.Facts.
func (f facts) DropPin(ctx context.Context, p core.Path) error {
	_, err := f.log.Append(ctx, meta.Batch{Deletes: []string{pinPrefix + p.String()}})
	return err
}

// openWork starts the work of a process that is complete of its own.
func (g *gateway) openWork(ctx context.Context) error {
	tender := worker.NewTender(g.cache, g.ns.Sealer(), g.ns.Source)
	g.onClose(func() error { tender.Close(); return nil })
	g.work = g.newWork(g.ns, worker.Alone{Name: g.node("").Name, Tender: tender}, nil)
	own, err := g.superuser(ctx)
	if err != nil {
		return err
	}
	life, stop := context.WithCancel(context.WithoutCancel(own))
	ended := make(chan struct{})
	g.running.Go(func() { defer close(ended); g.work.run(life) })
	g.onClose(func() error { stop(); <-ended; return nil })
	return nil
}
