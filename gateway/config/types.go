package config

import (
	"encoding"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// redacted stands wherever a secret would.
const redacted = "***"

// Secret is a value that is never shown: every way of printing, logging or marshalling it gives ***.
type Secret string

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String returns ***, or "" if there is no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString returns what String does.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// LogValue returns what String does.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns what String does; encoding/json uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML returns what String does.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// Format writes what String does under every verb.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' || f.Flag('#') {
		_, _ = f.Write([]byte(s.GoString()))
		return
	}
	_, _ = f.Write([]byte(s.String()))
}

// Bytes is a number of bytes, written "64MiB", "1.5GB" or as a plain number.
type Bytes int64

// ParseBytes returns the number of bytes s names. Units of 1,000 (kB, MB, GB …) and 1,024 (KiB, MiB, GiB …) are known.
func ParseBytes(s string) (Bytes, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%.1000q is not a size; write it as 64MiB, 10GB or a number of bytes", s)
	}
	return Bytes(n), nil
}

// String returns the shortest exact form: whole units of 1,024 if there are any, else bytes.
func (b Bytes) String() string {
	for _, u := range []struct {
		size Bytes
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText returns what String does.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText is ParseBytes.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBytes(string(text))
	return err
}

// Interval is a sync interval: a duration, of which every negative one means "never again" and is written -1.
type Interval time.Duration

// ParseInterval returns the interval s names: a Go duration ("90s", "1h30m"), "0" or "-1".
func ParseInterval(s string) (Interval, error) {
	if s == "-1" {
		return -1, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%.1000q is not an interval; write a number and a unit (60s, 5m, 1h), 0s, or -1 for never", s)
	}
	return Interval(d), nil
}

// parseAlluxioInterval also knows the units that Alluxio's properties are written in; a number alone is milliseconds.
func parseAlluxioInterval(s string) (Interval, error) {
	number := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit, known := map[string]time.Duration{
		"": time.Millisecond, "ms": time.Millisecond, "millisecond": time.Millisecond, "s": time.Second, "sec": time.Second,
		"second": time.Second, "m": time.Minute, "min": time.Minute, "minute": time.Minute, "h": time.Hour, "hr": time.Hour,
		"hour": time.Hour, "d": 24 * time.Hour, "day": 24 * time.Hour,
	}[strings.ToLower(s[len(number):])]
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	switch {
	case !known || err != nil || math.IsNaN(n) || n*float64(unit) > math.MaxInt64:
		return ParseInterval(s)
	case n < 0:
		return -1, nil
	}
	return Interval(n * float64(unit)), nil
}

// String returns the interval in seconds if it is whole seconds, "60s", else as Go writes durations; or -1.
func (i Interval) String() string {
	switch d := time.Duration(i); {
	case d < 0:
		return "-1"
	case d%time.Second == 0:
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	default:
		return d.String()
	}
}

// MarshalText returns what String does.
func (i Interval) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText is ParseInterval.
func (i *Interval) UnmarshalText(text []byte) (err error) {
	*i, err = ParseInterval(string(text))
	return err
}

// Aliases map bucket names to the directories they stand for.
type Aliases map[string]string

// UnmarshalText reads "name=/path;name=/path".
func (a *Aliases) UnmarshalText(text []byte) error {
	*a = Aliases{}
	for _, item := range splitList(string(text)) {
		name, path, ok := strings.Cut(item, "=")
		if !ok || name == "" || path == "" {
			return fmt.Errorf("%q is not NAME=PATH", item)
		}
		(*a)[name] = path
	}
	return nil
}

// Percent is a share in hundredths, from 1 to 100, written "95%" or "95".
type Percent int

// UnmarshalText reads "95%" or "95".
func (p *Percent) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(strings.TrimSuffix(string(text), "%"))
	if err != nil || n < 1 || n > 100 {
		return fmt.Errorf("%q is not a share; write it as 95%%, from 1%% to 100%%", text)
	}
	*p = Percent(n)
	return nil
}

// UnmarshalText reads "dir=DIR,quota=SIZE,medium=MEDIUM", and the other fields of a tier likewise.
func (t *Tier) UnmarshalText(text []byte) error {
	*t = Tier{}
	for item := range strings.SplitSeq(string(text), ",") {
		name, value, _ := strings.Cut(item, "=")
		switch name {
		case "dir":
			t.Dir = value
		case "medium":
			t.Medium = value
		case "policy":
			t.Policy = value
		case "quota", "high", "low":
			to := map[string]encoding.TextUnmarshaler{"quota": &t.Quota, "high": &t.High, "low": &t.Low}[name]
			if err := to.UnmarshalText([]byte(value)); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a cache tier has no option %q; it has dir, quota, medium, policy, high and low", name)
		}
	}
	return nil
}

// splitList splits the one-line form of a list, as environment variables have it.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ';' || r == '\n' })
}

// Names are a list of plain words, in one line joined by commas.
type Names []string

// UnmarshalText reads "a,b".
func (n *Names) UnmarshalText(text []byte) error {
	*n = nil
	for _, item := range splitList(strings.ReplaceAll(string(text), ",", ";")) {
		if item = strings.TrimSpace(item); item != "" {
			*n = append(*n, item)
		}
	}
	return nil
}

// Peers map the names of masters to their peer URLs.
type Peers map[string]string

// UnmarshalText reads "name=URL,name=URL".
func (p *Peers) UnmarshalText(text []byte) error {
	var items Names
	if err := items.UnmarshalText(text); err != nil {
		return err
	}
	*p = Peers{}
	for _, item := range items {
		name, url, ok := strings.Cut(item, "=")
		if !ok || name == "" || url == "" {
			return fmt.Errorf("%q is not NAME=URL", item)
		}
		if _, twice := (*p)[name]; twice {
			return fmt.Errorf("%s is named twice", name)
		}
		(*p)[name] = url
	}
	return nil
}
