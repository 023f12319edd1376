package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"

	"github.com/sluicefs/sluice/core/cluster"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// DefaultPrefix starts every key in an etcd that others may use as well. What a Server keeps starts with nothing.
const DefaultPrefix = "/sluice/"

const (
	// requestLimit bounds every request of a Client: a cluster that is gone answers nothing at all.
	requestLimit = 10 * time.Second
	dialLimit    = 5 * time.Second

	// A connection on which a ping of pingEvery stays unanswered for pingLimit is given up. Source: servers refuse pings more
	// frequent than one in 5 s.
	pingEvery = 10 * time.Second
	pingLimit = 3 * time.Second
)

// ClientOptions are the options of Connect. Zero values mean the defaults named.
type ClientOptions struct {
	Endpoints []string     // URLs of the cluster's members; at least one
	Logger    *slog.Logger // nil: nothing is logged

	// Prefix starts every key. Two Sluices on one etcd differ in it; but compaction is of the whole etcd. DefaultPrefix.
	Prefix string

	// TLS is for endpoints that start with https://. The authorities suffice unless the cluster asks for a certificate.
	TLS TLS

	User, Password string // empty: no authentication
}

// Client is a connection to an etcd cluster that somebody else runs.
type Client struct {
	client   *clientv3.Client
	kv       *kv
	log      *slog.Logger
	stopping atomic.Bool
	cancel   context.CancelFunc // ends what runs in the background
	run      func(func(context.Context)) error
	close    func() error

	mu         sync.Mutex
	closed     bool // nothing may start in the background any more
	background sync.WaitGroup
}

// Connect connects to a cluster and waits until it answers; the context bounds no more than that. Errors: errs.Invalid for
// options that cannot be meant; errs.Permission if it refuses the user; errs.Unavailable if it does not answer within 10 s; ctx's.
func Connect(ctx context.Context, o ClientOptions) (*Client, error) {
	const op = "etcd.Connect"
	if len(o.Endpoints) == 0 {
		return nil, errs.New(op, "", errs.Invalid, "at least one endpoint is needed")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	c := &Client{log: o.Logger}
	config, err := o.config(op)
	if err != nil {
		return nil, err
	}
	config.Logger = zapLogger(o.Logger, &c.stopping)
	if c.client, err = clientv3.New(config); err != nil {
		return nil, classify(ctx, op, strings.Join(o.Endpoints, ","), err)
	}
	c.client.KV = namespace.NewKV(c.client.KV, o.Prefix)
	c.client.Watcher = namespace.NewWatcher(c.client.Watcher, o.Prefix)
	c.kv = newKV(c.client, nil)
	c.kv.limit = requestLimit
	c.close = sync.OnceValue(c.stop)
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	c.run = func(f func(context.Context)) error { return c.start(life, f) }
	if _, err := c.kv.Get(ctx, "sys/connect"); err != nil && !errors.Is(err, errs.NotExist) {
		c.Close()
		return nil, errs.E(op, strings.Join(o.Endpoints, ","), errs.KindOf(err), err)
	}
	c.warnOld(ctx)
	return c, nil
}

// release is a version of etcd: major, minor, patch.
type release [3]int

// safe are the first releases of etcd's series without known holes, the oldest series first. Source: CVE-2026-73499,
// CVE-2026-73500.
var safe = []release{{3, 6, 14}, {3, 7, 1}}

// warnOld warns of members that run an etcd with known holes. Whether a member tells its version is its operator's choice.
func (c *Client) warnOld(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, statusLimit)
	defer cancel()
	for _, endpoint := range c.client.Endpoints() {
		r, err := c.client.Status(ctx, endpoint)
		switch {
		case err != nil:
			c.log.Info("a member of etcd does not tell its state", "endpoint", endpoint, "error", err)
		case outdated(r.Version):
			c.log.Warn("this version of etcd has known holes; update it", "endpoint", endpoint, "version", r.Version, "safe", safe)
		}
	}
}

// outdated reports whether a version is older than the first safe one of its series, or of an older series than all of them.
func outdated(version string) bool {
	var v release
	if _, err := fmt.Sscanf(version, "%d.%d.%d", &v[0], &v[1], &v[2]); err != nil {
		return true
	}
	first := safe[0]
	for _, s := range safe {
		if s[0] == v[0] && s[1] == v[1] {
			first = s
		}
	}
	return slices.Compare(v[:], first[:]) < 0
}

// config returns the client's configuration.
func (o ClientOptions) config(op string) (clientv3.Config, error) {
	c := clientv3.Config{
		Endpoints: o.Endpoints, Username: o.User, Password: o.Password,
		DialTimeout: dialLimit, DialKeepAliveTime: pingEvery, DialKeepAliveTimeout: pingLimit,
	}
	if (o.TLS.Cert == "") != (o.TLS.Key == "") {
		return c, errs.New(op, "", errs.Invalid, "a certificate and its key go together")
	}
	if o.User == "" && o.Password != "" {
		return c, errs.New(op, "", errs.Invalid, "a password needs a user")
	}
	for _, e := range o.Endpoints {
		secure, plain := strings.HasPrefix(e, "https://"), strings.HasPrefix(e, "http://")
		switch {
		case !secure && !plain:
			return c, errs.New(op, e, errs.Invalid, "an endpoint is a URL like https://host:port")
		case plain && o.TLS.enabled():
			return c, errs.New(op, e, errs.Invalid, "TLS is configured, and this endpoint does not start with https://")
		}
	}
	if o.TLS.enabled() {
		var err error
		c.TLS, err = transport.TLSInfo{TrustedCAFile: o.TLS.CA, CertFile: o.TLS.Cert, KeyFile: o.TLS.Key}.ClientConfig()
		if err != nil {
			return c, errs.E(op, "", errs.Invalid, err)
		}
	}
	return c, nil
}

// start runs f in the background, until the client is closed.
func (c *Client) start(life context.Context, f func(context.Context)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	c.background.Go(func() { f(life) })
	return nil
}

// ClusterID returns the identity of the cluster, hexadecimal. A restored store has another one than the store it was saved
// from, if it was given a token of its own. Errors: errs.Unavailable; ctx's.
func (c *Client) ClusterID(ctx context.Context) (string, error) {
	const op = "etcd.ClusterID"
	ctx, cancel := c.kv.bounded(ctx)
	defer cancel()
	r, err := c.client.Get(ctx, "sys/connect", clientv3.WithKeysOnly())
	if err != nil {
		return "", classify(ctx, op, "", err)
	}
	return hex(r.Header.ClusterId), nil
}

// KV returns the store. Its Close ends the KV, not the client; the client's Close ends both.
func (c *Client) KV() meta.KV { return c.kv }

// Election returns the election of the group among all who call this with it. A member leads as long as it renews its lease; if
// it dies, others may lead after ttl; 0: 10 s, and not less than 2. The name of self is unique among the candidates. Errors:
// errs.Invalid.
func (c *Client) Election(group string, self cluster.Member, ttl time.Duration) (cluster.Election, error) {
	const op = "etcd.Election"
	if group == "" || self.Name == "" || strings.Contains(group+self.Name, "/") {
		return nil, errs.New(op, group, errs.Invalid, "a group and a member have names without slashes")
	}
	value, err := json.Marshal(self)
	if err != nil {
		return nil, errs.E(op, self.Name, errs.Invalid, err)
	}
	return &session{
		client: c.client, log: c.log, prefix: "e/" + group + "/", self: self, value: string(value),
		ttl: withDefaultTTL(ttl), run: c.run, turn: make(chan struct{}, 1),
	}, nil
}

// Depose ends the reign of the group's leader if it still is the member of that name, without waiting for its lease. It is for
// who has probed the leader and found it dead: a leader that lives finds out at once and may stand again. Errors: errs.NotExist
// if that member does not lead.
func (c *Client) Depose(ctx context.Context, group, name string) error {
	const op = "etcd.Depose"
	key := "e/" + group + "/leader"
	kv, err := c.kv.Get(ctx, key)
	if err != nil {
		return err
	}
	m, err := decodeMember(op, kv.Value)
	if err != nil {
		return err
	}
	ok := false
	if m.Name == name {
		if ok, _, err = c.kv.Txn(ctx, meta.Txn{If: []meta.Compare{meta.ModRevIs(key, kv.ModRev)}, Deletes: []string{key}}); err != nil {
			return err
		}
	}
	if !ok {
		return errs.New(op, name, errs.NotExist, "another member leads")
	}
	return nil
}

// Registry returns the list of the live processes. A node is gone ttl after it was last heard of; 0: 10 s, not less than 2.
func (c *Client) Registry(ttl time.Duration) cluster.Registry {
	return newRegistry(c.client, c.log, ttl)
}

// Close ends the reigns of this client's elections, gives their leases up, and closes the connection. It is idempotent.
func (c *Client) Close() error { return c.close() }

func (c *Client) stop() error {
	c.stopping.Store(true)
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.kv.Close()
	c.cancel()
	c.background.Wait()
	if err := c.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return errs.E("etcd.Close", "", errs.Unavailable, err)
	}
	return nil
}
