package conformance

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// suite counts the cases of a suite that is written in Go.
type suite struct {
	name  string
	cases atomic.Int64
	lacks atomic.Bool // a part was skipped for a tool that is not here
}

// newSuite returns a suite whose count is judged at the end of the test: always where every tool is required, else if none was missing.
func newSuite(t *testing.T, name string) *suite {
	t.Helper()
	s := &suite{name: name}
	t.Cleanup(func() {
		if lacks := s.lacks.Load() || t.Skipped(); !lacks || os.Getenv("SLUICE_REQUIRE") != "" {
			Minimum(t, name, int(s.cases.Load()))
		}
	})
	return s
}

// part runs a part of the suite that may be skipped by itself.
func (s *suite) part(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Cleanup(func() {
			if t.Skipped() {
				s.lacks.Store(true)
			}
		})
		f(t)
	})
}

// run runs one case. A case that ended before its end does not count.
func (s *suite) run(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		f(t)
		s.cases.Add(1)
	})
}

// program runs commands of one client.
type program struct {
	argv  []string // the command and the arguments that every call has
	env   []string
	dir   string
	start starter     // nil: as a process
	seen  *syncBuffer // all that the commands printed, if not nil
}

// starter runs a command line until it ends or ctx does, and returns its exit status.
type starter func(ctx context.Context, cmd *exec.Cmd) (code int, err error)

// result is what a command left.
type result struct {
	line     string
	out, err string
	code     int
}

// commandTimeout is many times what any command of the suites takes on a slow machine.
const commandTimeout = 3 * time.Minute

// run runs the command with more arguments and no standard input.
func (p program) run(t *testing.T, args ...string) result {
	t.Helper()
	return p.pipe(t, nil, args...)
}

// pipe runs the command with more arguments and what in has.
func (p program) pipe(t *testing.T, in io.Reader, args ...string) result {
	t.Helper()
	var out bytes.Buffer
	r := p.stream(t, in, &out, args...)
	r.out = out.String()
	if p.seen != nil {
		p.seen.Write(out.Bytes())
	}
	return r
}

// stream is pipe with standard output written to out.
func (p program) stream(t *testing.T, in io.Reader, out io.Writer, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	argv := append(p.argv[:len(p.argv):len(p.argv)], args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout = p.env, p.dir, in, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errb bytes.Buffer
	cmd.Stderr = &errb
	start := p.start
	if start == nil {
		start = process
	}
	code, err := start(ctx, cmd)
	r := result{line: strings.Join(args, " "), err: errb.String(), code: code}
	if p.seen != nil {
		p.seen.Write(errb.Bytes())
	}
	if ctx.Err() != nil {
		t.Fatalf("%s: %v after %v\n%s", r.line, ctx.Err(), commandTimeout, tail(r.err))
	}
	if err != nil {
		t.Fatalf("%s: %v", r.line, err)
	}
	return r
}

// process is the starter that starts a process.
func process(_ context.Context, cmd *exec.Cmd) (int, error) {
	err := cmd.Run()
	if _, exit := errors.AsType[*exec.ExitError](err); err != nil && !exit {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// ok fails the test unless the command succeeded, and returns what it printed.
func (r result) ok(t *testing.T) string {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("%s: exit status %d\n%s%s", r.line, r.code, tail(r.out), tail(r.err))
	}
	return r.out
}

// fails fails the test unless the command ended with the exit status, and with all of texts on standard error.
func (r result) fails(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("%s: exit status %d, want %d\n%s%s", r.line, r.code, code, tail(r.out), tail(r.err))
	}
	for _, text := range texts {
		if !strings.Contains(r.err, text) {
			t.Errorf("%s: standard error is %q, want %q in it", r.line, tail(r.err), text)
		}
	}
}

// prints fails the test unless the command succeeded and printed all of texts.
func (r result) prints(t *testing.T, texts ...string) {
	t.Helper()
	r.ok(t)
	for _, text := range texts {
		if !strings.Contains(r.out, text) {
			t.Errorf("%s printed %q, want %q in it", r.line, tail(r.out), text)
		}
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// environ returns the environment without the variables that begin with one of prefixes, and with the given ones.
func environ(without []string, with ...string) (env []string) {
	for _, v := range os.Environ() {
		keep := true
		for _, p := range without {
			keep = keep && !strings.HasPrefix(v, p)
		}
		if keep {
			env = append(env, v)
		}
	}
	return append(env, with...)
}

// bytesOf returns n bytes that follow from the seed.
func bytesOf(n int64, seed string) io.Reader {
	return io.LimitReader(rand.NewChaCha8(sha256.Sum256([]byte(seed))), n)
}

// write makes the file with what r has, and the directories above it.
func write(t *testing.T, name string, r io.Reader) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, r); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// sum returns the length and the digest of what r has.
func sum(t *testing.T, h hash.Hash, r io.Reader) string {
	t.Helper()
	n, err := io.Copy(h, r)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d bytes %x", n, h.Sum(nil))
}

func sumFile(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return sum(t, sha256.New(), f)
}

// sameFile fails the test unless the file has exactly the bytes of bytesOf(n, seed).
func sameFile(t *testing.T, name string, n int64, seed string) {
	t.Helper()
	equal(t, name, sumFile(t, name), sum(t, sha256.New(), bytesOf(n, seed)))
}

// treeSums returns the sums of the files below dir by their names relative to it.
func treeSums(t *testing.T, dir string) map[string]string {
	t.Helper()
	sums := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		sums[name] = sumFile(t, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

// sameTree fails the test unless the files below two directories have the same names and bytes.
func sameTree(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%q: got %q, want %q", name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q is there and should not be", name)
		}
	}
	if len(want) == 0 {
		t.Error("the tree to compare with is empty")
	}
}

// multipartETag returns the ETag that S3 gives an object of n bytes uploaded in parts of a size.
func multipartETag(n, part int64, r io.Reader) string {
	all := md5.New()
	parts := 0
	for ; n > 0; n -= part {
		h := md5.New()
		io.CopyN(h, r, part)
		all.Write(h.Sum(nil))
		parts++
	}
	return fmt.Sprintf(`"%s-%d"`, hex.EncodeToString(all.Sum(nil)), parts)
}

// oddNames are relative file names that clients, URLs and XML have trouble with, and that Java's Path can hold.
var oddNames = []string{
	"space in name", " leading", "trailing ", "plus+plus", "percent%25%2F", "100%", "ampersand&and=eq", "hash#tag", "question?mark",
	"semi;colon,comma", "quote'single", `quote"double`, "back`tick", "<angle>", "[bracket]", "{brace}", "star*", "tilde~", "at@dollar$", "exclaim!",
	"ünïcödé", "日本語/ファイル", "🌊 wave", "combining-e\u0301", ".hidden", "..two", "trailing.dot.", "-dash", "--double", "UPPER", "upper", "(paren)", "pipe|pipe", "caret^",
	strings.Repeat("n", 200),
}
