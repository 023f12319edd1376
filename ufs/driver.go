package ufs

import (
	"cmp"
	"context"
	"io"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// What drivers have in common.

const cleanUp = 10 * time.Second

// Detached returns a ctx for clean-up, which must happen although the caller's has ended.
func Detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
}

// Usable returns why a writer of name cannot go on: it has ended, or one of the contexts has, that of its Create and that of the
// call. failed is why an earlier call failed, nil if none did.
func Usable(op, name string, ended bool, created, call context.Context, failed error) error {
	if ended {
		return errs.New(op, name, errs.Invalid, "the writer has ended")
	}
	return cmp.Or(created.Err(), call.Err(), failed)
}

// OpenEmpty opens an empty range at off of the file that in describes, which stores of objects cannot be asked for. same says whether it
// is the version that was asked for. Errors: errs.Precondition if it is not, errs.Range if off lies beyond the end.
func OpenEmpty(op string, in Info, off int64, same bool) (io.ReadCloser, error) {
	if !same {
		return nil, errs.New(op, in.Name, errs.Precondition, "the object is another version")
	}
	if _, err := Span(op, in.Name, off, 0, in.Size); err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader("")), nil
}
