package webhdfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/wrap"
)

// serveNamespace is serve over the real namespace, on a store with or without real directories, with another store
// mounted at /mnt.
func serveNamespace(t *testing.T, dirs bool) *fixture {
	t.Helper()
	f := &fixture{t: t}
	cache := page.NewCache(mempage.New(64), page.CacheOptions{})
	ns, err := namespace.Open(t.Context(), namespace.Options{
		KV: memkv.New(), Cache: cache, Root: memufs.New(memufs.Options{Dirs: dirs}), Superuser: "hdfs", RootMode: 0o777, Host: "w1.example:9870",
		OpenStore: func(context.Context, core.MountSpec) (ufs.Store, error) {
			return wrap.Observe(memufs.New(memufs.Options{Dirs: dirs}), func(e wrap.Event) {
				if e.Op == wrap.Open {
					f.opened.Add(1)
				}
			}), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := ns.Run(ctx, func() { close(ready) }); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := errors.Join(ns.Close(), cache.Close()); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case <-t.Context().Done():
		t.Fatal("the namespace did not start")
	}
	p, _ := core.ParsePath("/mnt/")
	super := core.WithPrincipal(t.Context(), core.Principal{User: "hdfs", Super: true})
	if _, err := ns.Mount(super, core.MountSpec{Path: p, URI: "mem://m", Mode: 0o777}); err != nil {
		t.Fatal(err)
	}
	f.start(Options{Namespace: ns, Attrs: ns, Locator: ns, Authenticator: newFake(), Simple: true, LoopbackOnly: true, Superuser: "hdfs"})
	return f
}

// TestTypes asks for write and read types in headers and parameters.
func TestTypes(t *testing.T) {
	f := serveNamespace(t, true)
	if a := f.follow("PUT", "/mnt/a?op=CREATE&writetype=async_through", "x"); a.status != 201 || a.header.Get(writeTypeHeader) != "CACHE_THROUGH" {
		t.Errorf("without workers: %d, write type %q", a.status, a.header.Get(writeTypeHeader)) // said only if another was asked for
	}
	one := f.send("PUT", "/mnt/b?op=CREATE", nil, writeTypeHeader, "THROUGH")
	if a := f.send("PUT", one.header.Get("Location"), strings.NewReader("x")); a.status != 201 || a.header.Get(writeTypeHeader) != "THROUGH" {
		t.Errorf("a header in step one: %d, write type %q", a.status, a.header.Get(writeTypeHeader))
	}
	one = f.send("PUT", "/mnt/c?op=CREATE", nil)
	if a := f.send("PUT", one.header.Get("Location"), strings.NewReader("x"), writeTypeHeader, "THROUGH"); a.status != 201 || a.header.Get(writeTypeHeader) != "THROUGH" {
		t.Errorf("a header in step two: %d, write type %q", a.status, a.header.Get(writeTypeHeader))
	}
	one = f.send("POST", "/mnt/c?op=APPEND", nil, writeTypeHeader, "ASYNC_THROUGH")
	if a := f.send("POST", one.header.Get("Location"), strings.NewReader("y")); a.status != 200 || a.header.Get(writeTypeHeader) != "CACHE_THROUGH" {
		t.Errorf("append: %d, write type %q", a.status, a.header.Get(writeTypeHeader))
	}
	for _, target := range []string{"PUT /mnt/d?op=CREATE&writetype=never", "POST /mnt/a?op=APPEND&writetype=never", "GET /mnt/a?op=OPEN&readtype=never"} {
		method, target, _ := strings.Cut(target, " ")
		a := f.send(method, target, nil)
		if class, message := a.exception(t); a.status != 400 || class != classArgument || !strings.Contains(message, "CACHE") {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	// Nothing of b is cached: what NO_CACHE reads is not either.
	for _, way := range []string{"header in step one", "header in step two", "parameter"} {
		before := f.opened.Load()
		for range 2 {
			target, in1, in2 := "/mnt/b?op=OPEN", []string{}, []string{}
			switch way {
			case "header in step one":
				in1 = []string{readTypeHeader, "NO_CACHE"}
			case "header in step two":
				in2 = []string{readTypeHeader, "NO_CACHE"}
			default:
				target += "&readtype=no_cache"
			}
			one := f.send("GET", target, nil, in1...)
			if a := f.send("GET", one.header.Get("Location"), nil, in2...); a.status != 200 || a.body != "x" {
				t.Errorf("%s: %d %s", way, a.status, a.body)
			}
		}
		if n := f.opened.Load() - before; n != 2 {
			t.Errorf("%s: the store was asked %d times for what is not to be cached, want 2", way, n)
		}
	}
}

// TestNamespace runs a session over the real namespace, step by step.
func TestNamespace(t *testing.T) {
	for _, dirs := range []bool{true, false} {
		t.Run(fmt.Sprintf("dirs=%v", dirs), func(t *testing.T) {
			f := serveNamespace(t, dirs)
			for i, step := range []struct {
				method, target, body string // body: follow the redirect with it
				want                 string // the body of the answer, or a part of the exception
			}{
				{"PUT", "/w?op=MKDIRS", "", yes},
				{"PUT", "/w/a?op=MKDIRS&permission=750", "", yes},
				{"PUT", "/w/a?op=MKDIRS", "", yes},
				{"PUT", "/w/a/f?op=CREATE", "hello", ""},
				{"PUT", "/w/a/f?op=CREATE", "", "/w/a/f for client 127.0.0.1 already exists"},
				{"PUT", "/w/a/f/x?op=CREATE", "", "/w/a/f (is not a directory)"},
				{"PUT", "/w/a/f/x?op=MKDIRS", "", "/w/a/f (is not a directory)"},
				{"PUT", "/w/a/f?op=MKDIRS", "", "Path is not a directory: /w/a/f"},
				{"PUT", "/w/a?op=CREATE&overwrite=true", "", "/w/a already exists as a directory"},
				{"PUT", "/w/no/x?op=CREATE&createparent=false", "", "Parent directory doesn't exist: /w/no"},
				{"POST", "/w/a/f?op=APPEND", ", world", ""},
				{"GET", "/w/a/f?op=OPEN&offset=7", "-", "world"},
				{"GET", "/w/a/f?op=OPEN&offset=12", "", "Offset=12 out of the range [0, 12); OPEN, path=/w/a/f"},
				{"GET", "/w/a?op=OPEN", "", "Path is not a file: /w/a"},
				{"GET", "/w/a/f/x?op=GETFILESTATUS", "", "File does not exist: /w/a/f/x"},
				{"GET", "/w/a?op=OPEN&user.name=eve", "", "Path is not a file: /w/a"},
				{"GET", "/w/a/f?op=OPEN&user.name=eve", "", `Permission denied: user=eve, access=EXECUTE, inode=\"/w/a\":bob:supergroup:drwxr-x---`},
				{"PUT", "/w/x?op=CREATE&user.name=eve", "", `Permission denied: user=eve, access=`},
				{"PUT", "/w/a/f?op=SETPERMISSION&permission=000", "", ""},
				{"GET", "/w/a/f?op=CHECKACCESS&fsaction=r--", "", "Permission denied: user=bob, access=READ"},
				{"PUT", "/w/a/f?op=SETPERMISSION&permission=640", "", ""},
				{"PUT", "/w/a/f?op=SETOWNER&owner=eve", "", "Permission denied"},
				{"PUT", "/w/a/f?op=SETOWNER&owner=eve&user.name=hdfs", "", ""},
				{"PUT", "/w/a/f?op=SETOWNER&owner=bob&user.name=hdfs", "", ""},
				{"PUT", "/w/a/f?op=SETREPLICATION&replication=2", "", yes},
				{"PUT", "/w/a/g?op=CREATE", "gg", ""},
				{"PUT", "/w/a/f?op=RENAME&destination=/w/a/g", "", no},
				{"PUT", "/w/a/f?op=RENAME&destination=/w/no/g", "", no},
				{"PUT", "/w/a/f?op=RENAME&destination=/w/a/g/h", "", no},
				{"PUT", "/w/a?op=RENAME&destination=/w/a/b", "", no},
				{"PUT", "/w/a/f?op=RENAME&destination=/w/a/g&renameoptions=NONE", "", "rename destination /w/a/g already exists"},
				{"PUT", "/w/a/f?op=RENAME&destination=/w/no/g&renameoptions=NONE", "", "rename destination parent /w/no not found."},
				{"PUT", "/w/a/f?op=RENAME&destination=/w/a/g/h&renameoptions=NONE", "", "rename destination parent /w/a/g is a file."},
				{"PUT", "/w/a/f?op=RENAME&destination=/mnt/f", "", "across mount points is not supported"},
				{"PUT", "/w/b?op=MKDIRS", "", yes},
				{"PUT", "/w/b?op=RENAME&destination=/w/a/g&renameoptions=OVERWRITE", "", "must both be directories"},
				{"PUT", "/w/b?op=RENAME&destination=/w/a&renameoptions=OVERWRITE", "", "rename destination directory is not empty: /w/a"},
				{"PUT", "/w/a/f?op=RENAME&destination=/w/b&renameoptions=OVERWRITE", "", "must both be files"},
				{"PUT", "/w/a/f?op=RENAME&destination=/w/b", "", yes},
				{"PUT", "/w/b/f?op=RENAME&destination=/w/a/g&renameoptions=OVERWRITE", "", ""},
				{"GET", "/w/a/g?op=OPEN", "-", "hello, world"},
				{"PUT", "/w/a/h?op=CREATE&permission=600", "!", ""},
				{"POST", "/w/a/g?op=CONCAT&sources=/w/a/h", "", ""},
				{"GET", "/w/a/h?op=GETFILESTATUS", "", "File does not exist: /w/a/h"},
				{"PUT", "/w/a?op=RENAME&destination=/w/c", "", yes},
				{"GET", "/w/a/g?op=GETFILESTATUS", "", "File does not exist: /w/a/g"},
				{"GET", "/w/c/g?op=OPEN", "-", "hello, world!"},
				{"GET", "/w/c?op=GETCONTENTSUMMARY", "", `"directoryCount":1,"ecPolicy":"","fileCount":1,"length":13,`},
				{"GET", "/w/c/g?op=GETFILEBLOCKLOCATIONS", "", `"length":13,`},
				{"GET", "/w/c/g?op=GETFILECHECKSUM", "-", `"algorithm":"MD5-of-0MD5-of-512CRC32C"`},
				{"DELETE", "/w/c?op=DELETE", "", "`/w/c is non empty': Directory is not empty"},
				{"DELETE", "/w/c/g/x?op=DELETE", "", no},
				{"DELETE", "/mnt?op=DELETE&recursive=true&user.name=hdfs", "", "it is a mount point or holds one"},
				{"DELETE", "/w/c?op=DELETE&recursive=true", "", yes},
				{"DELETE", "/w/c?op=DELETE&recursive=true", "", no},
				{"GET", "/w?op=LISTSTATUS", "", `"pathSuffix":"b"`},
			} {
				var a answer
				switch step.body {
				case "":
					a = f.send(step.method, step.target, nil)
				case "-":
					a = f.follow(step.method, step.target, "")
				default:
					a = f.follow(step.method, step.target, step.body)
				}
				if step.want == "" && (a.body != "" || a.status >= 300) || !strings.Contains(a.body, step.want) {
					t.Errorf("step %d, %s %s: got %d %s, want %q", i, step.method, step.target, a.status, a.body, step.want)
				}
			}
		})
	}
}

// TestNamespaceBatch pages through a directory whose entries sort differently with and without their slash.
func TestNamespaceBatch(t *testing.T) {
	f := serveNamespace(t, true)
	var want []string
	for i := range 7 {
		for _, name := range []string{fmt.Sprintf("e%d.x", i), fmt.Sprintf("e%d", i)} {
			op := "?op=MKDIRS"
			if strings.HasSuffix(name, "x") {
				op = "?op=CREATE&data=true"
			}
			if a := f.send("PUT", "/p/"+name+op, nil); a.status >= 300 {
				t.Fatalf("%s: %d %s", name, a.status, a.body)
			}
		}
		want = append(want, fmt.Sprintf("e%d.x", i), fmt.Sprintf("e%d/", i))
	}
	for i, token := range append([]string{""}, want...) {
		a := f.send("GET", "/p?op=LISTSTATUS_BATCH&startafter="+url.QueryEscape(strings.TrimSuffix(token, "/")), nil)
		got, _ := names(t, a.body)
		if diff := cmp.Diff(want[i:], append([]string{}, got...)); diff != "" {
			t.Errorf("after %q: %s", token, diff)
		}
	}
}

// TestAppendBesideAppend checks that a second appender is told so while the first one is at work.
func TestAppendBesideAppend(t *testing.T) {
	f := serveNamespace(t, true)
	f.follow("PUT", "/log?op=CREATE", "1")
	loc := f.send("POST", "/log?op=APPEND", nil).header.Get("Location")

	body, first := io.Pipe()
	open := make(chan struct{})
	trace := &httptrace.ClientTrace{Got100Continue: func() { close(open) }} // the server asks for the body of an open append
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "POST", loc, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Expect", "100-continue")
	f.c.Transport.(*http.Transport).ExpectContinueTimeout = time.Minute
	done := make(chan error, 1)
	go func() {
		res, err := f.c.Do(req)
		if err == nil {
			res.Body.Close()
			if res.StatusCode != http.StatusOK {
				err = errors.New(res.Status)
			}
		}
		done <- err
	}()
	<-open
	a := f.send("POST", loc, strings.NewReader("x"))
	if class, _ := a.exception(t); a.status != 403 || class != classBeingCreated {
		t.Errorf("second append: %d %s", a.status, a.body)
	}
	io.WriteString(first, "2")
	first.Close()
	if err := <-done; err != nil {
		t.Errorf("first append: %v", err)
	}
	if a := f.follow("GET", "/log?op=OPEN", ""); a.body != "12" {
		t.Errorf("content %q", a.body)
	}
}
