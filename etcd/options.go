package etcd

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// ServerOptions are the options of Start. Zero values mean the defaults named.
type ServerOptions struct {
	Dir    string       // the data directory; made if it does not exist, and made private (mode 0700); for nothing else
	Logger *slog.Logger // nil: nothing is logged

	// Name is the member's, unique in the cluster and never changed; "sluice".
	Name string

	// InternalListen is the address, host:port with an IP address or localhost, on which the member hears the other
	// members. Empty: it is the only member and listens on no port.
	InternalListen string

	// Join has the peer URL of every member of the cluster by its name, this one's included: 1, 3 or 5, the same on all
	// of them. It counts when the data directory is new. Empty: the member starts a cluster of its own, which can grow.
	Join map[string]string

	// Existing says that the cluster runs and was told of this member by AddLearner, Join then naming it beside the others.
	Existing bool

	// Token keeps apart clusters that are made with the same Join; "sluice".
	Token string

	// Addr is where the process of this member is reached, host:port, as Election.Leader tells it to others.
	Addr string

	// TLS is for the connections between members, in both directions. Without it whoever reaches InternalListen can read and
	// change every name.
	TLS TLS

	// ElectionMs is how long a member without word from the leader waits before it calls an election, in milliseconds, and
	// TickMs how often the leader gives word; 500 and 50, or 1000 and 100 for slow disks and distant members. ElectionMs is
	// at least 5 times TickMs, and both are the same on all members. A single member without InternalListen ignores them.
	ElectionMs, TickMs int

	// Quota is the size of the database file, in bytes, beyond which nothing can be put until it is compacted and
	// defragmented and the alarm is disarmed; 8 GiB, etcd's suggested maximum.
	Quota int64

	// Backup makes snapshots of this member's state on an interval.
	Backup BackupOptions

	// UnsafeNoFsync acknowledges what a power failure would lose. It is for tests.
	UnsafeNoFsync bool
}

// TLS names PEM files. All are needed or none: every side shows its certificate and checks the other's.
type TLS struct {
	CA   string // the authorities that sign both sides' certificates
	Cert string // this side's certificate, with the addresses on which it is dialled among its names
	Key  string // the key of Cert
}

func (t TLS) enabled() bool { return t != TLS{} }

func (t TLS) check(op string) error {
	if t.enabled() && (t.CA == "" || t.Cert == "" || t.Key == "") {
		return errs.New(op, "", errs.Invalid, "TLS needs a certificate, its key and the authorities, all three")
	}
	return nil
}

const (
	defaultName = "sluice"

	// A single member waits for nobody's votes and heartbeats: these only delay its start, by at most twice singleElectionMs.
	singleTickMs     = 20
	singleElectionMs = 100

	// With several members the election bounds how long nobody leads. Kill -9 of the leader at full load, measured: a new
	// one after 0.6 to 0.9 s.
	clusterTickMs     = 50
	clusterElectionMs = 500

	defaultQuota = 8 << 30 // bytes of the database file. Source: etcd's suggested maximum

	// Records are large, so few of them stay in memory and in the log beside the database.
	snapshotCount   = 2000
	catchUpEntries  = 500
	slowApply       = time.Second
	requestOverhead = 256 << 10 // of a transaction around its keys and values

	maxLearners = 2 // a cluster grows by two members at a time
)

// withDefaults returns the options with what is not set, or errs.Invalid for what cannot be meant.
func (o ServerOptions) withDefaults() (ServerOptions, error) {
	const op = "etcd.Start"
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = defaultName
	}
	if o.Token == "" {
		o.Token = defaultName
	}
	if o.Quota <= 0 {
		o.Quota = defaultQuota
	}
	var err error
	if o.Backup, err = o.Backup.withDefaults(o.Dir); err != nil {
		return o, err
	}
	switch {
	case !o.clustered():
		o.TickMs, o.ElectionMs = singleTickMs, singleElectionMs
	default:
		if o.TickMs <= 0 {
			o.TickMs = clusterTickMs
		}
		if o.ElectionMs <= 0 {
			o.ElectionMs = clusterElectionMs
		}
	}
	switch {
	case o.Dir == "":
		return o, errs.New(op, "", errs.Invalid, "a data directory is needed")
	case strings.ContainsAny(o.Name, "/,="):
		return o, errs.New(op, o.Name, errs.Invalid, "the name of a member has no slash, comma or equals sign")
	case !o.clustered() && (len(o.Join) > 0 || o.Existing || o.TLS.enabled()):
		return o, errs.New(op, o.Name, errs.Invalid, "a member with others needs an address on which it hears them (InternalListen)")
	case o.ElectionMs < 5*o.TickMs:
		return o, errs.New(op, o.Name, errs.Invalid, fmt.Sprintf("an election (%d ms) takes at least 5 ticks (of %d ms)", o.ElectionMs, o.TickMs))
	case !o.clustered():
		return o, nil
	}
	return o, o.checkCluster(op)
}

// clustered reports whether there are or may be other members.
func (o ServerOptions) clustered() bool { return o.InternalListen != "" }

func (o ServerOptions) checkCluster(op string) error {
	if err := o.TLS.check(op); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(o.InternalListen)
	ip, notIP := netip.ParseAddr(host)
	if err != nil || notIP != nil && host != "localhost" {
		return errs.New(op, o.InternalListen, errs.Invalid, "members listen on host:port with an IP address or localhost")
	}
	if len(o.Join) == 0 {
		if o.Existing {
			return errs.New(op, o.Name, errs.Invalid, "to join a cluster the peer URLs of its members are needed")
		}
		if port == "0" || notIP == nil && ip.IsUnspecified() {
			return errs.New(op, o.InternalListen, errs.Invalid, "the others cannot dial this address; name one with the member in Join")
		}
		return nil
	}
	if _, ok := o.Join[o.Name]; !ok {
		return errs.New(op, o.Name, errs.Invalid, "the member is not among those of the cluster")
	}
	if !o.Existing {
		if err := checkVoters(op, len(o.Join)); err != nil {
			return err
		}
	}
	for name, peer := range o.Join {
		if strings.ContainsAny(name, "/,=") || name == "" {
			return errs.New(op, name, errs.Invalid, "the name of a member is not empty and has no slash, comma or equals sign")
		}
		if _, err := o.peerURL(op, peer); err != nil {
			return err
		}
	}
	return nil
}

// warnOpen warns if members are heard from other machines without TLS.
func (o ServerOptions) warnOpen() {
	host, _, _ := net.SplitHostPort(o.InternalListen) // checked before
	ip, _ := netip.ParseAddr(host)
	if o.clustered() && !o.TLS.enabled() && host != "localhost" && !ip.IsLoopback() {
		o.Logger.Warn("whoever reaches this address can read and change every name: members talk without TLS", "address", o.InternalListen)
	}
}

// checkVoters refuses a number of voters that tolerates no more failures than one less would.
func checkVoters(op string, n int) error {
	if n != 1 && n != 3 && n != 5 {
		return errs.New(op, "", errs.Invalid, fmt.Sprintf("%d members vote: a cluster has 1, 3 or 5, since 2 and 4 survive no more failures than one less", n))
	}
	return nil
}

// peerURL parses the URL of a member as the others dial it.
func (o ServerOptions) peerURL(op, peer string) (url.URL, error) {
	u, err := url.Parse(peer)
	if err != nil || u.Host == "" || u.Port() == "" || u.Path != "" || strings.ContainsAny(peer, ",") {
		return url.URL{}, errs.New(op, peer, errs.Invalid, "the address of a member is a URL like http://host:port")
	}
	if want := o.scheme(); u.Scheme != want {
		return url.URL{}, errs.New(op, peer, errs.Invalid, "the address of a member starts with "+want+"://: either all use TLS, or none does")
	}
	return *u, nil
}

func (o ServerOptions) scheme() string {
	if o.TLS.enabled() {
		return "https"
	}
	return "http"
}

// peer returns the URL on which the others dial this member.
func (o ServerOptions) peer() string {
	if u, ok := o.Join[o.Name]; ok {
		return u
	}
	return o.scheme() + "://" + o.InternalListen
}

// config returns the member's configuration. Its sockets are in the directory sockets.
func (o ServerOptions) config(dir, sockets string) (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name, c.Dir = o.Name, dir
	c.ListenClientUrls = []url.URL{socket(sockets, clientSock)}
	// A single member is dialled by nobody; the advertised addresses are stored and so do not name the directory, which
	// may be moved.
	c.ListenPeerUrls = []url.URL{socket(sockets, peerSock)}
	c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Host: peerSock}}
	c.AdvertiseClientUrls = []url.URL{{Scheme: "unix", Host: clientSock}}
	c.InitialClusterToken = o.Token
	if o.clustered() {
		if err := o.listenToPeers(c); err != nil {
			return nil, err
		}
	}
	if len(o.Join) == 0 {
		c.InitialCluster = c.InitialClusterFromName(o.Name)
	}
	if o.Addr != "" {
		// Clients of this member are those of the process it lives in; etcd itself dials no client address.
		c.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: o.Addr}}
	}
	c.EnableGRPCGateway = false
	c.TickMs, c.ElectionMs = uint(o.TickMs), uint(o.ElectionMs)
	c.QuotaBackendBytes = o.Quota
	c.MaxTxnOps = meta.MaxTxnOps
	c.MaxRequestBytes = meta.MaxTxnBytes + requestOverhead
	c.MaxLearners = maxLearners
	// etcd's own check refuses a learner while one of three members is dead, which is when it is needed. Change has its own.
	c.StrictReconfigCheck = false
	c.SnapshotCount, c.SnapshotCatchUpEntries = snapshotCount, catchUpEntries
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, "0"
	c.WarningApplyDuration, c.WarningUnaryRequestDuration = slowApply, slowApply
	c.UnsafeNoFsync = o.UnsafeNoFsync
	return c, nil
}

// listenToPeers adds to c what a member with others needs.
func (o ServerOptions) listenToPeers(c *embed.Config) error {
	own, err := o.peerURL("etcd.Start", o.peer())
	if err != nil {
		return err
	}
	c.ListenPeerUrls = []url.URL{{Scheme: o.scheme(), Host: o.InternalListen}}
	c.AdvertisePeerUrls = []url.URL{own}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(o.Join)) {
		all = append(all, name+"="+o.Join[name])
	}
	c.InitialCluster = strings.Join(all, ",")
	if o.Existing {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	if o.TLS.enabled() {
		c.PeerTLSInfo.TrustedCAFile, c.PeerTLSInfo.CertFile, c.PeerTLSInfo.KeyFile = o.TLS.CA, o.TLS.Cert, o.TLS.Key
		c.PeerTLSInfo.ClientCertAuth = true
	}
	return nil
}

// socket returns the URL of a socket; etcd takes a unix URL's host for a path.
func socket(dir, name string) url.URL { return url.URL{Scheme: "unix", Host: filepath.Join(dir, name)} }
