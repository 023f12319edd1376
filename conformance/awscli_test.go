package conformance

import (
	"bufio"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const mib = 1 << 20

// awscli is one run of the AWS command line.
type awscli struct {
	*suite
	aws, curl program
	server    *Server
	endpoint  string
	bucket    string
	dir       string
}

// TestAWSCLI runs the AWS command line over plain HTTP and over TLS, where it signs and frames bodies differently.
func TestAWSCLI(t *testing.T) {
	start := awsServer(t)
	curl := Curl(t)
	s := Start(t, Options{TLS: true})
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			config := filepath.Join(dir, "config")
			// Without the signature version presign makes URLs of version 2 for any endpoint but AWS's.
			write(t, config, strings.NewReader("[default]\nregion = us-east-1\ns3 =\n    signature_version = s3v4\n    addressing_style = path\n"))
			a := &awscli{suite: newSuite(t, "awscli-"+scheme), server: s, endpoint: s.S3, bucket: "aws-" + scheme, dir: dir}
			if scheme == "https" {
				a.endpoint = s.S3TLS
			}
			env := environ([]string{"AWS_", "CURL_CA_BUNDLE=", "SSL_CERT_FILE=", "REQUESTS_CA_BUNDLE="}, "AWS_ACCESS_KEY_ID="+AccessKey, "AWS_SECRET_ACCESS_KEY="+SecretKey,
				"AWS_ENDPOINT_URL="+a.endpoint, "AWS_CONFIG_FILE="+config, "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
				"AWS_MAX_ATTEMPTS=1", "AWS_PAGER=", "AWS_CA_BUNDLE="+s.CA, "CURL_CA_BUNDLE="+s.CA, "LC_ALL=C.UTF-8")
			a.aws = program{argv: []string{"aws"}, env: env, dir: dir, start: start}
			a.curl = program{argv: []string{curl, "-sS"}, env: env, dir: dir}
			a.cases(t)
		})
	}
}

// awsServer starts clients/aws_server.py and returns a starter of its commands.
func awsServer(t *testing.T) starter {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "aws")
	server := exec.CommandContext(t.Context(), Python(t), script("aws_server.py"), socket)
	server.Env = environ([]string{"LC_", "LANG"}, "LC_ALL=C.UTF-8")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &syncBuffer{}
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Wait() }) // the test's context has ended it
	var conn net.Conn
	dial := func() (err error) { conn, err = net.Dial("unix", socket); return err }
	eventually(t, time.Minute, dial)
	conn.Close()
	return func(ctx context.Context, cmd *exec.Cmd) (int, error) {
		code, err := forked(ctx, socket, cmd)
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, tail(log.String()))
		}
		return code, err
	}
}

// forked has the server behind the socket run a command line.
func forked(ctx context.Context, socket string, cmd *exec.Cmd) (code int, err error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	message, err := json.Marshal(map[string]any{"args": cmd.Args[1:], "env": cmd.Env, "dir": cmd.Dir})
	if err != nil {
		return 0, err
	}
	in := cmd.Stdin
	if in == nil {
		in = strings.NewReader("")
	}
	inR, inW, err1 := os.Pipe()
	outR, outW, err2 := os.Pipe()
	errR, errW, err3 := os.Pipe()
	if err := errors.Join(err1, err2, err3); err != nil {
		return 0, err
	}
	rights := syscall.UnixRights(int(inR.Fd()), int(outW.Fd()), int(errW.Fd()))
	_, _, err = c.WriteMsgUnix(append(message, '\n'), rights, nil)
	err = errors.Join(err, inR.Close(), outW.Close(), errW.Close())
	var streams sync.WaitGroup
	streams.Go(func() { io.Copy(inW, in); inW.Close() }) // ends at the latest when the command does
	streams.Go(func() { io.Copy(cmd.Stdout, outR); outR.Close() })
	streams.Go(func() { io.Copy(cmd.Stderr, errR); errR.Close() })
	defer streams.Wait()
	if err != nil {
		return 0, err
	}
	answer := bufio.NewReader(c)
	var pid int
	if _, err := fmt.Fscanln(answer, &pid); err != nil {
		return 0, fmt.Errorf("no process: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { syscall.Kill(pid, syscall.SIGKILL) })
	defer stop()
	if _, err := fmt.Fscanln(answer, &code); err != nil {
		return 0, fmt.Errorf("no exit status: %w", err)
	}
	return code, nil
}

func (a *awscli) cases(t *testing.T) {
	a.run(t, "mb", a.makeBucket)
	if t.Failed() {
		return // nothing else can work
	}
	for _, size := range []int64{0, 1, 8 * mib, 200 * mib} {
		a.run(t, fmt.Sprint("cp ", size), func(t *testing.T) { a.copy(t, size) })
	}
	a.run(t, "cp stdin stdout", a.streams)
	a.run(t, "sync", a.sync)
	a.run(t, "presign", a.presign)
	a.run(t, "s3api checksums", a.checksums)
	a.run(t, "credentials", a.credentials)
	if a.endpoint == a.server.S3 { // what is the same whatever carries it
		a.run(t, "cp s3 s3", a.copyInside)
		a.run(t, "cp metadata", a.metadata)
		a.run(t, "cp recursive", a.copyRecursive)
		a.run(t, "ls", a.list)
		a.run(t, "mv", a.move)
		a.run(t, "rm", a.remove)
		a.run(t, "s3api head-object", a.headObject)
		a.run(t, "s3api list-objects-v2", a.listObjects)
		a.run(t, "s3api get-object", a.getObject)
		a.run(t, "s3api multipart", a.multipart)
		a.run(t, "s3api delete-objects", a.deleteObjects)
	}
	a.run(t, "rb", a.removeBucket)
}

func (a *awscli) s3(key string) string { return "s3://" + a.bucket + "/" + key }

// api calls an operation on the bucket and returns the answer.
func (a *awscli) api(t *testing.T, operation string, args ...string) map[string]any {
	t.Helper()
	out := a.aws.run(t, append([]string{"s3api", operation, "--bucket", a.bucket, "--output", "json"}, args...)...).ok(t)
	answer := map[string]any{}
	if strings.TrimSpace(out) != "" {
		if err := json.Unmarshal([]byte(out), &answer); err != nil {
			t.Fatalf("%s: %v in %q", operation, err, out)
		}
	}
	return answer
}

// keys returns the keys of a list in an answer.
func keys(list any) (keys []string) {
	items, _ := list.([]any)
	for _, item := range items {
		keys = append(keys, item.(map[string]any)["Key"].(string))
	}
	return keys
}

func (a *awscli) makeBucket(t *testing.T) {
	a.aws.run(t, "s3", "mb", "s3://"+a.bucket).prints(t, "make_bucket: "+a.bucket)
	a.aws.run(t, "s3", "mb", "s3://"+a.bucket).fails(t, 1, "(BucketAlreadyOwnedByYou) when calling the CreateBucket")
	a.aws.run(t, "s3", "mb", "s3://Not_A_Bucket").fails(t, 1, "InvalidBucketName")
	a.aws.run(t, "s3", "ls").prints(t, " "+a.bucket+"\n")
}

// partSize is what the command line cuts files into from that size on.
const partSize = 8 * mib

func (a *awscli) copy(t *testing.T, size int64) {
	name, seed := fmt.Sprintf("size-%d", size), fmt.Sprint(a.bucket, size)
	up, down := filepath.Join(a.dir, name), filepath.Join(a.dir, "down")
	write(t, up, bytesOf(size, seed))
	defer os.Remove(up)
	a.aws.run(t, "s3", "cp", up, a.s3("cp/"+name), "--no-progress").prints(t, "upload: ", "to "+a.s3("cp/"+name))
	head := a.api(t, "head-object", "--key", "cp/"+name)
	equal(t, "length", head["ContentLength"], any(float64(size)))
	want := fmt.Sprintf(`"%x"`, md5.Sum(nil))
	switch {
	case size >= partSize:
		want = multipartETag(size, partSize, bytesOf(size, seed))
	case size > 0:
		h := md5.New()
		sum(t, h, bytesOf(size, seed))
		want = fmt.Sprintf(`"%x"`, h.Sum(nil))
	}
	equal(t, "ETag", head["ETag"], any(want))
	a.aws.run(t, "s3", "cp", a.s3("cp/"+name), down, "--no-progress").prints(t, "download: ")
	defer os.Remove(down)
	sameFile(t, down, size, seed)
	sameFile(t, a.stored("cp/"+name), size, seed)
}

// stored returns the file of a key in the store of the root.
func (a *awscli) stored(key string) string {
	return filepath.Join(a.server.Data, "root", a.bucket, filepath.FromSlash(key))
}

func (a *awscli) streams(t *testing.T) {
	for _, size := range []int64{0, 5, 20*mib + 7} {
		key := fmt.Sprintf("stream/%d", size)
		a.aws.pipe(t, bytesOf(size, key), "s3", "cp", "-", a.s3(key)).ok(t)
		down := sha256.New()
		a.aws.stream(t, nil, down, "s3", "cp", a.s3(key), "-").ok(t)
		h := sha256.New()
		sum(t, h, bytesOf(size, key))
		equal(t, key, fmt.Sprintf("%x", down.Sum(nil)), fmt.Sprintf("%x", h.Sum(nil)))
	}
	r := a.aws.run(t, "s3", "cp", a.s3("stream/none"), "-")
	r.fails(t, 1, "(404)", "Not Found")
	equal(t, "standard output", r.out, "")
}

// copyInside copies without the bytes passing the client: in one piece, and by parts.
func (a *awscli) copyInside(t *testing.T) {
	for _, size := range []int64{1, 200 * mib} {
		from, to := fmt.Sprintf("cp/size-%d", size), fmt.Sprintf("copied/%d", size)
		a.aws.run(t, "s3", "cp", a.s3(from), a.s3(to), "--no-progress").prints(t, "copy: ")
		sameFile(t, a.stored(to), size, fmt.Sprint(a.bucket, size))
	}
	h := sha256.New()
	a.aws.stream(t, nil, h, "s3", "cp", a.s3("copied/209715200"), "-").ok(t)
	want := sha256.New()
	sum(t, want, bytesOf(200*mib, fmt.Sprint(a.bucket, 200*mib)))
	equal(t, "the copy", fmt.Sprintf("%x", h.Sum(nil)), fmt.Sprintf("%x", want.Sum(nil)))
	a.aws.run(t, "s3", "rm", a.s3("copied/"), "--recursive").prints(t, "delete: "+a.s3("copied/1"), "delete: "+a.s3("copied/209715200"))
}

func (a *awscli) metadata(t *testing.T) {
	a.aws.pipe(t, strings.NewReader("m"), "s3", "cp", "-", a.s3("meta"), "--content-type", "text/x-thing", "--cache-control", "max-age=7",
		"--content-language", "de", "--metadata", "colour=blue,size=7").ok(t)
	check := func(key, colour string) {
		t.Helper()
		head := a.api(t, "head-object", "--key", key)
		equal(t, "Content-Type", head["ContentType"], any("text/x-thing"))
		equal(t, "Cache-Control", head["CacheControl"], any("max-age=7"))
		equal(t, "Content-Language", head["ContentLanguage"], any("de"))
		equal(t, "metadata", fmt.Sprint(head["Metadata"]), "map[colour:"+colour+" size:7]")
	}
	check("meta", "blue")
	a.aws.run(t, "s3", "cp", a.s3("meta"), a.s3("meta-copy")).ok(t)
	check("meta-copy", "blue")
	a.aws.run(t, "s3", "cp", a.s3("meta"), a.s3("meta"), "--metadata-directive", "REPLACE", "--content-type", "text/x-thing", "--cache-control", "max-age=7",
		"--content-language", "de", "--metadata", "colour=red,size=7").ok(t)
	check("meta", "red")
	write(t, filepath.Join(a.dir, "page.html"), strings.NewReader("<p>"))
	a.aws.run(t, "s3", "cp", "page.html", a.s3("guess/")).ok(t)
	equal(t, "guessed type", a.api(t, "head-object", "--key", "guess/page.html")["ContentType"], any("text/html"))
}

func (a *awscli) copyRecursive(t *testing.T) {
	for _, name := range []string{"a.txt", "b.log", "d/c.txt", "d/e/f.txt", "d/e/g.log"} {
		write(t, filepath.Join(a.dir, "rec", name), strings.NewReader(name))
	}
	a.aws.run(t, "s3", "cp", "rec", a.s3("rec/"), "--recursive", "--exclude", "*", "--include", "*.txt", "--no-progress").ok(t)
	equal(t, "keys", fmt.Sprint(keys(a.api(t, "list-objects-v2", "--prefix", "rec/")["Contents"])), "[rec/a.txt rec/d/c.txt rec/d/e/f.txt]")
	a.aws.run(t, "s3", "cp", a.s3("rec/d/"), "rec-down", "--recursive", "--no-progress").ok(t)
	sameTree(t, treeSums(t, filepath.Join(a.dir, "rec-down")), map[string]string{
		"c.txt": sum(t, sha256.New(), strings.NewReader("d/c.txt")), "e/f.txt": sum(t, sha256.New(), strings.NewReader("d/e/f.txt")),
	})
}

func (a *awscli) sync(t *testing.T) {
	up, down := filepath.Join(a.dir, "tree"), filepath.Join(a.dir, "tree-down")
	for i, name := range oddNames {
		write(t, filepath.Join(up, "odd", name), bytesOf(int64(i), name))
		write(t, filepath.Join(up, fmt.Sprintf("part=%d", i%5), name+" x", "data"), bytesOf(int64(i*i*100), name))
	}
	want := treeSums(t, up)
	if len(want) < 60 {
		t.Fatalf("the tree has %d files", len(want))
	}
	lines := func(r result) int { return strings.Count(r.ok(t), "\n") }
	upload := func(args ...string) result {
		return a.aws.run(t, append([]string{"s3", "sync", up, a.s3("tree"), "--no-progress"}, args...)...)
	}
	equal(t, "uploads", lines(upload()), len(want))
	sameTree(t, treeSums(t, a.stored("tree")), want)
	a.aws.run(t, "s3", "sync", a.s3("tree"), down, "--no-progress").ok(t)
	sameTree(t, treeSums(t, down), want)

	// What is there already is not sent again: sizes and times are as the client wants them.
	equal(t, "uploads without a change", upload().ok(t), "")
	equal(t, "downloads without a change", a.aws.run(t, "s3", "sync", a.s3("tree"), down).ok(t), "")
	write(t, filepath.Join(up, "odd", "100%"), strings.NewReader("changed to another length"))
	equal(t, "uploads of a change", lines(upload()), 1)
	if err := os.Remove(filepath.Join(up, "odd", "space in name")); err != nil {
		t.Fatal(err)
	}
	upload("--delete").prints(t, "delete: "+a.s3("tree/odd/space in name"))
	a.aws.run(t, "s3", "sync", a.s3("tree"), a.s3("tree2"), "--no-progress").ok(t)
	a.aws.run(t, "s3", "sync", a.s3("tree2"), down, "--delete", "--no-progress").ok(t)
	sameTree(t, treeSums(t, down), treeSums(t, up))
	a.aws.run(t, "s3", "rm", a.s3("tree2"), "--recursive", "--only-show-errors").ok(t)
}

func (a *awscli) list(t *testing.T) {
	want := treeSums(t, filepath.Join(a.dir, "tree"))
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, "tree/"+name)
	}
	slices.Sort(names)
	for _, size := range []string{"1000", "7"} {
		out := a.aws.run(t, "s3", "ls", a.s3("tree/"), "--recursive", "--page-size", size).ok(t)
		var got []string
		for line := range strings.Lines(out) {
			var day, clock, name string
			var bytes int64
			fmt.Sscan(line, &day, &clock, &bytes)
			name = strings.TrimSuffix(line[len("2006-01-02 15:04:05")+1+11:], "\n") // the size fills ten columns and a space
			got = append(got, name)
			if _, err := time.Parse(time.DateTime, day+" "+clock); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			if sum := want[strings.TrimPrefix(name, "tree/")]; !strings.HasPrefix(sum, fmt.Sprint(bytes, " bytes ")) {
				t.Errorf("%q, want %q", line, sum)
			}
		}
		equal(t, "keys by pages of "+size, strings.Join(got, "\n"), strings.Join(names, "\n"))
	}
	a.aws.run(t, "s3", "ls", a.s3("tree/"), "--recursive", "--summarize").prints(t, fmt.Sprintf("Total Objects: %d", len(names)))
	a.aws.run(t, "s3", "ls", a.s3("tree/")).prints(t, "PRE odd/\n", "PRE part=0/\n")
	a.aws.run(t, "s3", "ls", a.s3("tree/part=")).prints(t, "PRE part=0/\n", "PRE part=4/\n")
	a.aws.run(t, "s3", "ls", a.s3("cp/size-1")).prints(t, " 1 size-1\n")
	equal(t, "exit status of nothing found", a.aws.run(t, "s3", "ls", a.s3("none/")).code, 1)
	a.aws.run(t, "s3", "ls", "s3://no-such-bucket-here").fails(t, 255, "(NoSuchBucket)")
}

func (a *awscli) move(t *testing.T) {
	local := filepath.Join(a.dir, "moving")
	write(t, local, bytesOf(9*mib, "mv"))
	a.aws.run(t, "s3", "mv", local, a.s3("mv/one"), "--no-progress").prints(t, "move: ")
	if _, err := os.Stat(local); !os.IsNotExist(err) {
		t.Errorf("the source is still there: %v", err)
	}
	a.aws.run(t, "s3", "mv", a.s3("mv/one"), a.s3("mv/d/two"), "--no-progress").prints(t, "move: ")
	equal(t, "keys", fmt.Sprint(keys(a.api(t, "list-objects-v2", "--prefix", "mv/")["Contents"])), "[mv/d/two]")
	a.aws.run(t, "s3", "mv", a.s3("mv/"), a.s3("mv2/"), "--recursive", "--no-progress").ok(t)
	a.aws.run(t, "s3", "mv", a.s3("mv2/d/two"), local, "--no-progress").ok(t)
	sameFile(t, local, 9*mib, "mv")
	equal(t, "keys", len(keys(a.api(t, "list-objects-v2", "--prefix", "mv")["Contents"])), 0)
}

func (a *awscli) remove(t *testing.T) {
	for _, key := range []string{"rm/a", "rm/b", "rm/keep/c", "rm/d/e"} {
		a.aws.pipe(t, strings.NewReader(key), "s3", "cp", "-", a.s3(key)).ok(t)
	}
	a.aws.run(t, "s3", "rm", a.s3("rm/a")).prints(t, "delete: "+a.s3("rm/a"))
	a.aws.run(t, "s3", "rm", a.s3("rm/a")).prints(t, "delete: "+a.s3("rm/a")) // as S3: nothing to delete is no error
	a.aws.run(t, "s3", "rm", a.s3("rm/"), "--recursive", "--exclude", "keep/*", "--dryrun").prints(t, "(dryrun) delete: "+a.s3("rm/b"))
	a.aws.run(t, "s3", "rm", a.s3("rm/"), "--recursive", "--exclude", "keep/*").ok(t)
	equal(t, "keys", fmt.Sprint(keys(a.api(t, "list-objects-v2", "--prefix", "rm/")["Contents"])), "[rm/keep/c]")
	a.aws.run(t, "s3", "rm", a.s3("tree"), "--recursive", "--only-show-errors").ok(t)
	equal(t, "keys", len(keys(a.api(t, "list-objects-v2", "--prefix", "tree")["Contents"])), 0)
	if left, err := os.ReadDir(a.stored("tree")); !os.IsNotExist(err) {
		t.Errorf("the store still has %v of the tree (%v)", left, err)
	}
}

func (a *awscli) presign(t *testing.T) {
	key := "signed/a b+c%2F=ü"
	a.aws.pipe(t, bytesOf(100_000, "presign"), "s3", "cp", "-", a.s3(key)).ok(t)
	url := strings.TrimSpace(a.aws.run(t, "s3", "presign", a.s3(key), "--expires-in", "300").ok(t))
	if !strings.Contains(url, "X-Amz-Algorithm=AWS4-HMAC-SHA256") || !strings.HasPrefix(url, a.endpoint+"/") {
		t.Fatalf("not a version 4 URL of this endpoint: %s", url)
	}
	down := filepath.Join(a.dir, "presigned")
	fetch := func(url string, args ...string) string {
		t.Helper()
		return a.curl.run(t, append([]string{"-o", down, "-w", "%{http_code}", url}, args...)...).ok(t)
	}
	equal(t, "status", fetch(url), "200")
	sameFile(t, down, 100_000, "presign")
	equal(t, "status of a range", fetch(url, "-r", "5-9"), "206")
	equal(t, "length of a range", strings.Fields(sumFile(t, down))[0], "5")
	equal(t, "status of another object", fetch(strings.Replace(url, "/signed/", "/unsigned/", 1)), "403")
	equal(t, "status of another expiry", fetch(strings.Replace(url, "X-Amz-Expires=300", "X-Amz-Expires=3000", 1)), "403")
	equal(t, "status of another method", fetch(url, "-X", "DELETE"), "403")
	late := strings.TrimSpace(a.aws.run(t, "s3", "presign", a.s3(key), "--expires-in", "1").ok(t))
	deadline := time.Now().Add(30 * time.Second)
	for fetch(late) != "403" {
		if time.Now().After(deadline) {
			t.Fatal("a URL is valid long after its second")
		}
		<-time.After(100 * time.Millisecond)
	}
	b, err := os.ReadFile(down)
	if err != nil || !strings.Contains(string(b), "<Code>AccessDenied</Code><Message>Request has expired</Message>") {
		t.Errorf("answer to an expired URL: %s %v", b, err)
	}
}

func (a *awscli) headObject(t *testing.T) {
	head := a.api(t, "head-object", "--key", "cp/size-1")
	for _, name := range []string{"ETag", "LastModified", "ContentLength", "ContentType", "AcceptRanges"} {
		if head[name] == nil {
			t.Errorf("no %s in %v", name, head)
		}
	}
	missing := a.aws.run(t, "s3api", "head-object", "--bucket", a.bucket, "--key", "none")
	missing.fails(t, 255, "(404) when calling the HeadObject")
	a.aws.run(t, "s3api", "head-bucket", "--bucket", a.bucket).ok(t)
	a.aws.run(t, "s3api", "head-bucket", "--bucket", "no-such-bucket-here").fails(t, 255, "(404)")
	a.aws.run(t, "s3api", "wait", "object-exists", "--bucket", a.bucket, "--key", "cp/size-1").ok(t)
}

func (a *awscli) listObjects(t *testing.T) {
	dir := filepath.Join(a.dir, "list")
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("d%d/k%02d", i/10, i)
		write(t, filepath.Join(dir, name), strings.NewReader(name))
		want = append(want, "list/"+name)
	}
	a.aws.run(t, "s3", "cp", dir, a.s3("list/"), "--recursive", "--only-show-errors").ok(t)
	for _, operation := range []string{"list-objects-v2", "list-objects"} {
		answer := a.api(t, operation, "--prefix", "list/", "--page-size", "4")
		equal(t, operation+" by pages of 4", fmt.Sprint(keys(answer["Contents"])), fmt.Sprint(want))
		answer = a.api(t, operation, "--prefix", "list/", "--delimiter", "/", "--page-size", "2")
		equal(t, operation+" with a delimiter", fmt.Sprint(answer["CommonPrefixes"]), "[map[Prefix:list/d0/] map[Prefix:list/d1/] map[Prefix:list/d2/]]")
	}
	var got []string
	args := []string{"--prefix", "list/", "--max-items", "10"}
	for token := ""; ; {
		answer := a.api(t, "list-objects-v2", append(args, strings.Fields(token)...)...)
		got = append(got, keys(answer["Contents"])...)
		next, _ := answer["NextToken"].(string)
		if next == "" || len(got) > len(want) {
			break
		}
		token = "--starting-token " + next
	}
	equal(t, "keys by starting tokens", fmt.Sprint(got), fmt.Sprint(want))
	page := a.api(t, "list-objects-v2", "--prefix", "list/", "--max-keys", "3", "--start-after", "list/d0/k05", "--no-paginate")
	equal(t, "keys after one", fmt.Sprint(keys(page["Contents"])), "[list/d0/k06 list/d0/k07 list/d0/k08]")
	equal(t, "truncated", page["IsTruncated"], any(true))
	a.aws.run(t, "s3api", "list-objects-v2", "--bucket", a.bucket, "--continuation-token", "not-a-token", "--no-paginate").fails(t, 255, "InvalidArgument")
}

func (a *awscli) checksums(t *testing.T) {
	body := filepath.Join(a.dir, "checked")
	write(t, body, bytesOf(100_000, "checksum"))
	for _, algorithm := range []string{"CRC32", "SHA1", "SHA256"} {
		put := a.api(t, "put-object", "--key", "sum/"+algorithm, "--body", body, "--checksum-algorithm", algorithm)
		head := a.api(t, "head-object", "--key", "sum/"+algorithm, "--checksum-mode", "ENABLED")
		if got := head["Checksum"+algorithm]; got == nil || got != put["Checksum"+algorithm] {
			t.Errorf("%s: put answered %v, head %v", algorithm, put, head)
		}
		if plain := a.api(t, "head-object", "--key", "sum/"+algorithm); plain["Checksum"+algorithm] != nil {
			t.Errorf("%s: a checksum that nobody asked for: %v", algorithm, plain)
		}
		a.api(t, "get-object", "--key", "sum/"+algorithm, "--checksum-mode", "ENABLED", filepath.Join(a.dir, "checked-down"))
		sameFile(t, filepath.Join(a.dir, "checked-down"), 100_000, "checksum")
	}
	wrong := "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
	bad := func(code string, args ...string) {
		t.Helper()
		a.aws.run(t, append([]string{"s3api", "put-object", "--bucket", a.bucket, "--key", "sum/bad", "--body", body}, args...)...).fails(t, 255, "("+code+")")
	}
	bad("BadDigest", "--checksum-sha256", wrong)
	bad("BadDigest", "--content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")
	bad("InvalidDigest", "--content-md5", "short")
	bad("NoSuchKey", "--if-match", `"00000000000000000000000000000000"`)
	a.aws.run(t, "s3api", "head-object", "--bucket", a.bucket, "--key", "sum/bad").fails(t, 255, "(404)")
	a.aws.run(t, "s3api", "put-object", "--bucket", a.bucket, "--key", "sum/SHA1", "--if-none-match", "*").fails(t, 255, "(PreconditionFailed)")
}

func (a *awscli) getObject(t *testing.T) {
	down := filepath.Join(a.dir, "ranged")
	get := a.api(t, "get-object", "--key", "sum/SHA1", "--range", "bytes=99990-", down)
	equal(t, "Content-Range", get["ContentRange"], any("bytes 99990-99999/100000"))
	equal(t, "length", strings.Fields(sumFile(t, down))[0], "10")
	refused := func(text string, args ...string) {
		t.Helper()
		a.aws.run(t, append([]string{"s3api", "get-object", "--bucket", a.bucket, "--key", "sum/SHA1", down}, args...)...).fails(t, 255, text)
	}
	refused("(InvalidRange)", "--range", "bytes=100000-")
	refused("(PreconditionFailed)", "--if-match", `"0"`)
	refused("(304)", "--if-none-match", get["ETag"].(string))
	a.aws.run(t, "s3api", "get-object", "--bucket", a.bucket, "--key", "none", down).fails(t, 255, "(NoSuchKey)")
	attributes := a.api(t, "get-object-attributes", "--key", "sum/SHA1", "--object-attributes", "ETag", "ObjectSize", "Checksum")
	equal(t, "size", attributes["ObjectSize"], any(float64(100_000)))
	if attributes["Checksum"] == nil {
		t.Errorf("no checksum in %v", attributes)
	}
	copied := a.api(t, "copy-object", "--key", "sum/copy", "--copy-source", a.bucket+"/sum/SHA1")
	equal(t, "ETag of the copy", copied["CopyObjectResult"].(map[string]any)["ETag"], get["ETag"])
}

func (a *awscli) multipart(t *testing.T) {
	begin := func(key string) string {
		t.Helper()
		return a.api(t, "create-multipart-upload", "--key", key)["UploadId"].(string)
	}
	id, dropped := begin("parts/whole"), begin("parts/dropped")
	equal(t, "uploads", fmt.Sprint(keys(a.api(t, "list-multipart-uploads", "--prefix", "parts/")["Uploads"])), "[parts/dropped parts/whole]")
	upload := func(id, key string, number int, size int64) string {
		t.Helper()
		part := filepath.Join(a.dir, "part")
		write(t, part, bytesOf(size, fmt.Sprint("part", number)))
		return a.api(t, "upload-part", "--key", key, "--upload-id", id, "--part-number", fmt.Sprint(number), "--body", part)["ETag"].(string)
	}
	one, two := upload(id, "parts/whole", 1, 5*mib), upload(id, "parts/whole", 2, 3)
	upload(dropped, "parts/dropped", 1, 3)
	parts := a.api(t, "list-parts", "--key", "parts/whole", "--upload-id", id)["Parts"].([]any)
	equal(t, "parts", len(parts), 2)
	a.aws.run(t, "s3api", "head-object", "--bucket", a.bucket, "--key", "parts/whole").fails(t, 255, "(404)")
	list := func(etags ...string) string {
		type part struct {
			ETag       string
			PartNumber int
		}
		var of struct{ Parts []part }
		for i, etag := range etags {
			of.Parts = append(of.Parts, part{etag, i + 1})
		}
		b, _ := json.Marshal(of)
		return string(b)
	}
	complete := []string{"s3api", "complete-multipart-upload", "--bucket", a.bucket, "--key", "parts/whole", "--upload-id", id, "--multipart-upload"}
	a.aws.run(t, append(complete, list(two, one))...).fails(t, 255, "(InvalidPart)")
	a.aws.run(t, append(complete, list(one, two))...).prints(t, `-2\"`)
	got := sha256.New()
	a.aws.stream(t, nil, got, "s3", "cp", a.s3("parts/whole"), "-").ok(t)
	want := sha256.New()
	sum(t, want, bytesOf(5*mib, "part1"))
	sum(t, want, bytesOf(3, "part2"))
	equal(t, "object", fmt.Sprintf("%x", got.Sum(nil)), fmt.Sprintf("%x", want.Sum(nil)))
	a.api(t, "abort-multipart-upload", "--key", "parts/dropped", "--upload-id", dropped)
	equal(t, "uploads", len(keys(a.api(t, "list-multipart-uploads")["Uploads"])), 0)
	a.aws.run(t, "s3api", "list-parts", "--bucket", a.bucket, "--key", "parts/dropped", "--upload-id", dropped).fails(t, 255, "(NoSuchUpload)")
}

func (a *awscli) deleteObjects(t *testing.T) {
	answer := a.api(t, "delete-objects", "--delete", `{"Objects":[{"Key":"sum/CRC32"},{"Key":"sum/SHA1"},{"Key":"none"}]}`)
	deleted := keys(answer["Deleted"])
	slices.Sort(deleted)
	equal(t, "deleted", fmt.Sprint(deleted), "[none sum/CRC32 sum/SHA1]")
	equal(t, "left", fmt.Sprint(keys(a.api(t, "list-objects-v2", "--prefix", "sum/")["Contents"])), "[sum/SHA256 sum/copy]")
}

func (a *awscli) credentials(t *testing.T) {
	wrong := a.aws
	wrong.env = append(slices.Clone(a.aws.env), "AWS_SECRET_ACCESS_KEY=not-the-secret-key")
	wrong.run(t, "s3", "ls").fails(t, 255, "(SignatureDoesNotMatch)")
	wrong.pipe(t, strings.NewReader("x"), "s3", "cp", "-", a.s3("intruder")).fails(t, 1, "(SignatureDoesNotMatch)")
	wrong.run(t, "s3", "rm", a.s3("cp/size-1")).fails(t, 1, "(SignatureDoesNotMatch)")
	nobody := a.aws
	nobody.env = append(slices.Clone(a.aws.env), "AWS_ACCESS_KEY_ID=nobody")
	nobody.run(t, "s3", "ls").fails(t, 255, "(InvalidAccessKeyId)")
	a.aws.run(t, "s3", "ls", "s3://"+a.bucket, "--no-sign-request").fails(t, 255, "(AccessDenied)")
	elsewhere := a.aws
	elsewhere.env = append(slices.Clone(a.aws.env), "AWS_DEFAULT_REGION=eu-central-1")
	elsewhere.run(t, "s3api", "list-buckets").fails(t, 255, "(AuthorizationHeaderMalformed)", "us-east-1")
	equal(t, "keys", len(keys(a.api(t, "list-objects-v2", "--prefix", "intruder")["Contents"])), 0)
	sameFile(t, a.stored("cp/size-1"), 1, fmt.Sprint(a.bucket, 1))
}

func (a *awscli) removeBucket(t *testing.T) {
	a.aws.run(t, "s3", "rb", "s3://"+a.bucket).fails(t, 1, "(BucketNotEmpty)")
	a.aws.run(t, "s3", "rb", "s3://"+a.bucket, "--force").prints(t, "remove_bucket: "+a.bucket)
	a.aws.run(t, "s3", "rb", "s3://"+a.bucket).fails(t, 1, "(NoSuchBucket)")
	a.aws.run(t, "s3api", "head-bucket", "--bucket", a.bucket).fails(t, 255, fmt.Sprintf("(%d)", http.StatusNotFound))
	if _, err := os.Stat(a.stored("")); !os.IsNotExist(err) {
		t.Errorf("the store still has the bucket: %v", err)
	}
}
