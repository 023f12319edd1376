package conformance

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// curlSuite is curl against one server, as the WebHDFS book and S3's users have it.
type curlSuite struct {
	*suite
	curl   program
	server *Server
	dir    string
	user   string
}

// TestCurl runs curl against WebHDFS, each step as the documentation of Hadoop writes it, and against S3 with its own
// signatures.
func TestCurl(t *testing.T) {
	curl := Curl(t)
	c := &curlSuite{suite: newSuite(t, "curl"), dir: t.TempDir(), server: Start(t, Options{}), user: superuser()}
	c.curl = program{argv: []string{curl, "-sS", "--max-time", "60", "--expect100-timeout", "100"}, env: os.Environ(), dir: c.dir} // it must never wait in vain
	c.run(t, "create in one command", c.createFollowing)
	c.run(t, "create in two steps", c.createInSteps)
	c.run(t, "create without redirect", c.createNoRedirect)
	c.run(t, "create refused", c.createRefused)
	c.run(t, "large bodies", c.large)
	c.run(t, "open", c.open)
	c.run(t, "open in steps", c.openInSteps)
	c.run(t, "append", c.append)
	c.run(t, "mkdirs", c.mkdirs)
	c.run(t, "rename", c.rename)
	c.run(t, "delete", c.delete)
	c.run(t, "liststatus", c.listStatus)
	c.run(t, "filestatus", c.fileStatus)
	c.run(t, "content summary", c.contentSummary)
	c.run(t, "attributes", c.attributes)
	c.run(t, "odd names", c.oddNames)
	c.run(t, "exceptions", c.exceptions)
	c.run(t, "denied", c.denied)
	c.run(t, "pages of other sites", c.otherSites)
	c.run(t, "s3 signature", c.s3)
	c.run(t, "s3 signature refused", c.s3Refused)
}

// answer is what curl got last.
type answer struct {
	status int
	header http.Header
	body   string
	hops   int
}

// do calls an operation of WebHDFS as the superuser.
func (c *curlSuite) do(t *testing.T, method, path, query string, args ...string) answer {
	t.Helper()
	return c.fetch(t, nil, append([]string{"-X", method, c.url(path, query)}, args...)...)
}

func (c *curlSuite) url(path, query string) string {
	return c.server.WebHDFS + "/webhdfs/v1" + path + "?" + query + "&user.name=" + c.user
}

func (c *curlSuite) fetch(t *testing.T, in io.Reader, args ...string) (a answer) {
	t.Helper()
	headers := filepath.Join(c.dir, "headers")
	out := c.curl.pipe(t, in, append(args, "-D", headers, "-w", "\n%{http_code} %{num_redirects}")...).ok(t)
	cut := strings.LastIndexByte(out, '\n')
	a.body = out[:cut]
	fmt.Sscan(out[cut:], &a.status, &a.hops)
	b, err := os.ReadFile(headers)
	if err != nil {
		t.Fatal(err)
	}
	a.header = http.Header{}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "HTTP/") {
			clear(a.header)
		}
		if name, value, ok := strings.Cut(line, ":"); ok {
			a.header.Add(name, strings.TrimSpace(value))
		}
	}
	return a
}

// want fails the test unless the answer has the status and the whole body.
func (a answer) want(t *testing.T, status int, body string) {
	t.Helper()
	if a.status != status || a.body != body {
		t.Errorf("got %d %q, want %d %q", a.status, tail(a.body), status, body)
	}
}

// exception fails the test unless the answer is the Java exception.
func (a answer) exception(t *testing.T, status int, class, message string) {
	t.Helper()
	var got struct {
		RemoteException struct{ Exception, JavaClassName, Message string }
	}
	err := json.Unmarshal([]byte(a.body), &got)
	e := got.RemoteException
	if err != nil || a.status != status || e.JavaClassName != class || e.Exception != class[strings.LastIndexByte(class, '.')+1:] || !strings.Contains(e.Message, message) {
		t.Errorf("got %d %s, want %d %s %q", a.status, a.body, status, class, message)
	}
	if got := a.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type is %q", got)
	}
}

// decode parses the JSON of a success.
func decode[T any](t *testing.T, a answer) (v T) {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("got %d %s", a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	return v
}

// hdfsStatus is a FileStatus of WebHDFS.
type hdfsStatus struct {
	PathSuffix, Type, Owner, Group, Permission string
	Length, BlockSize, ModificationTime        int64
	AccessTime, FileID                         int64
	Replication, ChildrenNum                   int
}

func (c *curlSuite) status(t *testing.T, path string) hdfsStatus {
	t.Helper()
	return decode[struct{ FileStatus hdfsStatus }](t, c.do(t, "GET", path, "op=GETFILESTATUS")).FileStatus
}

func (c *curlSuite) list(t *testing.T, path string) []hdfsStatus {
	t.Helper()
	return decode[struct {
		FileStatuses struct{ FileStatus []hdfsStatus }
	}](t, c.do(t, "GET", path, "op=LISTSTATUS")).FileStatuses.FileStatus
}

// file makes a local file and returns its name.
func (c *curlSuite) file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(c.dir, "body")
	write(t, name, strings.NewReader(text))
	return name
}

func (c *curlSuite) put(t *testing.T, path, text string) {
	t.Helper()
	a := c.fetch(t, nil, "-L", "-T", c.file(t, text), c.url(path, "op=CREATE&overwrite=true"))
	a.want(t, http.StatusCreated, "")
}

func (c *curlSuite) cat(t *testing.T, path, query string) string {
	t.Helper()
	a := c.fetch(t, nil, "-L", c.url(path, "op=OPEN"+query))
	if a.status != http.StatusOK || a.header.Get("Content-Length") != strconv.Itoa(len(a.body)) {
		t.Errorf("%s: got %d %v %q", path, a.status, a.header, tail(a.body))
	}
	return a.body
}

func (c *curlSuite) createFollowing(t *testing.T) {
	for _, text := range []string{"", "1", "hello\n"} {
		a := c.fetch(t, nil, "-L", "-T", c.file(t, text), c.url("/made/f"+strings.TrimSpace(text), "op=CREATE"))
		a.want(t, http.StatusCreated, "")
		equal(t, "redirects", a.hops, 1)
		if got := a.header.Get("Location"); !strings.HasPrefix(got, "hdfs://") {
			t.Errorf("Location of the made file is %q", got)
		}
		equal(t, "file", c.cat(t, "/made/f"+strings.TrimSpace(text), ""), text)
	}
}

func (c *curlSuite) createInSteps(t *testing.T) {
	one := c.do(t, "PUT", "/steps/f", "op=CREATE&blocksize=1048576&replication=2&permission=640")
	one.want(t, http.StatusTemporaryRedirect, "")
	equal(t, "Content-Length", one.header.Get("Content-Length"), "0")
	location := one.header.Get("Location")
	if !strings.HasPrefix(location, c.server.WebHDFS+"/webhdfs/v1/steps/f?") {
		t.Fatalf("Location is %q", location)
	}
	c.do(t, "GET", "/steps/f", "op=GETFILESTATUS").exception(t, http.StatusNotFound, "java.io.FileNotFoundException", "File does not exist: /steps/f")
	c.fetch(t, nil, "-X", "PUT", "-T", c.file(t, "two steps"), location).want(t, http.StatusCreated, "")
	equal(t, "file", c.cat(t, "/steps/f", ""), "two steps")
	st := c.status(t, "/steps/f")
	equal(t, "status", fmt.Sprint(st.BlockSize, st.Replication, st.Permission, st.Length, st.Owner, st.Type), fmt.Sprint(1048576, 2, "640", 9, c.user, "FILE"))
	c.fetch(t, nil, "-X", "PUT", "-T", c.file(t, "x"), strings.Replace(location, "/steps/f", "/steps/other", 1)).exception(t, http.StatusForbidden, "java.lang.SecurityException", "")
	c.do(t, "GET", "/steps/other", "op=GETFILESTATUS").exception(t, http.StatusNotFound, "java.io.FileNotFoundException", "")
}

func (c *curlSuite) createNoRedirect(t *testing.T) {
	location := func(method, path, op string) string {
		t.Helper()
		return decode[struct{ Location string }](t, c.do(t, method, path, op+"&noredirect=true")).Location
	}
	c.fetch(t, nil, "-X", "PUT", "-T", c.file(t, "one "), location("PUT", "/nr", "op=CREATE")).want(t, http.StatusCreated, "")
	c.fetch(t, nil, "-X", "POST", "-T", c.file(t, "two"), location("POST", "/nr", "op=APPEND")).want(t, http.StatusOK, "")
	c.fetch(t, nil, location("GET", "/nr", "op=OPEN&offset=2")).want(t, http.StatusOK, "e two")
	sum := decode[struct{ FileChecksum struct{ Length int } }](t, c.fetch(t, nil, location("GET", "/nr", "op=GETFILECHECKSUM")))
	equal(t, "length of the checksum", sum.FileChecksum.Length, 28)
}

func (c *curlSuite) createRefused(t *testing.T) {
	c.put(t, "/there/f", "old")
	for _, args := range [][]string{nil, {"-L", "-T", c.file(t, "new")}} {
		c.do(t, "PUT", "/there/f", "op=CREATE", args...).exception(t, 403, "org.apache.hadoop.fs.FileAlreadyExistsException", "/there/f for client 127.0.0.1 already exists")
		c.do(t, "PUT", "/there", "op=CREATE&overwrite=true", args...).exception(t, 403, "org.apache.hadoop.fs.FileAlreadyExistsException", "/there already exists as a directory")
		c.do(t, "PUT", "/there/f/g", "op=CREATE", args...).exception(t, 403, "org.apache.hadoop.fs.ParentNotDirectoryException", "/there/f (is not a directory)")
		c.do(t, "PUT", "/nowhere/f", "op=CREATE&createparent=false", args...).exception(t, 404, "java.io.FileNotFoundException", "Parent directory doesn't exist: /nowhere")
	}
	equal(t, "file", c.cat(t, "/there/f", ""), "old")
	c.put(t, "/there/f", "new")
	equal(t, "file", c.cat(t, "/there/f", ""), "new")
}

// large sends bodies that do not fit into socket buffers at step one too, which clients do that wait for no 100 Continue.
func (c *curlSuite) large(t *testing.T) {
	const size = 24 * mib
	body, down := filepath.Join(c.dir, "large"), filepath.Join(c.dir, "down")
	write(t, body, bytesOf(size, "large"))
	for i, args := range [][]string{{"-L"}, {"-L", "-H", "Expect:"}, {"-L", "-H", "Transfer-Encoding: chunked"}} {
		path := fmt.Sprint("/large/", i)
		c.fetch(t, nil, append(args, "-T", body, c.url(path, "op=CREATE"))...).want(t, http.StatusCreated, "")
		c.fetch(t, nil, "-L", "-o", down, c.url(path, "op=OPEN"))
		sameFile(t, down, size, "large")
		equal(t, "length", c.status(t, path).Length, size)
	}
	c.do(t, "DELETE", "/large", "op=DELETE&recursive=true").want(t, http.StatusOK, `{"boolean":true}`)
}

func (c *curlSuite) open(t *testing.T) {
	const size = 3*mib + 11
	write(t, filepath.Join(c.dir, "open"), bytesOf(size, "open"))
	c.fetch(t, nil, "-L", "-T", filepath.Join(c.dir, "open"), c.url("/open", "op=CREATE")).want(t, http.StatusCreated, "")
	all, err := io.ReadAll(bytesOf(size, "open"))
	if err != nil {
		t.Fatal(err)
	}
	for _, span := range [][2]int{{0, 1}, {5, 0}, {5, 10}, {mib - 1, 2}, {size - 1, 1}, {size - 3, 100}, {0, size}, {mib, mib}} {
		query := fmt.Sprintf("&offset=%d&length=%d", span[0], span[1])
		if got := c.cat(t, "/open", query); got != string(all[span[0]:min(span[0]+span[1], size)]) {
			t.Errorf("%s: got %d bytes, or wrong ones", query, len(got))
		}
	}
	if got := c.cat(t, "/open", fmt.Sprintf("&offset=%d", size-5)); got != string(all[size-5:]) {
		t.Errorf("the last 5 bytes are %q", got)
	}
	outside := func(offset string) answer { return c.do(t, "GET", "/open", "op=OPEN&offset="+offset, "-L") }
	outside(strconv.Itoa(size)).exception(t, 403, "java.io.IOException", fmt.Sprintf("Offset=%d out of the range [0, %d); OPEN, path=/open", size, size))
	outside("-1").exception(t, 400, "java.lang.IllegalArgumentException", `Invalid value for webhdfs parameter "offset"`)
	outside("x").exception(t, 400, "java.lang.IllegalArgumentException", `Invalid value for webhdfs parameter "offset": Failed to parse "x"`)
	c.do(t, "GET", "/none", "op=OPEN", "-L").exception(t, 404, "java.io.FileNotFoundException", "File /none not found.")
	c.do(t, "GET", "/made", "op=OPEN", "-L").exception(t, 404, "java.io.FileNotFoundException", "Path is not a file: /made")
}

// openInSteps takes the URL of the bytes for itself, which Java's client uses again with an offset appended.
func (c *curlSuite) openInSteps(t *testing.T) {
	c.put(t, "/again", "0123456789")
	one := c.do(t, "GET", "/again", "op=OPEN")
	one.want(t, http.StatusTemporaryRedirect, "")
	location := one.header.Get("Location")
	c.fetch(t, nil, location).want(t, http.StatusOK, "0123456789")
	c.fetch(t, nil, location+"&offset=4").want(t, http.StatusOK, "456789")
	c.fetch(t, nil, location+"&offset=10").want(t, http.StatusOK, "")
	c.fetch(t, nil, location+"&offset=11").exception(t, 403, "java.io.IOException", "Cannot seek after EOF")
	c.fetch(t, nil, strings.Replace(location, "/again", "/made/f1", 1)).exception(t, 403, "java.lang.SecurityException", "")
	c.fetch(t, nil, "-X", "DELETE", strings.Replace(location, "op=OPEN", "op=DELETE", 1)).exception(t, 403, "java.lang.SecurityException", "")
	equal(t, "file", c.cat(t, "/again", ""), "0123456789")
}

func (c *curlSuite) append(t *testing.T) {
	c.do(t, "POST", "/log", "op=APPEND").exception(t, 404, "java.io.FileNotFoundException", "File /log not found.")
	c.put(t, "/log", "")
	want := ""
	for i := range 5 {
		line := fmt.Sprintln("line", i)
		c.fetch(t, nil, "-L", "-X", "POST", "-T", c.file(t, line), c.url("/log", "op=APPEND")).want(t, http.StatusOK, "")
		want += line
		equal(t, "file", c.cat(t, "/log", ""), want)
	}
	// The URL of an append may be posted to again: fsspec sends each buffer of a file to the same one.
	location := c.do(t, "POST", "/log", "op=APPEND").header.Get("Location")
	for range 3 {
		c.fetch(t, nil, "-X", "POST", "--data-binary", "more;", location).want(t, http.StatusOK, "")
		want += "more;"
	}
	equal(t, "file", c.cat(t, "/log", ""), want)
	equal(t, "length", c.status(t, "/log").Length, int64(len(want)))
	c.do(t, "POST", "/made", "op=APPEND").exception(t, 403, "org.apache.hadoop.fs.FileAlreadyExistsException", "Cannot append to directory /made; already exists as a directory.")
}

const (
	yes = `{"boolean":true}`
	no  = `{"boolean":false}`
)

func (c *curlSuite) mkdirs(t *testing.T) {
	c.do(t, "PUT", "/m/a/b", "op=MKDIRS").want(t, 200, yes)
	c.do(t, "PUT", "/m/a/b", "op=MKDIRS").want(t, 200, yes)
	c.do(t, "PUT", "/m/closed", "op=MKDIRS&permission=700").want(t, 200, yes)
	st := c.status(t, "/m/closed")
	equal(t, "status", fmt.Sprintln(st.Type, st.Permission, st.Length, st.BlockSize, st.Replication), "DIRECTORY 700 0 0 0\n")
	equal(t, "permission", c.status(t, "/m/a/b").Permission, "755")
	c.put(t, "/m/file", "")
	c.do(t, "PUT", "/m/file", "op=MKDIRS").exception(t, 403, "org.apache.hadoop.fs.FileAlreadyExistsException", "Path is not a directory: /m/file")
	c.do(t, "PUT", "/m/file/d", "op=MKDIRS").exception(t, 403, "org.apache.hadoop.fs.ParentNotDirectoryException", "/m/file (is not a directory)")
}

func (c *curlSuite) rename(t *testing.T) {
	c.put(t, "/r/a", "a")
	c.put(t, "/r/b", "b")
	c.put(t, "/r/d/x", "x")
	rename := func(from, to, options string) answer {
		t.Helper()
		return c.do(t, "PUT", from, "op=RENAME&destination="+to+options)
	}
	rename("/r/a", "/r/c", "").want(t, 200, yes)
	rename("/r/a", "/r/e", "").want(t, 200, no)
	rename("/r/c", "/r/b", "").want(t, 200, no)
	rename("/r/c", "/nowhere/c", "").want(t, 200, no)
	rename("/r/d", "/r/d/below", "").want(t, 200, no)
	rename("/r/c", "/r/d", "").want(t, 200, yes)
	equal(t, "file", c.cat(t, "/r/d/c", ""), "a")
	rename("/r/d", "/r/moved", "").want(t, 200, yes)
	equal(t, "file", c.cat(t, "/r/moved/x", ""), "x")
	c.do(t, "GET", "/r/d", "op=GETFILESTATUS").exception(t, 404, "java.io.FileNotFoundException", "File does not exist: /r/d")

	rename("/r/moved/x", "/r/b", "&renameoptions=NONE").exception(t, 403, "org.apache.hadoop.fs.FileAlreadyExistsException", "rename destination /r/b already exists")
	equal(t, "file", c.cat(t, "/r/b", ""), "b")
	rename("/r/moved/x", "/r/b", "&renameoptions=OVERWRITE").want(t, 200, "")
	equal(t, "file", c.cat(t, "/r/b", ""), "x")
	rename("/r/none", "/r/n", "&renameoptions=NONE").exception(t, 404, "java.io.FileNotFoundException", "/r/none")
	c.do(t, "PUT", "/r/b", "op=RENAME").exception(t, 400, "java.lang.IllegalArgumentException", "Required param destination for op: RENAME is null or empty")
	rename("/r/b", "relative", "").exception(t, 400, "java.lang.IllegalArgumentException", "relative")
}

func (c *curlSuite) delete(t *testing.T) {
	c.put(t, "/del/d/f", "f")
	c.do(t, "DELETE", "/del/none", "op=DELETE").want(t, 200, no)
	c.do(t, "DELETE", "/del/d", "op=DELETE").exception(t, 403, "org.apache.hadoop.fs.PathIsNotEmptyDirectoryException", "`/del/d is non empty': Directory is not empty")
	c.do(t, "DELETE", "/del/d/f", "op=DELETE").want(t, 200, yes)
	equal(t, "type of the emptied directory", c.status(t, "/del/d").Type, "DIRECTORY")
	c.do(t, "DELETE", "/del/d", "op=DELETE").want(t, 200, yes)
	c.put(t, "/del/e/1/2/f", "f")
	c.do(t, "DELETE", "/del", "op=DELETE&recursive=true").want(t, 200, yes)
	c.do(t, "GET", "/del", "op=LISTSTATUS").exception(t, 404, "java.io.FileNotFoundException", "File /del does not exist.")
	c.do(t, "DELETE", "/", "op=DELETE&recursive=true").want(t, 200, no)
	equal(t, "type of the root", c.status(t, "/").Type, "DIRECTORY")
}

func names(list []hdfsStatus) (names []string) {
	for _, st := range list {
		names = append(names, st.PathSuffix)
	}
	return names
}

func (c *curlSuite) listStatus(t *testing.T) {
	for _, name := range []string{"b", "a", "c/d", "B", "c-d", "ü"} {
		c.put(t, "/ls/"+name, name)
	}
	list := c.list(t, "/ls")
	equal(t, "names", fmt.Sprint(names(list)), "[B a b c-d c ü]") // a directory counts with the slash at its end
	for _, st := range list {
		want := "FILE 1"
		switch st.PathSuffix {
		case "c":
			want = "DIRECTORY 0"
		case "c-d":
			want = "FILE 3"
		case "ü":
			want = "FILE 2"
		}
		equal(t, st.PathSuffix, fmt.Sprint(st.Type, " ", st.Length), want)
	}
	equal(t, "names of a file", fmt.Sprintf("%q", names(c.list(t, "/ls/a"))), `[""]`)
	equal(t, "entries of an empty directory", len(c.list(t, "/m/a/b")), 0)
	type batch struct {
		DirectoryListing struct {
			PartialListing struct {
				FileStatuses struct{ FileStatus []hdfsStatus }
			}
			RemainingEntries int
		}
	}
	got := decode[batch](t, c.do(t, "GET", "/ls", "op=LISTSTATUS_BATCH&startafter=b")).DirectoryListing
	equal(t, "names after b", fmt.Sprint(names(got.PartialListing.FileStatuses.FileStatus), got.RemainingEntries), "[c-d c ü] 0")
	c.do(t, "GET", "/none", "op=LISTSTATUS").exception(t, 404, "java.io.FileNotFoundException", "File /none does not exist.")
}

func (c *curlSuite) fileStatus(t *testing.T) {
	c.put(t, "/stat", "12345")
	st := c.status(t, "/stat")
	equal(t, "status", fmt.Sprint(st.Type, st.Length, st.Owner, st.Permission, st.PathSuffix, st.BlockSize), fmt.Sprint("FILE", 5, c.user, "644", "", 128*mib))
	if st.FileID == 0 || st.ModificationTime == 0 || st.AccessTime == 0 || st.Group == "" || st.Replication == 0 {
		t.Errorf("unset values in %+v", st)
	}
	equal(t, "file id after a rename", func() int64 {
		c.do(t, "PUT", "/stat", "op=RENAME&destination=/stat2").want(t, 200, yes)
		return c.status(t, "/stat2").FileID
	}(), st.FileID)
	root := c.status(t, "/")
	equal(t, "the root", fmt.Sprint(root.Type, root.Owner, root.PathSuffix), fmt.Sprint("DIRECTORY", c.user, ""))
}

func (c *curlSuite) contentSummary(t *testing.T) {
	c.put(t, "/count/a", "123")
	c.put(t, "/count/d/b", "45678")
	type summary struct{ DirectoryCount, FileCount, Length, SpaceConsumed, Quota, SpaceQuota int64 }
	got := decode[struct{ ContentSummary summary }](t, c.do(t, "GET", "/count", "op=GETCONTENTSUMMARY")).ContentSummary
	got.SpaceConsumed = 0
	equal(t, "summary", got, summary{2, 2, 8, 0, -1, -1})
	home := decode[struct{ Path string }](t, c.do(t, "GET", "/", "op=GETHOMEDIRECTORY"))
	equal(t, "home directory", home.Path, "/user/"+c.user)
}

func (c *curlSuite) attributes(t *testing.T) {
	c.put(t, "/attr", "a")
	c.do(t, "PUT", "/attr", "op=SETPERMISSION&permission=0750").want(t, 200, "")
	c.do(t, "PUT", "/attr", "op=SETOWNER&owner=alice&group=staff").want(t, 200, "")
	c.do(t, "PUT", "/attr", "op=SETTIMES&modificationtime=1000000000123&accesstime=1000000000456").want(t, 200, "")
	c.do(t, "PUT", "/attr", "op=SETREPLICATION&replication=2").want(t, 200, yes)
	st := c.status(t, "/attr")
	equal(t, "status", fmt.Sprintln(st.Permission, st.Owner, st.Group, st.ModificationTime, st.AccessTime, st.Replication), "750 alice staff 1000000000123 1000000000456 2\n")
	equal(t, "file", c.cat(t, "/attr", ""), "a")
	c.do(t, "PUT", "/attr", "op=SETPERMISSION&permission=9").exception(t, 400, "java.lang.IllegalArgumentException", `Invalid value for webhdfs parameter "permission": Failed to parse "9" as a radix-8 short integer.`)
	c.do(t, "PUT", "/none", "op=SETPERMISSION&permission=700").exception(t, 404, "java.io.FileNotFoundException", "/none")
}

func (c *curlSuite) oddNames(t *testing.T) {
	for i, name := range oddNames {
		path := "/odd/" + strings.ReplaceAll(url.PathEscape(name), "%2F", "/")
		c.put(t, path, fmt.Sprint(i, name))
		equal(t, name, c.cat(t, path, ""), fmt.Sprint(i, name))
	}
	want := map[string]bool{}
	for _, name := range oddNames {
		first, _, _ := strings.Cut(name, "/")
		want[first] = true
	}
	got := names(c.list(t, "/odd"))
	equal(t, "names", fmt.Sprintf("%q", got), fmt.Sprintf("%q", sorted(want)))

	// A plus is a plus in a path and a space in a query; in a query only an ampersand divides.
	equal(t, "a raw plus", c.cat(t, "/odd/plus+plus", ""), fmt.Sprint(slices.Index(oddNames, "plus+plus"), "plus+plus"))
	c.do(t, "PUT", "/odd/plus+plus", "op=RENAME&destination=/odd/new+name;1=%25%2B").want(t, 200, yes)
	c.cat(t, "/odd/new%20name%3B1=%25%2B", "")
	c.put(t, "/odd/raw;semi=colon,and@more$", "raw")
	c.cat(t, "/odd/raw%3Bsemi%3Dcolon%2Cand%40more%24", "")
	a := c.fetch(t, nil, "-L", c.server.WebHDFS+"/webhdfs/v1//odd///back%60tick/?OP=open&user.name="+c.user)
	a.want(t, 200, fmt.Sprint(slices.Index(oddNames, "back`tick"), "back`tick"))
	c.fetch(t, nil, "-L", "-g", c.server.WebHDFS+"/webhdfs/v1/odd/日本語/ファイル?op=OPEN&user.name="+c.user).
		want(t, 200, fmt.Sprint(slices.Index(oddNames, "日本語/ファイル"), "日本語/ファイル"))
}

func (c *curlSuite) exceptions(t *testing.T) {
	const argument = "java.lang.IllegalArgumentException"
	c.do(t, "GET", "/", "op=FOO").exception(t, 400, argument, `Invalid value for webhdfs parameter "op": FOO is not a valid GET operation.`)
	c.do(t, "PUT", "/", "op=LISTSTATUS").exception(t, 400, argument, `Invalid value for webhdfs parameter "op": LISTSTATUS is not a valid PUT operation.`)
	c.do(t, "GET", "/", "op=").exception(t, 400, argument, `Invalid value for webhdfs parameter "op"`)
	c.do(t, "GET", "/a/../b", "op=GETFILESTATUS", "--path-as-is").exception(t, 400, "org.apache.hadoop.fs.InvalidPathException", "Invalid path name Invalid file name: /a/../b")
	c.do(t, "PUT", "/a:b", "op=MKDIRS").exception(t, 400, "org.apache.hadoop.fs.InvalidPathException", "/a:b")
	c.do(t, "PUT", "/nul%00", "op=MKDIRS").exception(t, 400, argument, "NUL")
	c.do(t, "PUT", "/.sluice/x", "op=CREATE", "-L", "-T", c.file(t, "x")).exception(t, 403, "org.apache.hadoop.security.AccessControlException", "reserved for staging")
	c.do(t, "GET", "/none", "op=GETFILECHECKSUM").exception(t, 404, "java.io.FileNotFoundException", "/none")
	c.do(t, "PUT", "/acl", "op=SETACL&aclspec=user::rwx").exception(t, 400, "java.lang.UnsupportedOperationException", "SETACL is not supported")
	c.do(t, "GET", "/", "op=LISTSTATUS&delegation=xyz").exception(t, 403, "java.lang.SecurityException", "Failed to obtain user group information")
	c.do(t, "GET", "/", "op=LISTSTATUS&doas=alice").exception(t, 403, "java.lang.SecurityException", "is not allowed to impersonate alice")
	c.fetch(t, nil, c.server.WebHDFS+"/webhdfs/v1/?op=LISTSTATUS&user.name=9bad!").exception(t, 400, argument, `Invalid value for webhdfs parameter "user.name"`)
	equal(t, "status outside the prefix", c.fetch(t, nil, c.server.WebHDFS+"/elsewhere").status, 404)
}

// denied asks as a user who owns nothing.
func (c *curlSuite) denied(t *testing.T) {
	c.put(t, "/private/f", "secret")
	c.do(t, "PUT", "/private/f", "op=SETPERMISSION&permission=600").want(t, 200, "")
	as := func(method, path, op string, args ...string) answer {
		return c.fetch(t, nil, append(args, "-X", method, c.server.WebHDFS+"/webhdfs/v1"+path+"?op="+op+"&user.name=eve")...)
	}
	const class = "org.apache.hadoop.security.AccessControlException"
	as("GET", "/private/f", "OPEN", "-L").exception(t, 403, class, `Permission denied: user=eve, access=READ, inode="/private/f":`+c.user+`:supergroup:-rw-------`)
	as("POST", "/private/f", "APPEND").exception(t, 403, class, "Permission denied: user=eve, access=WRITE")
	as("PUT", "/private/f", "CREATE&overwrite=true", "-L", "-T", c.file(t, "mine")).exception(t, 403, class, "Permission denied: user=eve, access=WRITE")
	as("PUT", "/private/g", "CREATE", "-L", "-T", c.file(t, "mine")).exception(t, 403, class, `Permission denied: user=eve, access=WRITE, inode="/private":`)
	as("PUT", "/private/d", "MKDIRS").exception(t, 403, class, "Permission denied: user=eve, access=WRITE")
	as("DELETE", "/private/f", "DELETE").exception(t, 403, class, "Permission denied: user=eve, access=WRITE")
	as("PUT", "/private/f", "RENAME&destination=/private/g").exception(t, 403, class, "Permission denied: user=eve, access=WRITE")
	as("PUT", "/private/f", "SETPERMISSION&permission=777").exception(t, 403, class, "Permission denied")
	as("PUT", "/private/f", "SETOWNER&owner=eve").exception(t, 403, class, "")
	as("GET", "/private/f", "CHECKACCESS&fsaction=r--").exception(t, 403, class, "Permission denied: user=eve, access=READ")
	as("GET", "/private/f", "GETFILESTATUS").want(t, 200, as("GET", "/private/f", "GETFILESTATUS").body)
	equal(t, "file", c.cat(t, "/private/f", ""), "secret")
	equal(t, "names", fmt.Sprint(names(c.list(t, "/private"))), "[f]")
}

// otherSites sends what a page of another site could make a browser send.
func (c *curlSuite) otherSites(t *testing.T) {
	for _, header := range []string{"Origin: http://evil.example", "Host: evil.example"} {
		c.do(t, "GET", "/", "op=LISTSTATUS", "-H", header).exception(t, 403, "java.lang.SecurityException", "")
		c.do(t, "PUT", "/evil", "op=MKDIRS", "-H", header).exception(t, 403, "java.lang.SecurityException", "")
	}
	c.do(t, "GET", "/evil", "op=GETFILESTATUS").exception(t, 404, "java.io.FileNotFoundException", "")
}

// signed calls S3 with curl's own signature. Curl signs the query as it stands and knows no hash of a body, so that the
// caller sorts the one and names the other.
func (c *curlSuite) signed(t *testing.T, target string, args ...string) answer {
	t.Helper()
	return c.signedBy(t, AccessKey+":"+SecretKey, target, args...)
}

func (c *curlSuite) signedBy(t *testing.T, keys, target string, args ...string) answer {
	t.Helper()
	return c.fetch(t, nil, append(args, "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", keys, c.server.S3+target)...)
}

const unsignedPayload = "x-amz-content-sha256: UNSIGNED-PAYLOAD"

func (c *curlSuite) s3(t *testing.T) {
	equal(t, "bucket", c.signed(t, "/curl-bucket", "-X", "PUT", "-H", unsignedPayload).status, 200)
	body := "signed by curl"
	hash := fmt.Sprintf("x-amz-content-sha256: %x", sha256.Sum256([]byte(body)))
	for _, key := range []string{"plain", "a%20b", "per%25cent%2Bplus", "d/e/f", "%C3%BC"} {
		for _, header := range []string{unsignedPayload, hash} {
			equal(t, "PUT "+key, c.signed(t, "/curl-bucket/"+key, "-T", c.file(t, body), "-H", header).status, 200)
			c.signed(t, "/curl-bucket/"+key, "-H", unsignedPayload).want(t, 200, body)
		}
		equal(t, "over WebHDFS", c.cat(t, "/curl-bucket/"+key, ""), body)
	}
	list := c.signed(t, "/curl-bucket?list-type=2&max-keys=2&prefix=p", "-H", unsignedPayload)
	if !strings.Contains(list.body, "<Key>per%cent+plus</Key>") || !strings.Contains(list.body, "<KeyCount>2</KeyCount>") {
		t.Errorf("got %d %s", list.status, list.body)
	}
	ranged := c.signed(t, "/curl-bucket/plain", "-H", unsignedPayload, "-r", "7-8")
	ranged.want(t, 206, "by")
	equal(t, "Content-Range", ranged.header.Get("Content-Range"), "bytes 7-8/14")
	equal(t, "HEAD", c.signed(t, "/curl-bucket/plain", "-H", unsignedPayload, "-I").header.Get("Content-Length"), "14")
	equal(t, "DELETE", c.signed(t, "/curl-bucket/plain", "-H", unsignedPayload, "-X", "DELETE").status, 204)
	c.put(t, "/curl-bucket/from-webhdfs", "the other way")
	c.signed(t, "/curl-bucket/from-webhdfs", "-H", unsignedPayload).want(t, 200, "the other way")
}

func (c *curlSuite) s3Refused(t *testing.T) {
	refused := func(status int, code string, a answer) {
		t.Helper()
		if a.status != status || !strings.Contains(a.body, "<Code>"+code+"</Code>") {
			t.Errorf("got %d %s, want %d %s", a.status, a.body, status, code)
		}
	}
	refused(404, "NoSuchKey", c.signed(t, "/curl-bucket/plain", "-H", unsignedPayload))
	wrong := fmt.Sprintf("x-amz-content-sha256: %x", sha256.Sum256([]byte("something else")))
	refused(400, "XAmzContentSHA256Mismatch", c.signed(t, "/curl-bucket/tampered", "-T", c.file(t, "body"), "-H", wrong))
	refused(403, "SignatureDoesNotMatch", c.signedBy(t, AccessKey+":wrong", "/curl-bucket/tampered", "-H", unsignedPayload))
	refused(403, "InvalidAccessKeyId", c.signedBy(t, "nobody:"+SecretKey, "/curl-bucket/tampered", "-H", unsignedPayload))
	refused(403, "AccessDenied", c.fetch(t, nil, c.server.S3+"/curl-bucket/from-webhdfs"))
	refused(404, "NoSuchKey", c.signed(t, "/curl-bucket/tampered", "-H", unsignedPayload))
}
