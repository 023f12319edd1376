package conformance

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// TestFeeds has stores tell a cluster of 3 masters of changes, through gateways that do not lead and while leaders come and go. Nothing
// but what is told would have readers see a change: the interval is -1.
func TestFeeds(t *testing.T) {
	dir, store := t.TempDir(), StartVersitygw(t)
	makeBucket(t, store, "under")
	c, logs := startCluster(t, "--mount", "/lake=file://"+dir+",sync_interval=-1,events=inotify",
		"--mount", store.Mount("/far", "under", ",sync_interval=-1,events=webhook,events_token="+eventsToken))
	s := newSuite(t, "feeds")
	r := newRig(&Server{S3: c.S3[0], WebHDFS: c.WebHDFS[0]})
	get := func(path string) string {
		req, err := r.request("GET", path, nil).build(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		resp, err := r.http.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK {
			return fmt.Sprint(resp.StatusCode)
		}
		return string(b)
	}
	sees := func(t *testing.T, path, want string) {
		t.Helper()
		began := time.Now()
		eventually(t, time.Minute, func() error {
			if got := get(path); got != want {
				return fmt.Errorf("%s: got %.100q, want %q", path, got, want)
			}
			return nil
		})
		t.Logf("%s is seen after %v", path, time.Since(began).Round(time.Millisecond))
	}
	write := func(t *testing.T, name, data string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put := func(t *testing.T, key, data string) {
		t.Helper()
		if _, err := store.client().PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("under"), Key: &key, Body: strings.NewReader(data)}); err != nil {
			t.Fatal(err)
		}
	}
	// tell posts the event that S3 would, at a gateway, and returns the status and the answer.
	tell := func(t *testing.T, bucket, key, token string) (int, string) {
		t.Helper()
		body := fmt.Sprintf(`{"Records":[{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":%q},"object":{"key":%q}}}]}`, bucket, key)
		req, err := http.NewRequestWithContext(t.Context(), "POST", c.Admin[1]+"/api/v1/events/s3", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	// told tells until that is taken.
	told := func(t *testing.T, key string) {
		t.Helper()
		eventually(t, time.Minute, func() error {
			if status, text := tell(t, "under", key, eventsToken); status != http.StatusOK || strings.Contains(text, `"taken":0`) {
				return fmt.Errorf("%d %s", status, text)
			}
			return nil
		})
	}
	live := func(t *testing.T) {
		t.Helper()
		eventually(t, time.Minute, func() error {
			out, err := sluice(t, c.Admin[0], "mount", "ls")
			if err == nil && !strings.Contains(string(out), "inotify live") {
				err = fmt.Errorf("no feed is live:\n%s", out)
			}
			return err
		})
	}
	live(t)
	s.run(t, "a directory", func(t *testing.T) {
		write(t, "d/f", "one")
		sees(t, "/lake/d/f", "one")
		write(t, "d/f", "two")
		sees(t, "/lake/d/f", "two")
		if err := os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e")); err != nil {
			t.Fatal(err)
		}
		sees(t, "/lake/e/f", "two")
		sees(t, "/lake/d/f", "404")
	})
	s.run(t, "a bucket", func(t *testing.T) {
		put(t, "d/f g", "one")
		told(t, "d/f+g")
		sees(t, "/far/d/f%20g", "one")
		was, silent := "one", false
		for n := 0; n < 5 && !silent; n++ { // a read whose bytes are not cached yet asks the store
			is := fmt.Sprint("two", n)
			put(t, "d/f g", is)
			got := get("/far/d/f%20g")
			if silent = got == was; !silent && got != is {
				t.Errorf("before it is told: %q", got)
			}
			told(t, "d/f+g")
			if got := get("/far/d/f%20g"); got != is {
				t.Errorf("once it was told: %q", got)
			}
			was = is
		}
		if !silent {
			t.Error("the store is looked at before anybody tells of it, each time")
		}
	})
	s.run(t, "who may not tell", func(t *testing.T) {
		for _, token := range []string{"", "wrong", strings.ToUpper(eventsToken)} {
			if status, text := tell(t, "under", "d/f", token); status != http.StatusUnauthorized {
				t.Errorf("token %q: %d %s", token, status, text)
			}
		}
		if status, text := tell(t, "other", "d/f", eventsToken); status != http.StatusNotFound || !strings.Contains(text, "s3://other") {
			t.Errorf("a bucket that is not mounted: %d %s", status, text)
		}
		for _, name := range []string{"m1", "m2", "m3", "g1", "g2"} {
			b, err := os.ReadFile(filepath.Join(logs, name+".log"))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(b, []byte(eventsToken)) {
				t.Errorf("%s logs the token", name)
			}
		}
		if out, err := sluice(t, c.Admin[0], "mount", "ls", "--output", "json"); err != nil || bytes.Contains([]byte(out), []byte(eventsToken)) {
			t.Errorf("the mounts are listed with the token: %v", err)
		}
	})
	s.run(t, "a leader that is killed", func(t *testing.T) {
		write(t, "e/f", "three")
		sees(t, "/lake/e/f", "three")
		leader := c.leader(t, logs)
		if err := syscall.Kill(leader.pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		write(t, "e/f", "four") // nobody watches
		put(t, "d/f g", "four")
		told(t, "d/f+g")
		sees(t, "/far/d/f%20g", "four")
		sees(t, "/lake/e/f", "four")
		live(t)
		write(t, "e/f", "five")
		sees(t, "/lake/e/f", "five")
	})
	s.run(t, "what is said of it", func(t *testing.T) {
		eventually(t, time.Minute, func() error {
			out, err := sluice(t, c.Admin[1], "explain", "/lake/e/f")
			if err == nil && (!strings.Contains(string(out), "inotify live") || !strings.Contains(string(out), "1 gaps, 1 rescans")) {
				err = fmt.Errorf("it is said:\n%s", out)
			}
			return err
		})
	})
}
