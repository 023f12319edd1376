package s3ufs

import (
	"context"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/aws/smithy-go/middleware"

	"github.com/sluicefs/sluice/ufs"
)

// unsentError is the failure of an operation none of whose tries got a connection.
type unsentError struct{ err error }

func (e *unsentError) Error() string   { return e.err.Error() }
func (e *unsentError) Unwrap() []error { return []error{ufs.ErrUnsent, e.err} }

// noteUnsent marks the failures of the requests that make an object visible, if they were not sent. It stands around the
// retries. A write's other requests are not marked: they may fail after the one that counts has succeeded.
func noteUnsent(stack *middleware.Stack) error {
	return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("Unsent", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		switch middleware.GetOperationName(ctx) {
		case "PutObject", "CopyObject", "CompleteMultipartUpload":
		default:
			return next.HandleInitialize(ctx, in)
		}
		var sent atomic.Bool
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
		out, meta, err := next.HandleInitialize(ctx, in)
		if err != nil && !sent.Load() {
			err = &unsentError{err}
		}
		return out, meta, err
	}), middleware.Before)
}
