package web_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/web"
)

// TestSlowDown checks that who made the context of a request is told when the server says that it is asked too much.
func TestSlowDown(t *testing.T) {
	status, after := 0, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.WriteHeader(status)
	}))
	defer server.Close()
	client := web.NewClient()
	defer client.CloseIdleConnections()
	for _, c := range []struct {
		status int
		after  string
		told   int
		want   time.Duration
	}{
		{200, "5", 0, 0}, {404, "", 0, 0}, {500, "", 0, 0},
		{429, "", 1, 0}, {503, "7", 1, 7 * time.Second}, {503, "soon", 1, 0}, {503, "-1", 1, 0}, {429, "0", 1, 0},
		{503, "Mon, 02 Jan 2006 15:04:05 GMT", 1, 0},
	} {
		status, after = c.status, c.after
		told, got := 0, time.Duration(0)
		ctx := ufs.WithSlowDown(t.Context(), func(after time.Duration) { told, got = told+1, after })
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if told != c.told || got != c.want {
			t.Errorf("%d with Retry-After %q: told %d times, %v; want %d, %v", c.status, c.after, told, got, c.told, c.want)
		}
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	h := http.Header{"Retry-After": {now.Add(time.Minute).Format(http.TimeFormat)}}
	if got := web.RetryAfter(h, now); got != time.Minute {
		t.Errorf("a date: got %v, want 1m", got)
	}
}
