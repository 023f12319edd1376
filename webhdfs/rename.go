package webhdfs

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// rename serves RENAME: with renameoptions FileContext's strict rename, which throws, else FileSystem's, which answers
// false.
func (s *Server) rename(w http.ResponseWriter, r *request) error {
	options := r.q.set("renameoptions", "NONE", "OVERWRITE", "TO_TRASH")
	destination := r.q.require("destination", r.op.name)
	if r.q.err != nil {
		return r.q.err
	}
	dst, dstPath, err := s.absolute(r.Context(), "destination", destination)
	if err != nil {
		return err
	}
	ctx := core.WithNotes(r.Context(), func(what, job string) {
		if what == core.RenameInProgress {
			w.Header().Set(renameHeader, "in-progress; job="+job)
		}
	})
	if len(options) == 0 {
		ok, err := s.renameClassic(ctx, r, dst, dstPath)
		if err != nil {
			return err
		}
		return writeBoolean(w, r, ok)
	}
	if err := s.renameStrict(ctx, r, dst, dstPath, slices.Contains(options, "OVERWRITE")); err != nil {
		return err
	}
	writeEmpty(w, r, http.StatusOK)
	return nil
}

// renameHeader says in an answer to RENAME that the store has not everything under the new name yet, and names the job that sees to it.
const renameHeader = "X-Sluice-Rename"

// renameClassic renames as FileSystem.rename(src, dst) does: into dst if that is a directory. Callers rely on false where
// something is in the way; only what they must not take for that is an exception.
// Source: org.apache.hadoop.hdfs.server.namenode.FSDirRenameOp.unprotectedRenameTo.
func (s *Server) renameClassic(ctx context.Context, r *request, dst string, dstPath core.Path) (bool, error) {
	src, err := s.ns.Stat(r.Context(), r.path)
	switch {
	case missing(err), err == nil && r.path.IsRoot():
		return false, nil
	case err != nil:
		return false, err
	}
	if dst, dstPath, err = s.into(r, dst, dstPath); err != nil {
		return false, err
	}
	if dst == r.name {
		return !src.Dir, nil
	}
	if r.path.Contains(dstPath) {
		return false, nil
	}
	err = s.ns.Rename(ctx, r.path, dstPath, core.RenameOptions{})
	if err == nil {
		return true, nil
	}
	switch errs.KindOf(err) {
	case errs.Exist, errs.NotExist, errs.NotDir, errs.IsDir, errs.NotEmpty:
		return false, nil
	}
	return false, s.renameError(r, dst, err)
}

// into returns the name that a classic rename to dst means: below dst if that is a directory.
func (s *Server) into(r *request, dst string, dstPath core.Path) (string, core.Path, error) {
	switch info, err := s.ns.Stat(r.Context(), dstPath); {
	case missing(err):
		return dst, dstPath, nil
	case err != nil:
		return "", core.Path{}, err
	case !info.Dir:
		return dst, dstPath, nil
	}
	dst = strings.TrimSuffix(dst, "/") + r.name[strings.LastIndexByte(r.name, '/'):]
	p, err := s.resolve(r.Context(), dst)
	return dst, p, err
}

// renameStrict renames as FileContext.rename does.
// Source: org.apache.hadoop.hdfs.server.namenode.FSDirRenameOp.unprotectedRenameTo with options.
func (s *Server) renameStrict(ctx context.Context, r *request, dst string, dstPath core.Path, overwrite bool) error {
	if r.path.IsRoot() {
		return ioException("rename source cannot be the root")
	}
	src, err := s.ns.Stat(r.Context(), r.path)
	switch {
	case err != nil:
		return absent(err, "rename source %s is not found.", r.name)
	case dst == r.name:
		return fileExists("The source %s and destination %s are the same", r.name, dst)
	case src.Dir && r.path.Contains(dstPath):
		return ioException("Rename destination %s is a directory or file under source %s", dst, r.name)
	case dstPath.IsRoot():
		return ioException("rename destination cannot be the root")
	}
	err = s.ns.Rename(ctx, r.path, dstPath, core.RenameOptions{Overwrite: overwrite})
	switch errs.KindOf(err) {
	case errs.Exist:
		return fileExists("rename destination %s already exists", dst)
	case errs.NotEmpty:
		return ioException("rename destination directory is not empty: %s", dst)
	case errs.NotExist:
		return fileNotFound("rename destination parent %s not found.", nameOf(dstPath.Parent()))
	case errs.NotDir, errs.IsDir:
		return s.renameKinds(r, src, dst, dstPath)
	}
	return s.renameError(r, dst, err)
}

// renameKinds says which kind of name was in the way of a strict rename.
func (s *Server) renameKinds(r *request, src core.Info, dst string, dstPath core.Path) error {
	kind := "files"
	if src.Dir {
		kind = "directories"
	}
	if _, err := s.ns.Stat(r.Context(), dstPath); err == nil {
		return ioException("Source %s and destination %s must both be %s", r.name, dst, kind)
	}
	return parentNotDir("rename destination parent %s is a file.", nameOf(dstPath.Parent()))
}

// renameError explains the failures that both kinds of rename throw. Spark loses data where false is answered for them.
func (s *Server) renameError(r *request, dst string, err error) error {
	switch {
	case errors.Is(err, errs.Unsupported):
		return &remoteError{status: http.StatusForbidden, class: classIO, cause: err,
			msg: "Renaming " + r.name + " to " + dst + " across mount points is not supported"}
	case errors.Is(err, errs.Busy):
		return &remoteError{status: http.StatusForbidden, class: classIO, cause: err,
			msg: "Cannot rename " + r.name + " to " + dst + ": one of them is in use"}
	}
	return err
}
