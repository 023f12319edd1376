package etcd

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// defaultTTL is how long a lease outlives its last renewal. It is longer than any pause of a healthy process, since a
	// lease that lapses needlessly costs a change of leader or of placement.
	defaultTTL = 10 * time.Second
	minTTL     = 2 * time.Second // Source: etcd grants no shorter ones with its default election timeout

	// retryEvery is how long something that failed waits before it tries again.
	retryEvery = 500 * time.Millisecond
	// releaseLimit bounds what is done for tidiness after the caller's context has ended.
	releaseLimit = 2 * time.Second
)

// lease is a lease of etcd that is kept alive.
type lease struct {
	client *clientv3.Client
	id     clientv3.LeaseID
	cancel context.CancelFunc // ends the renewals
	// lost is closed when the lease may have expired, and never later than it does.
	lost chan struct{}
}

// grant takes a lease and keeps it until release, which must be called; ctx bounds the taking only.
func grant(ctx context.Context, client *clientv3.Client, ttl time.Duration) (*lease, error) {
	asked := time.Now()
	r, err := client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return nil, err
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &lease{client: client, id: r.ID, cancel: cancel, lost: make(chan struct{})}
	renewals, err := client.KeepAlive(life, r.ID)
	if err != nil {
		cancel()
		return nil, err
	}
	go l.keep(renewals, asked, time.Duration(r.TTL)*time.Second)
	return l, nil
}

// keep waits until a renewal is late. When etcd began the time that a renewal grants is not known, only that it was asked for
// after the answer before: so it is counted from there.
func (l *lease) keep(renewals <-chan *clientv3.LeaseKeepAliveResponse, before time.Time, ttl time.Duration) {
	defer close(l.lost)
	late := time.NewTimer(time.Until(before.Add(ttl)))
	defer late.Stop()
	for {
		select {
		case r, ok := <-renewals:
			if !ok || r.TTL <= 0 {
				return
			}
			late.Reset(time.Until(before.Add(time.Duration(r.TTL) * time.Second)))
			before = time.Now()
		case <-late.C:
			return
		}
	}
}

// release gives the lease up, and with it the keys on it. It is done even if ctx has ended; if etcd does not answer, the lease
// expires by itself.
func (l *lease) release(ctx context.Context) {
	l.cancel()
	<-l.lost
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
	defer cancel()
	_, _ = l.client.Revoke(ctx, l.id) // see above
}
