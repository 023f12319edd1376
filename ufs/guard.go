package ufs

import (
	"context"
	"errors"
)

type guardKey struct{}

// WithGuard returns a context whose changes of a store ask guard in the last moment before they become visible. A process
// that was paused may have lost the right to make them meanwhile, and its successor may have looked already whether they
// were made. A guard that ctx has already goes first.
func WithGuard(ctx context.Context, guard func() error) context.Context {
	if first, ok := ctx.Value(guardKey{}).(func() error); ok {
		then := guard
		guard = func() error {
			if err := first(); err != nil {
				return err
			}
			return then()
		}
	}
	return context.WithValue(ctx, guardKey{}, guard)
}

// Guard asks the context's guard. Drivers call it directly before the step of a change that others can see: a system call,
// or the last bytes of a request. The error is that of the change, and says that it was not made (ErrUnsent).
func Guard(ctx context.Context) error {
	guard, ok := ctx.Value(guardKey{}).(func() error)
	if !ok {
		return nil
	}
	if err := guard(); err != nil {
		return &guardError{err}
	}
	return nil
}

// guardError is a change that its guard has stopped.
type guardError struct{ err error }

func (e *guardError) Error() string   { return e.err.Error() }
func (e *guardError) Unwrap() []error { return []error{ErrUnsent, e.err} }

// Stopped reports whether a change failed because its guard stopped it, which says nothing of the store.
func Stopped(err error) bool {
	if err == nil { // as most are, and what follows takes memory
		return false
	}
	var stopped *guardError
	return errors.As(err, &stopped)
}
