package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// hand makes a history by hand: every operation of a client follows the one before it.
type hand struct{ ops []operation }

// at adds an operation that was asked for and answered at these times.
func (h *hand) at(call, ret int64, in input, out output) *hand {
	h.ops = append(h.ops, operation{Client: len(h.ops), Input: in, Output: out, Call: call, Return: ret})
	return h
}

// then adds an operation after all others.
func (h *hand) then(in input, out output) *hand {
	last := int64(0)
	for _, o := range h.ops {
		last = max(last, o.Return)
	}
	return h.at(last+1, last+2, in, out)
}

// The spots and answers of the histories below.
var (
	ax, ay, bx, by = spot{0, 0}, spot{0, 1}, spot{1, 0}, spot{1, 1}

	ok      = output{Answer: done}
	silence = output{Answer: unknown}
)

func reads(v value) output { return output{Answer: done, Got: v} }
func lists(what ...any) output {
	out := output{Answer: done}
	for i := 0; i < len(what); i += 2 {
		p := what[i].(spot)
		out.List[p.Dir][p.File] = value(what[i+1].(int))
	}
	return out
}

func namesOnly(what ...spot) output {
	out := output{Answer: done, NamesOnly: true}
	for _, p := range what {
		out.List[p.Dir][p.File] = 1
	}
	return out
}

func puts(p spot, v value) input { return input{Do: put, At: p, Put: v} }
func gets(p spot) input          { return input{Do: get, At: p} }
func moves(from, to spot) input  { return input{Do: rename, At: from, To: to} }
func movesDir(from, to int) input {
	return input{Do: renameDir, At: spot{Dir: from}, To: spot{Dir: to}}
}
func replaces(p spot, old, v value) input { return input{Do: replace, At: p, Expect: old, Put: v} }
func creates(p spot, v value) input       { return input{Do: create, At: p, Put: v} }

// TestLinearModel holds the checker to histories made by hand, most of which it must not accept.
func TestLinearModel(t *testing.T) {
	const legal, illegal = porcupine.Ok, porcupine.Illegal
	one := func() *hand { return (&hand{}).then(puts(ax, 1), ok) }
	two := func() *hand { return one().then(puts(bx, 2), ok) }
	for _, c := range []struct {
		name  string
		h     *hand
		whole porcupine.CheckResult
		loose porcupine.CheckResult // with listings name by name
	}{
		{"reads see the last write", one().then(gets(ax), reads(1)).then(puts(ax, 2), ok).then(gets(ax), reads(2)), legal, legal},
		{"a lost update: two replace the same version", one().at(10, 20, replaces(ax, 1, 2), ok).at(10, 20, replaces(ax, 1, 3), ok), illegal, illegal},
		{"a lost update: an acknowledged write is not there", one().then(puts(ax, 2), ok).then(gets(ax), reads(1)), illegal, illegal},
		{"one replaces, the other is refused", one().at(10, 20, replaces(ax, 1, 2), ok).at(10, 20, replaces(ax, 1, 3), output{Answer: changed}).then(gets(ax), reads(2)), legal, legal},
		{"nobody had changed what a replace was refused for", one().then(replaces(ax, 1, 2), output{Answer: changed}), illegal, illegal},
		{"a replace of nothing", one().then(replaces(bx, 1, 2), output{Answer: missing}), legal, legal},
		{"a stale read: the old content after the new was read", one().at(10, 50, puts(ax, 2), ok).at(20, 22, gets(ax), reads(2)).at(24, 26, gets(ax), reads(1)), illegal, illegal},
		{"a stale read: by HEAD", one().then(puts(ax, 2), ok).then(input{Do: head, At: ax}, reads(1)), illegal, illegal},
		{"a stale read: by a listing", one().then(puts(ax, 2), ok).then(input{Do: list}, lists(ax, 1)), illegal, illegal},
		{"a stale read: of what was deleted", one().then(input{Do: remove, At: ax}, ok).then(gets(ax), reads(1)), illegal, illegal},
		{"reads beside a write see either", one().at(10, 50, puts(ax, 2), ok).at(20, 22, gets(ax), reads(1)).at(24, 26, gets(ax), reads(2)), legal, legal},
		{"a content that nobody wrote", one().then(gets(ax), reads(foreign)), illegal, illegal},
		{"a file of nothing", (&hand{}).then(gets(ax), reads(0)), illegal, illegal},
		{"the content of another file", two().then(gets(ax), reads(2)), illegal, illegal},
		{"a name that goes and comes", one().then(input{Do: list}, lists(ax, 1)).then(input{Do: list}, lists()).then(input{Do: list}, lists(ax, 1)), illegal, illegal},
		{"a name that goes and comes, in a directory", one().then(input{Do: listDir}, namesOnly()).then(input{Do: listDir}, namesOnly(ax)), illegal, illegal},
		{"a name that goes and comes beside a write", one().at(10, 50, puts(ax, 2), ok).at(20, 22, gets(ax), output{Answer: missing}).at(24, 26, gets(ax), reads(2)), illegal, illegal},
		{"a name that comes and goes beside its creation", (&hand{}).at(10, 50, creates(ax, 1), ok).at(20, 22, gets(ax), reads(1)).at(24, 26, gets(ax), output{Answer: missing}), illegal, illegal},
		{"a listing of what was never there", one().then(input{Do: list}, lists(ax, 1, by, 9)), illegal, illegal},
		{"a listing without an acknowledged name", two().then(input{Do: list}, lists(ax, 1)), illegal, illegal},
		{"a listing beside a rename shows the old name", one().at(10, 50, moves(ax, by), ok).at(20, 30, input{Do: list}, lists(ax, 1)), legal, legal},
		{"a listing beside a rename shows the new name", one().at(10, 50, moves(ax, by), ok).at(20, 30, input{Do: list}, lists(by, 1)), legal, legal},
		{"a listing beside a rename shows both names", one().at(10, 50, moves(ax, by), ok).at(20, 30, input{Do: list}, lists(ax, 1, by, 1)), illegal, legal},
		{"a listing beside a rename shows neither name", one().at(10, 50, moves(by, ax), output{Answer: missing}).at(60, 90, moves(ax, by), ok).at(70, 80, input{Do: list}, lists()), illegal, legal},
		{"a listing after a rename shows both names", one().then(moves(ax, by), ok).then(input{Do: list}, lists(ax, 1, by, 1)), illegal, illegal},
		{"a listing after a rename shows neither name", one().then(moves(ax, by), ok).then(input{Do: list}, lists()), illegal, illegal},
		{"a listing shows half of a renamed directory", one().then(puts(ay, 2), ok).at(10, 50, movesDir(0, 1), ok).at(20, 30, input{Do: list}, lists(ax, 1, by, 2)), illegal, legal},
		{"the old name is read after the new one", one().at(10, 50, moves(ax, by), ok).at(20, 22, gets(by), reads(1)).at(24, 26, gets(ax), reads(1)), illegal, illegal},
		{"half of a renamed directory stays", one().then(puts(ay, 2), ok).then(movesDir(0, 1), ok).then(gets(bx), reads(1)).then(gets(ay), reads(2)), illegal, illegal},
		{"a rename over a file", two().then(moves(ax, bx), ok), illegal, illegal},
		{"a rename onto a directory with files", two().then(movesDir(0, 1), ok), illegal, illegal},
		{"a rename of nothing", two().then(moves(ay, by), ok), illegal, illegal},
		{"a rename refused for a file that is not there", two().then(moves(ax, by), output{Answer: exists}), illegal, illegal},
		{"a rename refused for want of what is there", two().then(moves(ax, by), output{Answer: missing}), illegal, illegal},
		{"a refused rename that happened", two().then(moves(ax, bx), output{Answer: exists}).then(gets(bx), reads(1)), illegal, illegal},
		{"two creators win", (&hand{}).at(10, 20, creates(ax, 1), ok).at(10, 20, creates(ax, 2), ok), illegal, illegal},
		{"two creators win, the first without an answer", (&hand{}).at(10, 20, creates(ax, 1), silence).at(12, 20, creates(ax, 2), ok).then(gets(ax), reads(1)), illegal, illegal},
		{"one creator wins", (&hand{}).at(10, 20, creates(ax, 1), ok).at(10, 20, creates(ax, 2), output{Answer: exists}).then(gets(ax), reads(1)), legal, legal},
		{"no creator wins", (&hand{}).at(10, 20, creates(ax, 1), output{Answer: exists}).at(10, 20, creates(ax, 2), output{Answer: exists}), illegal, illegal},
		{"a file is deleted twice", one().then(input{Do: remove, At: ax}, output{Answer: done, Told: true}).then(input{Do: remove, At: ax}, output{Answer: done, Told: true}), illegal, illegal},
		{"there was nothing to delete, but there was", one().then(input{Do: remove, At: ax}, output{Answer: missing}), illegal, illegal},
		{"a directory is deleted with half of it left", one().then(puts(ay, 2), ok).then(input{Do: removeDir}, output{Answer: done, Told: true}).then(gets(ay), reads(2)), illegal, illegal},
		{"a directory is deleted", two().then(input{Do: removeDir}, output{Answer: done, Told: true}).then(input{Do: list}, lists(bx, 2)), legal, legal},
		{"a write without answer is seen later", one().at(10, 20, puts(ax, 2), silence).then(gets(ax), reads(1)).then(gets(ax), reads(2)), legal, legal},
		{"a write without answer is never seen", one().at(10, 20, puts(ax, 2), silence).then(gets(ax), reads(1)).then(gets(ax), reads(1)), legal, legal},
		{"a write without answer is seen and then not", one().at(10, 20, puts(ax, 2), silence).then(gets(ax), reads(2)).then(gets(ax), reads(1)), illegal, illegal},
		{"a write without answer is seen before it was sent", one().at(4, 5, gets(ax), reads(2)).at(10, 20, puts(ax, 2), silence), illegal, illegal},
		{"a delete without answer happens after a write", one().at(10, 20, input{Do: remove, At: ax}, silence).then(puts(ax, 2), ok).then(gets(ax), output{Answer: missing}), legal, legal},
		{"a rename without answer has happened whole", one().at(10, 20, moves(ax, by), silence).then(input{Do: list}, lists(by, 1)), legal, legal},
		{"a rename without answer has happened by half", one().at(10, 20, moves(ax, by), silence).then(input{Do: list}, lists(ax, 1, by, 1)).then(input{Do: list}, lists(ax, 1, by, 1)), illegal, illegal},
		{"a directory's rename without answer has happened whole", one().then(puts(ay, 2), ok).at(10, 20, movesDir(0, 1), silence).then(input{Do: list}, lists(ax, 1, ay, 2)).then(input{Do: list}, lists(bx, 1, by, 2)), legal, legal},
		{"a conditional write without answer came too late", one().at(10, 20, replaces(ax, 1, 2), silence).then(puts(ax, 3), ok).then(gets(ax), reads(3)).then(gets(ax), reads(2)), illegal, illegal},
		{"a read without answer says nothing", one().at(10, 20, gets(ax), silence).then(gets(ax), reads(1)), legal, legal},
		{"a write without a directory has no effect", one().then(puts(by, 2), output{Answer: missing}).then(gets(by), reads(2)), illegal, illegal},
		{"a refusal has no effect", one().then(puts(ax, 2), output{Answer: refused}).then(gets(ax), reads(2)), illegal, illegal},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, _ := judge(c.h.ops, whole, time.Minute); got != c.whole {
				t.Errorf("got %s, want %s", got, c.whole)
			}
			if got, _ := judge(c.h.ops, nameByOne, time.Minute); got != c.loose {
				t.Errorf("with listings name by name: got %s, want %s", got, c.loose)
			}
		})
	}
}

// TestLinearReport reduces a history in which a read does not fit, and writes down what a person needs to see it.
func TestLinearReport(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	h := &hand{}
	for v := value(1); v < 50; v++ {
		h.then(puts(ax, v), ok).then(gets(ax), reads(v)).then(input{Do: list}, lists(ax, int(v)))
	}
	h.then(puts(bx, 50), ok).then(gets(ax), reads(3)).then(puts(ax, 51), ok)
	torn, err := explain("by hand", h.ops)
	if err == nil || len(torn) > 0 {
		t.Fatalf("got %v and torn listings %v, want an error and none", err, torn)
	}
	text := err.Error()
	if !strings.Contains(text, "get a/x → 3") || strings.Contains(text, "→ 49") || strings.Contains(text, "= 51") {
		t.Errorf("the reduced history is not what is wrong: %s", text)
	}
	_, dir, _ := strings.Cut(strings.SplitN(text, "\n", 2)[0], ", in ")
	for _, name := range []string{"history.json", "history.html", "reduced.json", "reduced.html"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

// TestLinearTorn lets a listing pass that saw a rename under way by half, and nothing that is worse.
func TestLinearTorn(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	begin := func() *hand {
		return (&hand{}).then(puts(ax, 1), ok).at(10, 50, moves(ax, by), ok).at(20, 30, input{Do: list}, lists(ax, 1, by, 1))
	}
	torn, err := explain("by hand", begin().then(input{Do: list}, lists(by, 1)).ops)
	if err != nil || len(torn) != 1 || torn[0].Call != 20 {
		t.Errorf("got torn listings %v, %v; want the one beside the rename", torn, err)
	}
	for name, h := range map[string]*hand{
		"a stale read after a torn listing":    begin().then(gets(ax), reads(1)),
		"a torn listing after the rename":      begin().then(input{Do: list}, lists(ax, 1, by, 1)),
		"a torn listing of what was not moved": begin().at(22, 30, input{Do: list}, lists(ax, 1, bx, 1)),
	} {
		if _, err := explain("by hand", h.ops); err == nil {
			t.Errorf("%s: explained", name)
		}
	}
}

// TestLinearStruck tells the histories that a fault has hit from those it has not.
func TestLinearStruck(t *testing.T) {
	for _, c := range []struct {
		name string
		h    *hand
		want bool
	}{
		{"a change was answered after it", (&hand{}).at(1, 20, puts(ax, 1), ok), true},
		{"a change was given up after it", (&hand{}).at(1, 20, puts(ax, 1), silence), true},
		{"a change was given up before it", (&hand{}).at(1, 5, puts(ax, 1), silence), false},
		{"a change was answered before it, another sent after it", (&hand{}).at(1, 5, puts(ax, 1), ok).at(12, 20, puts(ax, 2), ok), false},
		{"only a read was in flight", (&hand{}).at(1, 20, gets(ax), output{Answer: missing}), false},
	} {
		if struck(c.h.ops, 10, func(int) bool { return false }) {
			t.Errorf("%s: struck by what no change of it went by", c.name)
		}
		if got := struck(c.h.ops, 10, everybody); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestReadCluster(t *testing.T) {
	const line = `{"s3":["http://127.0.0.1:9000","http://127.0.0.1:9001"],"webhdfs":["http://127.0.0.1:9870"],"admin":["http://127.0.0.1:9090"],` +
		`"pids":{"master-1":4001,"gateway-1":4002,"gateway-2":4003},"data":"/tmp/x"}`
	var again []string
	c, err := readCluster(strings.NewReader(line+"\nready\n"), func(_ testing.TB, name string, _ time.Duration) int {
		again = append(again, name)
		return 5000
	})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(c.S3, c.WebHDFS, c.Admin)
	for _, p := range c.processes {
		got += fmt.Sprintf(" %s=%d", p.name, p.pid)
	}
	const want = "[http://127.0.0.1:9000 http://127.0.0.1:9001] [http://127.0.0.1:9870] [http://127.0.0.1:9090] gateway-1=4002 gateway-2=4003 master-1=4001"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if pid := c.processes[2].restart(t, 0); pid != 5000 || fmt.Sprint(again) != "[master-1]" {
		t.Errorf("got process %d, started %v", pid, again)
	}
	c.leads = func(testing.TB) *member { return c.processes[0] }
	for _, f := range linearFaults {
		if err := f.possible(c); err != nil && f.name != "partition" {
			t.Errorf("%s is not possible: %v", f.name, err)
		}
	}
	c, err = readCluster(strings.NewReader(line), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.leads = func(testing.TB) *member { return c.processes[0] }
	for _, f := range linearFaults {
		if err := f.possible(c); (err != nil) != (f.name == "kill" || f.name == "clock" || f.name == "partition") {
			t.Errorf("%s on a cluster whose processes nobody starts again: %v", f.name, err)
		}
	}
	for _, bad := range []string{"", "\n", "starting…\n", "[]", "{}", `{"s3":["http://a:1"]}`, `{"s3":["http://a:1"],"webhdfs":[]}`,
		`{"s3":["a:1"],"webhdfs":["http://a:2"]}`, `{"s3":["http://a:1"],"webhdfs":["ftp://a:2"]}`,
		`{"s3":["http://a:1"],"webhdfs":["http://a:2"],"admin":[""]}`, `{"s3":["http://a:1"],"webhdfs":["http://a:2"],"pids":{"m":0}}`} {
		if c, err := readCluster(strings.NewReader(bad), nil); err == nil {
			t.Errorf("%q was read as %+v", bad, c)
		}
	}
}

// TestProxy has a proxy pass requests on, late, and cut their answers.
func TestProxy(t *testing.T) {
	body := bytes.Repeat([]byte("sluice"), 100)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(body) }))
	defer origin.Close()
	p, err := newProxy(origin.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	fetch := func() ([]byte, error) {
		h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := h.Get("http://" + p.Addr())
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		return io.ReadAll(resp.Body)
	}
	if b, err := fetch(); err != nil || !bytes.Equal(b, body) {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	p.Set(weather{cut: 1})
	if b, err := fetch(); err == nil {
		t.Errorf("a cut answer was whole: %d bytes", len(b))
	}
	p.Set(weather{delay: 50 * time.Millisecond})
	began := time.Now()
	if b, err := fetch(); err != nil || !bytes.Equal(b, body) || time.Since(began) < 100*time.Millisecond {
		t.Errorf("got %d bytes, %v after %v; want them after a delay each way", len(b), err, time.Since(began))
	}
	p.Close()
	if _, err := fetch(); err == nil {
		t.Error("a closed proxy answers")
	}
	if _, err := net.Dial("tcp", p.Addr()); err == nil {
		t.Error("a closed proxy accepts connections")
	}
}

func TestLinearMeaning(t *testing.T) {
	hdfs := func(name string) error { return &hdfsError{403, name, ""} }
	for _, c := range []struct {
		do   action
		err  error
		want reply
	}{
		{put, errors.New("connection reset"), unknown},
		{put, fmt.Errorf("wrapped: %w", hdfs("RetriableException")), unknown},
		{put, status(500), unknown},
		{put, status(503), unknown},
		{put, status(409), refused},
		{list, status(200), unknown},
		{get, status(404), missing},
		{create, status(412), exists},
		{replace, status(412), changed},
		{replace, status(404), missing},
		{put, status(412), ""},
		{put, status(403), ""},
		{rename, hdfs("FileNotFoundException"), missing},
		{rename, hdfs("FileAlreadyExistsException"), exists},
		{rename, hdfs("AlreadyBeingCreatedException"), refused},
		{rename, hdfs("AccessControlException"), ""},
	} {
		if got := meaning(c.do, c.err); got != c.want {
			t.Errorf("%s answered with %v: got %q, want %q", c.do, c.err, got, c.want)
		}
	}
}

// status is an answer of S3.
type status int

func (s status) Error() string       { return fmt.Sprintf("status %d", int(s)) }
func (s status) HTTPStatusCode() int { return int(s) }

// TestLinearBlow says whose changes a fault of each process strikes: everybody's, if it leads, those of its clients, if it is a gateway.
func TestLinearBlow(t *testing.T) {
	c := &cluster{S3: []string{"one", "two"}}
	for _, x := range []struct {
		name  string
		leads bool
		want  []int
	}{
		{"m2", true, []int{0, 1, 2, 3}}, {"m2", false, nil}, {"w1", false, nil}, {"g1", false, []int{0, 2}}, {"g2", false, []int{1, 3}},
	} {
		b := c.blowTo(&member{name: x.name}, x.leads)
		var got []int
		for client := range linearClients {
			if b.by(client) {
				got = append(got, client)
			}
		}
		if !slices.Equal(got, x.want) || b.any() != (len(x.want) > 0) {
			t.Errorf("%s, leads %v: got %v, any %v; want %v", x.name, x.leads, got, b.any(), x.want)
		}
	}
}
