package s3ufs

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// ways counts the requests of a method that came the short way, and those of the SDK.
func (f *fake) ways(method string, refuse func(w http.ResponseWriter, short bool) bool) (short, long *int) {
	short, long = new(int), new(int)
	f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		if r.Method != method || r.URL.Path == "/"+f.bucket {
			return false
		}
		own := r.Header.Get("User-Agent") == "sluice"
		if own {
			*short++
		} else {
			*long++
		}
		return refuse != nil && refuse(w, own)
	}
	return short, long
}

// TestShort checks that reads go the short way, and tell the same as by way of the SDK.
func TestShort(t *testing.T) {
	f, ctx := newFake(t), t.Context()
	s, sdk := f.open(t, "p"), f.open(t, "p")
	sdk.short.off.Store(math.MaxInt64)
	attr := ufs.Attr{Headers: map[string]string{"Content-Type": "text/x", "Cache-Control": "no-store"}, User: map[string]string{"k": "ü"}, Mode: 0o640}
	const name = "d/a b+c%é"
	if _, err := ufs.WriteFile(ctx, s, name, []byte("0123456789"), ufs.CreateOptions{Attr: attr}); err != nil {
		t.Fatal(err)
	}
	heads, long := f.ways(http.MethodHead, nil)
	got, err := s.Stat(ctx, name)
	if err != nil || *heads != 1 || *long != 0 {
		t.Fatalf("stat: %v, %d requests the short way and %d by the SDK", err, *heads, *long)
	}
	want, err := sdk.Stat(ctx, name)
	if err != nil || *heads != 1 || *long != 1 {
		t.Fatalf("stat by the SDK: %v, %d requests the short way and %d by the SDK", err, *heads, *long)
	}
	if !got.ModTime.Equal(want.ModTime) {
		t.Errorf("modified %v, by the SDK %v", got.ModTime, want.ModTime)
	}
	got.ModTime, want.ModTime = time.Time{}, time.Time{}
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("stat: %s, by the SDK %s", g, w)
	}
	_, err = s.Stat(ctx, "d/none")
	wantKind(t, "stat of what is not there", err, errs.NotExist)
	if *heads != 2 || *long != 1 {
		t.Errorf("what is not there was asked for %d times by the SDK", *long-1)
	}

	gets, long := f.ways(http.MethodGet, nil)
	r, err := s.Open(ctx, name, 2, 3, got.Version)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "234" || *gets != 1 || *long != 0 {
		t.Errorf("read %q, %v with %d requests the short way and %d by the SDK", b, err, *gets, *long)
	}
	_, err = s.Open(ctx, name, 2, 3, strings.Repeat("0", 32)+"|1")
	wantKind(t, "open of another version", err, errs.Precondition)
}

// TestShortFails checks what is asked for again by way of the SDK, and how often.
func TestShortFails(t *testing.T) {
	for status, off := range map[int]bool{http.StatusServiceUnavailable: false, http.StatusForbidden: true} {
		f, ctx := newFake(t), t.Context()
		s := f.open(t, "")
		if _, err := ufs.WriteFile(ctx, s, "a", []byte("x"), ufs.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		short, long := f.ways(http.MethodHead, func(w http.ResponseWriter, short bool) bool {
			if short {
				w.WriteHeader(status)
			}
			return short
		})
		for range 2 {
			if _, err := s.Stat(ctx, "a"); err != nil {
				t.Errorf("%d the short way: %v", status, err)
			}
		}
		if want := map[bool]int{false: 2, true: 1}[off]; *short != want || *long != 2 {
			t.Errorf("%d: %d requests the short way, want %d; %d by the SDK, want 2", status, *short, want, *long)
		}
		short, long = f.ways(http.MethodHead, func(w http.ResponseWriter, short bool) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		})
		_, err := s.Stat(ctx, "a")
		wantKind(t, "stat of a service that is down", err, errs.Unavailable)
		if *short+*long != maxTries {
			t.Errorf("%d: a service that is down was asked %d times, want %d", status, *short+*long, maxTries)
		}
	}
}
