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
	Mode         string    `key:"mode"`       // octal
	WriteType    string    `key:"write_type"` // "": Config.WriteType
	ReadType     string    `key:"read_type"`  // "": Config.ReadType
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
		for _, word := range []string{"secret", "password", "passwd", "token", "credential", "private", "sas"} {
			if value != "" && strings.Contains(strings.ToLower(name), word) {
				value = redacted
			}
		}
		shown[name] = value
	}
	return shown
}

// alluxio names the settings that Alluxio's property names are aliases of, both of the whole configuration and of a mount.
func alluxio() map[string]string {
	return map[string]string{
		"alluxio.user.file.metadata.sync.interval": "sync_interval",
		"alluxio.user.file.writetype.default":      "write_type",
		"alluxio.user.file.readtype.default":       "read_type",
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
	default:
		if m.Options == nil {
			m.Options = Options{}
		}
		m.Options[name] = value
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

// Spec returns the mount as the namespace takes it; types that it leaves open are taken from c, and an open SyncInterval
// stays open. All problems are reported, as FieldErrors, joined.
func (m Mount) Spec(c Config) (core.MountSpec, error) {
	var p problems
	p.err("options", m.applyAliases())
	path, err := mountPath(m.Path)
	p.err("path", err)
	p.err("uri", checkURI(m.URI))
	mode, err := ParseMode(m.Mode)
	p.err("mode", err)
	p.err("write_type", checkWriteType(m.WriteType))
	p.err("read_type", checkReadType(m.ReadType))
	if len(p) > 0 {
		return core.MountSpec{}, errors.Join(p...)
	}
	return core.MountSpec{
		Path: path, URI: m.URI, ReadOnly: m.ReadOnly, SyncInterval: (*time.Duration)(m.SyncInterval),
		Owner: m.Owner, Group: m.Group, Mode: mode,
		WriteType: core.WriteType(cmp.Or(m.WriteType, c.WriteType)), ReadType: core.ReadType(cmp.Or(m.ReadType, c.ReadType)),
		Options: m.Options, Origin: core.FromConfig,
	}, nil
}

// mountPath returns the directory s names. A mount point is written with or without the trailing slash.
func mountPath(s string) (core.Path, error) {
	if s == "" {
		return core.Path{}, errors.New("a mount needs a path, such as /lake")
	}
	p, err := core.ParsePath(s)
	if err != nil {
		return core.Path{}, fmt.Errorf("%q is not a path: it starts with / and is UTF-8 without NUL", s)
	}
	for _, edge := range p.Edges() {
		switch strings.TrimSuffix(edge, "/") {
		case "", ".", "..":
			return core.Path{}, fmt.Errorf("%q is not a mount point: it has an empty, . or .. segment", s)
		}
	}
	return p.Dir(), nil
}

func checkURI(uri string) error {
	if uri == "" {
		return errors.New("a mount needs the URI of its store: file:///dir or s3://bucket/prefix")
	}
	u, err := url.Parse(uri)
	switch {
	case err != nil || u.Scheme == "":
		return errors.New("not a URI; write file:///dir or s3://bucket/prefix")
	case u.User != nil:
		return errors.New("the URI holds credentials, which would be shown; give them as options access_key and secret_key")
	}
	return nil
}

// ParseMode returns the permission bits of an octal number, 0 for "".
func ParseMode(s string) (uint32, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o1777 {
		return 0, fmt.Errorf("%q is not a mode; write it in octal, such as 0755", s)
	}
	return uint32(n), nil
}

// checkWriteType takes "" for one that is left open.
func checkWriteType(s string) error {
	switch core.WriteType(s) {
	case "", core.CacheThrough, core.Through:
		return nil
	}
	return fmt.Errorf("%q is not a write type; it is CACHE_THROUGH or THROUGH", s)
}

func checkReadType(s string) error {
	switch core.ReadType(s) {
	case "", core.CacheRead, core.NoCache:
		return nil
	}
	return fmt.Errorf("%q is not a read type; it is CACHE or NO_CACHE", s)
}
