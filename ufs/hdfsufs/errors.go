package hdfsufs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/colinmarc/hdfs/v2"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/hadoopfs"
)

// fail gives an error of the library its kind. What no server answered is errs.Unavailable.
func fail(ctx context.Context, op, path string, err error) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e
	}
	var remote hdfs.Error
	if errors.As(err, &remote) {
		return errs.E(op, path, hadoopfs.KindOf(remote.Exception()), errors.New(said(remote)))
	}
	kind := errs.Unavailable
	switch { // the library's own reading of some exceptions
	case errors.Is(err, fs.ErrNotExist):
		kind = errs.NotExist
	case errors.Is(err, fs.ErrExist):
		kind = errs.Exist
	case errors.Is(err, fs.ErrPermission):
		kind = errs.Permission
	case errors.Is(err, syscall.ENOTEMPTY):
		kind = errs.NotEmpty
	case errors.Is(err, fs.ErrInvalid):
		kind = errs.Invalid
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return errs.E(op, path, kind, err)
}

// said returns what the server says, without its stack trace: the class and the first line.
func said(e hdfs.Error) string {
	class := e.Exception()[strings.LastIndexByte(e.Exception(), '.')+1:]
	line, _, _ := strings.Cut(e.Message(), "\n")
	if class == "" {
		class = e.Desc()
	}
	return fmt.Sprintf("%s: %.300s", class, line)
}

// answered reports whether err is the name node's, after which the connection can be used again.
func answered(err error) bool {
	if err == nil {
		return true
	}
	var remote hdfs.Error
	return errors.As(err, &remote) && !strings.HasPrefix(remote.Desc(), "FATAL")
}

// unsent says of an error that no request has left.
func unsent(err error) error { return errors.Join(err, ufs.ErrUnsent) }
