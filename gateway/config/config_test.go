package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/sluicefs/sluice/core"
)

// load loads a configuration from a file with the given text ("" for none) and flags.
func load(t *testing.T, text string, args ...string) (Config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(fs)
	if text != "" {
		name := filepath.Join(t.TempDir(), "sluice.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return Load(fs)
}

func mustLoad(t *testing.T, text string, args ...string) Config {
	t.Helper()
	c, err := load(t, text, args...)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return c
}

func TestDefaultsAreValid(t *testing.T) {
	want := Default()
	want.Data, _ = filepath.Abs(want.Data)
	if diff := cmp.Diff(want, mustLoad(t, "")); diff != "" {
		t.Errorf("Load without anything (-want +got):\n%s", diff)
	}
}

func TestPrecedence(t *testing.T) {
	const file = "s3: {listen: '127.0.0.1:1'}\nsync_interval: 1s\nwrite_type: THROUGH\n"
	t.Setenv("SLUICE_S3_LISTEN", "127.0.0.1:2")
	t.Setenv("SLUICE_SYNC_INTERVAL", "2s")
	c := mustLoad(t, file, "--s3-listen=127.0.0.1:3")
	if got, want := c.S3.Listen, "127.0.0.1:3"; got != want {
		t.Errorf("flag over environment over file: s3.listen = %s, want %s", got, want)
	}
	if got, want := c.SyncInterval, Interval(2*time.Second); got != want {
		t.Errorf("environment over file: sync_interval = %v, want %v", got, want)
	}
	if got, want := c.WriteType, "THROUGH"; got != want {
		t.Errorf("file over default: write_type = %s, want %s", got, want)
	}
	if got, want := c.WebHDFS.Listen, Default().WebHDFS.Listen; got != want {
		t.Errorf("default: webhdfs.listen = %s, want %s", got, want)
	}
}

func TestConfigFileFromEnvironment(t *testing.T) {
	name := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(name, []byte("superuser: alice\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLUICE_CONFIG", name)
	if got := mustLoad(t, "").Superuser; got != "alice" {
		t.Errorf("superuser = %q, want alice", got)
	}
}

func TestEveryScalarKeyHasFlagAndVariable(t *testing.T) {
	for _, f := range fields() {
		if f.list {
			continue
		}
		values := map[string]string{
			"sync_interval": "7s", "rename_through_timeout": "7s", "drain_timeout": "7s", "drain_notice": "7s", "write_type": "THROUGH", "read_type": "NO_CACHE", "load_type": "NEVER",
			"log.level": "debug", "log.format": "json", "webhdfs.auth": "basic", "root.access_key": "abc",
			"root.secret_key": "12345678", "webhdfs.advertise": "h:7", "data": "/d",
			"backup.dir": "/b", "internal.socket_dir": "/s", "backup.interval": "7m", "backup.keep": "7",
			"join_existing": "true", "etcd.quota": "7MiB", "hold_quota": "77MiB", "replicas": "3", "persist_delay": "7s", "replication_min": "1", "replication_max": "3", "hold_limit": "7MiB",
			"cache.ttl": "7m", "cache.local_copies": "true", "cache.verify": "always", "cache.scrub_interval": "7m", "cache.scrub_rate": "7MiB",
			"sync.concurrency": "7", "sync.executor_pool": "7", "sync.prefetch_pool": "7",
		}
		value := values[f.key]
		if value == "" {
			value = "127.0.0.1:7"
		}
		t.Run(f.key, func(t *testing.T) {
			t.Setenv("SLUICE_ROOT_ACCESS_KEY", "abc")
			t.Setenv("SLUICE_ROOT_SECRET_KEY", "12345678")
			t.Setenv("SLUICE_TLS_CERT", "c")
			t.Setenv("SLUICE_TLS_KEY", "k")
			if group, key, _ := strings.Cut(f.key, "."); group == "internal" && key != "listen" && key != "advertise" {
				for _, name := range []string{"CA", "CERT", "KEY"} {
					t.Setenv("SLUICE_INTERNAL_"+name, "f")
				}
			}
			t.Setenv(f.env, value)
			env := mustLoad(t, "")
			if !reflect.DeepEqual(env, mustLoad(t, "")) || reflect.DeepEqual(env, Default()) {
				t.Error("the variable changes nothing")
			}
			if f.flag == "" {
				return
			}
			os.Unsetenv(f.env)
			if f.root {
				t.Setenv(f.env, "zzz")
			}
			if strings.HasPrefix(f.key, "internal.") {
				t.Setenv(f.env, "f")
			}
			if diff := cmp.Diff(env, mustLoad(t, "", "--"+f.flag+"="+value)); diff != "" {
				t.Errorf("flag and variable differ:\n%s", diff)
			}
		})
	}
}

func TestLists(t *testing.T) {
	fileForm := `
bucket_aliases: {my.tables: /lake/tables}
cache: {tiers: [{dir: /m, quota: 64MiB, medium: mem, policy: lru, high: 90, low: 80%}, {dir: /d, medium: ssd}]}
mounts:
  - {path: /lake, uri: 's3://b/p', read_only: true, sync_interval: -1, mode: "0750", options: {endpoint: 'http://h:1', fs.s3.weird.Name: x}}
  - {path: /nfs, uri: 'file:///n'}
`
	never := Interval(-1)
	wantMounts := []Mount{
		{Path: "/lake", URI: "s3://b/p", ReadOnly: true, SyncInterval: &never, Mode: "0750",
			Options: Options{"endpoint": "http://h:1", "fs.s3.weird.name": "x"}},
		{Path: "/nfs", URI: "file:///n"},
	}
	wantTiers := []Tier{{Dir: "/m", Quota: 64 << 20, Medium: "mem", Policy: "lru", High: 90, Low: 80}, {Dir: "/d", Medium: "ssd"}}
	check := func(t *testing.T, c Config) {
		t.Helper()
		if diff := cmp.Diff(wantMounts, c.Mounts); diff != "" {
			t.Errorf("mounts (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(wantTiers, c.Cache.Tiers); diff != "" {
			t.Errorf("tiers (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(Aliases{"my.tables": "/lake/tables"}, c.BucketAliases); diff != "" {
			t.Errorf("aliases (-want +got):\n%s", diff)
		}
	}
	lake := "/lake=s3://b/p,read_only=true,sync_interval=-1,mode=0750,endpoint=http://h:1,fs.s3.weird.name=x"
	t.Run("file", func(t *testing.T) { check(t, mustLoad(t, fileForm)) })
	t.Run("flags", func(t *testing.T) {
		check(t, mustLoad(t, "mounts: [{path: /gone, uri: 'file:///g'}]", "--mount", lake, "--mount=/nfs=file:///n",
			"--cache-tier=dir=/m,quota=64MiB,medium=mem,policy=lru,high=90%,low=80", "--cache-tier=dir=/d,medium=ssd",
			"--bucket-aliases=my.tables=/lake/tables"))
	})
	t.Run("environment", func(t *testing.T) {
		t.Setenv("SLUICE_MOUNTS", lake+";/nfs=file:///n")
		t.Setenv("SLUICE_CACHE_TIERS", "dir=/m,quota=64MiB,medium=mem,policy=lru,high=90%,low=80;dir=/d,medium=ssd")
		t.Setenv("SLUICE_BUCKET_ALIASES", "my.tables=/lake/tables")
		check(t, mustLoad(t, "bucket_aliases: {other: /x}"))
	})
}

func TestCluster(t *testing.T) {
	t.Setenv("SLUICE_ROOT_ACCESS_KEY", "abc")
	t.Setenv("SLUICE_ROOT_SECRET_KEY", "12345678")
	file := `
name: m2
roles: [master]
join: {m1: 'http://a:1', m2: 'http://a:2', m3: 'http://a:3'}
internal: {listen: '127.0.0.1:9010'}
root_store: file:///shared
secret_key_file: /key`
	want := mustLoad(t, file)
	if want.Alone() || !want.Has(RoleMaster) || want.Has(RoleGateway) || len(want.Join) != 3 {
		t.Errorf("got %+v", want)
	}
	if diff := cmp.Diff(want, mustLoad(t, "", "--name=m2", "--roles=master", "--join=m1=http://a:1,m2=http://a:2,m3=http://a:3",
		"--internal-listen=127.0.0.1:9010", "--root-store=file:///shared", "--secret-key-file=/key")); diff != "" {
		t.Errorf("file and flags differ:\n%s", diff)
	}
	t.Setenv("SLUICE_JOIN", "m1=http://a:1,m2=http://a:2,m3=http://a:3")
	t.Setenv("SLUICE_ROLES", "master")
	if diff := cmp.Diff(want, mustLoad(t, "", "--name=m2", "--internal-listen=127.0.0.1:9010", "--root-store=file:///shared", "--secret-key-file=/key")); diff != "" {
		t.Errorf("file and variables differ:\n%s", diff)
	}
	t.Setenv("SLUICE_JOIN", "")
	t.Setenv("SLUICE_ROLES", "")
	gateway := mustLoad(t, "", "--roles=gateway", "--masters=a:1,b:2")
	if gateway.Alone() || gateway.Has(RoleMaster) || gateway.Has(RoleWorker) || !reflect.DeepEqual(gateway.Masters, Names{"a:1", "b:2"}) {
		t.Errorf("got %+v", gateway)
	}
	if c := mustLoad(t, ""); !c.Alone() || !c.Has(RoleMaster) {
		t.Errorf("by default it is not a whole: %+v", c)
	}
}

// TestRefused has configurations that are refused, each with words its message must hold: the key, and what to do.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, file string
		args       []string
		want       []string
	}{
		{"unknown key", "s3: {lisen: x}", nil, []string{"s3.lisen", "did you mean s3.listen?"}},
		{"unknown top key", "superusr: x", nil, []string{"superusr", "did you mean superuser?"}},
		{"unknown nothing near", "zzzzzzzzzz: 1", nil, []string{"zzzzzzzzzz", "configs/sluice.yaml"}},
		{"misplaced", "tls_listen: x", nil, []string{"tls_listen", "s3.tls_listen"}},
		{"unknown in list", "mounts: [{path: /a, urii: x}]", nil, []string{"mounts[0].urii", "did you mean mounts[0].uri?"}},
		{"two unknown", "aaaaaaaa: 1\nbbbbbbbb: 2", nil, []string{"aaaaaaaa", "bbbbbbbb"}},
		{"duplicate key", "data: a\ndata: b", nil, []string{"data"}},
		{"not YAML", "s3: [", nil, []string{"sluice.yaml"}},
		{"scalar for group", "s3: 7", nil, []string{"s3"}},
		{"group for scalar", "data: {a: b}", nil, []string{"data"}},
		{"bad address", "s3: {listen: nine}", nil, []string{"s3.listen", "HOST:PORT"}},
		{"bad port", "s3: {listen: 'a:99999'}", nil, []string{"s3.listen", "99999"}},
		{"same address", "s3: {listen: 'a:1'}\nadmin: {listen: 'a:1'}", nil, []string{"admin.listen", "s3.listen"}},
		{"tls without cert", "", []string{"--s3-tls-listen=:9443"}, []string{"tls.cert", "tls.key"}},
		{"bad load type", "load_type: SOMETIMES", nil, []string{"load_type", "NEVER, ONCE or ALWAYS"}},
		{"bad load type of a mount", "mounts: [{path: /a, uri: 'file:///x', load_type: once}]", nil, []string{"load_type", "NEVER, ONCE or ALWAYS"}},
		{"bad interval", "sync_interval: 60", nil, []string{"sync_interval", "60s"}},
		{"bad duration", "", []string{"--drain-timeout=soon"}, []string{"drain_timeout", "30s"}},
		{"bad size", "cache: {tiers: [{dir: /x, quota: lots, medium: mem}]}", nil, []string{"quota", "64MiB"}},
		{"bad policy", "cache: {tiers: [{dir: /x, medium: ssd, policy: random}]}", nil, []string{"cache.tiers[0].policy", "lru"}},
		{"bad watermark", "cache: {tiers: [{dir: /x, medium: ssd, high: 120%}]}", nil, []string{"high", "95%"}},
		{"watermarks crossed", "cache: {tiers: [{dir: /x, medium: ssd, high: 80, low: 90}]}", nil, []string{"cache.tiers[0].low"}},
		{"watermark within pins", "cache: {tiers: [{dir: /x, medium: ssd, low: 59}]}", nil, []string{"cache.tiers[0].low", "60%", "Pinned pages"}},
		{"bad verification", "cache: {verify: never}", nil, []string{"cache.verify", "always"}},
		{"short times", "cache: {ttl: 5ms, scrub_interval: 1s, scrub_rate: 10}", nil, []string{"cache.ttl", "cache.scrub_interval", "cache.scrub_rate"}},
		{"too many replicas", "replicas: 9", nil, []string{"replicas", "1 to 5"}},
		{"negative delay", "persist_delay: -1s", nil, []string{"persist_delay", "0s"}},
		{"more copies than may be", "{replication_min: 3, replication_max: 2}", nil, []string{"replication_min", "at most"}},
		{"no copies", "replication_max: 0", nil, []string{"replication_max"}},
		{"a mount's copies", "mounts: [{path: /a, uri: 'file:///a', replication_min: -1}]", nil, []string{"replication_min", "0 to 16"}},
		{"a mount's delay", "mounts: [{path: /a, uri: 'file:///a', persist_delay: -1, replicas: -2}]", nil, []string{"persist_delay", "replicas"}},
		{"bad medium", "cache: {tiers: [{dir: /x, medium: tape}]}", nil, []string{"cache.tiers[0].medium", "ssd"}},
		{"bad flag tier", "", []string{"--cache-tier=dri=/x"}, []string{"dri", "quota"}},
		{"bad mount flag", "", []string{"--mount=/lake"}, []string{"PATH=URI"}},
		{"bad mount option", "", []string{"--mount=/l=file:///x,read_only=perhaps"}, []string{"read_only", "perhaps"}},
		{"mount without uri", "mounts: [{path: /a}]", nil, []string{"mounts[0].uri", "file:///"}},
		{"mount path", "mounts: [{path: a, uri: 'file:///x'}]", nil, []string{"mounts[0].path", "starts with /"}},
		{"mount dots", "mounts: [{path: /a/../b, uri: 'file:///x'}]", nil, []string{"mounts[0].path"}},
		{"mount twice", "mounts: [{path: /a, uri: 'file:///x'}, {path: /a/, uri: 'file:///y'}]", nil, []string{"mounts[1].path", "twice"}},
		{"secret in uri of a container", "mounts: [{path: /a, uri: 'azure://c:hunter22@a'}]", nil, []string{"mounts[0].uri", "options"}},
		{"secret in uri", "mounts: [{path: /a, uri: 's3://AK:hunter22@b'}]", nil, []string{"mounts[0].uri", "secret_key"}},
		{"octal mode unquoted", "mounts: [{path: /a, uri: 'file:///x', mode: 0755}]", nil, []string{"mode", "quotes"}},
		{"bad mode", "mounts: [{path: /a, uri: 'file:///x', mode: '9'}]", nil, []string{"mounts[0].mode", "0755"}},
		{"bad write type", "write_type: NEVER", nil, []string{"write_type", "CACHE_THROUGH"}},
		{"half a root pair", "root: {access_key: abc}", nil, []string{"root.access_key", "root.secret_key"}},
		{"short secret", "root: {access_key: abc, secret_key: short}", nil, []string{"root.secret_key"}},
		{"unknown role", "roles: [gateway, cook]", nil, []string{"roles", "cook", "worker"}},
		{"two masters", "", []string{"--join=m1=http://a:1,m2=http://a:2", "--name=m1"}, []string{"join", "1, 3 or 5"}},
		{"a master of no name", "", []string{"--join=m1=http://a:1,m2=http://a:2,m3=http://a:3", "--name=m4"}, []string{"name", "m4"}},
		{"masters without what they share", "", []string{"--join=m1=http://a:1,m2=http://a:2,m3=http://a:3", "--name=m1"},
			[]string{"root_store", "secret_key_file", "root.access_key", "internal.listen"}},
		{"bad peer", "", []string{"--join=m1=a:1", "--name=m1"}, []string{"join.m1", "http://"}},
		{"peer without name", "", []string{"--join=http://a:1"}, []string{"join", "NAME=URL"}},
		{"peer without TLS", "", []string{"--join=m1=http://a:1", "--name=m1", "--internal-ca=c", "--internal-cert=c", "--internal-key=k"}, []string{"join.m1", "https"}},
		{"gateway without masters", "", []string{"--roles=gateway"}, []string{"masters"}},
		{"master with masters", "", []string{"--masters=a:1", "--internal-listen=127.0.0.1:1"}, []string{"masters", "roles gateway"}},
		{"no root keys", "", []string{"--roles=gateway", "--masters=a:1"}, []string{"root.access_key"}},
		{"nowhere to be reached", "", []string{"--internal-listen=:9010"}, []string{"internal.advertise"}},
		{"worker alone", "", []string{"--roles=worker", "--masters=a:1"}, []string{"root_store", "secret_key_file", "internal.listen"}},
		{"gateway that joins", "", []string{"--roles=gateway", "--masters=a:1", "--join=m1=http://a:1", "--name=m1"}, []string{"join", "only masters"}},
		{"two journals", "", []string{"--etcd-endpoints=http://e:1", "--join=m1=http://a:1", "--name=m1"}, []string{"join", "etcd.endpoints"}},
		{"bad master", "", []string{"--roles=gateway", "--masters=a"}, []string{"masters", "HOST:PORT"}},
		{"backup in the journal", "data: /d\nbackup: {dir: /d/etcd/x}", nil, []string{"backup.dir", "another disk"}},
		{"backups too often", "backup: {interval: 1s}", nil, []string{"backup.interval"}},
		{"no backups kept", "", []string{"--backup-keep=0"}, []string{"backup.keep", "off"}},
		{"keep what", "", []string{"--backup-keep=some"}, []string{"backup.keep", "whole number"}},
		{"backup of a gateway", "", []string{"--roles=gateway", "--masters=a:1", "--backup-dir=/b"}, []string{"backup.dir", "etcdctl"}},
		{"half a certificate", "", []string{"--internal-ca=c"}, []string{"internal", "together"}},
		{"alias", "bucket_aliases: {UP_per: lake}", nil, []string{"bucket_aliases.up_per", "starts with /", "bucket name"}},
		{"all problems", "log: {level: loud}\nwebhdfs: {auth: none}", nil, []string{"log.level", "webhdfs.auth"}},
		{"alluxio unknown", "alluxio.master.hostname: x", nil, []string{"alluxio.master.hostname", "counterpart"}},
		{"alluxio of a group and own", "alluxio.master.metadata.sync.executor.pool.size: 3\nsync: {executor_pool: 2}", nil, []string{"alias", "sync.executor_pool"}},
		{"sync", "sync: {concurrency: 0, prefetch_pool: 2000}", nil, []string{"sync.concurrency: 0 is not in 1 to 1024", "sync.prefetch_pool"}},
		{"alluxio and own", "alluxio.user.file.metadata.sync.interval: 1min\nsync_interval: 2m", nil, []string{"alias", "sync_interval"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.file, c.args...)
			if err == nil {
				t.Fatal("Load accepted it")
			}
			for _, want := range c.want {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("message does not hold %q:\n%v", want, err)
				}
			}
			for _, secret := range []string{"hunter22", "secret_key: short"} {
				if strings.Contains(fmt.Sprint(err), secret) {
					t.Errorf("message shows a secret:\n%v", err)
				}
			}
		})
	}
}

func TestAlluxioAliases(t *testing.T) {
	c := mustLoad(t, "alluxio.user.file.metadata.sync.interval: 2min\nalluxio.user.file.writetype.default: THROUGH\n"+
		"mounts: [{path: /a, uri: 'file:///x', options: {alluxio.user.file.metadata.sync.interval: '500', alluxio.user.file.readtype.default: NO_CACHE, alluxio.user.file.metadata.load.type: ALWAYS, region: r}}]")
	pools := mustLoad(t, "alluxio.master.metadata.sync.concurrency.level: 3\nalluxio.master.metadata.sync.executor.pool.size: 5\n"+
		"alluxio.master.metadata.sync.ufs.prefetch.pool.size: 7\n").Sync
	if want := (Sync{3, 5, 7}); pools != want {
		t.Errorf("sync = %v, want %v", pools, want)
	}
	if got, want := c.SyncInterval, Interval(2*time.Minute); got != want {
		t.Errorf("sync_interval = %v, want %v", got, want)
	}
	m, err := c.Mounts[0].Spec()
	if err != nil {
		t.Fatal(err)
	}
	half := 500 * time.Millisecond
	path, _ := core.ParsePath("/a/")
	want := core.MountSpec{Path: path, URI: "file:///x", SyncInterval: &half, ReadType: core.NoCache, LoadType: core.LoadAlways,
		Options: map[string]string{"region": "r"}, Origin: core.FromConfig}
	if diff := cmp.Diff(want, m, cmp.AllowUnexported(core.Path{})); diff != "" {
		t.Errorf("Spec (-want +got):\n%s", diff)
	}
	if _, kept := c.Mounts[0].Options["alluxio.user.file.readtype.default"]; !kept {
		t.Error("Spec changed the mount it was called on")
	}
	for text, want := range map[string]Interval{"-1": -1, "0": 0, "30sec": Interval(30 * time.Second), "1day": Interval(24 * time.Hour), "1h": Interval(time.Hour), "250": Interval(250 * time.Millisecond), "1h30m": Interval(90 * time.Minute)} {
		if got, err := parseAlluxioInterval(text); err != nil || got != want {
			t.Errorf("parseAlluxioInterval(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestSecretFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte("from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLUICE_ROOT_ACCESS_KEY", "root")
	t.Setenv("SLUICE_ROOT_SECRET_KEY_FILE", name)
	if got, want := mustLoad(t, "").Root.SecretKey.Reveal(), "from-a-file"; got != want {
		t.Errorf("secret = %q, want %q", got, want)
	}
	t.Setenv("SLUICE_ROOT_SECRET_KEY", "as well")
	if _, err := load(t, ""); err == nil {
		t.Error("both forms at once were accepted")
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	const secret = "hunter22hunter22"
	c := Default()
	c.Root = Root{AccessKey: "AK", SecretKey: secret}
	c.Mounts = []Mount{{Path: "/a", Options: Options{"secret_key": secret, "session_token": secret, "region": "visible"}}}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "secret", c.Root.SecretKey, "root", c.Root, "mounts", fmt.Sprint(c.Mounts))
	j, err := json.Marshal(c.Root)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for how, text := range map[string]string{
		"%v": fmt.Sprintf("%v", c), "%+v": fmt.Sprintf("%+v", c), "%#v": fmt.Sprintf("%#v", c), "%s": fmt.Sprintf("%s", c.Root.SecretKey),
		"%q": fmt.Sprintf("%q", c.Root.SecretKey), "%x": fmt.Sprintf("%x", c.Root.SecretKey), "slog": log.String(), "json": string(j), "yaml": string(y),
	} {
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
			t.Errorf("%s shows the secret: %s", how, text)
		}
		if !strings.Contains(text, redacted) {
			t.Errorf("%s does not show %s: %s", how, redacted, text)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{"64MiB": 64 << 20, "1GB": 1e9, "17": 17, "0": 0, "1.5KiB": 1536} {
		got, err := ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", text, got, err, want)
		}
		if again, _ := ParseBytes(got.String()); again != got {
			t.Errorf("%d prints as %s, which is %d", got, got, again)
		}
	}
	for _, text := range []string{"", "-1", "lots", "99999999TiB"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("ParseBytes(%q) = %d, want an error", text, got)
		}
	}
}

func TestUnknownEnv(t *testing.T) {
	got := UnknownEnv([]string{"SLUICE_S3_LISTEN=x", "SLUICE_S3_LISTN=x", "HOME=/", "SLUICE_ADMIN_URL=x", "SLUICE_ROOT_SECRET_KEY_FILE=x"}, "SLUICE_ADMIN_URL")
	if diff := cmp.Diff([]string{"SLUICE_S3_LISTN"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestShippedFile loads configs/sluice.yaml as it is, and with every commented setting made active, and checks that each
// field of each struct occurs in it and that what it shows as defaults are the defaults.
func TestShippedFile(t *testing.T) {
	b, err := os.ReadFile("../../configs/sluice.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := mustLoad(t, "")
	if diff := cmp.Diff(want, mustLoad(t, string(b))); diff != "" {
		t.Errorf("the file as shipped changes something:\n%s", diff)
	}
	active := regexp.MustCompile(`(?m)^( *)#((?:  +)?[a-z-])`).ReplaceAllString(string(b), "$1$2")
	all := map[string]any{}
	if err := yaml.Unmarshal([]byte(active), &all); err != nil {
		t.Fatalf("with all settings active: %v", err)
	}
	checkFields(t, reflect.TypeFor[Config](), all, "")
	got := mustLoad(t, active)
	got.BucketAliases, got.Cache.Tiers, got.Mounts, got.Roles = nil, nil, nil, nil
	got.Join, got.Masters, got.Etcd.Endpoints = nil, nil, nil // empty
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a value shown as default is not (-default +shown):\n%s", diff)
	}
}

func checkFields(t *testing.T, typ reflect.Type, settings map[string]any, prefix string) {
	t.Helper()
	for f := range structFields(typ) {
		key := prefix + f.Tag.Get("key")
		value, ok := settings[f.Tag.Get("key")]
		if !ok {
			t.Errorf("configs/sluice.yaml does not document %s", key)
			continue
		}
		switch child := f.Type; child.Kind() {
		case reflect.Struct:
			checkFields(t, child, value.(map[string]any), key+".")
		case reflect.Slice:
			if child.Elem().Kind() != reflect.Struct {
				continue
			}
			checkFields(t, child.Elem(), value.([]any)[0].(map[string]any), key+"[0].")
		}
	}
}

func FuzzMountFlag(f *testing.F) {
	f.Add("/lake=s3://b/p,read_only=true,endpoint=http://h")
	f.Add("=,=,")
	f.Add("/a=b:c,sync_interval=-1,mode=07777")
	f.Fuzz(func(t *testing.T, s string) {
		var m Mount
		if m.UnmarshalText([]byte(s)) == nil {
			_, _ = m.Spec()
		}
	})
}
