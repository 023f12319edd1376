package webhdfsufs

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
)

// TestConcatOfCommas does not ask for files that the request cannot name.
func TestConcatOfCommas(t *testing.T) {
	c, err := New(Options{URL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Concat(t.Context(), "/a,b/whole", []string{"/a,b/1.x", "/a,b/2.y"}); !errors.Is(err, errs.Unsupported) {
		t.Errorf("got %v", err)
	}
}

// TestRenameThatWasNot asks servers for renames that they do not make, or make elsewhere.
func TestRenameThatWasNot(t *testing.T) {
	const none = `{"RemoteException":{"exception":"FileNotFoundException","javaClassName":"java.io.FileNotFoundException","message":"none"}}`
	moved, lost := "", false // where HttpFS has moved the file; whether its directory cannot be asked about
	answer := func(w http.ResponseWriter, r *http.Request) {
		p, q := strings.TrimPrefix(r.URL.Path, api), r.URL.Query()
		status, text := http.StatusOK, ""
		switch op := q.Get("op"); {
		case op == "RENAME" && p == "/s/a":
			moved, text = "/s/d/a", `{"boolean":true}`
		case op == "RENAME" && p == moved:
			moved, text = q.Get("destination"), `{"boolean":true}`
		case op == "RENAME":
			text = `{"boolean":false}`
		case p == "/s/a":
			text = `{"FileStatus":{"type":"FILE","length":4,"permission":"644"}}`
		case moved != "" && lost:
			status, text = http.StatusServiceUnavailable, "later"
		case moved != "":
			text = `{"FileStatus":{"type":"DIRECTORY","permission":"755"}}`
		default:
			status, text = http.StatusNotFound, none
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
	server := httptest.NewServer(http.HandlerFunc(answer))
	defer server.Close()
	c, err := New(Options{URL: server.URL, User: "u"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Rename(t.Context(), "/s/a", "/s/d", false); !errors.Is(err, errs.Exist) || moved != "/s/a" {
		t.Errorf("a file moved into a directory: got %v, and it is at %q", err, moved)
	}
	moved, lost = "", true
	if err := c.Rename(t.Context(), "/s/a", "/s/d", false); !errors.Is(err, errs.Unavailable) {
		t.Errorf("nobody knows where it is: got %v", err)
	}
	c.renames.Store(fullRename)
	if err := c.Rename(t.Context(), "/s/b", "/s/e", false); !errors.Is(err, errs.Unavailable) {
		t.Errorf("nothing was renamed: got %v", err)
	}
}
