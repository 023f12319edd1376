package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// fakeMasters are three masters, of which "two" can lead.
type fakeMasters struct{}

func (fakeMasters) AddMaster(context.Context, string) error { return nil }

func (fakeMasters) ChangeMasters(_ context.Context, promote, _ []string) error {
	if len(promote) != 2 {
		return errs.New("etcd.Change", "", errs.Invalid, "4 members vote")
	}
	return nil
}

func (fakeMasters) Defrag(context.Context) ([]Defragmented, error) {
	return []Defragmented{{Member: "one", Before: 9, After: 4}}, nil
}

func (fakeMasters) Masters(ctx context.Context) ([]Master, error) {
	return []Master{{Name: "one", State: "leader"}, {Name: core.PrincipalOf(ctx).User, State: "standby"}}, needSuper(ctx)
}

func (fakeMasters) Handover(_ context.Context, to string) (Handover, error) {
	if to != "" && to != "two" {
		return Handover{}, errs.New("etcd.Handover", to, errs.NotExist, "no other member votes by this name")
	}
	return Handover{From: "one", To: "two", Ms: 7}, nil
}

// handedOn is a process that hands requests on to a server, as the tunnel between processes does.
type handedOn struct {
	to   http.Handler
	seen []string
	err  error
}

func (h *handedOn) RoundTrip(r *http.Request) (*http.Response, error) {
	if h.err != nil {
		return nil, h.err
	}
	h.seen = append(h.seen, r.Method+" "+r.URL.RequestURI())
	ctx := core.WithRequestID(core.WithPrincipal(context.WithoutCancel(r.Context()), core.PrincipalOf(r.Context())), core.RequestID(r.Context()))
	there := httptest.NewRequestWithContext(ctx, r.Method, r.URL.RequestURI(), r.Body)
	there.Header = r.Header.Clone()
	there.Header.Del("Authorization")
	w := httptest.NewRecorder()
	h.to.ServeHTTP(w, there)
	return w.Result(), nil
}

func TestTheLeaderAnswers(t *testing.T) {
	leader := New(Options{Masters: fakeMasters{}, Version: "test"})
	way := &handedOn{to: leader.Trusted()}
	s := New(Options{Forward: way, Authenticator: users{}, Namespace: &fakeFiles{files: map[string]string{"/a": "hello"}}, Version: "test"})
	call := func(method, path, body, key string) (int, string, http.Header) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.SetBasicAuth(key, strings.ToLower(key)+"secret")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		b, _ := io.ReadAll(w.Result().Body)
		return w.Code, string(b), w.Header()
	}
	for _, k := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/api/v1/masters", "", 200, `"name":"hdfs"`},
		{"POST", "/api/v1/masters/handover", `{"to":"two"}`, 200, `"to":"two"`},
		{"POST", "/api/v1/masters/handover", "", 200, `"from":"one"`},
		{"POST", "/api/v1/masters/handover", `{"to":"four"}`, 404, "no other member votes"},
		{"POST", "/api/v1/masters", `{"peer":"http://h:1"}`, 200, `"name":"one"`},
		{"POST", "/api/v1/masters/change", `{"promote":["four","five"]}`, 200, `"name":"one"`},
		{"POST", "/api/v1/masters/change", `{"promote":["four"]}`, 400, "4 members vote"},
		{"POST", "/api/v1/masters/defrag", "", 200, `"after":4`},
		{"POST", "/api/v1/masters/handover", `{"other":1}`, 422, "unexpected property"},
	} {
		status, got, h := call(k.method, k.path, k.body, "ROOT")
		if status != k.status || !strings.Contains(got, k.want) {
			t.Errorf("%s %s: got %d %s, want %d with %q", k.method, k.path, status, got, k.status, k.want)
		}
		if len(h.Values("X-Request-Id")) != 1 {
			t.Errorf("%s %s: request ids %q", k.method, k.path, h.Values("X-Request-Id"))
		}
	}
	if len(way.seen) != 9 {
		t.Errorf("handed on: %q", way.seen)
	}
	// What is not the leader's is answered here, and nobody without the right gets through.
	way.seen = nil
	if status, got, _ := call("GET", "/api/v1/fs/entry?path=/a", "", "ROOT"); status != 200 {
		t.Errorf("got %d %s", status, got)
	}
	for key, want := range map[string]int{"BOB": 403, "OTHER": 401} {
		if status, got, _ := call("GET", "/api/v1/masters", "", key); status != want {
			t.Errorf("%s: got %d %s", key, status, got)
		}
	}
	if len(way.seen) > 0 {
		t.Errorf("handed on: %q", way.seen)
	}
	way.err = errs.E("remote", "", errs.Unavailable, errors.New("no master answers"))
	if status, got, _ := call("GET", "/api/v1/masters", "", "ROOT"); status != 503 || !strings.Contains(got, "no master answers") {
		t.Errorf("without a leader: got %d %s", status, got)
	}
	// The leader looks at who asks as well, and knows no keys.
	r := httptest.NewRequestWithContext(core.WithPrincipal(t.Context(), core.Principal{User: "ann"}), "GET", "/api/v1/masters", nil)
	w := httptest.NewRecorder()
	leader.Trusted().ServeHTTP(w, r)
	if w.Code != 403 {
		t.Errorf("a principal that is no superuser: got %d", w.Code)
	}
}
