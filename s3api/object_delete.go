package s3api

import (
	"errors"
	"net/http"
	"sync"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// deleteObject serves DeleteObject: a key that is not there is as good as deleted.
func (s *Server) deleteObject(r *request) error {
	for _, name := range []string{"X-Amz-If-Match-Last-Modified-Time", "X-Amz-If-Match-Size"} {
		if r.http.Header.Get(name) != "" {
			return notImplemented(name)
		}
	}
	cond, err := writeCond(r.http.Header)
	if err != nil {
		return err
	}
	err = s.remove(r, r.path, cond)
	if errors.Is(err, errs.NotExist) && cond.IfMatch == "" {
		err = s.inBucket(r, r.dir, err)
		if errors.Is(err, errs.NotExist) {
			err = nil
		}
	}
	if err != nil {
		return s.unmatched(r, cond, err)
	}
	return r.empty(http.StatusNoContent)
}

func (s *Server) remove(r *request, p core.Path, cond core.Cond) error {
	return s.ns.Remove(r.ctx, p, core.RemoveOptions{Prune: true, Cond: cond})
}

// deletion is one key of DeleteObjects and what became of it.
type deletion struct {
	key, version, etag string
	unbuilt            bool // carries a condition that is not built
	err                error
}

const (
	maxDelete = 1000 // keys of one DeleteObjects

	// maxDeleteElements are the elements of the largest Delete: Quiet, and of each object at most five.
	maxDeleteElements = 2 + 6*maxDelete

	// deleteAtOnce bounds the removals that one DeleteObjects has under way; they share journal commits.
	deleteAtOnce = 16
)

// deleteObjects serves DeleteObjects. Each key succeeds or fails by itself.
func (s *Server) deleteObjects(r *request) error {
	doc, err := r.readDigested()
	if err != nil {
		return err
	}
	keys, quiet, err := parseDelete(doc)
	if err != nil {
		return err
	}
	if _, err := s.statBucket(r); err != nil {
		return err
	}
	s.deleteAll(r, keys)
	return r.document(renderDeleted(keys, quiet))
}

// parseDelete reads a Delete document. Errors: MalformedXML.
func parseDelete(doc []byte) (keys []deletion, quiet bool, err error) {
	root, err := parseXML(doc, maxDeleteElements, "Delete")
	if err != nil {
		return nil, false, err
	}
	seen := false
	for _, e := range root.children {
		switch e.name {
		case "Quiet":
			if seen || len(e.children) > 0 || e.value != "true" && e.value != "false" {
				return nil, false, errMalformedXML
			}
			seen, quiet = true, e.value == "true"
		case "Object":
			v, err := e.leaves("Key", "VersionId", "ETag", "LastModifiedTime", "Size")
			if err != nil || v["Key"] == "" {
				return nil, false, errMalformedXML
			}
			keys = append(keys, deletion{key: v["Key"], version: v["VersionId"], etag: unquote(v["ETag"]),
				unbuilt: v["LastModifiedTime"] != "" || v["Size"] != ""})
		default:
			return nil, false, errMalformedXML
		}
	}
	if len(keys) == 0 || len(keys) > maxDelete {
		return nil, false, errMalformedXML
	}
	return keys, quiet, nil
}

func (s *Server) deleteAll(r *request, keys []deletion) {
	next := make(chan *deletion)
	var wg sync.WaitGroup
	for range min(deleteAtOnce, len(keys)) {
		wg.Go(func() {
			for d := range next {
				d.err = s.deleteOne(r, d)
			}
		})
	}
	for i := range keys {
		next <- &keys[i]
	}
	close(next)
	wg.Wait()
}

func (s *Server) deleteOne(r *request, d *deletion) error {
	switch {
	case d.unbuilt:
		return notImplemented("LastModifiedTime, Size")
	case d.version != "" && d.version != "null":
		return errNoSuchVersion
	}
	p, err := objectPath(r.dir, d.key)
	if err != nil {
		return err
	}
	err = s.remove(r, p, core.Cond{IfMatch: d.etag})
	if errors.Is(err, errs.NotExist) && d.etag == "" {
		return nil
	}
	return err
}

func renderDeleted(keys []deletion, quiet bool) []byte {
	x := newXML(64 * len(keys))
	x.root("DeleteResult")
	for _, d := range keys {
		switch {
		case d.err != nil:
			e := toAPI(object, d.err)
			x.open("Error")
			x.text("Key", d.key)
			x.optional("VersionId", d.version)
			x.text("Code", e.Code)
			x.text("Message", e.Message)
			x.close("Error")
		case !quiet:
			x.open("Deleted")
			x.text("Key", d.key)
			x.optional("VersionId", d.version)
			x.close("Deleted")
		}
	}
	x.close("DeleteResult")
	return x.b
}
