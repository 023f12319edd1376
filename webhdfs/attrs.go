package webhdfs

import (
	"net/http"
	"regexp"

	"github.com/sluicefs/sluice/core"
)

// fsAction is what CHECKACCESS asks for.
var fsAction = regexp.MustCompile(`^[r-][w-][x-]$`)

// change applies a to the request's name and answers with an empty body.
func (s *Server) change(w http.ResponseWriter, r *request, a core.AttrChange) error {
	if r.q.err != nil {
		return r.q.err
	}
	if _, err := s.o.Attrs.SetAttr(r.Context(), r.path, a); err != nil {
		return absent(err, "File does not exist: %s", r.name)
	}
	writeEmpty(w, r, http.StatusOK)
	return nil
}

// setPermission serves SETPERMISSION.
func (s *Server) setPermission(w http.ResponseWriter, r *request) error {
	mode := r.q.mode("permission", 0o755)
	return s.change(w, r, core.AttrChange{Mode: &mode})
}

// setOwner serves SETOWNER.
func (s *Server) setOwner(w http.ResponseWriter, r *request) error {
	var a core.AttrChange
	if owner := r.q.text("owner"); owner != "" {
		a.Owner = &owner
	}
	if group := r.q.text("group"); group != "" {
		a.Group = &group
	}
	if a.Owner == nil && a.Group == nil {
		return illegalArgument("Both owner and group are empty.")
	}
	return s.change(w, r, a)
}

// setTimes serves SETTIMES.
func (s *Server) setTimes(w http.ResponseWriter, r *request) error {
	return s.change(w, r, core.AttrChange{ModTime: r.q.time("modificationtime"), AccessTime: r.q.time("accesstime")})
}

// setReplication serves SETREPLICATION: false for what is no file.
func (s *Server) setReplication(w http.ResponseWriter, r *request) error {
	n := r.q.short("replication", 1)
	if r.q.err != nil {
		return r.q.err
	}
	info, err := s.ns.Stat(r.Context(), r.path)
	if missing(err) || err == nil && info.Dir {
		return writeBoolean(w, r, false)
	}
	if err == nil {
		_, err = s.o.Attrs.SetAttr(r.Context(), r.path, core.AttrChange{Replication: &n})
	}
	switch {
	case missing(err):
		return writeBoolean(w, r, false)
	case err != nil:
		return err
	}
	return writeBoolean(w, r, true)
}

// checkAccess serves CHECKACCESS.
func (s *Server) checkAccess(w http.ResponseWriter, r *request) error {
	action := r.q.value("fsaction")
	switch {
	case action == "":
		return illegalArgument("Required param fsaction for op: %s is null or empty", r.op.name)
	case !fsAction.MatchString(action):
		return illegalArgument(`Invalid value for webhdfs parameter "fsaction": Invalid value: %q does not belong to the domain %s`,
			action, "[r-][w-][x-]")
	}
	var want uint32
	for i := range action {
		want <<= 1
		if action[i] != '-' {
			want |= 1
		}
	}
	if _, err := s.stat(r); err != nil {
		return err
	}
	if err := s.o.Attrs.CheckAccess(r.Context(), r.path, want); err != nil {
		return err
	}
	writeEmpty(w, r, http.StatusOK)
	return nil
}

// getACLStatus serves GETACLSTATUS: the ACL that the mode is. There are no others.
func (s *Server) getACLStatus(w http.ResponseWriter, r *request) error {
	info, err := s.stat(r)
	if err != nil {
		return err
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"AclStatus": map[string]any{
		"entries": []string{}, "owner": info.Owner, "group": info.Group,
		"permission": octal(info.Mode), "stickyBit": info.Mode&0o1000 != 0,
	}})
	return nil
}

// getXAttrs serves GETXATTRS of names that have none.
func (s *Server) getXAttrs(w http.ResponseWriter, r *request) error {
	if _, err := s.stat(r); err != nil {
		return err
	}
	if err := s.o.Attrs.CheckAccess(r.Context(), r.path, 4); err != nil {
		return err
	}
	if len(r.q.values["xattr.name"]) > 0 {
		return ioException("At least one of the attributes provided was not found.")
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"XAttrs": []string{}})
	return nil
}

// listXAttrs serves LISTXATTRS of names that have none. The value is JSON in a string.
func (s *Server) listXAttrs(w http.ResponseWriter, r *request) error {
	if _, err := s.stat(r); err != nil {
		return err
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"XAttrNames": "[]"})
	return nil
}
