package s3api

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/s3api/sigv4"
)

// apiError is an error as S3 words it: where S3 has a sentence it is S3's own, because tools look for it. Handlers return one where only the protocol knows what is wrong; everything else
// reaches toAPI as a kind of core/errs.
//
// Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
type apiError struct {
	Code    string
	Status  int
	Message string // what failed, why, and what to do
	Detail  []pair // further elements of the document
	cause   error  // for the access line only
}

// pair is one element of an error document.
type pair struct{ name, value string }

// Error returns the code and the message.
func (e *apiError) Error() string { return e.Code + ": " + e.Message }

// Unwrap returns the cause.
func (e *apiError) Unwrap() error { return e.cause }

// resource is what a route is about. It decides which of S3's codes names a missing thing.
type resource uint8

const (
	service resource = iota
	bucket
	object
	upload
)

// byKind is the S3 answer to each kind.
var byKind = map[errs.Kind]apiError{
	errs.Other:        {Code: "InternalError", Status: 500, Message: "We encountered an internal error. Please try again; if it persists, the server's log has the cause under this request id."},
	errs.NotExist:     {Code: "NoSuchKey", Status: 404, Message: "The specified key does not exist."},
	errs.Exist:        {Code: "PreconditionFailed", Status: 412, Message: "At least one of the pre-conditions you specified did not hold: the key exists."},
	errs.IsDir:        {Code: "ExistingObjectIsDirectory", Status: 409, Message: "The store below this bucket keeps a directory under this name and cannot hold an object beside it. Choose another key."},
	errs.NotDir:       {Code: "ObjectParentIsFile", Status: 409, Message: "The store below this bucket keeps a file under a prefix of this key and cannot hold keys below it. Choose another key or delete the file."},
	errs.NotEmpty:     {Code: "BucketNotEmpty", Status: 409, Message: "The directory you tried to delete is not empty. Delete what is in it first."},
	errs.Permission:   {Code: "AccessDenied", Status: 403, Message: "Access Denied."},
	errs.Invalid:      {Code: "InvalidArgument", Status: 400, Message: "The request cannot succeed as written."},
	errs.Range:        {Code: "InvalidRange", Status: 416, Message: "The requested range is not satisfiable"},
	errs.Precondition: {Code: "PreconditionFailed", Status: 412, Message: "At least one of the pre-conditions you specified did not hold."},
	errs.Conflict:     {Code: "OperationAborted", Status: 409, Message: "A conflicting operation is in progress against this resource. Try again."},
	errs.Busy:         {Code: "OperationAborted", Status: 409, Message: "Another writer holds this resource. Try again later."},
	errs.TooLarge:     {Code: "EntityTooLarge", Status: 400, Message: "Your proposed upload exceeds the maximum allowed size."},
	errs.NoSpace:      {Code: "InsufficientStorage", Status: 507, Message: "There is no space left to store this object. Free space in the store or the staging directory; reads go on."},
	errs.Corrupt:      {Code: "InternalError", Status: 500, Message: "The stored bytes failed their checksum and were not sent."},
	errs.BadDigest:    {Code: "BadDigest", Status: 400, Message: "The Content-MD5 you specified did not match what we received."},
	errs.Unsupported:  {Code: "NotImplemented", Status: 501, Message: "A header or query you provided implies functionality that is not implemented."},
	errs.Unavailable:  {Code: "ServiceUnavailable", Status: 503, Message: "The store behind this path does not answer now. Please reduce your request rate and try again."},
	errs.Overload:     {Code: "SlowDown", Status: 503, Message: "More is written than the stores take. Please reduce your request rate."},
	errs.Full:         {Code: "ServiceUnavailable", Status: 503, Message: "The metadata store is full: reads and deletes go on, and nothing else does until it has shrunk. Delete what is not needed, or have an operator raise its quota (etcd.quota) or run `sluice defrag`."},
	errs.Held:         {Code: "ServiceUnavailable", Status: 503, Message: "Nothing is changed until an operator releases the restored metadata with `sluice release`; reads go on."},
}

// byResource overrides byKind where the code names the resource.
var byResource = map[resource]map[errs.Kind]apiError{
	bucket: {
		errs.NotExist: {Code: "NoSuchBucket", Status: 404, Message: "The specified bucket does not exist."},
		errs.Exist:    {Code: "BucketAlreadyExists", Status: 409, Message: "The requested bucket name is not available. Choose another name."},
		errs.IsDir:    {Code: "NoSuchBucket", Status: 404, Message: "The specified bucket does not exist."},
		errs.NotDir:   {Code: "NoSuchBucket", Status: 404, Message: "The specified bucket does not exist: a file has this name."},
		errs.NotEmpty: {Code: "BucketNotEmpty", Status: 409, Message: "The bucket you tried to delete is not empty."},
		errs.Busy:     {Code: "AccessDenied", Status: 403, Message: "The bucket is a mount or holds one; unmount it over the admin API."},
	},
	upload: {
		errs.NotExist: {Code: "NoSuchUpload", Status: 404, Message: "The specified multipart upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."},
	},
}

// Errors that only the protocol knows.
var (
	errAccessDenied      = &apiError{Code: "AccessDenied", Status: 403, Message: "Access Denied."}
	errNoSuchBucket      = &apiError{Code: "NoSuchBucket", Status: 404, Message: "The specified bucket does not exist."}
	errNoSuchKey         = &apiError{Code: "NoSuchKey", Status: 404, Message: "The specified key does not exist."}
	errMethodNotAllowed  = &apiError{Code: "MethodNotAllowed", Status: 405, Message: "The specified method is not allowed against this resource."}
	errNotImplemented    = &apiError{Code: "NotImplemented", Status: 501, Message: "This operation is not implemented."}
	errMalformedXML      = &apiError{Code: "MalformedXML", Status: 400, Message: "The XML you provided was not well-formed or did not validate against our published schema."}
	errKeyTooLong        = &apiError{Code: "KeyTooLongError", Status: 400, Message: "Your key is too long."}
	errInvalidURI        = &apiError{Code: "InvalidURI", Status: 400, Message: "The specified URI couldn't be parsed."}
	errBucketName        = &apiError{Code: "InvalidBucketName", Status: 400, Message: "The specified bucket is not valid."}
	errOwnBucket         = &apiError{Code: "BucketAlreadyOwnedByYou", Status: 409, Message: "Your previous request to create the named bucket succeeded and you already own it."}
	errIncompleteBody    = &apiError{Code: "IncompleteBody", Status: 400, Message: "You did not provide the number of bytes specified by the Content-Length HTTP header"}
	errBodyTimeout       = &apiError{Code: "RequestTimeout", Status: 400, Message: "Your socket connection to the server was not read from or written to within the timeout period."}
	errMissingLength     = &apiError{Code: "MissingContentLength", Status: 411, Message: "You must provide the Content-Length HTTP header."}
	errTooLarge          = &apiError{Code: "EntityTooLarge", Status: 400, Message: "Your proposed upload exceeds the maximum allowed object size."}
	errMessageTooLong    = &apiError{Code: "MaxMessageLengthExceeded", Status: 400, Message: "Your request was too big."}
	errMetadataTooLarge  = &apiError{Code: "MetadataTooLarge", Status: 400, Message: "Your metadata headers exceed the maximum allowed metadata size"}
	errBadDigest         = &apiError{Code: "BadDigest", Status: 400, Message: "The Content-MD5 you specified did not match what we received."}
	errInvalidDigest     = &apiError{Code: "InvalidDigest", Status: 400, Message: "The Content-Md5 you specified is not valid."}
	errNotModified       = &apiError{Code: "NotModified", Status: http.StatusNotModified, Message: "Not Modified"}
	errPrecondition      = &apiError{Code: "PreconditionFailed", Status: 412, Message: "At least one of the pre-conditions you specified did not hold."}
	errInvalidPart       = &apiError{Code: "InvalidPart", Status: 400, Message: "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag."}
	errInvalidPartOrder  = &apiError{Code: "InvalidPartOrder", Status: 400, Message: "The list of parts was not in ascending order. Parts must be ordered by part number."}
	errEntityTooSmall    = &apiError{Code: "EntityTooSmall", Status: 400, Message: "Your proposed upload is smaller than the minimum allowed size"}
	errInvalidPartNumber = &apiError{Code: "InvalidPartNumber", Status: 416, Message: "The requested partnumber is not satisfiable."}
	errHeaderSection     = &apiError{Code: "RequestHeaderSectionTooLarge", Status: 400, Message: "Your request header section exceeds the maximum allowed size.", Detail: []pair{{"MaxSizeAllowed", itoa(maxHeader)}}}
	errStorageClass      = &apiError{Code: "InvalidStorageClass", Status: 400, Message: "The storage class you specified is not valid: only STANDARD is kept."}
	errNoSuchVersion     = &apiError{Code: "NoSuchVersion", Status: 404, Message: "The specified version does not exist."}
	errNoCORS            = &apiError{Code: "AccessForbidden", Status: 403, Message: "CORSResponse: CORS is not enabled for this bucket."}
	errTimeout           = &apiError{Code: "ServiceUnavailable", Status: 503, Message: "The request took longer than the server allows. Try again."}
	errClientGone        = &apiError{Code: "ClientDisconnected", Status: statusClientGone, Message: "The client closed the connection."}
)

// statusClientGone is what the access line shows when nobody was left to read the answer. Source: nginx.
const statusClientGone = 499

// invalidArgument names the argument that cannot be right.
func invalidArgument(name, value, why string) error {
	return &apiError{Code: "InvalidArgument", Status: 400, Message: why,
		Detail: []pair{{"ArgumentName", name}, {"ArgumentValue", value}}}
}

func invalidRequest(why string) error {
	return &apiError{Code: "InvalidRequest", Status: 400, Message: why}
}

// notImplemented refuses a header or parameter that asks for what is not built.
func notImplemented(header string) error {
	return &apiError{Code: "NotImplemented", Status: 501, Detail: []pair{{"Header", header}},
		Message: "A header you provided implies functionality that is not implemented."}
}

// bodyError marks a failure to read what the client sends, as against one to store it.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading the request body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// toAPI returns the S3 wording of err for a request about res.
func toAPI(res resource, err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*sigv4.Error](err); ok {
		return fromSignature(e)
	}
	if e, ok := errors.AsType[*core.PartError](err); ok {
		return fromPart(e)
	}
	if e, ok := errors.AsType[*bodyError](err); ok {
		return fromBody(e)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errClientGone
	case errors.Is(err, context.DeadlineExceeded):
		return errTimeout
	}
	kind := errs.KindOf(err)
	row, ok := byResource[res][kind]
	if !ok {
		row = byKind[kind]
	}
	row.cause = err
	if why := reason(err); why != "" && explained(kind) {
		row.Message += " " + why + "."
	}
	if why := core.WhyAccessRefused(err); why != "" && kind == errs.Permission {
		row.Message = "Access Denied: " + why + "."
	}
	if why := core.WhyNotGiven(err); why != "" && kind == errs.Unavailable {
		row.Message = "This version of the object cannot be read now: " + why + ". Try again when they are back, or write the object again."
	}
	if why := core.WhyNoMaster(err); why != "" && kind == errs.Unavailable {
		row.Message = "The namespace does not answer now: " + why + ". Please try again."
	}
	if why := core.WhyStoreAway(err); why != "" && kind == errs.Unavailable {
		row.Message = "The store behind this path does not answer now: " + why + "."
	}
	if why := core.WhyCarried(err); why != "" && kind == errs.Unavailable {
		row.Message = "This cannot be changed now: " + why + "."
	}
	return &row
}

// explained reports whether S3's sentence leaves open what to do about it, so that the reason belongs in the answer.
func explained(k errs.Kind) bool {
	switch k {
	case errs.Invalid, errs.Unsupported, errs.IsDir, errs.NotDir, errs.TooLarge, errs.Busy:
		return true
	}
	return false
}

// reason returns the sentence that whoever classified err gave for the user, "" if there is none. Errors of the operating
// system are not for users: they name files of the server.
func reason(err error) string {
	why := ""
	for {
		e, ok := errors.AsType[*errs.Error](err)
		if !ok || e.Err == nil {
			return why
		}
		if _, kind := errors.AsType[errs.Kind](e.Err); kind {
			return why
		}
		if _, sys := errors.AsType[*fs.PathError](e.Err); sys {
			return why
		}
		if _, nested := errors.AsType[*errs.Error](e.Err); !nested {
			why = e.Err.Error()
		}
		err = e.Err
	}
}

func fromPart(e *core.PartError) *apiError {
	switch {
	case e.Order:
		return errInvalidPartOrder
	case e.TooSmall:
		out := *errEntityTooSmall
		out.Detail = []pair{{"ProposedSize", itoa(e.Size)}, {"MinSizeAllowed", "5242880"},
			{"PartNumber", itoa(int64(e.Number))}, {"ETag", e.ETag}}
		return &out
	}
	out := *errInvalidPart
	out.Detail = []pair{{"PartNumber", itoa(int64(e.Number))}, {"ETag", e.ETag}}
	return &out
}

func fromBody(e *bodyError) *apiError {
	out := *errIncompleteBody
	if t, ok := errors.AsType[net.Error](e.err); ok && t.Timeout() {
		out = *errBodyTimeout
	} else if _, ok := errors.AsType[*http.MaxBytesError](e.err); ok {
		out = *errMessageTooLong
	} else if !errors.Is(e.err, io.ErrUnexpectedEOF) && errors.Is(e.err, context.Canceled) {
		out = *errClientGone
	}
	out.cause = e.err
	return &out
}

func fromSignature(e *sigv4.Error) *apiError {
	out := &apiError{Code: e.Code, Status: e.Status, Message: e.Message}
	for _, f := range e.Fields {
		out.Detail = append(out.Detail, pair{f.Name, f.Value})
	}
	return out
}
