// Package config is what an operator can set: one tree of plain structs, filled from defaults, a YAML file, environment
// variables and flags, in that order, and checked as a whole. It knows what the settings mean, not what they do: it opens
// nothing but the configuration file and secret files.
//
// A key is its path in the YAML file ("s3.listen"); its environment variable and its flag follow from it
// (SLUICE_S3_LISTEN, --s3-listen). Every key is documented in configs/sluice.yaml.
package config

import (
	"net"
	"path/filepath"
	"slices"
	"time"
)

// Config is the whole configuration of one process.
type Config struct {
	Data          string        `key:"data" help:"directory for the journal, the root store, credentials and the disk cache"`
	Roles         Names         `key:"roles" help:"what the process does, joined by commas: gateway, master, worker (default: all)"`
	Name          string        `key:"name" help:"the process's name, unique among those of its role and never changed (default: the host's)"`
	Zone          string        `key:"zone" help:"what this process shares with others when it fails, beside its machine: a rack, a data centre"`
	Domain        string        `key:"domain" help:"what this process fails together with, and only one replica is held in (default: the host)"`
	Join          Peers         `key:"join" help:"peer URL of every master by its name, this one's included: m1=URL,m2=URL,m3=URL; 1, 3 or 5"`
	JoinExisting  bool          `key:"join_existing" help:"the masters in join run already, and were told of this one with sluice master add"`
	Masters       Names         `key:"masters" help:"internal addresses of the masters, joined by commas, of a process that is none"`
	RootStore     string        `key:"root_store" help:"URI of the store behind / (default: a directory of the data directory); several masters must share one"`
	Internal      Internal      `key:"internal"`
	Etcd          Etcd          `key:"etcd"`
	Backup        Backup        `key:"backup"`
	Superuser     string        `key:"superuser" help:"user that passes every permission check and owns the root keys (default: the user running serve)"`
	S3            S3            `key:"s3"`
	WebHDFS       WebHDFS       `key:"webhdfs"`
	Admin         Admin         `key:"admin"`
	TLS           TLS           `key:"tls"`
	Root          Root          `key:"root"`
	SecretKeyFile string        `key:"secret_key_file" help:"file with the key, 32 bytes in base64, that the secrets of mounts are encrypted with (default: one made in the data directory)"`
	BucketAliases Aliases       `key:"bucket_aliases" help:"bucket NAME stands for the directory PATH (NAME=PATH, repeatable)"`
	SyncInterval  Interval      `key:"sync_interval" help:"how old facts about a store may be: 0s checks at each access, -1 never again"`
	LoadType      string        `key:"load_type" help:"where sync_interval is -1: ONCE asks a store for what is not known, NEVER does not, ALWAYS also for what was absent, and lists anew"`
	Sync          Sync          `key:"sync"`
	WriteType     string        `key:"write_type" help:"CACHE_THROUGH, THROUGH, ASYNC_THROUGH or MUST_CACHE, of writes that name none"`
	ReadType      string        `key:"read_type" help:"CACHE_PROMOTE, CACHE or NO_CACHE, of reads that name none"`
	Replicas      int           `key:"replicas" help:"workers that hold a write of type ASYNC_THROUGH before its store has it; with fewer the store takes it at once"`
	PersistDelay  time.Duration `key:"persist_delay" help:"from such a write to its store: what is renamed or removed meanwhile costs the store nothing"`
	RenameThrough time.Duration `key:"rename_through_timeout" help:"how long a rename of a directory waits for a store that has to copy it, before it is acknowledged and carried on; 0s: until it is done"`
	CopiesMin     int           `key:"replication_min" help:"workers, in distinct failure domains, that load and keep what is in the stores; 0: what is read is kept for as long as there is room"`
	CopiesMax     int           `key:"replication_max" help:"workers that reads of a cached block are spread over when it is read much; -1: all"`
	HoldLimit     Bytes         `key:"hold_limit" help:"bytes that workers hold and no store has yet, beyond which clients are told to slow down"`
	HoldQuota     Bytes         `key:"hold_quota" help:"bytes that no store has yet which a worker holds at most, in the data directory (default: a tenth of the free disk)"`
	Cache         Cache         `key:"cache"`
	Log           Log           `key:"log"`
	DrainTimeout  time.Duration `key:"drain_timeout" help:"how long requests in progress may take to end at shutdown"`
	DrainNotice   time.Duration `key:"drain_notice" help:"how long a gateway among others goes on after it has said that it is not ready, so that balancers notice"`
	Mounts        []Mount       `key:"mounts" flag:"mount" help:"mount the store URI at PATH: PATH=URI[,option=value...] (repeatable)"`
}

// S3 are the settings of the S3 front-end.
type S3 struct {
	Listen    string `key:"listen" help:"address of S3 over HTTP, or off"`
	TLSListen string `key:"tls_listen" help:"address of S3 over HTTPS"`
	Region    string `key:"region" help:"region that signatures must name; any accepts all"`
	Domain    string `key:"domain" help:"domain below which BUCKET.DOMAIN is a bucket (virtual-host style)"`
}

// WebHDFS are the settings of the WebHDFS front-end.
type WebHDFS struct {
	Listen    string `key:"listen" help:"address of WebHDFS over HTTP, or off"`
	TLSListen string `key:"tls_listen" help:"address of WebHDFS over HTTPS"`
	Advertise string `key:"advertise" help:"host:port that redirects name (default: the one the client used)"`
	Auth      string `key:"auth" help:"auto, simple (user.name is believed) or basic (access key pair); auto is simple while all WebHDFS listeners are on loopback"`
}

// Admin are the settings of the admin listener.
type Admin struct {
	Listen string `key:"listen" help:"address of the admin API, health and metrics, or off"`
}

// Sync are the settings of what compares the namespace with its stores at an operator's word.
type Sync struct {
	Concurrency  int `key:"concurrency" help:"directories that one sync works on at once, and listings that it asks a store for at most"`
	ExecutorPool int `key:"executor_pool" help:"listings of all syncs that are compared and recorded at once"`
	PrefetchPool int `key:"prefetch_pool" help:"listings of all syncs that stores are asked for at once, ahead of those that compare them"`
}

// maxSync bounds each of them.
const maxSync = 1024

// TLS is the certificate of the TLS listeners. It is read again on SIGHUP.
type TLS struct {
	Cert string `key:"cert" help:"PEM file of the certificate chain"`
	Key  string `key:"key" help:"PEM file of the private key"`
}

// Internal are the settings of what processes of a cluster say to each other.
type Internal struct {
	Listen    string `key:"listen" help:"address on which other processes of the cluster reach this one"`
	Advertise string `key:"advertise" help:"host:port under which they reach it (default: the listen address)"`
	Peers     string `key:"peer_listen" help:"address, of an IP address or localhost, on which a master hears the others (default: the host and port that join has for it)"`
	Pages     string `key:"pages_listen" help:"address of a worker's page stream (default: any port of the host of internal.listen)"`
	SocketDir string `key:"socket_dir" help:"directory that the gateways and workers of a machine have in common, such as /run/sluice: in it workers lend gateways their pages (default: none)"`
	CA        string `key:"ca" help:"PEM file of the authorities that sign the certificates of the cluster's processes; with it, all show one and check the other's"`
	Cert      string `key:"cert" help:"PEM file of this process's certificate"`
	Key       string `key:"key" help:"PEM file of its private key"`
}

// Etcd names an etcd cluster that somebody else runs. Without one, the masters are one themselves.
type Etcd struct {
	Endpoints Names  `key:"endpoints" help:"client URLs of an etcd cluster to keep the journal in, joined by commas"`
	Username  string `key:"username" help:"user of that cluster"`
	Password  Secret `key:"password" help:"password of that user"`
	Prefix    string `key:"prefix" help:"what every key starts with"`
	Quota     Bytes  `key:"quota" help:"size of the database of the masters' own etcd beyond which only reads and deletes are served"`
	CA        string `key:"ca" help:"PEM file of the authorities that sign the cluster's certificates"`
	Cert      string `key:"cert" help:"PEM file of the certificate to show it"`
	Key       string `key:"key" help:"PEM file of the private key"`
}

// Backup are the settings of the snapshots that a process takes of the journal in its own etcd.
type Backup struct {
	Dir      string        `key:"dir" help:"directory for automatic snapshots of the journal, or off (default: backups in the data directory of a single master, off for one of several)"`
	Interval time.Duration `key:"interval" help:"from one automatic snapshot to the next"`
	Keep     int           `key:"keep" help:"how many automatic snapshots are kept, the newest"`
}

// BackupDirectory returns where automatic snapshots go; "": none are taken.
func (c Config) BackupDirectory() string {
	switch {
	case c.Backup.Dir == "off":
		return ""
	case c.Backup.Dir != "":
		return c.Backup.Dir
	case len(c.Join) <= 1 && len(c.Etcd.Endpoints) == 0 && c.Has(RoleMaster):
		return filepath.Join(c.Data, "backups")
	}
	return ""
}

// The roles a process can have.
const (
	RoleGateway = "gateway" // serves S3, WebHDFS and the admin API
	RoleMaster  = "master"  // holds the names
	RoleWorker  = "worker"  // holds cached bytes
)

// Has reports whether the process has the role.
func (c Config) Has(role string) bool { return len(c.Roles) == 0 || slices.Contains(c.Roles, role) }

// Alone reports whether the process is a complete Sluice of its own.
func (c Config) Alone() bool {
	return len(c.Join) == 0 && len(c.Etcd.Endpoints) == 0 && len(c.Masters) == 0 && c.Has(RoleGateway) && c.Has(RoleMaster) && c.Has(RoleWorker)
}

// PagesListen returns the address of the page stream, "" in a process that has none.
func (c Config) PagesListen() string {
	if c.Alone() || !c.Has(RoleWorker) {
		return ""
	}
	host, _, err := net.SplitHostPort(c.Internal.Listen)
	if c.Internal.Pages != "" || err != nil {
		return c.Internal.Pages
	}
	return net.JoinHostPort(host, "0")
}

// Root is the key pair of the superuser. Left empty, it is generated at the first start and kept in Data.
type Root struct {
	AccessKey string `key:"access_key" help:"access key of the superuser"`
	SecretKey Secret `key:"secret_key" help:"secret key of the superuser, at least 8 characters"`
}

// Cache are the settings of the page cache.
type Cache struct {
	Tiers         []Tier        `key:"tiers" flag:"cache-tier" help:"a tier of the cache, fastest first: dir=DIR,quota=SIZE,medium=mem|ssd|hdd (repeatable; default: one in memory, one on disk)"`
	TTL           time.Duration `key:"ttl" help:"how long a page stays that is not read (default: until its room is needed)"`
	Verify        string        `key:"verify" help:"first: a cached page's checksum is verified when a process first hands it out; always: each time"`
	ScrubInterval time.Duration `key:"scrub_interval" help:"from one verification of all cached pages to the next; 0s: none"`
	LocalCopies   bool          `key:"local_copies" help:"a process that is both gateway and worker keeps copies, in its own cache, of what it reads from workers on other machines"`
	ScrubRate     Bytes         `key:"scrub_rate" help:"bytes per second and tier that it reads at most"`
}

// MinHoldQuota is the smallest HoldQuota that is not 0.
const MinHoldQuota = 32 << 20

// Tier is one level of the cache.
type Tier struct {
	Dir    string  `key:"dir"`
	Quota  Bytes   `key:"quota"`  // 0: a tenth of what is free, within bounds
	Medium string  `key:"medium"` // mem, ssd or hdd
	Policy string  `key:"policy"` // s3fifo or lru; "": s3fifo
	High   Percent `key:"high"`   // of the quota: when more is used, pages leave down to Low; 0: 97%
	Low    Percent `key:"low"`    // from 60%; 0: 94%
}

// Log are the settings of the log, which goes to standard error.
type Log struct {
	Level  string `key:"level" help:"debug, info, warn or error"`
	Format string `key:"format" help:"text, json, or auto: text on a terminal, else json"`
}

// Default returns a working configuration of a single process.
func Default() Config {
	return Config{
		Data:          "./sluice-data",
		Etcd:          Etcd{Quota: 7 << 30}, // with the reserve of an eighth, etcd's suggested maximum
		S3:            S3{Listen: "127.0.0.1:9000", Region: "us-east-1"},
		WebHDFS:       WebHDFS{Listen: "127.0.0.1:9870", Auth: "auto"},
		Admin:         Admin{Listen: "127.0.0.1:9001"},
		Backup:        Backup{Interval: time.Hour, Keep: 24},
		SyncInterval:  Interval(time.Minute),
		LoadType:      "ONCE",
		Sync:          Sync{Concurrency: 8, ExecutorPool: 4, PrefetchPool: 16},
		WriteType:     "CACHE_THROUGH",
		Replicas:      2,
		PersistDelay:  2 * time.Second,
		RenameThrough: 30 * time.Second,
		CopiesMax:     1,
		HoldLimit:     8 << 30,
		ReadType:      "CACHE_PROMOTE",
		Cache:         Cache{Verify: "first", ScrubInterval: 24 * time.Hour, ScrubRate: 32 << 20},
		Log:           Log{Level: "info", Format: "auto"},
		DrainTimeout:  30 * time.Second,
		DrainNotice:   2 * time.Second,
	}
}
