package webhdfs

import (
	"errors"
	"net/http"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// open serves OPEN. Step one refuses what step two would, a directory included, where HDFS only fails in step two.
func (s *Server) open(w http.ResponseWriter, r *request) error {
	off, n, reads := r.q.long("offset", 0, 0), r.q.long("length", -1, 0), r.readType()
	if r.q.err != nil {
		return r.q.err
	}
	if reads != "" {
		r.Request = r.WithContext(core.WithReadType(r.Context(), reads))
	}
	if r.ticket != nil {
		return s.send(w, r, core.Range{Off: off, Len: n})
	}
	info, err := s.file(r)
	if err != nil {
		return err
	}
	if off >= info.Size && info.Size > 0 {
		// Hue takes "out of the range" for the end of the file.
		return ioException("Offset=%d out of the range [0, %d); OPEN, path=%s", off, info.Size, r.name)
	}
	if err := s.o.Attrs.CheckAccess(r.Context(), r.path, 4); err != nil {
		return err
	}
	return s.redirect(w, r, info.ID)
}

// file returns what is known of the request's file. A directory is refused.
func (s *Server) file(r *request) (core.Info, error) {
	info, err := s.ns.Stat(r.Context(), r.path)
	switch {
	case err != nil:
		return info, absent(err, "File %s not found.", r.name)
	case info.Dir:
		return info, fileNotFound("Path is not a file: %s", r.name)
	}
	return info, nil
}

// send is step two of OPEN. The end of the file is a valid offset: Java seeks by moving the offset in the URL.
func (s *Server) send(w http.ResponseWriter, r *request, rng core.Range) error {
	rd, err := s.ns.Open(r.Context(), r.path, rng)
	switch {
	case errors.Is(err, errs.Range):
		return ioException("Cannot seek after EOF")
	case errors.Is(err, errs.IsDir):
		return fileNotFound("Path is not a file: %s", r.name)
	case err != nil:
		return absent(err, "File %s not found.", r.name)
	}
	defer rd.Close()
	if id := rd.Info().ID; r.ticket.ID != 0 && id != r.ticket.ID && rng.Off != 0 {
		// A reader that seeks must not get the bytes of another file that took the name. One that begins has none yet.
		return fileNotFound("File %s not found: another file took its name since it was opened", r.name)
	}
	r.describe(w.Header(), rd.Info())
	_, n := rd.Span()
	if n == 0 {
		writeEmpty(w, r, http.StatusOK)
		return nil
	}
	// The first byte starts the response: a store that fails before it is an exception still.
	setBody(w.Header(), "application/octet-stream", n)
	r.bytes, err = rd.WriteTo(&bodyWriter{w, r})
	return err
}
