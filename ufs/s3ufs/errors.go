package s3ufs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// fail gives an error of the SDK its kind. What no server answered is errs.Unavailable.
func fail(ctx context.Context, op, name string, err error) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return unsentToo(e, err)
	}
	status := 0
	if r, ok := errors.AsType[*smithyhttp.ResponseError](err); ok {
		status = r.HTTPStatusCode()
	}
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		if status != 0 {
			return errs.E(op, name, byStatus(status), unsentToo(fmt.Errorf("HTTP status %d without an S3 error", status), err))
		}
		return errs.E(op, name, errs.Unavailable, unwrapOperation(err))
	}
	kind, ok := byCode[api.ErrorCode()]
	if !ok {
		kind = byStatus(status)
	}
	// A message is the service's: it is kept short and on one line.
	msg := strings.Join(strings.Fields(fmt.Sprintf("%.300s", api.ErrorMessage())), " ")
	cause := fmt.Errorf("%s (HTTP %d): %s", api.ErrorCode(), status, msg)
	if api.ErrorCode() == "NoSuchBucket" {
		cause = &noBucketError{cause}
	}
	return errs.E(op, name, kind, unsentToo(cause, err))
}

// noBucketError is in the chain of what fails because the bucket is not there.
type noBucketError struct{ err error }

func (e *noBucketError) Error() string { return e.err.Error() }
func (e *noBucketError) Unwrap() error { return e.err }

// unsentToo marks the cause as unsent if err is.
func unsentToo(cause, err error) error {
	if errors.Is(err, ufs.ErrUnsent) {
		return &unsentError{cause}
	}
	return cause
}

// unwrapOperation drops the SDK's own words around a network error.
func unwrapOperation(err error) error {
	if o, ok := errors.AsType[*smithy.OperationError](err); ok {
		return o.Err
	}
	return err
}

// byCode holds the codes whose status alone would mislead.
// Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
var byCode = map[string]errs.Kind{
	"NoSuchKey":                          errs.NotExist,
	"NoSuchUpload":                       errs.NotExist,
	"NotFound":                           errs.NotExist,
	"NoSuchBucket":                       errs.Unavailable, // the store is gone, not the file
	"BucketNotEmpty":                     errs.NotEmpty,
	"BucketAlreadyExists":                errs.Permission, // it is another account's
	"TooManyBuckets":                     errs.NoSpace,
	"InvalidBucketName":                  errs.Invalid,
	"BadRequest":                         errs.Unavailable, // of a HEAD, which cannot say why: an expired token, a wrong region
	"InvalidPart":                        errs.Invalid,
	"InvalidPartOrder":                   errs.Invalid,
	"ObjectParentIsFile":                 errs.NotDir, // versitygw on a file system, and the next two
	"ExistingObjectIsDirectory":          errs.IsDir,
	"DirectoryObjectContainsData":        errs.Invalid,
	"XAdminUserNotFound":                 errs.Permission, // an access key that versitygw does not know: a 404
	"BadDigest":                          errs.BadDigest,
	"XAmzContentSHA256Mismatch":          errs.Unavailable, // we hash what we send: it was damaged on the way
	"EntityTooLarge":                     errs.TooLarge,
	"MetadataTooLarge":                   errs.TooLarge,
	"KeyTooLongError":                    errs.Invalid,
	"RequestTimeout":                     errs.Unavailable,
	"SlowDown":                           errs.Unavailable,
	"IncompleteBody":                     errs.Unavailable,
	"QuotaExceeded":                      errs.NoSpace,
	"InsufficientStorage":                errs.NoSpace,
	"XMinioStorageFull":                  errs.NoSpace,
	"XMinioAdminBucketQuotaExceeded":     errs.NoSpace,
	"ExpiredToken":                       errs.Permission,
	"AuthorizationHeaderMalformed":       errs.Permission,
	"PermanentRedirect":                  errs.Unavailable,
	"IllegalLocationConstraintException": errs.Unavailable,
}

func byStatus(status int) errs.Kind {
	switch status {
	case http.StatusNotFound:
		return errs.NotExist
	case http.StatusUnauthorized, http.StatusForbidden:
		return errs.Permission
	case http.StatusPreconditionFailed:
		return errs.Precondition
	case http.StatusConflict:
		return errs.Conflict
	case http.StatusRequestedRangeNotSatisfiable:
		return errs.Range
	case http.StatusRequestEntityTooLarge:
		return errs.TooLarge
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return errs.Unsupported
	case http.StatusInsufficientStorage:
		return errs.NoSpace
	}
	if status/100 == 4 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout {
		return errs.Invalid
	}
	return errs.Unavailable // 5xx, 429, 408, and redirects, which are not followed
}

// absent judges the 404 of a HEAD, which cannot say whether the object or the whole bucket is missing: a bucket that is
// gone must not look like a missing file.
func (s *Store) absent(ctx context.Context, err error) error {
	const trust = 10 * time.Second // how long a bucket that was there is taken to be there
	if !errors.Is(err, errs.NotExist) {
		return err
	}
	s.mu.Lock()
	known := time.Since(s.bucket) < trust
	s.mu.Unlock()
	if known {
		return err
	}
	if berr := s.headBucket(ctx); errors.Is(berr, errs.NotExist) {
		return errs.E("s3ufs.Stat", s.o.Bucket, errs.Unavailable, &noBucketError{errors.New("the bucket does not exist")})
	} else if berr != nil && !errors.Is(berr, errs.Permission) { // forbidden is there
		return berr
	}
	s.mu.Lock()
	s.bucket = time.Now()
	s.mu.Unlock()
	return err
}

func (s *Store) headBucket(ctx context.Context) error {
	_, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.o.Bucket})
	return fail(ctx, "s3ufs.HeadBucket", s.o.Bucket, err)
}
