package etcd_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/etcd"
)

// memberEnv makes the test binary a member: its value is the ServerOptions, as JSON.
const memberEnv = "SLUICE_ETCD_TEST_MEMBER"

func TestMain(m *testing.M) {
	if o := os.Getenv(memberEnv); o != "" {
		if err := runMember(context.Background(), o); err != nil {
			fmt.Println("failed", err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil { // on any number of processors: members mostly wait for each other
		panic(err)
	}
	os.Exit(m.Run())
}

// The keys of the members' journal.
const (
	claimKey = "claim"
	countKey = "count"
)

// runMember leads whenever it can, and counts while it does: one fenced transaction after the other. It prints a line "leads N"
// when its claim stands, N being the count it found, "counted N" for what was acknowledged, and "fenced" when another's claim
// has stopped it. It ends with its standard input.
func runMember(ctx context.Context, options string) error {
	var o etcd.ServerOptions
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		bufio.NewReader(os.Stdin).ReadByte()
		cancel()
	}()
	s, err := etcd.Start(ctx, o)
	if err != nil {
		return err
	}
	defer s.Close()
	for ctx.Err() == nil {
		if _, err := s.Election().Campaign(ctx); err != nil {
			break
		}
		if err := count(ctx, s.KV(), o.Name); err != nil && !errors.Is(err, errs.Unavailable) && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// count claims and counts until another claims.
func count(ctx context.Context, kv meta.KV, name string) error {
	_, rev, err := kv.Txn(ctx, meta.Txn{Puts: []meta.KeyValue{{Key: claimKey, Value: []byte(name)}}})
	if err != nil {
		return err
	}
	n := 0
	switch at, err := kv.Get(ctx, countKey); {
	case err == nil:
		if n, err = strconv.Atoi(string(at.Value)); err != nil {
			return err
		}
	case !errors.Is(err, errs.NotExist):
		return err
	}
	fmt.Println("leads", n)
	for {
		n++
		ok, _, err := kv.Txn(ctx, meta.Txn{
			If:   []meta.Compare{meta.ModRevIs(claimKey, rev)},
			Puts: []meta.KeyValue{{Key: countKey, Value: []byte(strconv.Itoa(n))}},
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errs.Unavailable): // it may have been counted, or not: the same again
			n--
			continue
		case err != nil:
			return err
		case !ok:
			fmt.Println("fenced")
			return nil
		}
		fmt.Println("counted", n)
	}
}

// process is a member in a process of its own.
type process struct {
	*exec.Cmd
	name string
}

// said is a line of a member.
type said struct {
	by   *process
	what string
	n    int
	at   time.Time
}

// spawn starts the members as processes and returns what they say.
func spawn(t *testing.T, all []etcd.ServerOptions) ([]*process, <-chan said) {
	t.Helper()
	lines, done := make(chan said), make(chan struct{})
	var members []*process
	var readers sync.WaitGroup
	for _, o := range all {
		options, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		p := &process{exec.Command(os.Args[0]), o.Name}
		p.Env = append(os.Environ(), memberEnv+"="+string(options), "GOMAXPROCS=1")
		p.Stderr = os.Stderr
		in, err1 := p.StdinPipe()
		out, err2 := p.StdoutPipe()
		if err := errors.Join(err1, err2, p.Start()); err != nil {
			t.Fatal(err)
		}
		members = append(members, p)
		readers.Go(func() {
			for scanner := bufio.NewScanner(out); scanner.Scan(); {
				what, rest, _ := strings.Cut(scanner.Text(), " ")
				n, _ := strconv.Atoi(rest) // "fenced" has no number, and "failed" a reason
				if what == "failed" {
					t.Errorf("%s: %s", p.name, scanner.Text())
				}
				select {
				case lines <- said{p, what, n, time.Now()}:
				case <-done:
				}
			}
		})
		t.Cleanup(func() {
			in.Close()
			p.Process.Kill()
			p.Wait()
		})
	}
	t.Cleanup(readers.Wait) // runs after the next and before the kills, which end what is read
	t.Cleanup(func() {
		close(done)
		for _, p := range members {
			p.Process.Kill()
		}
	})
	return members, lines
}

// await returns the first line for which f is true; counted is the highest acknowledged count so far.
func await(t *testing.T, lines <-chan said, counted *int, f func(said) bool) said {
	t.Helper()
	ctx := within(t, 20*time.Second)
	for {
		select {
		case l := <-lines:
			if l.what == "counted" {
				*counted = max(*counted, l.n)
			}
			if f(l) {
				return l
			}
		case <-ctx.Done():
			t.Fatal("no member says it")
		}
	}
}

// TestProcesses stops and kills leaders that write as fast as they can: another leads soon and knows every acknowledged count,
// and the first write of a leader that was stopped is fenced.
func TestProcesses(t *testing.T) {
	t.Parallel()
	all := options(t, 3)
	for i := range all {
		all[i].UnsafeNoFsync = false
	}
	_, lines := spawn(t, all)
	counted := 0
	lead := await(t, lines, &counted, func(l said) bool { return l.what == "leads" }).by
	await(t, lines, &counted, func(l said) bool { return l.n >= 50 })

	// succeeded waits for another leader and checks what it found.
	succeeded := func(event string, began time.Time, old *process) said {
		t.Helper()
		next := await(t, lines, &counted, func(l said) bool { return l.what == "leads" && l.by != old })
		took := next.at.Sub(began)
		t.Logf("%s: another led after %v, at %d", event, took.Round(time.Millisecond), next.n)
		if next.n < counted {
			t.Errorf("%s: it found %d, and %d was acknowledged", event, next.n, counted)
		}
		if took > 3*time.Second {
			t.Errorf("%s: nobody led for %v", event, took)
		}
		return next
	}

	began := time.Now()
	if err := lead.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	next := succeeded("SIGSTOP", began, lead)
	await(t, lines, &counted, func(l said) bool { return l.by == next.by && l.n > next.n+20 })
	if err := lead.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	stopped := lead
	await(t, lines, &counted, func(l said) bool {
		// What it wrote before the other's claim, which the other found, may be told only now.
		if l.by == stopped && l.what == "counted" && l.n > next.n {
			t.Fatalf("the leader that was stopped wrote %d after another had led from %d on", l.n, next.n)
		}
		return l.by == stopped && l.what == "fenced"
	})
	at := counted
	await(t, lines, &counted, func(l said) bool { return l.n > at+20 })

	began = time.Now()
	if err := next.by.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	succeeded("SIGKILL", began, next.by)
}
