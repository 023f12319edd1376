package core

import "context"

// Call names a change that its caller asks for again if no answer comes: the Sequence-th of a session, from 1. An
// implementation that journals what it answered gives the same name the same answer, and makes the change once.
type Call struct {
	Session  [16]byte
	Sequence uint64
	Below    uint64 // no change of the session below it is asked for again
}

type callKey struct{}

// WithCall returns a context that makes the change c; the zero Call is a change that nobody asks for again.
func WithCall(ctx context.Context, c Call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// CallOf returns the change that ctx makes, the zero value if it has no name.
func CallOf(ctx context.Context) Call {
	c, _ := ctx.Value(callKey{}).(Call)
	return c
}
