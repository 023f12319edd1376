package admin

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/gateway/config"
)

// Problem is an error as the API answers it. Source: RFC 9457.
type Problem = huma.ErrorModel

// status returns the HTTP status of each kind of error.
func status(k errs.Kind) int {
	switch k {
	case errs.NotExist:
		return http.StatusNotFound
	case errs.Exist, errs.IsDir, errs.NotDir, errs.NotEmpty, errs.Conflict, errs.Busy:
		return http.StatusConflict
	case errs.Permission:
		return http.StatusForbidden
	case errs.Invalid, errs.BadDigest:
		return http.StatusBadRequest
	case errs.Range:
		return http.StatusRequestedRangeNotSatisfiable
	case errs.Precondition:
		return http.StatusPreconditionFailed
	case errs.TooLarge:
		return http.StatusRequestEntityTooLarge
	case errs.NoSpace:
		return http.StatusInsufficientStorage
	case errs.Unsupported:
		return http.StatusNotImplemented
	case errs.Unavailable, errs.Held, errs.Full, errs.Overload:
		return http.StatusServiceUnavailable
	case errs.Other, errs.Corrupt:
		return http.StatusInternalServerError
	}
	return 0
}

// problem returns err as the problem a client gets; nil for nil.
func problem(err error) huma.StatusError {
	if err == nil {
		return nil
	}
	if s, ok := errors.AsType[huma.StatusError](err); ok {
		return s
	}
	if fields := config.Fields(err); len(fields) > 0 {
		return invalidFields(fields)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return huma.NewError(http.StatusGatewayTimeout, err.Error())
	case errors.Is(err, context.Canceled):
		return huma.NewError(http.StatusServiceUnavailable, "the request was ended before it was done: "+err.Error())
	}
	return huma.NewError(status(errs.KindOf(err)), err.Error())
}

func invalidFields(fields []*config.FieldError) huma.StatusError {
	details := make([]error, len(fields))
	for i, f := range fields {
		details[i] = &huma.ErrorDetail{Location: "body." + f.Key, Message: f.Err.Error()}
	}
	return huma.Error422UnprocessableEntity("validation failed", details...)
}

// mountProblem returns the problem for a refused mount. What the store says is about the request's content: 404 and 403
// would say that the API has no such resource or that the caller has no right to it.
func mountProblem(err error) huma.StatusError { return refusal("the mount was refused: ", err) }

// secretProblem is mountProblem for a named secret, which is tried with the stores of the mounts that use it.
func secretProblem(err error) huma.StatusError { return refusal("the secret was refused: ", err) }

func refusal(what string, err error) huma.StatusError {
	switch kind := errs.KindOf(err); {
	case kind == errs.NotExist, kind == errs.Permission, kind == errs.Unavailable, kind == errs.Invalid && len(config.Fields(err)) == 0:
		return huma.Error422UnprocessableEntity(what + err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return huma.Error422UnprocessableEntity(what + "the store did not answer in time; check its address")
	}
	return problem(err)
}

// failed notes err for the access line and returns its problem.
func failed(ctx context.Context, err error) error { return failedAs(ctx, err, problem) }

func failedAs(ctx context.Context, err error, as func(error) huma.StatusError) error {
	if err == nil {
		return nil
	}
	recordOf(ctx).err = err
	return as(err)
}
