package webhdfs

import (
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// create serves CREATE.
func (s *Server) create(w http.ResponseWriter, r *request) error {
	o, err := createOptions(r)
	if err != nil {
		return err
	}
	if !r.data() {
		if err := s.checkCreate(r, o); err != nil {
			return s.createError(r, err)
		}
		return s.redirect(w, r, 0)
	}
	info, err := s.receive(r, o)
	if err != nil {
		return s.createError(r, err)
	}
	showWrite(w, info)
	w.Header().Set("Location", "hdfs://"+r.Host+escape(r.name))
	writeEmpty(w, r, http.StatusCreated)
	return nil
}

// append serves APPEND. Its redirect may be posted to again and again, a buffer at a time.
func (s *Server) append(w http.ResponseWriter, r *request) error {
	o := core.CreateOptions{Mode: core.Append, Size: r.ContentLength, WriteType: r.writeType()}
	if r.q.err != nil {
		return r.q.err
	}
	if !r.data() {
		if err := s.checkAppend(r); err != nil {
			return err
		}
		return s.redirect(w, r, 0)
	}
	info, err := s.receive(r, o)
	if err != nil {
		return s.appendError(r, err)
	}
	showWrite(w, info)
	writeEmpty(w, r, http.StatusOK)
	return nil
}

// showWrite says how a write was acknowledged, where that is not as always.
func showWrite(w http.ResponseWriter, info core.Info) {
	if info.Write != "" {
		w.Header().Set(writeTypeHeader, string(info.Write))
	}
}

// data reports whether the request carries the file's bytes: it came by a redirect, or says so as HttpFS's clients do.
func (r *request) data() bool { return r.ticket != nil || r.q.boolean("data", false) }

// createOptions returns what a CREATE asks for. createflag, if set, stands for overwrite.
func createOptions(r *request) (core.CreateOptions, error) {
	flags := r.q.set("createflag", "CREATE", "OVERWRITE", "APPEND", "SYNC_BLOCK", "LAZY_PERSIST", "NEW_BLOCK",
		"NO_LOCAL_WRITE", "SHOULD_REPLICATE", "IGNORE_CLIENT_LOCALITY", "NO_LOCAL_RACK")
	overwrite := r.q.boolean("overwrite", false)
	must := false // the file must exist
	if len(flags) > 0 {
		overwrite = slices.Contains(flags, "OVERWRITE")
		must = !slices.Contains(flags, "CREATE")
	}
	o := core.CreateOptions{
		Mode:        core.CreateNew,
		MakeParents: r.q.boolean("createparent", true),
		Explicit:    true,
		Size:        r.ContentLength,
		Attr: core.FileAttr{
			Mode:        r.q.newMode(0o644),
			BlockSize:   r.q.long("blocksize", 0, 1),
			Replication: r.q.short("replication", 0),
		},
		WriteType: r.writeType(),
	}
	if overwrite {
		o.Mode = core.Replace
	}
	if must {
		o.Cond.IfMatch = "*"
		if !overwrite {
			return o, hadoopArgument("createflag needs CREATE or OVERWRITE; to add to a file, use APPEND")
		}
	}
	return o, r.q.err
}

// receive stages the request's body and commits it. A body that ends early leaves nothing.
func (s *Server) receive(r *request, o core.CreateOptions) (core.Info, error) {
	r.upload = true
	wr, err := s.ns.Create(r.Context(), r.path, o)
	if err != nil {
		return core.Info{}, err
	}
	defer wr.Abort()
	buf := s.buffers.Get().(*[copyBytes]byte)
	defer s.buffers.Put(buf)
	if r.bytes, err = io.CopyBuffer(struct{ io.Writer }{wr}, r.Body, buf[:]); err != nil {
		return core.Info{}, err
	}
	return wr.Commit(r.Context(), core.CommitOptions{})
}

// maxVanished is how many names may vanish under a CREATE between two looks at them: with the last name in it goes a directory
// that nobody asked for.
const maxVanished = 10

// checkCreate reports what Create would, without writing, and that the user may write there.
func (s *Server) checkCreate(r *request, o core.CreateOptions) error {
	tries := maxVanished
	if !o.MakeParents { // mostly it is the parent that is not there
		tries = 1
	}
	for {
		err := s.mayCreate(r, o)
		if tries--; !errors.Is(err, errs.NotExist) || tries < 0 {
			return err
		}
	}
}

func (s *Server) mayCreate(r *request, o core.CreateOptions) error {
	info, err := s.ns.Stat(r.Context(), r.path)
	switch {
	case err == nil && info.Dir:
		return errs.IsDir
	case err == nil && o.Mode == core.CreateNew:
		return errs.Exist
	case err == nil && info.ReadOnly:
		return readOnly(r.name)
	case err == nil:
		return s.o.Attrs.CheckAccess(r.Context(), r.path, 2)
	case !missing(err):
		return err
	case o.Cond.IfMatch != "":
		return errs.Precondition
	case r.path.IsDir(): // nothing is there, so the name's last segment is the empty one
		return errs.New("webhdfs.create", r.name, errs.Invalid, "a file's name is not empty")
	}
	return s.checkParent(r, o)
}

// checkParent reports whether the user may write where Create would make the name.
func (s *Server) checkParent(r *request, o core.CreateOptions) error {
	up, err := s.nearest(r)
	switch {
	case err != nil:
		return err
	case !up.Dir:
		return errs.NotDir
	case !o.MakeParents && up.Path.Dir().String() != r.path.Parent().String():
		return errs.NotExist
	case up.ReadOnly:
		return readOnly(r.name)
	}
	// One right at a time: the message names the one that HDFS would.
	if err := s.o.Attrs.CheckAccess(r.Context(), up.Path, 2); err != nil {
		return err
	}
	if err := s.o.Attrs.CheckAccess(r.Context(), up.Path, 1); err != nil {
		return err
	}
	return s.o.Attrs.CheckName(r.Context(), r.path)
}

// nearest returns the nearest name above the request's that exists.
func (s *Server) nearest(r *request) (core.Info, error) {
	d := r.path.Parent()
	for ; !d.IsRoot(); d = d.Parent() {
		for _, p := range []core.Path{d, d.File()} {
			info, err := s.ns.Stat(r.Context(), p)
			if err == nil || !missing(err) {
				info.Path = p
				return info, err
			}
		}
	}
	info, err := s.ns.Stat(r.Context(), d)
	info.Path = d
	return info, err
}

func readOnly(name string) error {
	return &remoteError{status: http.StatusForbidden, class: classAccessControl,
		msg: "Permission denied: " + name + " is on a read-only mount"}
}

// createError gives a failed CREATE HDFS's message.
// Source: org.apache.hadoop.hdfs.server.namenode.FSNamesystem.startFile and FSDirectory.verifyParentDir.
func (s *Server) createError(r *request, err error) error {
	switch {
	case errors.Is(err, errs.Exist):
		return fileExists("%s for client %s already exists", r.name, r.client())
	case errors.Is(err, errs.IsDir):
		return fileExists("%s already exists as a directory", r.name)
	case errors.Is(err, errs.NotDir):
		return s.underFile(r, err)
	case errors.Is(err, errs.NotExist):
		return fileNotFound("Parent directory doesn't exist: %s", nameOf(r.path.Parent()))
	case errors.Is(err, errs.Precondition):
		return fileNotFound("Can't overwrite non-existent %s for client %s", r.name, r.client())
	}
	return err
}

// underFile names the file above the request's name, the reason of err.
func (s *Server) underFile(r *request, err error) error {
	if up, e := s.nearest(r); e == nil && !up.Dir {
		return parentNotDir("%s (is not a directory)", nameOf(up.Path))
	}
	return err
}

// checkAppend reports what an append would, without writing.
func (s *Server) checkAppend(r *request) error {
	info, err := s.ns.Stat(r.Context(), r.path)
	switch {
	case err != nil:
		return s.appendError(r, err)
	case info.Dir:
		return s.appendError(r, errs.IsDir)
	case info.ReadOnly:
		return readOnly(r.name)
	}
	return s.o.Attrs.CheckAccess(r.Context(), r.path, 2)
}

// appendError gives a failed APPEND HDFS's message. Log shippers create the file on 404.
func (s *Server) appendError(r *request, err error) error {
	switch {
	case errors.Is(err, errs.IsDir):
		return fileExists("Cannot append to directory %s; already exists as a directory.", r.name)
	case errors.Is(err, errs.Busy):
		return &remoteError{status: http.StatusForbidden, class: classBeingCreated, cause: err,
			msg: "Failed to APPEND_FILE " + r.name + " for client " + r.client() + ": another append to it is open"}
	}
	return absent(err, "File %s not found.", r.name)
}
