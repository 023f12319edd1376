package core

import (
	"context"
	"slices"
)

// Principal is who a request acts for.
type Principal struct {
	User      string
	Groups    []string
	Super     bool   // passes every permission check
	AccessKey string // the S3 key it authenticated with, "" otherwise; never a secret
}

// Anonymous is the principal of a request without credentials.
var Anonymous = Principal{User: "anonymous"}

// In reports whether the principal is a member of group.
func (p Principal) In(group string) bool { return slices.Contains(p.Groups, group) }

// Authenticator knows access keys and users. Front-ends verify signatures and passwords with it.
type Authenticator interface {
	// Secret returns the secret of an access key and the principal it belongs to. Errors: errs.NotExist.
	Secret(ctx context.Context, accessKey string) (secret string, p Principal, err error)
	// User returns the principal of a user name; an unknown user is a principal without groups.
	User(ctx context.Context, name string) (Principal, error)
}

// Tickets tells what front-ends sign with that send a client on to another gateway.
type Tickets interface {
	// TicketSecret returns 32 bytes that are the same at all gateways and masters of a cluster, for its life. They must reach no client.
	// Errors: errs.Unavailable; errs.Permission for workers; errs.Unsupported if the leading master is of a release that has none.
	TicketSecret(ctx context.Context) ([]byte, error)
}

type principalKey struct{}

// WithPrincipal returns a context that acts for p.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf returns the principal ctx acts for, Anonymous if there is none.
func PrincipalOf(ctx context.Context) Principal {
	if p, ok := ctx.Value(principalKey{}).(Principal); ok {
		return p
	}
	return Anonymous
}

type requestIDKey struct{}

// WithRequestID returns a context that carries the id of the request it serves, for logs.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID returns the id of the request ctx serves, "" if there is none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// MaxAge is how old an answer a request accepts: Freshness in a context overrides the mount's sync_interval.
type MaxAge struct {
	Set          bool
	Seconds      int64 // 0: check the store; negative: any age
	OnlyIfCached bool
}

type maxAgeKey struct{}

// WithMaxAge returns a context whose reads accept answers as old as a.
func WithMaxAge(ctx context.Context, a MaxAge) context.Context {
	return context.WithValue(ctx, maxAgeKey{}, a)
}

// MaxAgeOf returns the freshness ctx asks for.
func MaxAgeOf(ctx context.Context) MaxAge {
	a, _ := ctx.Value(maxAgeKey{}).(MaxAge)
	return a
}

type readTypeKey struct{}

// WithReadType returns a context whose reads do to the cache what t says, and not what the path's rule or mount does.
func WithReadType(ctx context.Context, t ReadType) context.Context {
	return context.WithValue(ctx, readTypeKey{}, t)
}

// ReadTypeOf returns the read type that ctx asks for, "" if it asks for none.
func ReadTypeOf(ctx context.Context) ReadType {
	t, _ := ctx.Value(readTypeKey{}).(ReadType)
	return t
}
