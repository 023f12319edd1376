package ufs

import (
	"context"
	"time"
)

type slowKey struct{}

// WithSlowDown returns a context under which drivers tell told whenever the store says that it is asked too much, and for how long it
// wants to be left alone, 0 if it does not say. told must not wait.
func WithSlowDown(ctx context.Context, told func(after time.Duration)) context.Context {
	return context.WithValue(ctx, slowKey{}, told)
}

// SlowDown tells who called under the context that the store is asked too much. after is 0 or positive.
func SlowDown(ctx context.Context, after time.Duration) {
	if told, ok := ctx.Value(slowKey{}).(func(time.Duration)); ok {
		told(max(0, after))
	}
}
