package conformance

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// hadoop is Hadoop's file system shell on one server.
type hadoop struct {
	*suite
	server *Server
	shell  program // as the superuser
	s3     *s3.Client
	super  string
	dir    string
}

// TestFsShell runs org.apache.hadoop.fs.FsShell over webhdfs, as the superuser and as others, and reads over S3 what it
// wrote and the reverse.
func TestFsShell(t *testing.T) {
	java, jars := Java(t), Jars(t, "hadoop")
	s := Start(t, Options{})
	h := &hadoop{suite: newSuite(t, "fsshell"), server: s, s3: s.client(), super: superuser(), dir: t.TempDir()}
	h.shell = program{env: environ([]string{"HADOOP_"}, "HADOOP_USER_NAME="+h.super, "LC_ALL=C.UTF-8"), dir: h.dir}
	h.shell.argv = []string{java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m", "-Xlog:disable"}
	main := []string{"-cp", classPath(t, jars), "org.apache.hadoop.fs.FsShell", "-fs", "webhdfs" + strings.TrimPrefix(s.WebHDFS, "http")}

	// A class data archive halves what a start of the shell costs.
	archive := filepath.Join(h.dir, "classes.jsa")
	first := h.shell
	first.argv = slices.Concat(h.shell.argv, []string{"-XX:ArchiveClassesAtExit=" + archive}, main)
	first.run(t, "-mkdir", "/bucket", "/user").ok(t)
	h.shell.argv = slices.Concat(h.shell.argv, []string{"-XX:SharedArchiveFile=" + archive}, main)

	for name, group := range map[string]func(*testing.T){"files": h.files, "trees": h.trees, "users": h.users} {
		t.Run(name, func(t *testing.T) { t.Parallel(); group(t) })
	}
}

// classPath returns the class path of the jars and of an empty configuration, which the shell wants to find.
func classPath(t *testing.T, jars string) string {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "conf.jar")
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	f, err := z.Create("core-site.xml")
	if err == nil {
		_, err = io.WriteString(f, "<configuration/>")
	}
	if err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	write(t, conf, &b)
	all, err := filepath.Glob(filepath.Join(jars, "*.jar"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no jars in %s: %v", jars, err)
	}
	return strings.Join(append([]string{conf}, all...), ":")
}

func (h *hadoop) as(user string) program {
	p := h.shell
	p.env = append(slices.Clone(p.env), "HADOOP_USER_NAME="+user)
	return p
}

// lines returns what a command printed, sorted.
func lines(t *testing.T, r result) []string {
	t.Helper()
	return slices.Sorted(strings.Lines(r.ok(t)))
}

// s3Sum returns the sum of an object read over S3.
func (h *hadoop) s3Sum(t *testing.T, key string) string {
	t.Helper()
	o, err := h.s3.GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("bucket"), Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Body.Close()
	return sum(t, sha256.New(), o.Body)
}

// hdfsChecksum returns what HDFS says of a file's bytes: the MD5 of its blocks' MD5s of their CRC32Cs of 512 bytes.
// Source: org.apache.hadoop.hdfs.FileChecksumHelper.ReplicatedFileChecksumComputer.
func hdfsChecksum(t *testing.T, r io.Reader) string {
	t.Helper()
	const block, chunk = 128 * mib, 512
	var blocks []byte
	perBlock := int64(0)
	for {
		h := md5.New()
		piece, n := make([]byte, chunk), int64(0)
		for n < block {
			got, err := io.ReadFull(r, piece)
			if got > 0 {
				h.Write(binary.BigEndian.AppendUint32(nil, crc32.Checksum(piece[:got], crc32.MakeTable(crc32.Castagnoli))))
				n += int64(got)
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if n == 0 {
			break
		}
		if len(blocks) > 0 {
			perBlock = block / chunk
		}
		blocks = h.Sum(blocks)
	}
	kind, size := "CRC32C", uint32(chunk)
	if len(blocks) == 0 {
		kind, size = "CRC32", 0
	}
	padded := 32
	for padded < len(blocks) {
		padded *= 2
	}
	digest := md5.Sum(append(blocks, make([]byte, padded-len(blocks))...))
	all := binary.BigEndian.AppendUint32(nil, size)
	all = binary.BigEndian.AppendUint64(all, uint64(perBlock))
	return fmt.Sprintf("MD5-of-%dMD5-of-%d%s\t%s", perBlock, size, kind, hex.EncodeToString(append(all, digest[:]...)))
}

func (h *hadoop) files(t *testing.T) {
	sh := h.shell
	for _, size := range []int64{0, 1, 8 * mib, 130 * mib} {
		h.run(t, fmt.Sprint("put get ", size), func(t *testing.T) { h.putGet(t, size) })
	}
	h.run(t, "read what S3 wrote", h.fromS3)
	h.run(t, "put", func(t *testing.T) {
		local := filepath.Join(h.dir, "put")
		write(t, local, strings.NewReader("first"))
		sh.run(t, "-put", local, "/bucket/p").ok(t)
		sh.run(t, "-put", "/dev/null", "/bucket/p").fails(t, 1, "put: `/bucket/p': File exists")
		sh.run(t, "-cat", "/bucket/p").prints(t, "first")
		sh.pipe(t, strings.NewReader("from stdin"), "-put", "-f", "-", "/bucket/p").ok(t)
		equal(t, "file", sh.run(t, "-cat", "/bucket/p").ok(t), "from stdin")
		equal(t, "over S3", h.s3Sum(t, "p"), sum(t, sha256.New(), strings.NewReader("from stdin")))
		sh.run(t, "-put", local, "/bucket/none/p").fails(t, 1, "put: `/bucket/none/p': No such file or directory")
		sh.run(t, "-put", local+"-missing", "/bucket/q").fails(t, 1, "No such file or directory")
		sh.run(t, "-moveFromLocal", local, "/bucket/moved").ok(t)
		if _, err := os.Stat(local); !os.IsNotExist(err) {
			t.Errorf("the source is still there: %v", err)
		}
		equal(t, "over S3", h.s3Sum(t, "moved"), sum(t, sha256.New(), strings.NewReader("first")))
	})
	h.run(t, "appendToFile", func(t *testing.T) {
		local, want := filepath.Join(h.dir, "tail"), ""
		for i, text := range []string{"", "one\n", strings.Repeat("x", 100_000), "end"} {
			write(t, local, strings.NewReader(text))
			sh.run(t, "-appendToFile", local, "/bucket/log").ok(t)
			want += text
			equal(t, fmt.Sprint("append ", i), h.s3Sum(t, "log"), sum(t, sha256.New(), strings.NewReader(want)))
		}
		sh.pipe(t, strings.NewReader(" of stdin"), "-appendToFile", "-", "/bucket/log").ok(t)
		want += " of stdin"
		equal(t, "file", sh.run(t, "-cat", "/bucket/log").ok(t), want)
		equal(t, "checksum", sh.run(t, "-checksum", "/bucket/log").ok(t), "/bucket/log\t"+hdfsChecksum(t, strings.NewReader(want))+"\n")
		equal(t, "last kilobyte", sh.run(t, "-tail", "/bucket/log").ok(t), want[len(want)-1024:])
		equal(t, "first kilobyte", sh.run(t, "-head", "/bucket/log").ok(t), want[:1024])
		sh.pipe(t, strings.NewReader("x"), "-appendToFile", "-", "/bucket").fails(t, 1, "appendToFile: Cannot append to directory /bucket; already exists as a directory.")
	})
	h.run(t, "text", func(t *testing.T) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write([]byte("plain text\n"))
		z.Close()
		sh.pipe(t, &b, "-put", "-", "/bucket/t.gz").ok(t)
		equal(t, "text", sh.run(t, "-text", "/bucket/t.gz").ok(t), "plain text\n")
		equal(t, "two files", sh.run(t, "-cat", "/bucket/p", "/bucket/moved").ok(t), "from stdinfirst")
	})
	h.run(t, "cp", func(t *testing.T) {
		sh.run(t, "-cp", "/bucket/8388608", "/bucket/copy").ok(t)
		equal(t, "copy", h.s3Sum(t, "copy"), h.s3Sum(t, "8388608"))
		sh.run(t, "-cp", "/bucket/p", "/bucket/copy").fails(t, 1, "cp: `/bucket/copy': File exists")
		sh.run(t, "-cp", "-f", "/bucket/p", "/bucket/copy").ok(t)
		equal(t, "copy", h.s3Sum(t, "copy"), h.s3Sum(t, "p"))
	})
	h.run(t, "touchz", func(t *testing.T) {
		sh.run(t, "-touchz", "/bucket/touched").ok(t)
		sh.run(t, "-touch", "-t", "20200102:030405", "/bucket/touched").ok(t)
		sh.run(t, "-stat", "%b %F %r %o %n %y", "/bucket/touched").prints(t, "0 regular file 3 134217728 touched 2020-01-02 ")
		sh.run(t, "-touchz", "/bucket/p").fails(t, 1, "touchz: `/bucket/p': Not a zero-length file")
	})
	h.run(t, "checksum", func(t *testing.T) {
		sh.run(t, "-checksum", "/bucket").fails(t, 1, "checksum: `/bucket': Is a directory")
		sh.run(t, "-checksum", "/bucket/none").fails(t, 1, "checksum: `/bucket/none': No such file or directory")
	})
}

func (h *hadoop) putGet(t *testing.T, size int64) {
	seed := fmt.Sprint("hadoop", size)
	up, down := filepath.Join(h.dir, fmt.Sprint(size)), filepath.Join(h.dir, fmt.Sprint("down", size))
	path := fmt.Sprint("/bucket/", size)
	write(t, up, bytesOf(size, seed))
	h.shell.run(t, "-put", up, "/bucket/").ok(t)
	h.shell.run(t, "-get", path, down).ok(t)
	sameFile(t, down, size, seed)
	equal(t, "over S3", h.s3Sum(t, fmt.Sprint(size)), sumFile(t, up))
	sameFile(t, filepath.Join(h.server.Data, "root", path), size, seed)
	equal(t, "checksum", h.shell.run(t, "-checksum", path).ok(t), path+"\t"+hdfsChecksum(t, bytesOf(size, seed))+"\n")
	if size <= 8*mib {
		got := sha256.New()
		h.shell.stream(t, nil, got, "-cat", path).ok(t)
		equal(t, "cat", fmt.Sprintf("%d bytes %x", size, got.Sum(nil)), sumFile(t, up))
	}
}

func (h *hadoop) fromS3(t *testing.T) {
	for _, size := range []int64{0, 1, 130 * mib} {
		key, seed := fmt.Sprint("s3/", size), fmt.Sprint("s3", size)
		local, down := filepath.Join(h.dir, fmt.Sprint("s3up", size)), filepath.Join(h.dir, fmt.Sprint("s3down", size))
		write(t, local, bytesOf(size, seed))
		f, err := os.Open(local)
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.s3.PutObject(context.WithoutCancel(t.Context()), &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: &key, Body: f})
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		h.shell.run(t, "-get", "/bucket/"+key, down).ok(t)
		sameFile(t, down, size, seed)
		equal(t, "checksum", h.shell.run(t, "-checksum", "/bucket/"+key).ok(t), "/bucket/"+key+"\t"+hdfsChecksum(t, bytesOf(size, seed))+"\n")
	}
}

func (h *hadoop) trees(t *testing.T) {
	sh := h.shell
	local := filepath.Join(h.dir, "tree")
	for i, name := range []string{"a", "b", "d/c", "d/e/f", "d/e/g"} {
		write(t, filepath.Join(local, name), bytesOf(int64(i*10), name))
	}
	want := treeSums(t, local)
	h.run(t, "mkdir", func(t *testing.T) {
		sh.run(t, "-mkdir", "/w/x/y").fails(t, 1, "mkdir: `webhdfs://", "No such file or directory")
		sh.run(t, "-mkdir", "-p", "/w/x/y").ok(t)
		sh.run(t, "-mkdir", "-p", "/w/x/y").ok(t)
		sh.run(t, "-mkdir", "/w/x/y").fails(t, 1, "mkdir: `/w/x/y': File exists")
	})
	h.run(t, "put a tree", func(t *testing.T) {
		sh.run(t, "-put", local, "/w").ok(t)
		sameTree(t, treeSums(t, filepath.Join(h.server.Data, "root", "w", "tree")), want)
		sh.run(t, "-get", "/w/tree", filepath.Join(h.dir, "tree-down")).ok(t)
		sameTree(t, treeSums(t, filepath.Join(h.dir, "tree-down")), want)
	})
	h.run(t, "ls", func(t *testing.T) {
		out := sh.run(t, "-ls", "-R", "/w").ok(t)
		var got []string
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) != 8 {
				t.Fatalf("%q has %d columns", line, len(f))
			}
			got = append(got, strings.Join([]string{f[0], f[1], f[2], f[3], f[4], f[7]}, " "))
		}
		slices.SortFunc(got, func(a, b string) int { return strings.Compare(a[strings.Index(a, "/"):], b[strings.Index(b, "/"):]) })
		file := func(size int, path string) string {
			return fmt.Sprintf("-rw-r--r-- 3 %s supergroup %d %s", h.super, size, path)
		}
		dir := func(path string) string { return fmt.Sprintf("drwxr-xr-x - %s supergroup 0 %s", h.super, path) }
		equal(t, "listing", strings.Join(got, "\n"), strings.Join([]string{
			dir("/w/tree"), file(0, "/w/tree/a"), file(10, "/w/tree/b"), dir("/w/tree/d"), file(20, "/w/tree/d/c"), dir("/w/tree/d/e"),
			file(30, "/w/tree/d/e/f"), file(40, "/w/tree/d/e/g"), dir("/w/x"), dir("/w/x/y"),
		}, "\n"))
		sh.run(t, "-ls", "/w/tree").prints(t, "Found 3 items\n")
		equal(t, "names", sh.run(t, "-ls", "-C", "/w/tree/*").ok(t), "/w/tree/a\n/w/tree/b\n/w/tree/d/c\n/w/tree/d/e\n")
		equal(t, "a directory itself", sh.run(t, "-ls", "-d", "-C", "/w/tree").ok(t), "/w/tree\n")
		sh.run(t, "-ls", "/none").fails(t, 1, "ls: `/none': No such file or directory")
	})
	h.run(t, "du count find", func(t *testing.T) {
		columns := func(r result) string {
			var rows []string
			for line := range strings.Lines(r.ok(t)) {
				rows = append(rows, strings.Join(strings.Fields(line), " "))
			}
			return strings.Join(rows, "\n")
		}
		equal(t, "du", columns(sh.run(t, "-du", "/w/tree")), "0 0 /w/tree/a\n10 10 /w/tree/b\n90 90 /w/tree/d")
		equal(t, "du -s", columns(sh.run(t, "-du", "-s", "/w/tree")), "100 100 /w/tree")
		equal(t, "count", columns(sh.run(t, "-count", "/w/tree", "/w/x")), "3 5 100 /w/tree\n2 0 0 /w/x")
		equal(t, "count with quotas", columns(sh.run(t, "-count", "-q", "/w/tree")), "none inf none inf 3 5 100 /w/tree")
		equal(t, "find", fmt.Sprintf("%q", lines(t, sh.run(t, "-find", "/w", "-name", "[ef]"))), `["/w/tree/d/e\n" "/w/tree/d/e/f\n"]`)
		sh.run(t, "-df", "/").prints(t, "Filesystem", "webhdfs://")
	})
	h.run(t, "stat test", func(t *testing.T) {
		equal(t, "stat of a file", sh.run(t, "-stat", "%F %b %o %r %u %g %a %n", "/w/tree/b").ok(t), fmt.Sprintf("regular file 10 134217728 3 %s supergroup 644 b\n", h.super))
		equal(t, "stat of a directory", sh.run(t, "-stat", "%F %b %a %n", "/w/tree").ok(t), "directory 0 755 tree\n")
		for _, test := range []struct {
			flag, path string
			code       int
		}{
			{"-e", "/w/tree", 0}, {"-d", "/w/tree", 0}, {"-f", "/w/tree", 1}, {"-d", "/w/tree/a", 1}, {"-z", "/w/tree/a", 0}, {"-z", "/w/tree/b", 1},
			{"-f", "/w/tree/b", 0}, {"-s", "/w/tree/b", 0}, {"-e", "/none", 1},
		} {
			sh.run(t, "-test", test.flag, test.path).fails(t, test.code)
		}
	})
	h.run(t, "mv", func(t *testing.T) {
		sh.run(t, "-mv", "/w/tree/a", "/w/tree/b").fails(t, 1, "mv: `/w/tree/b': File exists")
		sh.run(t, "-mv", "/w/tree/none", "/w/x").fails(t, 1, "mv: `/w/tree/none': No such file or directory")
		sh.run(t, "-mv", "/w/tree/a", "/w/none/a").fails(t, 1, "mv: `/w/none/a': No such file or directory")
		sh.run(t, "-mv", "/w/tree/a", "/w/tree/b", "/w/x").ok(t)
		sh.run(t, "-mv", "/w/tree", "/w/x").ok(t)
		sh.run(t, "-mv", "/w/x/tree", "/w/x/tree/d").fails(t, 1, "mv: ")
		equal(t, "names", fmt.Sprintf("%q", lines(t, sh.run(t, "-find", "/w", "-print"))),
			`["/w\n" "/w/x\n" "/w/x/a\n" "/w/x/b\n" "/w/x/tree\n" "/w/x/tree/d\n" "/w/x/tree/d/c\n" "/w/x/tree/d/e\n" "/w/x/tree/d/e/f\n" "/w/x/tree/d/e/g\n" "/w/x/y\n"]`)
		sh.run(t, "-cp", "/w/x/tree", "/w/copy").ok(t)
		sh.run(t, "-getmerge", "/w/copy/d/e", filepath.Join(h.dir, "merged")).ok(t)
		equal(t, "merged", sumFile(t, filepath.Join(h.dir, "merged")), sum(t, sha256.New(), io.MultiReader(bytesOf(30, "d/e/f"), bytesOf(40, "d/e/g"))))
	})
	h.run(t, "rm", func(t *testing.T) {
		sh.run(t, "-rm", "/w/copy").fails(t, 1, "rm: `/w/copy': Is a directory")
		sh.run(t, "-rm", "/w/none").fails(t, 1, "rm: `/w/none': No such file or directory")
		sh.run(t, "-rm", "-f", "/w/none").ok(t)
		sh.run(t, "-rm", "/w/copy/d/c").prints(t, "Deleted /w/copy/d/c")
		sh.run(t, "-rmdir", "/w/copy/d").fails(t, 1, "rmdir: `/w/copy/d': Directory is not empty")
		sh.run(t, "-rmdir", "/w/x/y").ok(t)
		sh.run(t, "-rm", "-r", "/w/copy").prints(t, "Deleted /w/copy")
		sh.run(t, "-rm", "-r", "-skipTrash", "/w/x/tree/d/e").prints(t, "Deleted /w/x/tree/d/e")
		// A client's own setting: what is removed goes to the user's trash, by a rename.
		sh.run(t, "-D", "fs.trash.interval=60", "-rm", "-r", "/w/x").ok(t)
		sh.run(t, "-test", "-e", "/w/x").fails(t, 1)
		trash := "/user/" + h.super + "/.Trash/Current/w/x"
		equal(t, "trash", fmt.Sprintf("%q", lines(t, sh.run(t, "-find", trash))), fmt.Sprintf("%q", []string{
			trash + "\n", trash + "/a\n", trash + "/b\n", trash + "/tree\n", trash + "/tree/d\n", trash + "/tree/d/c\n",
		}))
		sh.run(t, "-expunge", "-immediate").ok(t)
	})
	h.run(t, "odd names", h.oddTree)
	h.run(t, "usage", func(t *testing.T) {
		sh.run(t, "-nonsense").fails(t, 255, "-nonsense: Unknown command")
		sh.run(t, "-cat").fails(t, 255, "-cat: Not enough arguments: expected 1 but got 0")
		sh.run(t, "-cat", "/w/none", "/none").fails(t, 1, "cat: `/w/none': No such file or directory", "cat: `/none': No such file or directory")
	})
}

// oddTree moves names with trouble in them through the shell, in directories and as arguments.
func (h *hadoop) oddTree(t *testing.T) {
	local, down := filepath.Join(h.dir, "odd"), filepath.Join(h.dir, "odd-down")
	for i, name := range oddNames {
		write(t, filepath.Join(local, name), bytesOf(int64(i), name))
	}
	h.shell.run(t, "-put", local, "/odd").ok(t)
	sameTree(t, treeSums(t, filepath.Join(h.server.Data, "root", "odd")), treeSums(t, local))
	h.shell.run(t, "-get", "/odd", down).ok(t)
	sameTree(t, treeSums(t, down), treeSums(t, local))
	h.shell.run(t, "-mv", "/odd/percent%25%2F", "/odd/a+b c;d=e&f#g.ü").ok(t)
	h.shell.run(t, "-cat", "/odd/a+b c;d=e&f#g.ü").ok(t)
	out := h.shell.run(t, "-ls", "-C", "/odd").ok(t)
	for _, name := range oddNames {
		first, _, _ := strings.Cut(name, "/")
		if there := strings.Contains(out, "/odd/"+first+"\n"); there == (name == "percent%25%2F") {
			t.Errorf("%q is listed: %v", name, there)
		}
	}
}

func (h *hadoop) users(t *testing.T) {
	root, alice, bob := h.shell, h.as("alice"), h.as("bob")
	secret := filepath.Join(h.dir, "secret")
	write(t, secret, strings.NewReader("secret"))
	h.run(t, "home", func(t *testing.T) {
		alice.run(t, "-ls").fails(t, 1, "ls: `.': No such file or directory")
		root.run(t, "-mkdir", "-p", "/user/alice", "/shared").ok(t)
		root.run(t, "-chown", "alice:staff", "/user/alice").ok(t)
		alice.run(t, "-put", secret, "mine").ok(t)
		equal(t, "owner", alice.run(t, "-stat", "%u %g %a", "mine").ok(t), "alice staff 644\n")
		alice.run(t, "-ls").prints(t, "Found 1 items\n", " mine\n")
		equal(t, "file", alice.run(t, "-cat", "/user/alice/mine").ok(t), "secret")
	})
	h.run(t, "chmod", func(t *testing.T) {
		alice.run(t, "-chmod", "u+x,g-r,o-rwx", "mine").ok(t)
		equal(t, "mode", alice.run(t, "-stat", "%a %A", "mine").ok(t), "700 rwx------\n")
		alice.run(t, "-chmod", "600", "mine").ok(t)
		alice.run(t, "-mkdir", "-p", "d/e").ok(t)
		alice.run(t, "-chmod", "-R", "750", "d").ok(t)
		equal(t, "modes", alice.run(t, "-stat", "%a %n", "d", "d/e").ok(t), "750 d\n750 e\n")
		bob.run(t, "-chmod", "777", "/user/alice/d").fails(t, 1, "chmod: changing permissions of '/user/alice/d': Permission denied")
		alice.run(t, "-chmod", "888", "d").fails(t, 255, "chmod: chmod : mode '888' does not match the expected pattern")
	})
	h.run(t, "chown", func(t *testing.T) {
		alice.run(t, "-chown", "bob", "mine").fails(t, 1, "chown: changing ownership of 'mine': ")
		bob.run(t, "-chgrp", "users", "/user/alice/d").fails(t, 1, "chgrp: changing ownership of '/user/alice/d': Permission denied")
		root.run(t, "-chown", "-R", "bob:users", "/user/alice/d").ok(t)
		equal(t, "owners", root.run(t, "-stat", "%u %g", "/user/alice/d", "/user/alice/d/e").ok(t), "bob users\nbob users\n")
		root.run(t, "-chgrp", "staff", "/user/alice/d").ok(t)
		equal(t, "owner", root.run(t, "-stat", "%u %g", "/user/alice/d").ok(t), "bob staff\n")
		root.run(t, "-setrep", "2", "/user/alice/mine").prints(t, "Replication 2 set: /user/alice/mine")
		equal(t, "replication", root.run(t, "-stat", "%r", "/user/alice/mine").ok(t), "2\n")
	})
	h.run(t, "denied", func(t *testing.T) {
		denied := func(p program, text string, args ...string) {
			t.Helper()
			p.run(t, args...).fails(t, 1, "Permission denied: user="+text)
		}
		top := fmt.Sprintf(`access=WRITE, inode="/":%s:`, h.super)
		denied(bob, "bob, "+top, "-put", secret, "/f")
		denied(bob, "bob, "+top, "-mkdir", "/d")
		denied(bob, `bob, access=READ, inode="/user/alice/mine":alice:staff:-rw-------`, "-cat", "/user/alice/mine")
		denied(bob, `bob, access=WRITE, inode="/user/alice":alice:staff:drwxr-xr-x`, "-rm", "/user/alice/mine")
		denied(bob, `bob, access=WRITE, inode="/user/alice":`, "-mv", "/user/alice/mine", "/user/alice/yours")
		denied(bob, `bob, access=WRITE, inode="/user/alice/mine":`, "-appendToFile", secret, "/user/alice/mine")
		denied(alice, `alice, access=READ_EXECUTE, inode="/user/alice/d":bob:staff:drwxr-x---`, "-ls", "d")
		denied(alice, `alice, access=EXECUTE, inode="/user/alice/d":bob:staff:drwxr-x---`, "-cat", "d/none")
		equal(t, "names", alice.run(t, "-ls", "-C").ok(t), "d\nmine\n")
		equal(t, "file", root.run(t, "-cat", "/user/alice/mine").ok(t), "secret")
	})
	h.run(t, "sticky", func(t *testing.T) {
		root.run(t, "-chmod", "1777", "/shared").ok(t)
		equal(t, "mode", root.run(t, "-stat", "%a %A", "/shared").ok(t), "1777 rwxrwxrwt\n")
		alice.run(t, "-put", secret, "/shared/alices").ok(t)
		bob.run(t, "-rm", "/shared/alices").fails(t, 1, "Permission denied by sticky bit: user=bob")
		alice.run(t, "-rm", "/shared/alices").ok(t)
	})
	h.run(t, "umask", func(t *testing.T) {
		alice.run(t, "-D", "fs.permissions.umask-mode=077", "-put", secret, "/shared/closed").ok(t)
		alice.run(t, "-D", "fs.permissions.umask-mode=077", "-mkdir", "/shared/dir").ok(t)
		equal(t, "modes", alice.run(t, "-stat", "%a", "/shared/closed", "/shared/dir").ok(t), "600\n700\n")
	})
}
