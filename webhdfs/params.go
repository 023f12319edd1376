package webhdfs

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
)

// params are the parameters of a query by lower-case name, with their values in order. The typed readers treat "null" and
// "" as absent, as HDFS does, and keep the first error in err, so that a handler reads all it needs and looks once.
type params struct {
	values map[string][]string
	err    error
}

// parseQuery splits a query as Hadoop's clients write it: on "&" only, so that ";" is a character of a value, with "+" for
// a space and names in any case. net/url's parser drops what holds a ";".
func parseQuery(raw string) (*params, error) {
	q := &params{values: map[string][]string{}}
	for field := range strings.SplitSeq(raw, "&") {
		if field == "" {
			continue
		}
		k, v, _ := strings.Cut(field, "=")
		name, err := url.QueryUnescape(k)
		if err != nil {
			return nil, illegalArgument("The query holds a malformed percent-encoding in the name of a parameter; encode %% as %%25")
		}
		name = strings.ToLower(name)
		value, err := url.QueryUnescape(v)
		if err != nil {
			return nil, illegalArgument(`Invalid value for webhdfs parameter "%s": malformed percent-encoding; encode %% as %%25`, name)
		}
		q.values[name] = append(q.values[name], value)
	}
	return q, nil
}

// encode returns the named parameters that are present as a query.
func (q *params) encode(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		for _, v := range q.values[name] {
			if b.Len() > 0 {
				b.WriteByte('&')
			}
			b.WriteString(url.QueryEscape(name) + "=" + url.QueryEscape(v))
		}
	}
	return b.String()
}

// fail keeps the first error about a parameter.
func (q *params) fail(name, format string, args ...any) {
	if q.err == nil {
		q.err = illegalArgument(`Invalid value for webhdfs parameter "%s": `+format, append([]any{name}, args...)...)
	}
}

// text returns the first value of a parameter, "" if it is absent.
func (q *params) text(name string) string {
	if v := q.values[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// value returns the text of a parameter for which "null" means absent.
func (q *params) value(name string) string {
	if v := q.text(name); !strings.EqualFold(v, "null") {
		return v
	}
	return ""
}

// enum returns the value of a parameter in upper case.
func (q *params) enum(name string) string { return strings.ToUpper(q.value(name)) }

// long returns a number of at least least, def if it is absent.
func (q *params) long(name string, def, least int64) int64 {
	v := q.value(name)
	if v == "" {
		return def
	}
	n, err := strconv.ParseInt(v, 10, 64)
	switch {
	case err != nil:
		q.fail(name, "Failed to parse %q as a radix-10 long integer.", v)
		return def
	case n < least:
		q.fail(name, "Invalid parameter range: %s = %d < %d", name, n, least)
		return def
	}
	return n
}

// short returns a number from 1 to 32,767, def if it is absent.
func (q *params) short(name string, def int) int {
	n := q.long(name, int64(def), 1)
	if n > 1<<15-1 {
		q.fail(name, "Failed to parse %q as a radix-10 short integer.", q.value(name))
		return def
	}
	return int(n)
}

// mode returns the permission bits of an octal parameter, def if it is absent.
func (q *params) mode(name string, def uint32) uint32 {
	v := q.value(name)
	if v == "" {
		return def
	}
	n, err := strconv.ParseInt(v, 8, 16)
	switch {
	case err != nil:
		q.fail(name, "Failed to parse %q as a radix-8 short integer.", v)
		return def
	case n < 0:
		q.fail(name, "Invalid parameter range: %s = %o < 0", name, n)
		return def
	case n > 0o1777:
		q.fail(name, "Invalid parameter range: %s = %o > 1777", name, n)
		return def
	}
	return uint32(n)
}

// newMode returns the permission that something new gets.
func (q *params) newMode(def uint32) uint32 {
	if m := q.mode("permission", def); m != 0 {
		return m
	}
	return core.NoAccess
}

// boolean returns true or false in any case, def if it is absent.
func (q *params) boolean(name string, def bool) bool {
	switch v := q.enum(name); v {
	case "":
		return def
	case "TRUE":
		return true
	case "FALSE":
		return false
	default:
		q.fail(name, "Failed to parse %q to Boolean.", q.text(name))
		return def
	}
}

// set returns the members of a comma-separated set in upper case. Some clients encode the commas twice.
func (q *params) set(name string, domain ...string) []string {
	var set []string
	for m := range strings.SplitSeq(strings.ReplaceAll(q.enum(name), "%2C", ","), ",") {
		m = strings.TrimSpace(m)
		if m == "" {
			continue
		}
		if !slices.Contains(domain, m) {
			q.fail(name, "%q is not one of %s.", m, strings.Join(domain, ", "))
			return nil
		}
		set = append(set, m)
	}
	return set
}

// time returns a time given in milliseconds since 1970, nil if it is absent or -1.
func (q *params) time(name string) *time.Time {
	ms := q.long(name, -1, -1)
	if ms < 0 {
		return nil
	}
	t := time.UnixMilli(ms)
	return &t
}

// require returns the text of a parameter that op cannot do without.
func (q *params) require(name, op string) string {
	v := q.text(name)
	if v == "" && q.err == nil {
		q.err = illegalArgument("Required param %s for op: %s is null or empty", name, op)
	}
	return v
}
