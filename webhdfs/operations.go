package webhdfs

import (
	"net/http"
	"strings"
)

// A handler serves one operation. It has written the whole response if it returns nil.
type handler func(s *Server, w http.ResponseWriter, r *request) error

// operation is one row of the protocol.
type operation struct {
	name   string // the op parameter; access log and metrics use it
	method string
	params string // the names of the parameters it reads; those of step one are bound into its ticket
	access string // the right that HDFS names when it denies the operation
	serve  handler
}

// operations is everything that can be asked. What is not built is a row that says so.
//
// Source: org.apache.hadoop.hdfs.web.resources.{GetOpParam,PutOpParam,PostOpParam,DeleteOpParam}.
var operations = []operation{
	{"OPEN", "GET", "offset length buffersize readtype", "READ", (*Server).open},
	{"GETFILESTATUS", "GET", "", "EXECUTE", (*Server).getFileStatus},
	{"GETFILELINKSTATUS", "GET", "", "EXECUTE", (*Server).getFileStatus},
	{"LISTSTATUS", "GET", "filter", "READ_EXECUTE", (*Server).listStatus},
	{"LISTSTATUS_BATCH", "GET", "startafter", "READ_EXECUTE", (*Server).listStatusBatch},
	{"GETCONTENTSUMMARY", "GET", "", "READ_EXECUTE", (*Server).getContentSummary},
	{"GETQUOTAUSAGE", "GET", "", "READ_EXECUTE", (*Server).getQuotaUsage},
	{"GETSTATUS", "GET", "", "READ_EXECUTE", (*Server).getStatus},
	{"GETFILECHECKSUM", "GET", "", "READ", (*Server).getFileChecksum},
	{"GETFILEBLOCKLOCATIONS", "GET", "offset length", "READ", (*Server).getFileBlockLocations},
	{"GET_BLOCK_LOCATIONS", "GET", "offset length", "READ", (*Server).getBlockLocations},
	{"GETHOMEDIRECTORY", "GET", "", "EXECUTE", (*Server).getHomeDirectory},
	{"GETTRASHROOT", "GET", "", "EXECUTE", (*Server).getTrashRoot},
	{"GETTRASHROOTS", "GET", "allusers", "EXECUTE", (*Server).getTrashRoots},
	{"GETSERVERDEFAULTS", "GET", "", "EXECUTE", (*Server).getServerDefaults},
	{"GETACLSTATUS", "GET", "", "EXECUTE", (*Server).getACLStatus},
	{"GETXATTRS", "GET", "xattr.name encoding", "READ", (*Server).getXAttrs},
	{"LISTXATTRS", "GET", "", "EXECUTE", (*Server).listXAttrs},
	{"CHECKACCESS", "GET", "fsaction", "EXECUTE", (*Server).checkAccess},
	{"GETDELEGATIONTOKEN", "GET", "renewer service kind", "", (*Server).getDelegationToken},
	{"GETLINKTARGET", "GET", "", "", unsupported},
	{"GETALLSTORAGEPOLICY", "GET", "", "", unsupported},
	{"GETSTORAGEPOLICY", "GET", "", "", unsupported},
	{"GETECPOLICY", "GET", "", "", unsupported},
	{"GETECPOLICIES", "GET", "", "", unsupported},
	{"GETECCODECS", "GET", "", "", unsupported},
	{"GETSNAPSHOTDIFF", "GET", "", "", unsupported},
	{"GETSNAPSHOTDIFFLISTING", "GET", "", "", unsupported},
	{"GETSNAPSHOTTABLEDIRECTORYLIST", "GET", "", "", unsupported},
	{"GETSNAPSHOTLIST", "GET", "", "", unsupported},

	{"CREATE", "PUT", "overwrite permission unmaskedpermission blocksize replication buffersize createparent createflag writetype",
		"WRITE", (*Server).create},
	{"MKDIRS", "PUT", "permission unmaskedpermission", "WRITE", (*Server).mkdirs},
	{"RENAME", "PUT", "destination renameoptions", "WRITE", (*Server).rename},
	{"SETREPLICATION", "PUT", "replication", "WRITE", (*Server).setReplication},
	{"SETOWNER", "PUT", "owner group", "WRITE", (*Server).setOwner},
	{"SETPERMISSION", "PUT", "permission", "WRITE", (*Server).setPermission},
	{"SETTIMES", "PUT", "modificationtime accesstime", "WRITE", (*Server).setTimes},
	{"RENEWDELEGATIONTOKEN", "PUT", "token", "", unsupported},
	{"CANCELDELEGATIONTOKEN", "PUT", "token", "", unsupported},
	{"CREATESYMLINK", "PUT", "", "", unsupported},
	{"MODIFYACLENTRIES", "PUT", "", "", unsupported},
	{"REMOVEACLENTRIES", "PUT", "", "", unsupported},
	{"REMOVEDEFAULTACL", "PUT", "", "", unsupported},
	{"REMOVEACL", "PUT", "", "", unsupported},
	{"SETACL", "PUT", "", "", unsupported},
	{"SETXATTR", "PUT", "", "", unsupported},
	{"REMOVEXATTR", "PUT", "", "", unsupported},
	{"SETQUOTA", "PUT", "", "", unsupported},
	{"SETQUOTABYSTORAGETYPE", "PUT", "", "", unsupported},
	{"SETSTORAGEPOLICY", "PUT", "", "", unsupported},
	{"SATISFYSTORAGEPOLICY", "PUT", "", "", unsupported},
	{"ENABLEECPOLICY", "PUT", "", "", unsupported},
	{"DISABLEECPOLICY", "PUT", "", "", unsupported},
	{"SETECPOLICY", "PUT", "", "", unsupported},
	{"ALLOWSNAPSHOT", "PUT", "", "", unsupported},
	{"DISALLOWSNAPSHOT", "PUT", "", "", unsupported},
	{"CREATESNAPSHOT", "PUT", "", "", unsupported},
	{"RENAMESNAPSHOT", "PUT", "", "", unsupported},

	{"APPEND", "POST", "buffersize writetype", "WRITE", (*Server).append},
	{"CONCAT", "POST", "sources", "WRITE", (*Server).concat},
	{"TRUNCATE", "POST", "", "", unsupported},
	{"UNSETSTORAGEPOLICY", "POST", "", "", unsupported},
	{"UNSETECPOLICY", "POST", "", "", unsupported},

	{"DELETE", "DELETE", "recursive", "WRITE", (*Server).delete},
	{"DELETESNAPSHOT", "DELETE", "", "", unsupported},

	{"OPTIONS", "OPTIONS", "", "", (*Server).options},
}

// unknown stands for the operation of a request that names none.
var unknown = &operation{name: "UNKNOWN"}

// findOperation returns the row of an operation, whose name is in upper case. The message is one that Java clients search
// for the name of an operation that an older server lacks.
// Source: org.apache.hadoop.hdfs.web.WebHdfsFileSystem.getFileBlockLocations.
func findOperation(method, op string) (*operation, error) {
	if method == http.MethodOptions {
		op = method
	}
	for i := range operations {
		if operations[i].name == op && operations[i].method == method {
			return &operations[i], nil
		}
	}
	if op == "" {
		op = "null"
	}
	return nil, illegalArgument(`Invalid value for webhdfs parameter "op": %s is not a valid %s operation.`, op, method)
}

// unsupported refuses an operation of HDFS that Sluice does not have.
func unsupported(_ *Server, _ http.ResponseWriter, r *request) error {
	return &remoteError{status: http.StatusBadRequest, class: classUnsupported, msg: r.op.name + " is not supported"}
}

// options answers the verb that Java's client authenticates with. It allows no other site's page anything.
func (s *Server) options(w http.ResponseWriter, r *request) error {
	w.Header().Set("Allow", strings.Join([]string{"GET", "PUT", "POST", "DELETE", "OPTIONS"}, ", "))
	writeEmpty(w, r, http.StatusOK)
	return nil
}
