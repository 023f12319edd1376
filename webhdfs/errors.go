package webhdfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// The Java classes that clients rebuild exceptions from. A class is part of the protocol: exists() works only through
// FileNotFoundException.
const (
	classAccessControl  = "org.apache.hadoop.security.AccessControlException"
	classBeingCreated   = "org.apache.hadoop.hdfs.protocol.AlreadyBeingCreatedException"
	classChecksum       = "org.apache.hadoop.fs.ChecksumException"
	classFileExists     = "org.apache.hadoop.fs.FileAlreadyExistsException"
	classFileNotFound   = "java.io.FileNotFoundException"
	classHadoopArgument = "org.apache.hadoop.HadoopIllegalArgumentException"
	classArgument       = "java.lang.IllegalArgumentException"
	classInvalidPath    = "org.apache.hadoop.fs.InvalidPathException"
	classIO             = "java.io.IOException"
	classNoSpace        = "org.apache.hadoop.hdfs.protocol.DSQuotaExceededException"
	classNotEmpty       = "org.apache.hadoop.fs.PathIsNotEmptyDirectoryException"
	classParentNotDir   = "org.apache.hadoop.fs.ParentNotDirectoryException"
	classRetriable      = "org.apache.hadoop.ipc.RetriableException"
	classSafeMode       = "org.apache.hadoop.hdfs.server.namenode.SafeModeException"
	classSecurity       = "java.lang.SecurityException"
	classUnsupported    = "java.lang.UnsupportedOperationException"
)

// byKind is the one translation of Sluice's errors.
// Source: org.apache.hadoop.hdfs.web.resources.ExceptionHandler (every IOException but FileNotFound is 403).
var byKind = map[errs.Kind]struct {
	status int
	class  string
}{
	errs.Other:        {403, classIO},
	errs.NotExist:     {404, classFileNotFound},
	errs.Exist:        {403, classFileExists},
	errs.IsDir:        {404, classFileNotFound},
	errs.NotDir:       {403, classParentNotDir},
	errs.NotEmpty:     {403, classNotEmpty},
	errs.Permission:   {403, classAccessControl},
	errs.Invalid:      {400, classArgument},
	errs.Range:        {403, classIO},
	errs.Precondition: {403, classIO},
	errs.Conflict:     {403, classRetriable},
	errs.Busy:         {403, classBeingCreated},
	errs.TooLarge:     {403, classIO},
	errs.NoSpace:      {403, classNoSpace},
	errs.Corrupt:      {403, classChecksum},
	errs.BadDigest:    {403, classChecksum},
	errs.Unsupported:  {400, classUnsupported},
	errs.Unavailable:  {403, classRetriable},
	errs.Overload:     {403, classRetriable},
	errs.Full:         {403, classSafeMode}, // as a NameNode's whose disk is full
	errs.Held:         {403, classSafeMode},
}

// remoteError is an error in the protocol's own words.
type remoteError struct {
	status int
	class  string
	msg    string
	cause  error // what it was made of, for the log; nil if the message says it all
}

// Error returns the message, and the cause for the log.
func (e *remoteError) Error() string {
	if e.cause != nil {
		return e.msg + ": " + e.cause.Error()
	}
	return e.msg
}

// Unwrap returns the cause.
func (e *remoteError) Unwrap() error { return e.cause }

// body returns the RemoteException of the response.
func (e *remoteError) body() any {
	return map[string]any{"RemoteException": map[string]string{
		"exception":     e.class[strings.LastIndexAny(e.class, ".$")+1:],
		"javaClassName": e.class,
		"message":       e.msg,
	}}
}

func illegalArgument(format string, args ...any) error {
	return &remoteError{status: http.StatusBadRequest, class: classArgument, msg: fmt.Sprintf(format, args...)}
}

func hadoopArgument(format string, args ...any) error {
	return &remoteError{status: http.StatusBadRequest, class: classHadoopArgument, msg: fmt.Sprintf(format, args...)}
}

func fileNotFound(format string, args ...any) error {
	return &remoteError{status: http.StatusNotFound, class: classFileNotFound, msg: fmt.Sprintf(format, args...)}
}

func fileExists(format string, args ...any) error {
	return &remoteError{status: http.StatusForbidden, class: classFileExists, msg: fmt.Sprintf(format, args...)}
}

func parentNotDir(format string, args ...any) error {
	return &remoteError{status: http.StatusForbidden, class: classParentNotDir, msg: fmt.Sprintf(format, args...)}
}

func ioException(format string, args ...any) error {
	return &remoteError{status: http.StatusForbidden, class: classIO, msg: fmt.Sprintf(format, args...)}
}

func securityException(format string, args ...any) error {
	return &remoteError{status: http.StatusForbidden, class: classSecurity, msg: fmt.Sprintf(format, args...)}
}

// missing reports whether err says that there is nothing at a name, for which an ancestor that is a file is one reason.
func missing(err error) bool { return errors.Is(err, errs.NotExist) || errors.Is(err, errs.NotDir) }

// absent gives a missing name HDFS's message; other errors stay.
func absent(err error, format string, args ...any) error {
	if missing(err) {
		return fileNotFound(format, args...)
	}
	return err
}

// remote returns err in the protocol's words.
func remote(r *request, err error) *remoteError {
	if e, ok := errors.AsType[*remoteError](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return &remoteError{status: http.StatusForbidden, class: classRetriable, cause: err,
			msg: r.op.name + " " + r.name + " did not finish in time; try again"}
	}
	kind := errs.KindOf(err)
	e := &remoteError{status: byKind[kind].status, class: byKind[kind].class, cause: err}
	if kind == errs.Permission {
		e.msg = denial(r, err)
	} else {
		e.msg = message(r, kind, err)
	}
	return e
}

// message describes a failure without a message of its own. What an operator must look at stays in the log: it may name
// stores and their files.
func message(r *request, kind errs.Kind, err error) string {
	msg := r.op.name + " " + r.name + ": " + kind.Error()
	switch kind {
	case errs.Other, errs.Unavailable, errs.Corrupt:
		if why := cmp.Or(core.WhyNotGiven(err), core.WhyCarried(err), core.WhyNoMaster(err), core.WhyStoreAway(err)); why != "" && kind == errs.Unavailable {
			msg += ": " + why
		}
		if id := core.RequestID(r.Context()); id != "" {
			msg += " (request " + id + ")"
		}
		return msg
	}
	if e, ok := errors.AsType[*errs.Error](err); ok && e.Err != nil {
		return msg + ": " + e.Err.Error()
	}
	return msg
}

// denial returns the message for a denied right. The namespace says which inode denied it in a sentence of HDFS's form,
// in an error without operation and name; what a mount or its store refuses is put into that form here.
func denial(r *request, err error) string {
	e, ok := errors.AsType[*errs.Error](err)
	if ok && e.Op == "" && e.Name == "" && e.Err != nil {
		return e.Err.Error()
	}
	msg := fmt.Sprintf("Permission denied: user=%s, access=%s, inode=%q", r.who.User, r.op.access, r.name)
	if ok && e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}
