// Package hdfsufs is the driver for HDFS over Hadoop's own RPC: hdfs://namenode:port/path. What a store on HDFS is, how it
// stages and renames and what its versions are, is package hadoopfs's; here is the hadoopfs.Client of that protocol, on top of
// github.com/colinmarc/hdfs. It passes ufs/ufstest on a hadoopfs.Store.
//
// The library's client has one connection to a name node, which carries one call at a time, so that there is a pool of
// clients; an open file has one of its own. A client of which a call got no answer is thrown away.
package hdfsufs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/wait"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/hadoopfs"
)

// Options are the settings of a client.
type Options struct {
	Namenodes []string // host:port of each; the active one is found
	User      string   // whom HDFS takes us for without Kerberos; "": the user of the process
	Kerberos  hadoopfs.Kerberos
	// Service is the principal of the name nodes without its realm; _HOST stands for the host. "": nn/_HOST.
	Service string
	// Protection is how data is protected on its way to datanodes that want it: "", "authentication", "integrity" or
	// "privacy".
	Protection string
	// Hostname makes datanodes be reached by their host names in place of their addresses.
	Hostname bool
}

// OpenURI is the ufs.Opener of the scheme "hdfs": hdfs://namenode:port/path, with the options namenodes (several host:port,
// separated by spaces or semicolons, in place of the URI's), user, principal, keytab, ccache, krb5_conf, service, protection,
// datanode_hostname, xattrs (false: keep no attributes), create (true: a missing root is made when it is probed) and events (hdfs:
// who mounts it is to watch it).
func OpenURI(_ context.Context, uri *url.URL, options map[string]string) (ufs.Store, error) {
	const op = "hdfsufs.Open"
	err := ufs.CheckOptions(op, options, "namenodes", "user", "principal", "keytab", "ccache", "krb5_conf", "service", "protection",
		"datanode_hostname", "xattrs", "create", ufs.EventsOption)
	if err == nil {
		err = ufs.CheckEvents(op, options, "hdfs")
	}
	if err != nil {
		return nil, err
	}
	host := uri.Host
	if host != "" && uri.Port() == "" && options["namenodes"] == "" {
		host += ":8020" // dfs.namenode.rpc-address's default port
	}
	o := Options{
		Namenodes: strings.FieldsFunc(options["namenodes"], func(r rune) bool { return r == ' ' || r == ';' }),
		User:      options["user"], Service: options["service"], Protection: options["protection"],
		Kerberos: hadoopfs.Kerberos{
			Principal: options["principal"], Keytab: options["keytab"], CCache: options["ccache"], Config: options["krb5_conf"],
		},
	}
	if len(o.Namenodes) == 0 {
		o.Namenodes = []string{host}
	}
	xattrs, create := true, false
	for name, flag := range map[string]*bool{"xattrs": &xattrs, "create": &create, "datanode_hostname": &o.Hostname} {
		if v, ok := options[name]; ok {
			if *flag, err = strconv.ParseBool(v); err != nil {
				return nil, errs.New(op, "", errs.Invalid, "the option "+name+" must be true or false")
			}
		}
	}
	if host == "" {
		return nil, errs.New(op, uri.Redacted(), errs.Invalid, "write hdfs://namenode:port/path")
	}
	c, err := New(o)
	if err != nil {
		return nil, errs.E(op, "", errs.Invalid, err)
	}
	return hadoopfs.New(c, hadoopfs.Options{Kind: "hdfs", Root: uri.Path, Base: "hdfs://" + host, NoAttrs: !xattrs, Create: create})
}

// Client is a hadoopfs.Client that speaks Hadoop's RPC.
type Client struct {
	o    Options
	base hdfs.ClientOptions

	mu       sync.Mutex
	idle     []*conn // the last used is the last
	evict    *time.Timer
	all      map[*conn]bool
	closed   bool
	defaults *hdfs.ServerDefaults
	login    *hadoopfs.Login
}

// New returns a client, which connects when it is used. Errors: what is wrong with o.
func New(o Options) (*Client, error) {
	for _, a := range o.Namenodes {
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			return nil, fmt.Errorf("a name node is host:port, not %q", a)
		}
	}
	if !slices.Contains([]string{"", "authentication", "integrity", "privacy"}, o.Protection) {
		return nil, fmt.Errorf("the option protection must be authentication, integrity or privacy")
	}
	login, err := o.Kerberos.Login()
	if err != nil {
		return nil, err
	}
	if o.User == "" && login == nil {
		u, err := user.Current()
		if err != nil {
			return nil, fmt.Errorf("the option user is needed: %w", err)
		}
		o.User = u.Username
	}
	if o.Service == "" {
		o.Service = "nn/_HOST"
	}
	service, _, _ := strings.Cut(o.Service, "@")
	c := &Client{o: o, all: map[*conn]bool{}, login: login}
	c.base = hdfs.ClientOptions{
		Addresses: o.Namenodes, User: o.User, UseDatanodeHostname: o.Hostname, DataTransferProtection: o.Protection,
	}
	if login != nil {
		c.base.KerberosServicePrincipleName = service
	}
	return c, nil
}

const (
	maxIdle  = 16               // connections kept; the library renews leases on each every second
	idleLife = 30 * time.Second // how long they are kept unused
)

// take returns a connection that nobody else uses. Errors: errs.Unavailable, errs.Permission, with ufs.ErrUnsent.
func (c *Client) take(ctx context.Context, op, path string) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, errs.New(op, path, errs.Unavailable, "the store was closed")
		}
		if len(c.idle) == 0 {
			c.mu.Unlock()
			break
		}
		k := c.idle[len(c.idle)-1]
		c.idle = c.idle[:len(c.idle)-1]
		c.mu.Unlock()
		if k.usable() {
			return k, nil
		}
		c.drop(k)
	}
	o := c.base
	if c.login != nil {
		var err error
		if o.KerberosClient, err = c.login.Client(); err != nil {
			return nil, errs.E(op, path, errs.Permission, unsent(err))
		}
	}
	k, err := connect(ctx, o)
	if err != nil {
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		if errors.Is(err, errs.Permission) {
			return nil, err
		}
		return nil, errs.E(op, path, errs.Unavailable, unsent(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[k] = true
	return k, nil
}

// give takes back a connection whose last call ended with err.
func (c *Client) give(k *conn, err error) {
	c.mu.Lock()
	if !answered(err) || !k.usable() || c.closed || len(c.idle) >= maxIdle {
		c.mu.Unlock()
		c.drop(k)
		return
	}
	defer c.mu.Unlock()
	c.idle = append(c.idle, k)
	if c.evict == nil {
		c.evict = time.AfterFunc(idleLife, c.shrink)
	}
}

// shrink drops the older half of what is idle, so that a burst does not leave its connections behind.
func (c *Client) shrink() {
	c.mu.Lock()
	n := (len(c.idle) + 1) / 2
	old := slices.Clone(c.idle[:n])
	c.idle = slices.Delete(c.idle, 0, n)
	c.evict = nil
	if len(c.idle) > 0 && !c.closed {
		c.evict = time.AfterFunc(idleLife, c.shrink)
	}
	c.mu.Unlock()
	for _, k := range old {
		c.drop(k)
	}
}

func (c *Client) drop(k *conn) {
	k.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, k)
}

// Close implements hadoopfs.Client.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	idle := c.idle
	c.idle = nil
	if c.evict != nil {
		c.evict.Stop()
	}
	for k := range c.all { // those in use are closed by who uses them
		k.abort()
	}
	c.mu.Unlock()
	for _, k := range idle {
		c.drop(k)
	}
	if c.login != nil {
		c.login.Close()
	}
	return nil
}

// do lends a connection to f. change says that others see what f does: its guard is asked first.
func (c *Client) do(ctx context.Context, op, path string, change bool, f func(*conn) error) error {
	k, err := c.take(ctx, op, path)
	if err != nil {
		return err
	}
	if change {
		if err := ufs.Guard(ctx); err != nil {
			c.give(k, nil)
			return err
		}
	}
	done := k.during(ctx)
	err = f(k)
	done()
	c.give(k, err)
	return fail(ctx, op, path, err)
}

// stream is a file that is being written.
type stream struct {
	c    *Client
	k    *conn
	ctx  context.Context // of Create
	path string
	f    *hdfs.FileWriter
	done func()
}

// Create implements hadoopfs.Client.
func (c *Client) Create(ctx context.Context, path string) (hadoopfs.Stream, error) {
	const op = "hdfsufs.Create"
	d, err := c.serverDefaults(ctx, op)
	if err != nil {
		return nil, err
	}
	k, err := c.take(ctx, op, path)
	if err != nil {
		return nil, err
	}
	s := &stream{c: c, k: k, ctx: ctx, path: path, done: k.during(ctx)}
	if s.f, err = k.lib.CreateFile(path, d.Replication, d.BlockSize, 0o644); err != nil {
		s.done()
		c.give(k, err)
		return nil, fail(ctx, op, path, err)
	}
	return s, nil
}

func (c *Client) serverDefaults(ctx context.Context, op string) (*hdfs.ServerDefaults, error) {
	c.mu.Lock()
	d := c.defaults
	c.mu.Unlock()
	if d != nil {
		return d, nil
	}
	err := c.do(ctx, op, "", false, func(k *conn) error {
		got, err := k.lib.ServerDefaults()
		d = &got
		return err
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.defaults = d
	return d, nil
}

func (s *stream) Write(p []byte) (int, error) {
	if len(p) == 0 { // the library would begin a block, which never gets a byte and never completes
		return 0, nil
	}
	n, err := s.f.Write(p)
	return n, fail(s.ctx, "hdfsufs.Write", s.path, err)
}

// Finish implements hadoopfs.Stream.
func (s *stream) Finish(ctx context.Context) error {
	const pause = 20 * time.Millisecond // the name node waits for the datanodes' reports, which come at once
	s.done()
	s.done = s.k.during(ctx)
	stop := context.AfterFunc(s.ctx, s.k.abort)
	defer stop()
	err := s.f.Close()
	for again := pause; hdfs.IsErrReplicating(err) && ctx.Err() == nil; again = min(2*again, time.Second) {
		if wait.For(ctx, again) == nil {
			err = s.f.Close()
		}
	}
	s.done()
	s.k.leave()
	s.c.give(s.k, err)
	if cerr := s.ctx.Err(); cerr != nil && err != nil {
		return cerr
	}
	return fail(ctx, "hdfsufs.Finish", s.path, err)
}

// Abort implements hadoopfs.Stream. The library ends its goroutines only in a Close that succeeds, so that the file is ended.
func (s *stream) Abort() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), dialTime)
	defer cancel()
	if s.k.usable() {
		s.done()
		s.done = s.k.during(ctx)
	}
	err := s.f.Close()
	s.done()
	s.k.leave()
	s.c.give(s.k, err)
}

// file is a file that is being read.
type file struct {
	c    *Client
	k    *conn
	ctx  context.Context // of Open
	path string
	f    *hdfs.FileReader
	left int64
	done func()
	err  error // of the last call
}

// Open implements hadoopfs.Client.
func (c *Client) Open(ctx context.Context, path string, off, n int64) (io.ReadCloser, error) {
	const op = "hdfsufs.Open"
	k, err := c.take(ctx, op, path)
	if err != nil {
		return nil, err
	}
	r := &file{c: c, k: k, ctx: ctx, path: path, left: n, done: k.during(ctx)}
	if r.f, err = k.lib.Open(path); err == nil {
		_, err = r.f.Seek(off, io.SeekStart)
	}
	if err != nil {
		r.done()
		k.leave()
		c.give(k, err)
		return nil, fail(ctx, op, path, err)
	}
	return r, nil
}

func (r *file) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.f.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err == io.EOF { //nolint:errorlint // the library's own end, which comes unwrapped
		return n, err
	}
	r.err = err
	return n, fail(r.ctx, "hdfsufs.Read", r.path, err)
}

func (r *file) Close() error {
	if r.done == nil {
		return nil
	}
	err := r.f.Close()
	r.done()
	r.k.leave()
	r.done = nil
	if r.err != nil {
		err = r.err
	}
	r.c.give(r.k, err)
	return nil // what was read was checked as it was read
}
