package webhdfs

import (
	"github.com/sluicefs/sluice/core"
)

// The headers by which a request says for itself when a write is acknowledged and what a read does to the cache. They are those
// of S3 requests. Clients that cannot set headers have parameters of the same meaning, in which step one's travel in the ticket:
// not every client sends its headers again where it is sent.
const (
	writeTypeHeader = "X-Sluice-Write-Type"
	readTypeHeader  = "X-Sluice-Read-Type"
)

// asked returns what the header or else the parameter says, in upper case, and has the parameter say it.
func (r *request) asked(header, param string) string {
	if v := r.Header.Get(header); v != "" {
		r.q.values[param] = []string{v}
	}
	return r.q.enum(param)
}

// writeType returns the write type that the request asks for, "" if it asks for none.
func (r *request) writeType() core.WriteType {
	t := core.WriteType(r.asked(writeTypeHeader, "writetype"))
	if t != "" && !t.Known() {
		r.q.fail("writetype", "%q is not CACHE_THROUGH, THROUGH, ASYNC_THROUGH or MUST_CACHE.", t)
	}
	return t
}

// readType returns the read type that the request asks for, "" if it asks for none.
func (r *request) readType() core.ReadType {
	t := core.ReadType(r.asked(readTypeHeader, "readtype"))
	if t != "" && !t.Known() {
		r.q.fail("readtype", "%q is not CACHE_PROMOTE, CACHE or NO_CACHE.", t)
	}
	return t
}
