package webhdfs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/needtest"
)

// fixture is a server over a namespace in memory, and a client that follows nothing.
type fixture struct {
	t   *testing.T
	ns  *fake
	srv *Server
	url string
	c   *http.Client
	log *bytes.Buffer

	opened atomic.Int64 // files of the stores that serveNamespace mounts
}

func serve(t *testing.T, change func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, ns: newFake()}
	f.ns.put("/d/f", "bob", 0o644, []byte("123456789"))
	f.ns.put("/d/sub/", "bob", 0o755, nil)
	f.ns.put("/d/secret", "alice", 0o600, []byte("x"))
	f.ns.put("/empty", "bob", 0o644, nil)
	f.ns.put("/mnt/", "hdfs", 0o755, nil)
	f.ns.put("/ro/f", "bob", 0o644, []byte("x"))
	f.ns.put("/tmp/", "hdfs", 0o1777, nil)
	f.ns.put("/closed/", "alice", 0o700, nil)
	o := Options{
		Namespace: f.ns, Attrs: f.ns, Locator: f.ns, Authenticator: f.ns, Simple: true, LoopbackOnly: true, Superuser: "hdfs",
	}
	if change != nil {
		change(&o)
	}
	f.start(o)
	return f
}

// start serves o until the test ends.
func (f *fixture) start(o Options) {
	f.log = &bytes.Buffer{}
	o.Logger = slog.New(slog.NewTextHandler(f.log, nil))
	f.srv = New(o)
	ts := httptest.NewServer(f.srv)
	f.t.Cleanup(ts.Close)
	f.url, f.c = ts.URL, ts.Client()
	f.c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
}

// answer is a response as the tests look at it.
type answer struct {
	status int
	header http.Header
	body   string
}

// send makes a request as bob. target starts at the name, or is a whole URL.
func (f *fixture) send(method, target string, body io.Reader, header ...string) answer {
	f.t.Helper()
	if !strings.HasPrefix(target, "http") {
		target = f.url + prefix + target
		if !strings.Contains(target, "user.name") {
			target += "&user.name=bob"
		}
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		f.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := f.c.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, target, err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

// follow makes step one of a request and returns the answer of step two.
func (f *fixture) follow(method, target, body string) answer {
	f.t.Helper()
	one := f.send(method, target, nil)
	if one.status != http.StatusTemporaryRedirect {
		f.t.Fatalf("%s %s: status %d, want 307: %s", method, target, one.status, one.body)
	}
	return f.send(method, one.header.Get("Location"), strings.NewReader(body))
}

// content returns the bytes of a file in the namespace.
func (f *fixture) content(key string) string {
	f.t.Helper()
	f.ns.mu.Lock()
	defer f.ns.mu.Unlock()
	n := f.ns.nodes[key]
	if n == nil {
		f.t.Fatalf("%s does not exist", key)
	}
	return string(n.data)
}

func (f *fixture) exists(key string) bool {
	f.ns.mu.Lock()
	defer f.ns.mu.Unlock()
	return f.ns.nodes[key] != nil
}

// exception returns the class and message of a RemoteException.
func (a answer) exception(t *testing.T) (class, message string) {
	t.Helper()
	var v struct {
		RemoteException struct{ Exception, JavaClassName, Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("body %q: %v", a.body, err)
	}
	e := v.RemoteException
	if !strings.HasSuffix(e.JavaClassName, e.Exception) || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("exception %q of class %q, Content-Type %q", e.Exception, e.JavaClassName, a.header.Get("Content-Type"))
	}
	return e.JavaClassName, e.Message
}

const (
	yes = `{"boolean":true}`
	no  = `{"boolean":false}`
)

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		method, target string
		status         int
		body           string
	}{
		{"GET", "/d/f?op=GETFILESTATUS", 200, `{"FileStatus":{"accessTime":0,"blockSize":134217728,"group":"staff","length":9,` +
			`"modificationTime":1700000000123,"owner":"bob","pathSuffix":"","permission":"644","replication":1,"type":"FILE",` +
			`"childrenNum":0,"fileId":3,"storagePolicy":0}}`},
		{"GET", "/tmp/?op=getfilestatus", 200, `{"FileStatus":{"accessTime":0,"blockSize":0,"group":"staff","length":0,` +
			`"modificationTime":1700000000123,"owner":"hdfs","pathSuffix":"","permission":"1777","replication":0,"type":"DIRECTORY",` +
			`"childrenNum":-1,"fileId":10,"storagePolicy":0}}`},
		{"GET", "/d?op=GETCONTENTSUMMARY", 200, `{"ContentSummary":{"directoryCount":2,"ecPolicy":"","fileCount":3,"length":12,"quota":-1,` +
			`"snapshotDirectoryCount":0,"snapshotFileCount":0,"snapshotLength":0,"snapshotSpaceConsumed":0,"spaceConsumed":12,"spaceQuota":-1,"typeQuota":{}}}`},
		{"GET", "/d?op=GETQUOTAUSAGE", 200, `{"QuotaUsage":{"fileAndDirectoryCount":5,"quota":-1,"spaceConsumed":12,"spaceQuota":-1,"typeQuota":{}}}`},
		{"GET", "/?op=GETSTATUS", 200, `{"FsStatus":{"capacity":9223372036854775807,"remaining":9223372036854775795,"used":12}}`},
		{"GET", "?op=GETHOMEDIRECTORY", 200, `{"Path":"/user/bob"}`},
		{"GET", "/x?op=GETTRASHROOT", 200, `{"Path":"/user/bob/.Trash"}`},
		{"GET", "/?op=GETTRASHROOTS&allusers=false", 200, `{"Paths":null}`},
		{"GET", "/?op=GETDELEGATIONTOKEN&renewer=bob", 200, `{"Token":null}`},
		{"GET", "/?op=GETSERVERDEFAULTS", 200, `{"FsServerDefaults":{"blockSize":134217728,"bytesPerChecksum":512,"checksumType":2,` +
			`"defaultStoragePolicyId":7,"encryptDataTransfer":false,"fileBufferSize":4096,"keyProviderUri":"","replication":1,"trashInterval":0,"writePacketSize":65536}}`},
		{"GET", "/d/f?op=GETFILEBLOCKLOCATIONS&length=9223372036854775807", 200, `{"BlockLocations":{"BlockLocation":[{"cachedHosts":[],"corrupt":false,` +
			`"hosts":["w1"],"length":9,"names":["10.0.0.1:9870"],"offset":0,"storageTypes":["DISK"],"topologyPaths":["/default-rack/10.0.0.1:9870"]}]}}`},
		{"GET", "/empty?op=GETFILEBLOCKLOCATIONS", 200, `{"BlockLocations":{"BlockLocation":[]}}`},
		{"GET", "/empty?op=GET_BLOCK_LOCATIONS", 200, `{"LocatedBlocks":{"fileLength":0,"isLastBlockComplete":true,"isUnderConstruction":false,"lastLocatedBlock":null,"locatedBlocks":[]}}`},
		{"GET", "/tmp?op=GETACLSTATUS", 200, `{"AclStatus":{"entries":[],"group":"staff","owner":"hdfs","permission":"1777","stickyBit":true}}`},
		{"GET", "/d/f?op=GETXATTRS", 200, `{"XAttrs":[]}`},
		{"GET", "/d/f?op=LISTXATTRS", 200, `{"XAttrNames":"[]"}`},
		{"GET", "/d/f?op=CHECKACCESS&fsaction=r--", 200, ""},
		{"PUT", "/new/a/b?op=MKDIRS", 200, yes},
		{"PUT", "/d?op=MKDIRS&permission=null", 200, yes},
		{"PUT", "/?op=MKDIRS", 200, yes},
		{"PUT", "/d/f?op=SETPERMISSION&permission=600", 200, ""},
		{"PUT", "/d/f?op=SETOWNER&owner=&group=g", 200, ""},
		{"PUT", "/d/f?op=SETTIMES&modificationtime=1000&accesstime=-1", 200, ""},
		{"PUT", "/d/f?op=SETREPLICATION&replication=2", 200, yes},
		{"PUT", "/d?op=SETREPLICATION&replication=2", 200, no},
		{"PUT", "/missing?op=SETREPLICATION&replication=2", 200, no},
		{"DELETE", "/missing?op=DELETE", 200, no},
		{"DELETE", "/?op=DELETE&recursive=True", 200, no},
		{"DELETE", "/d?op=DELETE&recursive=true", 200, yes},
		{"DELETE", "/d/f?op=DELETE", 200, yes},
		{"POST", "/d/f?op=CONCAT&sources=/d/secret", 200, ""},
		{"OPTIONS", "/d/f?op=CREATE", 200, ""},
	} {
		t.Run(c.method+c.target, func(t *testing.T) {
			a := serve(t, nil).send(c.method, c.target, nil)
			if a.status != c.status || a.body != c.body {
				t.Errorf("got %d %s\nwant %d %s", a.status, a.body, c.status, c.body)
			}
			want := "application/json"
			if c.body == "" {
				want = "application/octet-stream"
				if got := a.header.Get("Content-Length"); got != "0" {
					t.Errorf("Content-Length %q, want 0", got)
				}
			}
			if got := a.header.Get("Content-Type"); got != want {
				t.Errorf("Content-Type %q, want %q", got, want)
			}
			if got := a.header.Get("X-FRAME-OPTIONS") + a.header.Get("Pragma"); got != "SAMEORIGINno-cache" {
				t.Errorf("NameNode headers are missing: %v", a.header)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		method, target string
		status         int
		class, message string
	}{
		{"GET", "/d/f?op=FOO", 400, classArgument, `Invalid value for webhdfs parameter "op": FOO is not a valid GET operation.`},
		{"PUT", "/d/f?op=OPEN", 400, classArgument, `Invalid value for webhdfs parameter "op": OPEN is not a valid PUT operation.`},
		{"GET", "/d/f?op=null", 400, classArgument, `Invalid value for webhdfs parameter "op": null is not a valid GET operation.`},
		{"GET", "/missing?op=GETFILESTATUS", 404, classFileNotFound, "File does not exist: /missing"},
		{"GET", "/missing?op=OPEN", 404, classFileNotFound, "File /missing not found."},
		{"GET", "/d?op=OPEN", 404, classFileNotFound, "Path is not a file: /d"},
		{"GET", "/d/f?op=OPEN&offset=9", 403, classIO, "Offset=9 out of the range [0, 9); OPEN, path=/d/f"},
		{"GET", "/d/f?op=OPEN&offset=-1", 400, classArgument, `Invalid value for webhdfs parameter "offset": Invalid parameter range: offset = -1 < 0`},
		{"GET", "/d/f?op=OPEN&length=x", 400, classArgument, `Invalid value for webhdfs parameter "length": Failed to parse "x" as a radix-10 long integer.`},
		{"GET", "/d/secret?op=OPEN", 403, classAccessControl, `Permission denied: user=bob, access=READ, inode="/d/secret":alice:staff:600`},
		{"GET", "/missing?op=LISTSTATUS", 404, classFileNotFound, "File /missing does not exist."},
		{"GET", "/missing?op=LISTSTATUS_BATCH", 404, classFileNotFound, "File /missing does not exist."},
		{"GET", "/closed?op=LISTSTATUS", 403, classAccessControl, `Permission denied: user=bob, access=READ_EXECUTE, inode="/closed":alice:staff:700`},
		{"GET", "/d?op=LISTSTATUS&filter=%5Ba", 400, classArgument, `Invalid value for webhdfs parameter "filter": "[a" is not a glob pattern`},
		{"GET", "/missing?op=GETCONTENTSUMMARY", 404, classFileNotFound, "File does not exist: /missing"},
		{"GET", "/d?op=GETFILEBLOCKLOCATIONS", 404, classFileNotFound, "Path is not a file: /d"},
		{"GET", "/d?op=GETFILECHECKSUM", 404, classFileNotFound, "Path is not a file: /d"},
		{"GET", "/d/f?op=CHECKACCESS", 400, classArgument, "Required param fsaction for op: CHECKACCESS is null or empty"},
		{"GET", "/d/f?op=CHECKACCESS&fsaction=rx", 400, classArgument, `Invalid value for webhdfs parameter "fsaction": Invalid value: "rx" does not belong to the domain [r-][w-][x-]`},
		{"GET", "/d/secret?op=CHECKACCESS&fsaction=rw-", 403, classAccessControl, `Permission denied: user=bob, access=READ_WRITE, inode="/d/secret":alice:staff:600`},
		{"GET", "/missing?op=CHECKACCESS&fsaction=r--", 404, classFileNotFound, "File does not exist: /missing"},
		{"GET", "/d/f?op=GETXATTRS&xattr.name=user.a&xattr.name=user.b", 403, classIO, "At least one of the attributes provided was not found."},
		{"GET", "/a/../b?op=GETFILESTATUS", 400, classInvalidPath, "Invalid path name Invalid file name: /a/../b"},
		{"GET", "/a/./b?op=OPEN", 400, classInvalidPath, "Invalid path name Invalid file name: /a/./b"},
		{"PUT", "/a:b?op=MKDIRS", 400, classInvalidPath, "Invalid path name Invalid file name: /a:b"},
		{"PUT", "/d/f?op=CREATE", 403, classFileExists, "/d/f for client 127.0.0.1 already exists"},
		{"PUT", "/d?op=CREATE&overwrite=true", 403, classFileExists, "/d already exists as a directory"},
		{"PUT", "/d/f/x/y?op=CREATE", 403, classParentNotDir, "/d/f (is not a directory)"},
		{"PUT", "/no/x?op=CREATE&createparent=false", 404, classFileNotFound, "Parent directory doesn't exist: /no"},
		{"PUT", "/no?op=CREATE&createflag=overwrite", 404, classFileNotFound, "Can't overwrite non-existent /no for client 127.0.0.1"},
		{"PUT", "/no?op=CREATE&createflag=APPEND", 400, classHadoopArgument, "createflag needs CREATE or OVERWRITE; to add to a file, use APPEND"},
		{"PUT", "/no?op=CREATE&createflag=FOO,CREATE", 400, classArgument, `Invalid value for webhdfs parameter "createflag": "FOO" is not one of CREATE, ` +
			`OVERWRITE, APPEND, SYNC_BLOCK, LAZY_PERSIST, NEW_BLOCK, NO_LOCAL_WRITE, SHOULD_REPLICATE, IGNORE_CLIENT_LOCALITY, NO_LOCAL_RACK.`},
		{"PUT", "/closed/x/y?op=CREATE", 403, classAccessControl, `Permission denied: user=bob, access=WRITE, inode="/closed":alice:staff:700`},
		{"PUT", "/ro/x?op=CREATE", 403, classAccessControl, "Permission denied: /ro/x is on a read-only mount"},
		{"PUT", "/d/%252F?op=CREATE", 400, classArgument, "CREATE /d/%2F: invalid argument: a file's name is not empty"},
		{"PUT", "/x?op=CREATE&permission=xyz", 400, classArgument, `Invalid value for webhdfs parameter "permission": Failed to parse "xyz" as a radix-8 short integer.`},
		{"PUT", "/x?op=CREATE&permission=2777", 400, classArgument, `Invalid value for webhdfs parameter "permission": Invalid parameter range: permission = 2777 > 1777`},
		{"PUT", "/x?op=CREATE&overwrite=maybe", 400, classArgument, `Invalid value for webhdfs parameter "overwrite": Failed to parse "maybe" to Boolean.`},
		{"PUT", "/x?op=CREATE&blocksize=0", 400, classArgument, `Invalid value for webhdfs parameter "blocksize": Invalid parameter range: blocksize = 0 < 1`},
		{"POST", "/missing?op=APPEND", 404, classFileNotFound, "File /missing not found."},
		{"POST", "/d?op=APPEND", 403, classFileExists, "Cannot append to directory /d; already exists as a directory."},
		{"POST", "/d/secret?op=APPEND", 403, classAccessControl, `Permission denied: user=bob, access=WRITE, inode="/d/secret":alice:staff:600`},
		{"POST", "/ro/f?op=APPEND", 403, classAccessControl, "Permission denied: /ro/f is on a read-only mount"},
		{"PUT", "/d/f?op=MKDIRS", 403, classFileExists, "Path is not a directory: /d/f"},
		{"PUT", "/d/f/x?op=MKDIRS", 403, classParentNotDir, "/d/f (is not a directory)"},
		{"PUT", "/missing?op=SETPERMISSION&permission=600", 404, classFileNotFound, "File does not exist: /missing"},
		{"PUT", "/d/f?op=SETOWNER", 400, classArgument, "Both owner and group are empty."},
		{"PUT", "/missing?op=SETTIMES", 404, classFileNotFound, "File does not exist: /missing"},
		{"DELETE", "/d?op=DELETE", 403, classNotEmpty, "`/d is non empty': Directory is not empty"},
		{"DELETE", "/?op=DELETE&recursive=false", 403, classNotEmpty, "`/ is non empty': Directory is not empty"},
		{"DELETE", "/mnt?op=DELETE", 403, classIO, "Cannot delete /mnt: it is a mount point or holds one; unmount it first"},
		{"POST", "/d/f?op=CONCAT", 400, classArgument, "Required param sources for op: CONCAT is null or empty"},
		{"POST", "/missing?op=CONCAT&sources=/d/f", 404, classFileNotFound, "File /missing not found."},
		{"POST", "/d/f?op=CONCAT&sources=/d/no", 404, classFileNotFound, "File does not exist: /d/no"},
		{"POST", "/d/f?op=CONCAT&sources=/d/f", 400, classHadoopArgument, "concat: the src file /d/f is the same with the target file /d/f"},
		{"POST", "/d/f?op=CONCAT&sources=/empty", 400, classHadoopArgument, "Source file /empty is not in the same directory with the target /d/f"},
		{"POST", "/d/f?op=CONCAT&sources=/d/secret,/d/secret", 400, classHadoopArgument, "concat: at least two of the source files are the same: /d/secret"},
		{"POST", "/ro/f?op=CONCAT&sources=d/f", 400, classArgument, `Invalid value for webhdfs parameter "sources": Invalid parameter value: sources = "d/f" is not an absolute path.`},
		{"PUT", "/d/f?op=RENAME", 400, classArgument, "Required param destination for op: RENAME is null or empty"},
		{"PUT", "/d/f?op=RENAME&destination=x", 400, classArgument, `Invalid value for webhdfs parameter "destination": Invalid parameter value: destination = "x" is not an absolute path.`},
		{"POST", "/d/f?op=TRUNCATE&newlength=1", 400, classUnsupported, "TRUNCATE is not supported"},
		{"GET", "/d/f?op=GETFILESTATUS&doas=alice", 403, classSecurity, "Failed to obtain user group information: " +
			"org.apache.hadoop.security.authorize.AuthorizationException: User: bob is not allowed to impersonate alice"},
		{"GET", "/d/f?op=GETFILESTATUS&delegation=xyz", 403, classSecurity, "Failed to obtain user group information: " +
			"org.apache.hadoop.security.token.SecretManager$InvalidToken: delegation tokens are not issued here"},
		{"GET", "/d/f?op=GETFILESTATUS&user.name=1bob", 400, classArgument, `Invalid value for webhdfs parameter "user.name": ` +
			`Invalid value: "1bob" does not belong to the domain ^[A-Za-z_][A-Za-z0-9._-]*[$]?$`},
		{"GET", "/d/f?op=%zz", 400, classArgument, `Invalid value for webhdfs parameter "op": malformed percent-encoding; encode % as %25`},
		{"GET", "/d/%FF?op=GETFILESTATUS", 400, classArgument, "GETFILESTATUS /d/\uFFFD: invalid argument: the path is not UTF-8"},
	} {
		t.Run(c.method+c.target, func(t *testing.T) {
			a := serve(t, nil).send(c.method, c.target, nil)
			class, message := a.exception(t)
			if a.status != c.status || class != c.class || message != c.message {
				t.Errorf("got %d %s %q\nwant %d %s %q", a.status, class, message, c.status, c.class, c.message)
			}
		})
	}
}

// TestOperations checks that each row is reached by its own name, and what is not built says so.
func TestOperations(t *testing.T) {
	f := serve(t, nil)
	for _, op := range operations {
		got, err := findOperation(op.method, op.name)
		if err != nil || got.name != op.name || got.method != op.method {
			t.Errorf("%s %s: found %+v, %v", op.method, op.name, got, err)
		}
		a := f.send(op.method, "/d/f?op="+strings.ToLower(op.name)+"&destination=/d/f&sources=/d/f", nil)
		if strings.Contains(a.body, "is not a valid") {
			t.Errorf("%s %s: %s", op.method, op.name, a.body)
		}
		if unsupportedRow := strings.Contains(a.body, op.name+" is not supported"); unsupportedRow != (op.access == "" && a.status == 400 && op.name != "OPTIONS") {
			t.Errorf("%s %s: %d %s", op.method, op.name, a.status, a.body)
		}
	}
}

func TestEveryKindMaps(t *testing.T) {
	for _, k := range errs.Kinds() {
		row, ok := byKind[k]
		if !ok || row.status < 400 || row.class == "" {
			t.Errorf("%v maps to %+v", k, row)
		}
		f := serve(t, nil)
		f.ns.fail = errs.E("store.Get", "/backend/secret-path", k, io.ErrUnexpectedEOF)
		if k == errs.NotExist || k == errs.NotDir {
			continue // the handler's own message
		}
		a := f.send("GET", "/d/f?op=GETFILESTATUS", nil)
		class, message := a.exception(t)
		if a.status != row.status || class != row.class || strings.Contains(message, "secret-path") {
			t.Errorf("%v: got %d %s %q, want %d %s", k, a.status, class, message, row.status, row.class)
		}
	}
}

// TestOutageNamesTheMount answers what needs a store that does not answer: with which mount's it is, and nothing of the inside.
func TestOutageNamesTheMount(t *testing.T) {
	f := serve(t, nil)
	away := core.StoreAway("/d/", errors.New("the store of the mount /d has not answered"))
	f.ns.fail = errs.E("remote.Stat", "x", errs.Unavailable, fmt.Errorf("%w: %w", away, errors.New("dial tcp 10.0.0.1: refused")))
	a := f.send("GET", "/d/f?op=GETFILESTATUS", nil)
	class, message := a.exception(t)
	if a.status != 403 || class != classRetriable || !strings.Contains(message, ": the store of the mount /d has not answered") || strings.Contains(message, "10.0.0.1") {
		t.Errorf("got %d %s %q", a.status, class, message)
	}
}

func TestOpen(t *testing.T) {
	f := serve(t, nil)
	for _, c := range []struct{ query, want string }{
		{"", "123456789"}, {"&offset=3", "456789"}, {"&offset=3&length=2", "45"}, {"&length=100", "123456789"}, {"&length=0", ""}, {"&length=null", "123456789"},
	} {
		a := f.follow("GET", "/d/f?op=OPEN"+c.query, "")
		if a.status != 200 || a.body != c.want || a.header.Get("Content-Length") != fmt.Sprint(len(c.want)) || a.header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%s: got %d %q %v, want %q", c.query, a.status, a.body, a.header, c.want)
		}
	}
	if a := f.follow("GET", "/empty?op=OPEN", ""); a.status != 200 || a.body != "" {
		t.Errorf("empty file: %d %q", a.status, a.body)
	}

	// Java cuts the offset out of the URL and appends its own, again and again.
	loc := f.send("GET", "/d/f?op=OPEN", nil).header.Get("Location")
	for off, want := range map[string]string{"0": "123456789", "8": "9", "9": ""} {
		if a := f.send("GET", loc+"&offset="+off, nil); a.status != 200 || a.body != want {
			t.Errorf("offset %s: %d %q, want %q", off, a.status, a.body, want)
		}
	}
	a := f.send("GET", loc+"&offset=10", nil)
	if class, msg := a.exception(t); a.status != 403 || class != classIO || msg != "Cannot seek after EOF" {
		t.Errorf("beyond the end: %d %s %s", a.status, class, msg)
	}

	// Another file under the name is not the one that was opened; who reads from the beginning has nothing of that one.
	f.ns.put("/d/f", "bob", 0o644, []byte("other"))
	if a := f.send("GET", loc+"&offset=1", nil); a.status != 404 {
		t.Errorf("replaced file: %d %s", a.status, a.body)
	}
	if a := f.send("GET", loc, nil); a.status != 200 || a.body != "other" {
		t.Errorf("replaced file from its beginning: %d %s", a.status, a.body)
	}
}

func TestGetFileChecksum(t *testing.T) {
	f := serve(t, nil)
	want := `{"FileChecksum":{"algorithm":"MD5-of-0MD5-of-512CRC32C","bytes":"` + strings.Repeat("0", 56) + `","length":28}}`
	if a := f.follow("GET", "/d/f?op=GETFILECHECKSUM", ""); a.status != 200 || a.body != want {
		t.Errorf("got %d %s\nwant %s", a.status, a.body, want)
	}
	f.ns.put("/d/nosum", "bob", 0o644, nil)
	a := f.follow("GET", "/d/nosum?op=GETFILECHECKSUM", "")
	if class, msg := a.exception(t); a.status != 403 || class != classIO || msg != "Fail to get checksum of /d/nosum" {
		t.Errorf("got %d %s %s", a.status, class, msg)
	}
}

// TestCurl does what the documentation of WebHDFS shows: curl sends its body with step one and again after the redirect.
func TestCurl(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		needtest.Skip(t, "curl is not in PATH")
	}
	f := serve(t, nil)
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), curl, append([]string{"-sS", "--noproxy", "*", "-L"}, args...)...).Output()
		if err != nil {
			t.Fatalf("curl %q: %v", args, err)
		}
		return string(out)
	}
	for _, size := range []int{0, 5, 100_000, 3 << 20} {
		data := strings.Repeat("z", size)
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		u := f.url + prefix + "/curl?user.name=bob&op="
		if code := run("-T", file, "-o", os.DevNull, "-w", "%{http_code}", u+"CREATE&overwrite=true"); code != "201" {
			t.Errorf("CREATE of %d bytes: %s", size, code)
		}
		if code := run("-X", "POST", "-T", file, "-o", os.DevNull, "-w", "%{http_code}", u+"APPEND"); code != "200" {
			t.Errorf("APPEND of %d bytes: %s", size, code)
		}
		if got := run(u + "OPEN"); got != data+data {
			t.Errorf("OPEN: %d bytes, want %d", len(got), 2*size)
		}
	}
}

func TestRedirect(t *testing.T) {
	f := serve(t, nil)
	one := f.send("GET", "/d/f?op=OPEN", nil)
	if one.header.Get("Content-Length") != "0" || one.header.Get("Content-Type") != "application/octet-stream" || one.body != "" {
		t.Errorf("307 carries %v %q", one.header, one.body)
	}
	loc, err := url.Parse(one.header.Get("Location"))
	if err != nil || "http://"+loc.Host != f.url || loc.Path != "/webhdfs/v1/d/f" || loc.Query().Get("op") != "OPEN" {
		t.Errorf("Location %q, %v", one.header.Get("Location"), err)
	}
	for _, c := range []struct{ advertise, host, want string }{
		{"", "localhost", "http://localhost:80/"},
		{"", "127.0.0.1:1234", "http://127.0.0.1:1234/"},
		{"", "[::1]", "http://[::1]:80/"},
		{"gw.example:9870", "gw.example", "http://gw.example:9870/"},
		{"https://gw.example", "localhost", "https://gw.example:443/"},
		{"https://gw.example:9871/", "GW.example.", "https://gw.example:9871/"},
	} {
		f := serve(t, func(o *Options) { o.Advertise = c.advertise })
		if got := f.send("GET", "/d/f?op=OPEN", nil, "Host", c.host).header.Get("Location"); !strings.HasPrefix(got, c.want) {
			t.Errorf("advertise %q, Host %q: Location %q, want %s…", c.advertise, c.host, got, c.want)
		}
	}
	for _, r := range []struct{ method, target string }{
		{"GET", "/d/f?op=OPEN"}, {"PUT", "/n?op=CREATE"}, {"POST", "/d/f?op=APPEND"}, {"GET", "/d/f?op=GETFILECHECKSUM"},
	} {
		a := f.send(r.method, r.target+"&noredirect=True", nil)
		var v struct{ Location string }
		if err := json.Unmarshal([]byte(a.body), &v); err != nil || a.status != 200 || !strings.Contains(v.Location, "?op=") {
			t.Errorf("%s: %d %s", r.target, a.status, a.body)
			continue
		}
		if a := f.send(r.method, v.Location, strings.NewReader("")); a.status/100 != 2 {
			t.Errorf("%s: step two %d %s", r.target, a.status, a.body)
		}
	}
}

func TestCreate(t *testing.T) {
	f := serve(t, nil)
	a := f.follow("PUT", "/new/p/x?op=CREATE&permission=640&blocksize=1048576&replication=3", "hello")
	if a.status != 201 || a.body != "" || a.header.Get("Content-Length") != "0" || !strings.HasPrefix(a.header.Get("Location"), "hdfs://") || !strings.HasSuffix(a.header.Get("Location"), "/new/p/x") {
		t.Errorf("got %d %q %v", a.status, a.body, a.header)
	}
	if got := f.content("/new/p/x"); got != "hello" {
		t.Errorf("content %q", got)
	}
	n := f.ns.nodes["/new/p/x"]
	if n.mode != 0o640 || n.owner != "bob" || n.block != 1<<20 || n.repl != 3 {
		t.Errorf("attributes %+v", n)
	}
	if a := f.follow("PUT", "/new/p/x?op=CREATE&overwrite=true", ""); a.status != 201 || f.content("/new/p/x") != "" {
		t.Errorf("overwrite: %d %q", a.status, f.content("/new/p/x"))
	}
	if a := f.follow("PUT", "/c?op=CREATE&createflag=CREATE%252COVERWRITE", "1"); a.status != 201 {
		t.Errorf("createflag: %d %s", a.status, a.body)
	}
	if a := f.send("PUT", "/"+strings.Repeat("n", 300)+"?op=CREATE", nil); a.status != 400 {
		t.Errorf("step one of a name that is too long: %d %s", a.status, a.body)
	}
	if f.follow("PUT", "/none?op=CREATE&permission=0", "x"); f.ns.nodes["/none"].mode != 0 {
		t.Errorf("permission=0 became %o", f.ns.nodes["/none"].mode)
	}

	// The name is judged again when the bytes are there.
	one := f.send("PUT", "/race?op=CREATE", nil)
	f.ns.put("/race", "bob", 0o644, []byte("first"))
	two := f.send("PUT", one.header.Get("Location"), strings.NewReader("second"))
	if class, _ := two.exception(t); two.status != 403 || class != classFileExists || f.content("/race") != "first" {
		t.Errorf("race: %d %s, content %q", two.status, two.body, f.content("/race"))
	}

	// HttpFS's clients send the bytes at once.
	if a := f.send("PUT", "/direct?op=CREATE&data=true", strings.NewReader("d"), "Content-Type", "application/x-www-form-urlencoded"); a.status != 201 || f.content("/direct") != "d" {
		t.Errorf("data=true: %d %s", a.status, a.body)
	}
	// A body that came with step one is not the file.
	if a := f.send("PUT", "/early?op=CREATE", strings.NewReader("body")); a.status != 307 || f.exists("/early") {
		t.Errorf("body in step one: %d", a.status)
	}
	// The parameters are the ticket's.
	one = f.send("PUT", "/race?op=CREATE&overwrite=true", nil)
	if a := f.send("PUT", one.header.Get("Location")+"&overwrite=false", strings.NewReader("third")); a.status != 201 || f.content("/race") != "third" {
		t.Errorf("bound parameters: %d %s", a.status, a.body)
	}
}

// vanishing takes the node key away just before its rights are looked at for the n-th time.
type vanishing struct {
	*fake
	key string
	n   int
}

func (v *vanishing) CheckAccess(ctx context.Context, p core.Path, want uint32) error {
	if v.key == p.File().String() || v.key == p.Dir().String() {
		if v.n--; v.n == 0 {
			v.mu.Lock()
			delete(v.nodes, v.key)
			v.mu.Unlock()
		}
	}
	return v.fake.CheckAccess(ctx, p, want)
}

// TestCreateWhereNamesVanish removes the parent, or the file, between two looks at it: CREATE makes both, unless it is told
// that the parent must be there.
func TestCreateWhereNamesVanish(t *testing.T) {
	for _, c := range []struct {
		key, params string
		n, want     int
	}{
		{"/going/", "", 1, 307},
		{"/going/", "", 2, 307},
		{"/going/", "&createparent=false", 1, 404},
		{"/going/", "&createparent=false", 2, 404},
		{"/stays/x", "&overwrite=true", 1, 307},
		{"/stays/x", "&overwrite=true&createparent=false", 1, 307},
	} {
		f := serve(t, func(o *Options) {
			ns := o.Namespace.(*fake)
			ns.put("/stays/", "bob", 0o755, nil)
			ns.put(c.key, "bob", 0o755, nil)
			o.Attrs = &vanishing{ns, c.key, c.n}
		})
		target := "/" + strings.Trim(c.key, "/")
		if strings.HasSuffix(c.key, "/") {
			target += "/x"
		}
		if a := f.send("PUT", target+"?op=CREATE"+c.params, nil); a.status != c.want {
			t.Errorf("%+v: %d %s", c, a.status, a.body)
		}
	}
}

func TestTruncatedUpload(t *testing.T) {
	over := map[string]func(*testing.T) *fixture{
		"fake":      func(t *testing.T) *fixture { return serve(t, nil) },
		"namespace": func(t *testing.T) *fixture { return serveNamespace(t, true) },
	}
	for _, c := range []struct{ name, over, head string }{
		{"chunked", "fake", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"length", "fake", "Content-Length: 10\r\n\r\nhello"},
		{"chunked", "namespace", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"},
		{"length", "namespace", "Content-Length: 10\r\n\r\nhello"},
	} {
		t.Run(c.over+"/"+c.name, func(t *testing.T) {
			f := over[c.over](t)
			loc, _ := url.Parse(f.send("PUT", "/half?op=CREATE", nil).header.Get("Location"))
			conn, err := net.Dial("tcp", loc.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: %s\r\n%s", loc.RequestURI(), loc.Host, c.head)
			conn.(*net.TCPConn).CloseWrite()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil && res.StatusCode/100 == 2 {
				t.Errorf("status %d", res.StatusCode)
			}
			if a := f.send("GET", "/half?op=GETFILESTATUS", nil); a.status != 404 {
				t.Errorf("half a file is visible: %d %s", a.status, a.body)
			}
		})
	}
}

// TestExpect checks that a client which waits for 100 Continue is answered without being asked for its bytes.
func TestExpect(t *testing.T) {
	f := serve(t, nil)
	conn, err := net.Dial("tcp", strings.TrimPrefix(f.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT /webhdfs/v1/big?op=CREATE HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || res.StatusCode != 307 {
		t.Errorf("got %v, %v", res, err)
	}
}

// TestRefusedUpload checks that a client which is still sending reads the exception, not a broken pipe.
func TestRefusedUpload(t *testing.T) {
	f := serve(t, nil)
	loc := f.send("PUT", "/x?op=CREATE", nil).header.Get("Location")
	f.ns.put("/x", "bob", 0o644, nil)
	a := f.send("PUT", loc, io.LimitReader(zeros{}, 8<<20))
	if class, _ := a.exception(t); class != classFileExists {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestAppend(t *testing.T) {
	f := serve(t, nil)
	loc := f.send("POST", "/d/f?op=APPEND", nil).header.Get("Location")
	for range 2 {
		if a := f.send("POST", loc, strings.NewReader("ab")); a.status != 200 || a.header.Get("Content-Length") != "0" {
			t.Errorf("got %d %s", a.status, a.body)
		}
	}
	if got := f.content("/d/f"); got != "123456789abab" {
		t.Errorf("content %q", got)
	}
	f.ns.busy["/d/f"] = true
	a := f.send("POST", loc, strings.NewReader("ab"))
	if class, msg := a.exception(t); a.status != 403 || class != classBeingCreated || msg != "Failed to APPEND_FILE /d/f for client 127.0.0.1: another append to it is open" {
		t.Errorf("got %d %s %s", a.status, class, msg)
	}
}

func TestRename(t *testing.T) {
	const fail = "-" // an exception
	for _, c := range []struct {
		src, dst, options, want, message string
		gone, there                      string
	}{
		{"/d/f", "/d/g", "", yes, "", "/d/f", "/d/g"},
		{"/d/f", "/tmp", "", yes, "", "/d/f", "/tmp/f"},
		{"/d/f", "/", "", yes, "", "/d/f", "/f"},
		{"/d/sub", "/tmp/new", "", yes, "", "/d/sub/", "/tmp/new/"},
		{"/d", "/da", "", yes, "", "/d/f", "/da/f"},
		{"/missing", "/x", "", no, "", "", ""},
		{"/d/f", "/empty", "", no, "", "", "/d/f"},
		{"/d/f", "/no/x", "", no, "", "", "/d/f"},
		{"/d/sub", "/empty/x", "", no, "", "", "/d/sub/"},
		{"/d/f", "/d/f", "", yes, "", "", "/d/f"},
		{"/d/f", "/d", "", yes, "", "", "/d/f"},
		{"/d", "/d", "", no, "", "", "/d/f"},
		{"/d", "/d/sub/x", "", no, "", "", "/d/f"},
		{"/", "/x", "", no, "", "", "/"},
		{"/d/f", "/mnt/f", "", fail, "Renaming /d/f to /mnt/f across mount points is not supported", "", "/d/f"},

		{"/d/f", "/d/g", "NONE", "", "", "/d/f", "/d/g"},
		{"/d/f", "/d/g", "to_trash", "", "", "/d/f", "/d/g"},
		{"/d/f", "/empty", "OVERWRITE", "", "", "/d/f", "/empty"},
		{"/d/sub", "/tmp", "OVERWRITE", "", "", "/d/sub/", "/tmp/"},
		{"/missing", "/x", "NONE", fail, "rename source /missing is not found.", "", ""},
		{"/d/f", "/d/f", "NONE", fail, "The source /d/f and destination /d/f are the same", "", "/d/f"},
		{"/d/f", "/empty", "NONE", fail, "rename destination /empty already exists", "", "/d/f"},
		{"/d/f", "/no/x", "NONE", fail, "rename destination parent /no not found.", "", "/d/f"},
		{"/d/f", "/empty/x", "NONE", fail, "rename destination parent /empty is a file.", "", "/d/f"},
		{"/d", "/d/x", "NONE", fail, "Rename destination /d/x is a directory or file under source /d", "", "/d/f"},
		{"/d/f", "/tmp", "OVERWRITE", fail, "Source /d/f and destination /tmp must both be files", "", "/d/f"},
		{"/tmp", "/d", "OVERWRITE", fail, "rename destination directory is not empty: /d", "", "/tmp/"},
		{"/", "/x", "NONE", fail, "rename source cannot be the root", "", ""},
		{"/d", "/", "NONE", fail, "rename destination cannot be the root", "", ""},
		{"/d/f", "/mnt/f", "NONE", fail, "Renaming /d/f to /mnt/f across mount points is not supported", "", "/d/f"},
		{"/d/f", "/x", "BAD", fail, `Invalid value for webhdfs parameter "renameoptions": "BAD" is not one of NONE, OVERWRITE, TO_TRASH.`, "", "/d/f"},
	} {
		t.Run(c.src+c.dst+c.options, func(t *testing.T) {
			f := serve(t, nil)
			a := f.send("PUT", c.src+"?op=RENAME&destination="+url.QueryEscape(c.dst)+"&renameoptions="+c.options, nil)
			if c.want == fail {
				if _, msg := a.exception(t); a.status == 200 || msg != c.message {
					t.Errorf("got %d %q, want %q", a.status, msg, c.message)
				}
			} else if a.status != 200 || a.body != c.want {
				t.Errorf("got %d %s, want %s", a.status, a.body, c.want)
			}
			if c.gone != "" && f.exists(c.gone) || c.there != "" && !f.exists(c.there) {
				t.Errorf("%s exists: %v, %s exists: %v", c.gone, f.exists(c.gone), c.there, f.exists(c.there))
			}
		})
	}
}

// names returns the pathSuffixes of a listing, a directory's with a slash.
func names(t *testing.T, body string) (names []string, remaining int) {
	t.Helper()
	type statuses struct{ FileStatus []fileStatus }
	var v struct {
		FileStatuses     statuses
		DirectoryListing struct {
			PartialListing   struct{ FileStatuses statuses }
			RemainingEntries int
		}
	}
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	for _, st := range append(v.FileStatuses.FileStatus, v.DirectoryListing.PartialListing.FileStatuses.FileStatus...) {
		name := st.PathSuffix
		if st.Type == "DIRECTORY" {
			name += "/"
		}
		names = append(names, name)
	}
	return names, v.DirectoryListing.RemainingEntries
}

func TestListStatus(t *testing.T) {
	f := serve(t, nil)
	f.ns.put("/l/a", "bob", 0o644, nil)
	f.ns.put("/l/a/", "bob", 0o755, nil)
	f.ns.put("/l/b:c", "bob", 0o644, nil)
	f.ns.put("/l/x.parquet", "bob", 0o644, nil)
	f.ns.put("/l//", "bob", 0o755, nil)
	for _, c := range []struct {
		target string
		want   []string
	}{
		{"/l?op=LISTSTATUS", []string{"%2F/", "a/", "b%3Ac", "x.parquet"}},
		{"/l?op=LISTSTATUS&filter=*.parquet", []string{"x.parquet"}},
		{"/l?op=LISTSTATUS&filter={a,x*}", []string{"a/", "x.parquet"}},
		{"/l/x.parquet?op=LISTSTATUS", []string{""}},
		{"/l/x.parquet?op=LISTSTATUS_BATCH", []string{""}},
		{"/d/sub?op=LISTSTATUS", nil},
		{"/d/sub?op=LISTSTATUS_BATCH", nil},
		{"/l?op=LISTSTATUS_BATCH&startafter=a", []string{"b%3Ac", "x.parquet"}},
		{"/l?op=LISTSTATUS_BATCH&startafter=b%253Ac", []string{"x.parquet"}},
	} {
		a := f.send("GET", c.target, nil)
		got, _ := names(t, a.body)
		if diff := cmp.Diff(c.want, got); diff != "" || a.status != 200 {
			t.Errorf("%s: %d %s", c.target, a.status, diff)
		}
	}
	// An escaped name resolves back.
	if a := f.send("GET", "/l/b%253Ac?op=GETFILESTATUS", nil); a.status != 200 {
		t.Errorf("escaped name: %d %s", a.status, a.body)
	}
	if a := f.send("GET", "/l/%252F?op=GETFILESTATUS", nil); a.status != 200 {
		t.Errorf("empty name: %d %s", a.status, a.body)
	}
}

func TestListStatusBatch(t *testing.T) {
	f := serve(t, nil)
	want := map[string]int{}
	for i := range 2500 {
		name := fmt.Sprintf("e%04d", i)
		switch {
		case i%500 == 499: // a directory, beside names that sort between it and a file of its name
			f.ns.put("/many/"+name+"/", "bob", 0o755, nil)
			name += "/"
		case i%500 == 498:
			name = fmt.Sprintf("e%04d.x", i+1)
			fallthrough
		default:
			f.ns.put("/many/"+name, "bob", 0o644, nil)
		}
		want[name] = 1
	}
	got := map[string]int{}
	after, pages := "", 0
	for {
		a := f.send("GET", "/many?op=LISTSTATUS_BATCH&startafter="+url.QueryEscape(after), nil)
		page, remaining := names(t, a.body)
		for _, n := range page {
			got[n]++
			after = strings.TrimSuffix(n, "/")
		}
		if pages++; remaining == 0 || pages > 5 {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || pages != 3 {
		t.Errorf("%d pages: %s", pages, diff)
	}
}

// TestNames checks that every character a path can hold survives creation, listing, reading, renaming and deletion.
func TestNames(t *testing.T) {
	f := serve(t, nil)
	all := []string{`specialFile ?"\()[]_-=&+;,{}#%'` + "`~!@$^*|<>.", "a%20b", "%3A", "%253A", "%2E", "ü+ €", "…"}
	for c := rune(1); c < 256; c++ {
		if c != '/' && c != ':' {
			all = append(all, "n"+string(c)+"n")
		}
	}
	for _, name := range all {
		enc := "/names/" + url.PathEscape(name)
		if a := f.follow("PUT", enc+"?op=CREATE", name); a.status != 201 {
			t.Errorf("%q: CREATE %d %s", name, a.status, a.body)
			continue
		}
		if a := f.follow("GET", enc+"?op=OPEN", ""); a.body != name {
			t.Errorf("%q: OPEN %d %q", name, a.status, a.body)
		}
		a := f.send("GET", "/names?op=LISTSTATUS", nil)
		if got, _ := names(t, a.body); len(got) != 1 || got[0] != name {
			t.Errorf("%q: LISTSTATUS %q", name, got)
		}
		if a := f.send("PUT", enc+"?op=RENAME&destination="+url.QueryEscape("/tmp/"+name), nil); a.body != yes {
			t.Errorf("%q: RENAME %s", name, a.body)
		}
		if a := f.send("DELETE", "/tmp/"+url.PathEscape(name)+"?op=DELETE", nil); a.body != yes {
			t.Errorf("%q: DELETE %s", name, a.body)
		}
	}
	// As Java writes it: raw characters, and ";" in the query.
	if a := f.send("PUT", "/tmp/a;b,=@&c?op=MKDIRS", nil); a.body != yes || !f.exists("/tmp/a;b,=@&c/") {
		t.Errorf("raw path: %s", a.body)
	}
	if a := f.send("PUT", "/d/f?op=RENAME&destination=/tmp/x;y+z", nil); a.body != yes || !f.exists("/tmp/x;y z") {
		t.Errorf("raw destination: %s", a.body)
	}
	if a := f.send("GET", "//tmp///a;b,=@&c//?op=GETFILESTATUS", nil); a.status != 200 {
		t.Errorf("repeated slashes: %d %s", a.status, a.body)
	}
}

func TestGuard(t *testing.T) {
	f := serve(t, func(o *Options) { o.Advertise = "gw.example:9870" })
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST.:9870": 200, "127.0.0.1:9870": 200, "127.8.8.8": 200, "[::1]:9870": 200, "gw.example:9870": 200, "gw.example": 200,
		"evil.example": 403, "127.0.0.1.evil.example": 403, "10.0.0.1": 403, "localhost.evil.example:9870": 403,
	} {
		if a := f.send("GET", "/?op=GETHOMEDIRECTORY", nil, "Host", host); a.status != want {
			t.Errorf("Host %s: %d, want %d", host, a.status, want)
		}
	}
	for _, m := range []string{"GET", "OPTIONS"} {
		if a := f.send(m, "/?op=GETHOMEDIRECTORY", nil, "Origin", "http://localhost"); a.status != 403 || a.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s with Origin: %d %v", m, a.status, a.header)
		}
	}
	open := serve(t, func(o *Options) { o.LoopbackOnly = false })
	if a := open.send("GET", "/?op=GETHOMEDIRECTORY", nil, "Host", "any.example", "Origin", "http://x"); a.status != 200 {
		t.Errorf("without LoopbackOnly: %d", a.status)
	}
}

func TestSimple(t *testing.T) {
	f := serve(t, nil)
	for query, want := range map[string]string{
		"user.name=alice": "alice", "USER.NAME=alice&user.name=bob": "alice", "user.name=": "dr.who", "user.name=hue&doAs=hue": "hue",
	} {
		if a := f.send("GET", "/?op=GETHOMEDIRECTORY&"+query, nil); a.body != `{"Path":"/user/`+want+`"}` && !strings.Contains(query, "USER") {
			t.Errorf("%s: %s", query, a.body)
		}
	}
	if a := f.send("GET", "/d/secret?op=CHECKACCESS&fsaction=rw-&user.name=hdfs", nil); a.status != 200 {
		t.Errorf("superuser: %d %s", a.status, a.body)
	}
}

func TestBasic(t *testing.T) {
	f := serve(t, func(o *Options) { o.Simple = false })
	auth := func(user, secret string) string {
		r, _ := http.NewRequest("GET", "http://x", nil)
		r.SetBasicAuth(user, secret)
		return r.Header.Get("Authorization")
	}
	for _, h := range []string{"", "Bearer x", auth("AKALICE", "wrong"), auth("AKALICE", ""), auth("nobody", ""), auth("nobody", "s3cret")} {
		a := f.send("GET", "/d/f?op=GETFILESTATUS&user.name=hdfs", nil, "Authorization", h)
		class, msg := a.exception(t)
		if a.status != 401 || class != classAccessControl || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Basic ") || strings.Contains(msg, "s3cret") {
			t.Errorf("%q: %d %s %v", h, a.status, a.body, a.header)
		}
	}
	ok := auth("AKALICE", "s3cret")
	if a := f.send("GET", "/?op=GETHOMEDIRECTORY&user.name=hdfs", nil, "Authorization", ok); a.body != `{"Path":"/user/alice"}` {
		t.Errorf("user.name counts: %s", a.body)
	}
	if a := f.send("GET", "/?op=GETDELEGATIONTOKEN", nil, "Authorization", ok); a.status != 400 {
		t.Errorf("GETDELEGATIONTOKEN: %d %s", a.status, a.body)
	}
	// Step two needs the ticket alone, and it is good for its name and operation alone.
	loc := f.send("GET", "/d/secret?op=OPEN", nil, "Authorization", ok).header.Get("Location")
	if a := f.send("GET", loc, nil); a.status != 200 || a.body != "x" {
		t.Errorf("step two: %d %s", a.status, a.body)
	}
	for _, bad := range []string{
		strings.Replace(loc, "/d/secret", "/d/f", 1), strings.Replace(loc, "op=OPEN", "op=GETFILESTATUS", 1), loc + "x", loc[:len(loc)-1],
		strings.Replace(loc, "ticket=", "ticket=e", 1),
	} {
		if a := f.send("GET", bad, nil); a.status != 403 {
			t.Errorf("%s: %d %s", bad, a.status, a.body)
		}
	}
	if strings.Contains(f.log.String(), "ticket=") || strings.Contains(f.log.String(), "s3cret") {
		t.Errorf("the log tells secrets: %s", f.log)
	}
	f.srv.now = func() time.Time { return time.Now().Add(ticketLife + time.Minute) }
	if a := f.send("GET", loc, nil); a.status != 403 || !strings.Contains(a.body, "expired") {
		t.Errorf("expired: %d %s", a.status, a.body)
	}
}

func TestCacheControl(t *testing.T) {
	f := serve(t, nil)
	f.send("GET", "/d/f?op=GETFILESTATUS", nil, "Cache-Control", "max-age=30, only-if-cached")
	if got := f.ns.seen; !got.Set || got.Seconds != 30 || !got.OnlyIfCached {
		t.Errorf("got %+v", got)
	}
	f.send("GET", "/d/f?op=GETFILESTATUS", nil, "Cache-Control", "no-cache")
	if got := f.ns.seen; !got.Set || got.Seconds != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestCut checks that a response which fails halfway does not look complete.
func TestCut(t *testing.T) {
	f := serve(t, nil)
	loc := f.send("GET", "/d/f?op=OPEN", nil).header.Get("Location")
	for i := range 1000 {
		f.ns.put(fmt.Sprintf("/d/many-%04d", i), "bob", 0o644, nil)
	}
	f.ns.put("/one", "bob", 0o644, []byte("1")) // its first half is empty
	f.ns.torn = errs.Unavailable
	for _, target := range []string{loc, f.url + prefix + "/d?op=LISTSTATUS&user.name=bob"} {
		res, err := f.c.Get(target)
		if err != nil {
			continue // cut before the header left
		}
		if _, err := io.ReadAll(res.Body); err == nil {
			t.Errorf("%s: the response looks complete", target)
		}
		res.Body.Close()
	}
	g := serve(t, nil)
	g.ns.put("/d/long", "bob", 0o644, bytes.Repeat([]byte("x"), 4000)) // an exception has room in it
	long := g.send("GET", "/d/long?op=OPEN", nil).header.Get("Location")
	g.ns.torn, g.ns.lost = errs.Unavailable, true // and tells of none of the bytes that are out
	res, err := g.c.Get(long)
	if err == nil {
		if got, err := io.ReadAll(res.Body); err == nil || strings.Contains(string(got), "Exception") {
			t.Errorf("%d, %q, %v; want a connection that is cut", res.StatusCode, got, err)
		}
		res.Body.Close()
	}
	// What fails early is an exception.
	a := f.follow("GET", "/one?op=OPEN", "")
	if class, _ := a.exception(t); a.status != 403 || class != classRetriable {
		t.Errorf("got %d %s", a.status, a.body)
	}
	a = f.send("GET", "/closed?op=LISTSTATUS&user.name=hdfs", nil)
	if class, _ := a.exception(t); a.status != 403 || class != classRetriable {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

func TestAccessLine(t *testing.T) {
	type line struct {
		op     string
		status int
		bytes  int64
	}
	var got []line
	f := serve(t, func(o *Options) {
		o.Observe = func(x core.Served) { got = append(got, line{x.Op, x.Status, x.Sent}) }
	})
	f.follow("GET", "/d/f?op=OPEN", "")
	f.send("GET", "/d/f?op=NOPE", nil)
	if a := f.send("GET", f.url+"/other", nil); a.status != 404 {
		t.Errorf("outside the prefix: %d", a.status)
	}
	want := []line{{"OPEN", 307, 0}, {"OPEN", 200, 9}, {"UNKNOWN", 400, 0}, {"UNKNOWN", 404, 0}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(line{})); diff != "" {
		t.Error(diff)
	}
}

// shared tells gateways what they sign with.
type shared struct {
	key string
	err error
}

func (s *shared) TicketSecret(context.Context) ([]byte, error) { return []byte(s.key), s.err }

// TestTicketsElsewhere follows redirects that another gateway has given.
func TestTicketsElsewhere(t *testing.T) {
	down := errs.New("test", "", errs.Unavailable, "no master leads")
	for what, c := range map[string]struct {
		one, two *shared // nil: none
		status   int     // of step two
	}{
		"one secret":           {&shared{key: "k"}, &shared{key: "k"}, 200},
		"another secret":       {&shared{key: "k"}, &shared{key: "l"}, 403},
		"secrets of their own": {nil, nil, 403},
		"an older leader":      {&shared{err: errs.New("test", "", errs.Unsupported, "no such call")}, &shared{key: ""}, 403},
		"nobody tells":         {&shared{key: "k"}, &shared{err: down}, 403},
	} {
		with := func(s *shared) *fixture {
			return serve(t, func(o *Options) {
				if s != nil {
					o.Tickets = s
				}
			})
		}
		one, two := with(c.one), with(c.two)
		loc := one.send("GET", "/d/f?op=OPEN", nil).header.Get("Location")
		if a := one.send("GET", loc, nil); a.status != 200 {
			t.Errorf("%s: step two at the same gateway: %d %s", what, a.status, a.body)
		}
		a := two.send("GET", strings.Replace(loc, one.url, two.url, 1), nil)
		if a.status != c.status || c.two != nil && c.two.err != nil && !strings.Contains(a.body, "RetriableException") {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
		if c.one == nil {
			continue
		}
		c.one.err = down // who was told once goes on
		if a := one.send("GET", loc, nil); a.status != 200 {
			t.Errorf("%s: then: %d %s", what, a.status, a.body)
		}
	}
}
