package s3ufs

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sluicefs/sluice/ufs"
)

// unsentError is the failure of an operation of which no try was carried out.
type unsentError struct{ err error }

func (e *unsentError) Error() string   { return e.err.Error() }
func (e *unsentError) Unwrap() []error { return []error{ufs.ErrUnsent, e.err} }

// noteUnsent marks the failures of the requests that make an object visible, or begin an upload, if no try got a connection
// or each was refused. A write's other requests are not marked: they may fail after the one that counts has succeeded.
func (s *Store) noteUnsent(stack *middleware.Stack) error {
	type key struct{}
	tries := middleware.FinalizeMiddlewareFunc("UnsentTry", func(
		ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler,
	) (middleware.FinalizeOutput, middleware.Metadata, error) {
		unclear, ok := middleware.GetStackValue(ctx, key{}).(*atomic.Bool)
		if !ok {
			return next.HandleFinalize(ctx, in)
		}
		if err := ufs.Guard(ctx); err != nil {
			return middleware.FinalizeOutput{}, middleware.Metadata{}, err
		}
		var sent atomic.Bool
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
		out, meta, err := next.HandleFinalize(ctx, in)
		if err != nil && sent.Load() && !s.refused(err) {
			unclear.Store(true)
		}
		return out, meta, err
	})
	whole := middleware.InitializeMiddlewareFunc("Unsent", func(
		ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler,
	) (middleware.InitializeOutput, middleware.Metadata, error) {
		switch middleware.GetOperationName(ctx) {
		case "PutObject", "CopyObject", "CompleteMultipartUpload", "CreateMultipartUpload", "DeleteObject", "DeleteObjects", "CreateBucket", "DeleteBucket":
		default:
			return next.HandleInitialize(ctx, in)
		}
		var unclear atomic.Bool
		out, meta, err := next.HandleInitialize(middleware.WithStackValue(ctx, key{}, &unclear), in)
		// Of the names of one DeleteObjects, and of those before it, some may be gone.
		if err != nil && !unclear.Load() && middleware.GetOperationName(ctx) != "DeleteObjects" {
			err = &unsentError{err}
		}
		return out, meta, err
	})
	return errors.Join(stack.Initialize.Add(whole, middleware.Before), stack.Finalize.Insert(tries, "Retry", middleware.After))
}

// refused reports whether err is the answer of a service that has not carried the request out, and will not: it was at
// fault, or there are too many. Any other 5xx leaves that open, as does a 503 unless it is AWS's own.
// Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
func (s *Store) refused(err error) bool {
	r, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok {
		return false
	}
	switch status := r.HTTPStatusCode(); status {
	case http.StatusRequestTimeout:
		return false
	case http.StatusServiceUnavailable: // proxies, and services that lost their quorum, say so of what they may have done
		return s.o.Endpoint == ""
	default:
		return status/100 == 3 || status/100 == 4
	}
}

// ifAnswered lets a change be tried again only after tries that the service itself has answered. A try that was cut off may still be
// carried out, any time later: a second one would be acknowledged, and the first then undo what came after it.
func (s *Store) ifAnswered(o *s3.Options) { o.Retryer = answeredOnly{o.Retryer} }

type answeredOnly struct{ aws.Retryer }

func (r answeredOnly) IsErrorRetryable(err error) bool {
	return answered(err) && r.Retryer.IsErrorRetryable(err)
}

// answered reports whether err is an answer of the service, and not of what is before it, or nothing was sent.
func answered(err error) bool {
	if errors.Is(err, ufs.ErrUnsent) {
		return true
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	r, ok := errors.AsType[*smithyhttp.ResponseError](err)
	if !ok || r.HTTPStatusCode() == http.StatusBadGateway || r.HTTPStatusCode() == http.StatusGatewayTimeout {
		return false
	}
	_, ok = errors.AsType[smithy.APIError](err)
	return ok
}

// ifRefused lets a request be tried again only after tries that were not carried out, for what must not be done twice.
func (s *Store) ifRefused(o *s3.Options) { o.Retryer = refusedOnly{o.Retryer, s} }

type refusedOnly struct {
	aws.Retryer
	s *Store
}

func (r refusedOnly) IsErrorRetryable(err error) bool {
	return r.s.refused(err) && r.Retryer.IsErrorRetryable(err)
}
