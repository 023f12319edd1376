package webhdfs

import (
	"errors"
	"net/http"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// mkdirs serves MKDIRS. A directory that exists is a success and stays as it is.
func (s *Server) mkdirs(w http.ResponseWriter, r *request) error {
	mode := r.q.newMode(0o755)
	if r.q.err != nil {
		return r.q.err
	}
	if r.path.IsRoot() {
		return writeBoolean(w, r, true)
	}
	_, err := s.ns.Mkdir(r.Context(), r.path, core.MkdirOptions{Mode: mode, MakeParents: true})
	switch {
	case errors.Is(err, errs.Exist):
		return s.mkdirsOver(w, r)
	case errors.Is(err, errs.NotDir):
		return s.underFile(r, err)
	case err != nil:
		return err
	}
	return writeBoolean(w, r, true)
}

// mkdirsOver answers a MKDIRS of a name that exists.
func (s *Server) mkdirsOver(w http.ResponseWriter, r *request) error {
	info, err := s.stat(r)
	switch {
	case err != nil:
		return err
	case !info.Dir:
		return fileExists("Path is not a directory: %s", r.name)
	}
	return writeBoolean(w, r, true)
}

// delete serves DELETE: false for what is not there, and for the root, which always stays.
func (s *Server) delete(w http.ResponseWriter, r *request) error {
	recursive := r.q.boolean("recursive", false)
	if r.q.err != nil {
		return r.q.err
	}
	if r.path.IsRoot() {
		return s.deleteRoot(w, r, recursive)
	}
	err := s.ns.Remove(r.Context(), r.path, core.RemoveOptions{Recursive: recursive})
	switch {
	case err == nil:
		return writeBoolean(w, r, true)
	case missing(err):
		return writeBoolean(w, r, false)
	case errors.Is(err, errs.NotEmpty):
		return notEmpty(r)
	case errors.Is(err, errs.Busy):
		return &remoteError{status: http.StatusForbidden, class: classIO, cause: err,
			msg: "Cannot delete " + r.name + ": it is a mount point or holds one; unmount it first"}
	}
	return err
}

// deleteRoot deletes nothing, and says so as HDFS does.
func (s *Server) deleteRoot(w http.ResponseWriter, r *request, recursive bool) error {
	if recursive {
		return writeBoolean(w, r, false)
	}
	for _, err := range s.ns.List(r.Context(), r.path, core.ListOptions{Children: true, Limit: 1}) {
		if err != nil {
			return err
		}
		return notEmpty(r)
	}
	return writeBoolean(w, r, false)
}

func notEmpty(r *request) error {
	return &remoteError{status: http.StatusForbidden, class: classNotEmpty,
		msg: "`" + r.name + " is non empty': Directory is not empty"}
}

// concat serves CONCAT: the sources' bytes move to the end of the request's file, in one change.
// Source: org.apache.hadoop.hdfs.server.namenode.FSDirConcatOp.
func (s *Server) concat(w http.ResponseWriter, r *request) error {
	sources := r.q.require("sources", r.op.name)
	if r.q.err != nil {
		return r.q.err
	}
	target, err := s.file(r)
	if err != nil {
		return err
	}
	var parts []core.Path
	seen := map[string]bool{r.name: true}
	for v := range strings.SplitSeq(sources, ",") {
		name, p, err := s.absolute(r.Context(), "sources", v)
		if err != nil {
			return err
		}
		switch {
		case name == r.name:
			return hadoopArgument("concat: the src file %s is the same with the target file %s", name, r.name)
		case seen[name]:
			return hadoopArgument("concat: at least two of the source files are the same: %s", name)
		case p.Parent() != r.path.Parent():
			return hadoopArgument("Source file %s is not in the same directory with the target %s", name, r.name)
		}
		seen[name] = true
		if err := s.checkSource(r, name, p, blockSize(target)); err != nil {
			return err
		}
		parts = append(parts, p)
	}
	if _, err := s.ns.Compose(r.Context(), r.path, parts); err != nil {
		return err
	}
	writeEmpty(w, r, http.StatusOK)
	return nil
}

// checkSource refuses what HDFS does not take for a part of a file with blocks of at most block bytes.
func (s *Server) checkSource(r *request, name string, p core.Path, block int64) error {
	info, err := s.ns.Stat(r.Context(), p)
	switch {
	case err != nil:
		return absent(err, "File does not exist: %s", name)
	case info.Dir:
		return fileNotFound("Path is not a file: %s", name)
	case info.Size == 0:
		return hadoopArgument("concat: source file %s is invalid or empty or underConstruction", name)
	case blockSize(info) > block:
		return hadoopArgument("concat: source file %s has preferred block size %d which is greater than the target file's"+
			" preferred block size %d", name, blockSize(info), block)
	}
	return nil
}
