package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
)

// Validate returns every problem of c, joined, each starting with the path of its key; nil if there is none.
func (c Config) Validate() error {
	var p problems
	if c.Data == "" {
		p.add("data", "must name a directory")
	}
	c.checkListeners(&p)
	p.oneOf("webhdfs.auth", c.WebHDFS.Auth, "auto", "simple", "basic")
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "auto", "text", "json")
	p.err("write_type", checkWriteType(c.WriteType))
	p.err("read_type", checkReadType(c.ReadType))
	p.err("load_type", checkLoadType(c.LoadType))
	p.err("replicas", checkReplicas(c.Replicas))
	p.err("persist_delay", checkPersistDelay(c.PersistDelay))
	if c.RenameThrough < 0 {
		p.add("rename_through_timeout", "%v is negative; 0s has a rename wait until it is done", c.RenameThrough)
	}
	p.err("replication_min", checkCopies(&c.CopiesMin, c.CopiesMax))
	if c.CopiesMax == 0 {
		p.add("replication_max", "0 workers cannot cache anything; 1 to %d can, or -1 for all", core.MaxCopies)
	}
	for key, n := range map[string]int{"sync.concurrency": c.Sync.Concurrency, "sync.executor_pool": c.Sync.ExecutorPool, "sync.prefetch_pool": c.Sync.PrefetchPool} {
		if n < 1 || n > maxSync {
			p.add(key, "%d is not in 1 to %d", n, maxSync)
		}
	}
	c.checkCluster(&p)
	c.checkRoot(&p)
	c.checkBackup(&p)
	c.checkAliases(&p)
	c.checkTiers(&p)
	c.checkMounts(&p)
	return errors.Join(p...)
}

// FieldError is what is wrong with the value of one key.
type FieldError struct {
	Key string // its path: "s3.listen", or "mode" of a mount by itself
	Err error
}

// Error returns "key: what is wrong".
func (e *FieldError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// Fields returns the FieldErrors that err joins.
func Fields(err error) []*FieldError {
	if e, ok := err.(*FieldError); ok {
		return []*FieldError{e}
	}
	var all []*FieldError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			all = append(all, Fields(e)...)
		}
	}
	return all
}

type problems []error

func (p *problems) add(key, format string, args ...any) { p.err(key, fmt.Errorf(format, args...)) }

func (p *problems) err(key string, err error) {
	if err != nil {
		*p = append(*p, &FieldError{key, err})
	}
}

func (p *problems) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		p.add(key, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func (c Config) checkListeners(p *problems) {
	used := map[string]string{}
	for _, l := range []struct{ key, addr string }{
		{"s3.listen", c.S3.Listen}, {"s3.tls_listen", c.S3.TLSListen}, {"webhdfs.listen", c.WebHDFS.Listen},
		{"webhdfs.tls_listen", c.WebHDFS.TLSListen}, {"admin.listen", c.Admin.Listen}, {"internal.listen", c.Internal.Listen},
	} {
		if l.addr == "" {
			continue
		}
		if err := checkAddr(l.addr); err != nil {
			p.err(l.key, err)
			continue
		}
		if other, taken := used[l.addr]; taken && !strings.HasSuffix(l.addr, ":0") {
			p.add(l.key, "%s is the address of %s too; choose another", l.addr, other)
		}
		used[l.addr] = l.key
	}
	if wants := c.S3.TLSListen != "" || c.WebHDFS.TLSListen != ""; wants && (c.TLS.Cert == "" || c.TLS.Key == "") {
		p.add("tls", "a TLS listener needs tls.cert and tls.key")
	}
	if c.WebHDFS.Advertise != "" {
		p.err("webhdfs.advertise", checkAddr(c.WebHDFS.Advertise))
	}
}

func (c Config) checkBackup(p *problems) {
	if c.Backup.Interval < time.Minute {
		p.add("backup.interval", "a snapshot is the whole journal; take one in a minute at most, such as every 1h")
	}
	if c.Backup.Keep < 1 {
		p.add("backup.keep", "%d snapshots; keep at least 1, or set backup.dir to off", c.Backup.Keep)
	}
	if c.Backup.Dir == "" || c.Backup.Dir == "off" {
		return
	}
	if journal := filepath.Join(c.Data, "etcd"); c.Backup.Dir == journal || strings.HasPrefix(c.Backup.Dir, journal+string(filepath.Separator)) {
		p.add("backup.dir", "it lies in %s, which the journal is in; choose another, best on another disk", journal)
	}
	if len(c.Etcd.Endpoints) > 0 || !c.Has(RoleMaster) {
		p.add("backup.dir", "only a master with an etcd of its own takes snapshots; of etcd.endpoints, take them there with etcdctl snapshot save, or with sluice backup")
	}
}

// checkCluster checks what the processes of a cluster must agree on.
func (c Config) checkCluster(p *problems) {
	for _, role := range c.Roles {
		p.oneOf("roles", role, RoleGateway, RoleMaster, RoleWorker)
	}
	master := c.Has(RoleMaster)
	switch {
	case len(c.Join) > 0 && len(c.Etcd.Endpoints) > 0:
		p.add("join", "the masters are an etcd cluster of their own, or etcd.endpoints names another; not both")
	case len(c.Join) > 0 && !master:
		p.add("join", "only masters join; a gateway or worker names them with masters")
	case !master && len(c.Masters) == 0:
		p.add("masters", "a process that is no master needs the internal addresses of the masters")
	case master && len(c.Masters) > 0:
		p.add("masters", "a master finds the others by join or etcd.endpoints; a process that only speaks to masters has roles gateway")
	}
	if master && len(c.Etcd.Endpoints) > 0 && c.Name == "" {
		p.add("name", "a master needs a name that is its own")
	}
	if _, named := c.Join[c.Name]; len(c.Join) > 0 && !named {
		p.add("name", "%q is not among the names of join", c.Name)
	}
	if n := len(c.Join); n > 0 && n != 1 && n != 3 && n != 5 && !c.JoinExisting {
		p.add("join", "%d masters: an even number survives no more failures than one less; have 1, 3 or 5", n)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Join)) {
		u, err := url.Parse(c.Join[name])
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.Path != "" && u.Path != "/" {
			p.add("join."+name, "%q is not a URL such as http://10.0.0.1:2380", c.Join[name])
		} else if tls := c.Internal.CA != ""; tls != (u.Scheme == "https") {
			p.add("join."+name, "with internal.ca the URLs start with https, without it with http")
		}
	}
	if len(c.Join) > 1 || len(c.Etcd.Endpoints) > 0 || c.Has(RoleWorker) && !master {
		if c.RootStore == "" {
			p.add("root_store", "masters and workers need a store behind / that all of them reach, such as file:///mnt/nfs/sluice or s3://bucket/prefix")
		}
		if c.SecretKeyFile == "" {
			p.add("secret_key_file", "masters and workers need the same key; make one with: openssl rand -base64 32")
		}
	}
	if !c.Alone() && c.Root.AccessKey == "" {
		p.add("root", "several processes need the same root key pair; set root.access_key and root.secret_key")
	}
	if host, _, err := net.SplitHostPort(c.Internal.Listen); err == nil && c.Internal.Advertise == "" {
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			p.add("internal.advertise", "%s is not where others reach this process; name the host and port that is", c.Internal.Listen)
		}
	}
	if !c.Alone() && (master || c.Has(RoleWorker)) && c.Internal.Listen == "" {
		p.add("internal.listen", "masters and workers of a cluster need an address on which gateways reach them")
	}
	if c.Internal.Pages != "" {
		p.err("internal.pages_listen", checkAddr(c.Internal.Pages))
	}
	if d := c.Internal.SocketDir; d != "" && !filepath.IsAbs(d) {
		p.add("internal.socket_dir", "%s is not an absolute path", d)
	} else if len(d) > maxSocketDir {
		p.add("internal.socket_dir", "%s is too long: the name of a socket has %d bytes at most, and the directory %d", d, maxSocket, maxSocketDir)
	}
	if c.Internal.Peers != "" {
		p.err("internal.peer_listen", checkAddr(c.Internal.Peers))
	}
	for _, addr := range c.Masters {
		p.err("masters", checkAddr(addr))
	}
	if c.Internal.Listen != "" && c.Internal.Advertise != "" {
		p.err("internal.advertise", checkAddr(c.Internal.Advertise))
	}
	if i := c.Internal; (i.CA != "" || i.Cert != "" || i.Key != "") && (i.CA == "" || i.Cert == "" || i.Key == "") {
		p.add("internal", "ca, cert and key are set together or not at all")
	}
}

// The bounds of a socket's name in bytes, and of what its directory takes of it: it is a slash, 26 letters and ".sock" there.
// Source: unix(7), sun_path.
const (
	maxSocket    = 107
	maxSocketDir = maxSocket - 32
)

func checkAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT, such as 127.0.0.1:9000 or :9000", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return fmt.Errorf("%q is not a port; it is a number from 0 to 65535", port)
	}
	return nil
}

func (c Config) checkRoot(p *problems) {
	switch access, secret := c.Root.AccessKey, c.Root.SecretKey.Reveal(); {
	case access == "" && secret == "":
	case access == "" || secret == "":
		p.add("root", "root.access_key and root.secret_key are set together or not at all")
	case len(access) < 3 || strings.ContainsAny(access, "/=,: \t\r\n"):
		p.add("root.access_key", "needs at least 3 characters, none of them a space or one of / = , :")
	case len(secret) < 8:
		p.add("root.secret_key", "needs at least 8 characters")
	}
}

func (c Config) checkAliases(p *problems) {
	for _, name := range slices.Sorted(maps.Keys(c.BucketAliases)) {
		key := "bucket_aliases." + name
		if _, err := core.ParsePath(c.BucketAliases[name]); err != nil {
			p.add(key, "%q is not a path; it starts with /", c.BucketAliases[name])
		}
		if len(name) < 3 || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" {
			p.add(key, "not a bucket name: 3 to 63 lower-case letters, digits, dots and hyphens")
		}
	}
}

// minLow is the least low watermark of a tier, in percent: well above the half that pinned pages may fill, which evicting others
// does not get it below.
const minLow = 60

func (c Config) checkTiers(p *problems) {
	p.oneOf("cache.verify", c.Cache.Verify, "first", "always")
	if ttl := c.Cache.TTL; ttl > 0 && ttl < time.Second {
		p.add("cache.ttl", "%v is too short; pages are looked at every second at most", ttl)
	}
	if i := c.Cache.ScrubInterval; i > 0 && i < time.Minute {
		p.add("cache.scrub_interval", "%v is too often; verify all pages once in a minute at most, or 0s for never", i)
	}
	if c.Cache.ScrubRate < 1<<20 {
		p.add("cache.scrub_rate", "%v a second is too slow to come around; 1MiB is the least", c.Cache.ScrubRate)
	}
	if q := c.HoldQuota; q != 0 && q < MinHoldQuota {
		p.add("hold_quota", "%v is too little; it takes %v at least", q, Bytes(MinHoldQuota))
	}
	for i, t := range c.Cache.Tiers {
		key := fmt.Sprintf("cache.tiers[%d]", i)
		if t.Dir == "" {
			p.add(key+".dir", "a tier needs a directory")
		}
		if t.Quota < 0 {
			p.add(key+".quota", "must not be negative")
		}
		p.oneOf(key+".medium", t.Medium, "mem", "ssd", "hdd")
		p.oneOf(key+".policy", t.Policy, "", "s3fifo", "lru")
		switch high, low := cmp.Or(t.High, 97), cmp.Or(t.Low, 94); {
		case high < 1 || high > 100 || low < 1 || low > high:
			p.add(key+".low", "from %d%% down to %d%% of the quota; low is at most high (97%% if it is not set), and both are from 1%% to 100%%", high, low)
		case low < minLow:
			p.add(key+".low", "%d%% of the quota is too low; %d%% is the least. Pinned pages may fill half of the quota and stay: "+
				"a tier that is to hold no more would drop all its other pages over and over", low, minLow)
		}
	}
}

func (c Config) checkMounts(p *problems) {
	seen := map[core.Path]bool{}
	for i, m := range c.Mounts {
		key := fmt.Sprintf("mounts[%d]", i)
		mount, err := m.Spec()
		if err != nil {
			for _, e := range Fields(err) {
				p.err(key+"."+e.Key, e.Err)
			}
			continue
		}
		if seen[mount.Path] {
			p.add(key+".path", "%s is mounted twice", m.Path)
		}
		seen[mount.Path] = true
	}
}
