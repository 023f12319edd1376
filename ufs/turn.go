package ufs

import "context"

type turnKey struct{}

// WithTurns returns a context under which drivers work on the answers to listings in turns: take waits for one, or until the context
// it is given ends, and returns what gives it back. take must be safe for concurrent use; nil lets everybody compute at once.
func WithTurns(ctx context.Context, take func(context.Context) (give func())) context.Context {
	return context.WithValue(ctx, turnKey{}, take)
}

// Turn waits until who lists under the context may take a processor, and returns what must be called when he needs it no more. A driver
// calls it when it has read an answer and is about to decode it or to make entries of it, and holds it neither while it waits for
// anything nor while it yields. Most contexts let everybody compute at once. If ctx ends meanwhile the driver goes on without a turn.
func Turn(ctx context.Context) (give func()) {
	if take, ok := ctx.Value(turnKey{}).(func(context.Context) (give func())); ok && take != nil {
		return take(ctx)
	}
	return func() {}
}
