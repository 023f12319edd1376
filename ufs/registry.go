package ufs

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// Opener opens the store that uri and options name. It does not talk to the store beyond what it needs to know what it
// is: a store that is down is opened, and Probe says so. An option it does not know is errs.Invalid (CheckOptions), and no
// value of an option is ever part of an error.
type Opener func(ctx context.Context, uri *url.URL, options map[string]string) (Store, error)

// Registry maps the schemes of URIs to the drivers that open them. The zero Registry knows none. Register is not safe
// beside Open.
type Registry struct {
	openers map[string]Opener
	within  map[string]bool // schemes of RegisterWithin
}

// Register makes o the driver of scheme, in place of an earlier one.
func (r *Registry) Register(scheme string, o Opener) {
	if r.openers == nil {
		r.openers = map[string]Opener{}
	}
	r.openers[scheme] = o
}

// RegisterWithin is Register for a scheme whose URIs name a container of a service before its host: scheme://container@host/path.
func (r *Registry) RegisterWithin(scheme string, o Opener) {
	r.Register(scheme, o)
	if r.within == nil {
		r.within = map[string]bool{}
	}
	r.within[scheme] = true
}

// Schemes returns the schemes that can be opened, sorted.
func (r *Registry) Schemes() []string { return slices.Sorted(maps.Keys(r.openers)) }

// Open opens the store that uri names, "s3://bucket/prefix" or "file:///srv/data". Errors: errs.Invalid for a URI that is
// none, has an unknown scheme or carries a password; the driver's.
func (r *Registry) Open(ctx context.Context, uri string, options map[string]string) (Store, error) {
	const op = "ufs.Open"
	u, err := url.Parse(uri)
	if err != nil {
		// The parser's error repeats the URI, which may hold a secret.
		return nil, errs.New(op, "", errs.Invalid, "the store's URI cannot be parsed; write scheme://host/path")
	}
	if _, password := u.User.Password(); u.User != nil && (password || !r.within[u.Scheme]) {
		return nil, errs.New(op, u.Scheme+"://"+u.Host+u.Path, errs.Invalid,
			"a URI must not carry credentials, it is shown in lists and logs; use the driver's options")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, errs.New(op, u.Scheme+"://"+u.Host+u.Path, errs.Invalid,
			`a URI must not have "?" or "#"; settings are options, and in a path the two are written %3F and %23`)
	}
	open, ok := r.openers[u.Scheme]
	if !ok {
		return nil, errs.New(op, u.Scheme+"://"+u.Host+u.Path, errs.Invalid,
			fmt.Sprintf("unknown scheme %q; known: %s", u.Scheme, strings.Join(r.Schemes(), ", ")))
	}
	return open(ctx, u, options)
}

// CheckOptions reports errs.Invalid if options has a key that is not among known, naming it and them.
func CheckOptions(op string, options map[string]string, known ...string) error {
	for _, k := range slices.Sorted(maps.Keys(options)) {
		if !slices.Contains(known, k) {
			return errs.New(op, "", errs.Invalid,
				fmt.Sprintf("unknown option %q; known: %s", k, strings.Join(slices.Sorted(slices.Values(known)), ", ")))
		}
	}
	return nil
}

// The options of a mount that say what tells of changes in its store, and what whoever tells must know.
const (
	EventsOption      = "events"
	EventsTokenOption = "events_token"
)

// minEventsToken is the least length of that in bytes.
const minEventsToken = 16

// CheckEvents reports errs.Invalid if the option events is there and none of known.
func CheckEvents(op string, options map[string]string, known ...string) error {
	if v, ok := options[EventsOption]; ok && !slices.Contains(known, v) {
		return errs.New(op, "", errs.Invalid, fmt.Sprintf("the option events of such a store is %s, or left out", strings.Join(known, " or ")))
	}
	token, ok := options[EventsTokenOption]
	switch {
	case ok && options[EventsOption] == "":
		return errs.New(op, "", errs.Invalid, "the option events_token is for events=webhook")
	case ok && len(token) < minEventsToken:
		return errs.New(op, "", errs.Invalid, fmt.Sprintf("the option events_token has fewer than %d characters; draw a longer one at random", minEventsToken))
	}
	return nil
}
