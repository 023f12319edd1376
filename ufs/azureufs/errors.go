package azureufs

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs/web"
)

// fail gives an error of the SDK its kind. What no server answered is errs.Unavailable.
func fail(ctx context.Context, op, name string, err error) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	if _, ok := errors.AsType[*errs.Error](err); ok {
		return err
	}
	kind, cause := classify(err)
	return errs.E(op, name, kind, cause)
}

// classify returns the kind of an error of the SDK, and what may be said of it: its own text has the URL, and so a signature.
func classify(err error) (errs.Kind, error) {
	r, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return errs.Unavailable, err
	}
	kind, ok := byCode[bloberror.Code(r.ErrorCode)]
	if !ok {
		// A 404 of whatever else answers for the service, such as a proxy, must not make a file seem to be gone.
		if kind = web.Kind(r.StatusCode); kind == errs.NotExist {
			kind = errs.Unavailable
		}
	}
	return kind, fmt.Errorf("%s (HTTP %d)", web.Line(r.ErrorCode), r.StatusCode)
}

// statusOf returns the status of the answer that err is, 0 if there was none.
func statusOf(err error) int {
	if r, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return r.StatusCode
	}
	return 0
}

// byCode holds the codes whose status alone would mislead.
// Source: https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
var byCode = map[bloberror.Code]errs.Kind{
	bloberror.BlobNotFound:              errs.NotExist,    // no other code, and no status, says that
	bloberror.ContainerNotFound:         errs.Unavailable, // the store is gone, not the file
	bloberror.ContainerBeingDeleted:     errs.Unavailable,
	bloberror.ContainerDisabled:         errs.Unavailable,
	bloberror.AccountIsDisabled:         errs.Unavailable,
	bloberror.AccountBeingCreated:       errs.Unavailable,
	bloberror.ResourceNotFound:          errs.Unavailable, // the account; of a blob it is BlobNotFound
	bloberror.BlobAlreadyExists:         errs.Exist,
	bloberror.InvalidBlockList:          errs.Invalid,
	bloberror.InvalidBlobOrBlock:        errs.Conflict, // another writer's blocks
	bloberror.MD5Mismatch:               errs.BadDigest,
	bloberror.MetadataTooLarge:          errs.TooLarge,
	bloberror.BlockCountExceedsLimit:    errs.TooLarge,
	bloberror.BlockListTooLong:          errs.TooLarge,
	bloberror.BlobArchived:              errs.Unsupported,
	bloberror.BlobBeingRehydrated:       errs.Unsupported,
	bloberror.BlobImmutableDueToPolicy:  errs.Permission,
	bloberror.LeaseIDMissing:            errs.Busy,
	bloberror.InvalidAuthenticationInfo: errs.Permission,
	bloberror.OperationTimedOut:         errs.Unavailable,
}
