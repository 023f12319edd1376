package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
)

// Mount is a mount as an operator writes it, in a file, a flag or the admin API.
type Mount struct {
	Path         string    `key:"path"`
	URI          string    `key:"uri"`
	ReadOnly     bool      `key:"read_only"`
	SyncInterval *Interval `key:"sync_interval"` // nil: Config.SyncInterval
	Owner        string    `key:"owner"`
	Group        string    `key:"group"`
	Mode         string    `key:"mode"`            // octal
	WriteType    string    `key:"write_type"`      // "": Config.WriteType
	ReadType     string    `key:"read_type"`       // "": Config.ReadType
	Replicas     int       `key:"replicas"`        // 0: Config.Replicas
	PersistDelay *Interval `key:"persist_delay"`   // nil: Config.PersistDelay
	CopiesMin    *int      `key:"replication_min"` // nil: Config.CopiesMin
	CopiesMax    int       `key:"replication_max"` // 0: Config.CopiesMax
	LoadType     string    `key:"load_type"`       // "": Config.LoadType
	Options      Options   `key:"options"`
}

// Options are the options of a mount's store. Printing them hides the secret ones.
type Options map[string]string

// String returns the options with secrets hidden.
func (o Options) String() string { return fmt.Sprint(RedactOptions(o)) }

// GoString returns what String does.
func (o Options) GoString() string { return o.String() }

// MarshalYAML returns the options with secrets hidden.
func (o Options) MarshalYAML() (any, error) { return RedactOptions(o), nil }

// RedactOptions returns a copy of options in which the values of secret ones are replaced; nil for none. Names that only
// might mean a secret count as such.
func RedactOptions(options map[string]string) map[string]string {
	if len(options) == 0 {
		return nil
	}
	shown := make(map[string]string, len(options))
	for name, value := range options {
		for _, word := range []string{"secret", "password", "passwd", "token", "credential", "private", "sas", "account_key", "connection_string"} {
			if value != "" && name != core.SecretOption && strings.Contains(strings.ToLower(name), word) {
				value = redacted
			}
		}
		shown[name] = value
	}
	return shown
}

// alluxio names the settings that Alluxio's property names are aliases of, those of sync.* of the whole configuration, the others
// also of a mount.
func alluxio() map[string]string {
	return map[string]string{
		"alluxio.user.file.metadata.sync.interval": "sync_interval",
		"alluxio.user.file.metadata.load.type":     "load_type",
		"alluxio.user.file.writetype.default":      "write_type",
		"alluxio.user.file.readtype.default":       "read_type",
		"alluxio.user.file.replication.min":        "replication_min",
		"alluxio.user.file.replication.max":        "replication_max",

		"alluxio.master.metadata.sync.concurrency.level":      "sync.concurrency",
		"alluxio.master.metadata.sync.executor.pool.size":     "sync.executor_pool",
		"alluxio.master.metadata.sync.ufs.prefetch.pool.size": "sync.prefetch_pool",
	}
}

// UnmarshalText reads the form of a flag: PATH=URI[,option=value...]. An option named as a field of a mount sets the
// field, every other one is an option of the store.
func (m *Mount) UnmarshalText(text []byte) error {
	spec, options, _ := strings.Cut(string(text), ",")
	path, uri, ok := strings.Cut(spec, "=")
	if !ok || path == "" || uri == "" {
		return fmt.Errorf("%q is not PATH=URI[,option=value...], such as /lake=s3://bucket/prefix,region=eu-west-1", spec)
	}
	*m = Mount{Path: path, URI: uri}
	if options == "" {
		return nil
	}
	for item := range strings.SplitSeq(options, ",") {
		name, value, ok := strings.Cut(item, "=")
		if !ok || name == "" {
			return fmt.Errorf("an option of mount %s is not name=value", path)
		}
		if err := m.set(name, value); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	return nil
}

func (m *Mount) set(name, value string) (err error) {
	switch name {
	case "read_only":
		if m.ReadOnly, err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf("read_only: %q is neither true nor false", value)
		}
	case "sync_interval":
		i, err := ParseInterval(value)
		if err != nil {
			return fmt.Errorf("sync_interval: %w", err)
		}
		m.SyncInterval = &i
	case "owner":
		m.Owner = value
	case "group":
		m.Group = value
	case "mode":
		m.Mode = value
	case "write_type":
		m.WriteType = value
	case "read_type":
		m.ReadType = value
	case "load_type":
		m.LoadType = value
	case "replicas":
		if m.Replicas, err = strconv.Atoi(value); err != nil {
			return fmt.Errorf("replicas: %q is not a number", value)
		}
	case "persist_delay":
		i, err := ParseInterval(value)
		if err != nil {
			return fmt.Errorf("persist_delay: %w", err)
		}
		m.PersistDelay = &i
	case "replication_min", "replication_max":
		return m.setCopies(name, value)
	default:
		if m.Options == nil {
			m.Options = Options{}
		}
		m.Options[name] = value
	}
	return nil
}

// setCopies reads a number of copies.
func (m *Mount) setCopies(name, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("%s: %q is not a number of workers", name, value)
	}
	if name == "replication_min" {
		m.CopiesMin = &n
	} else {
		m.CopiesMax = n
	}
	return nil
}

// applyAliases moves options with Alluxio's property names to the fields they mean. The field wins.
func (m *Mount) applyAliases() error {
	for _, name := range slices.Sorted(maps.Keys(m.Options)) {
		if !strings.HasPrefix(name, "alluxio.") {
			continue
		}
		value := m.Options[name]
		m.Options = maps.Clone(m.Options)
		delete(m.Options, name)
		switch alluxio()[name] {
		case "sync_interval":
			i, err := parseAlluxioInterval(value)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if m.SyncInterval == nil {
				m.SyncInterval = &i
			}
		case "write_type":
			m.WriteType = cmp.Or(m.WriteType, value)
		case "read_type":
			m.ReadType = cmp.Or(m.ReadType, value)
		case "load_type":
			m.LoadType = cmp.Or(m.LoadType, value)
		case "replication_min":
			if m.CopiesMin == nil {
				if err := m.setCopies("replication_min", value); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		case "replication_max":
			if m.CopiesMax == 0 {
				if err := m.setCopies("replication_max", value); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		default:
			return errors.New(unknownAlluxio(name))
		}
	}
	return nil
}

func unknownAlluxio(name string) string {
	return fmt.Sprintf("the property %s has no counterpart here; known ones are %s", name,
		strings.Join(slices.Sorted(maps.Keys(alluxio())), ", "))
}

// Spec returns the mount as the namespace takes it; what it leaves open stays open. All problems are reported, as FieldErrors, joined.
func (m Mount) Spec() (core.MountSpec, error) {
	var p problems
	p.err("options", m.applyAliases())
	path, err := mountPath(m.Path)
	p.err("path", err)
	p.err("uri", CheckURI(m.URI))
	mode, err := ParseMode(m.Mode)
	p.err("mode", err)
	p.err("write_type", checkWriteType(m.WriteType))
	p.err("read_type", checkReadType(m.ReadType))
	p.err("load_type", checkLoadType(m.LoadType))
	p.err("replicas", checkReplicas(m.Replicas))
	p.err("replication_min", checkCopies(m.CopiesMin, m.CopiesMax))
	if m.PersistDelay != nil {
		p.err("persist_delay", checkPersistDelay(time.Duration(*m.PersistDelay)))
	}
	if len(p) > 0 {
		return core.MountSpec{}, errors.Join(p...)
	}
	return core.MountSpec{
		Path: path, URI: m.URI, ReadOnly: m.ReadOnly, SyncInterval: (*time.Duration)(m.SyncInterval),
		Owner: m.Owner, Group: m.Group, Mode: mode,
		WriteType: core.WriteType(m.WriteType), ReadType: core.ReadType(m.ReadType),
		Replicas: m.Replicas, PersistDelay: (*time.Duration)(m.PersistDelay),
		ReplicationMin: m.CopiesMin, ReplicationMax: m.CopiesMax, LoadType: core.LoadType(m.LoadType), Options: m.Options, Origin: core.FromConfig,
	}, nil
}

// mountPath returns the directory s names. A mount point is written with or without the trailing slash.
func mountPath(s string) (core.Path, error) {
	if s == "" {
		return core.Path{}, errors.New("a mount needs a path, such as /lake")
	}
	p, err := core.ParsePath(s)
	if err != nil {
		return core.Path{}, fmt.Errorf("%.1000q is not a path: it starts with / and is UTF-8 without NUL", s)
	}
	for _, edge := range p.Edges() {
		switch strings.TrimSuffix(edge, "/") {
		case "", ".", "..":
			return core.Path{}, fmt.Errorf("%.1000q is not a mount point: it has an empty, . or .. segment", s)
		}
	}
	return p.Dir(), nil
}

// CheckURI reports what is wrong with the URI of a store, nil if it is one and holds no credentials.
func CheckURI(uri string) error {
	if uri == "" {
		return errors.New("a mount needs the URI of its store: file:///dir or s3://bucket/prefix")
	}
	u, err := url.Parse(uri)
	switch {
	case err != nil || u.Scheme == "":
		return errors.New("not a URI; write file:///dir or s3://bucket/prefix")
	case credentials(u):
		return errors.New("the URI holds credentials, which would be shown; give them as options, such as access_key and secret_key")
	}
	return nil
}

// credentials reports whether the URI holds some. Before an Azure account's name there is the container's.
func credentials(u *url.URL) bool {
	_, password := u.User.Password()
	return u.User != nil && (password || !slices.Contains([]string{"azure", "wasb", "wasbs", "abfs", "abfss"}, u.Scheme))
}

// ParseMode returns the permission bits of an octal number, 0 for "".
func ParseMode(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o1777 {
		return 0, fmt.Errorf("%.1000q is not a mode; write it in octal, such as 0755", s)
	}
	return uint32(n), nil
}

// checkWriteType takes "" for one that is left open.
func checkWriteType(s string) error {
	if s == "" || core.WriteType(s).Known() {
		return nil
	}
	return fmt.Errorf("%.1000q is not a write type; it is CACHE_THROUGH, THROUGH, ASYNC_THROUGH or MUST_CACHE", s)
}

// checkReplicas takes 0 for what is left open.
func checkReplicas(n int) error {
	if n < 0 || n > core.MaxReplicas {
		return fmt.Errorf("%d workers cannot hold a write; 1 to %d can", n, core.MaxReplicas)
	}
	return nil
}

// checkCopies takes nil and 0 for what is left open.
func checkCopies(low *int, high int) error {
	p := core.Policies{ReplicationMin: low, ReplicationMax: high}
	return p.CheckCopies("config.Copies")
}

func checkPersistDelay(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%v is negative; 0s brings writes to their stores at once", d)
	}
	return nil
}

// checkLoadType takes "" for one that is left open.
func checkLoadType(s string) error {
	if s == "" || core.LoadType(s).Known() {
		return nil
	}
	return fmt.Errorf("%.1000q is not a load type; it is NEVER, ONCE or ALWAYS", s)
}

func checkReadType(s string) error {
	switch core.ReadType(s) {
	case "", core.CachePromote, core.CacheRead, core.NoCache:
		return nil
	}
	return fmt.Errorf("%.1000q is not a read type; it is CACHE_PROMOTE, CACHE or NO_CACHE", s)
}
