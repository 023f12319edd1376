package conformance

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// makeContainer makes a container of the emulator's account, by a request signed here.
func (a *Azurite) makeContainer(t testing.TB, name string) {
	t.Helper()
	date := time.Now().UTC().Format(http.TimeFormat)
	key, err := base64.StdEncoding.DecodeString(a.Key)
	if err != nil {
		t.Fatal(err)
	}
	path := "/" + a.Account + "/" + name
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:%s\nx-ms-version:2024-11-04\n/%s%s\nrestype:container", date, a.Account, path)
	r, err := http.NewRequest("PUT", a.URL+path+"?restype=container", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("x-ms-date", date)
	r.Header.Set("x-ms-version", "2024-11-04")
	r.Header.Set("Authorization", "SharedKey "+a.Account+":"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusCreated {
		t.Fatalf("make container %s: status %d", name, answer.StatusCode)
	}
}

// TestClouds mounts stores of five kinds in one tree, nested two deep, and has boto3 and WebHDFS read, write, copy and rename
// in them and between them. Then the servers die one by one: the rest of the tree answers, and theirs says so in time.
func TestClouds(t *testing.T) {
	python := Python(t)
	az, gcs, versity := StartAzurite(t), StartGCS(t), StartVersitygw(t)
	az.makeContainer(t, "under")
	gcs.MakeBucket(t, "under")
	makeBucket(t, versity, "under")
	pub := t.TempDir()
	for name, text := range map[string]string{"a.txt": "published", "sub dir/b+c.txt": "below"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(pub, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(pub, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	web := StartWeb(t, pub)
	local := t.TempDir()
	m := newMounts(t, "clouds-mounts", versity, Options{})
	m.attach(t, "/lake", "file://"+local, nil)
	m.attach(t, "/lake/s3", "s3://under", nil)
	m.attach(t, "/lake/s3/az", "azure://under@"+az.Account+"/pre", map[string]any{"options": az.Options(), "sync_interval": "0s"})
	m.attach(t, "/lake/gcs", "gs://under/pre", map[string]any{"options": gcs.Options(), "sync_interval": "0s"})
	m.attach(t, "/lake/gcs/web", web.URL, map[string]any{"read_only": true, "sync_interval": "0s"})

	m.run(t, "secrets are not shown, and what cannot be mounted is refused", func(t *testing.T) {
		doc := fmt.Sprint(m.ok(t, http.StatusOK, "GET", api, nil))
		if strings.Contains(doc, az.Key) || !strings.Contains(doc, "account_key:***") {
			t.Errorf("the mounts are %s", doc)
		}
		for uri, c := range map[string]struct {
			options map[string]string
			text    string
		}{
			"azure://none@" + az.Account: {az.Options(), "no such container"}, "azure://u:" + az.Key[:9] + "@a": {az.Options(), "credentials"},
			"azure://under@" + az.Account: {map[string]string{"endpoint": az.URL + "/" + az.Account, "account_key": "d3Jvbmc="}, "refused"},
			"gs://none":                   {gcs.Options(), "no such bucket"}, "gs://under": {map[string]string{"anonymus": "true"}, "anonymus"},
			web.URL + "/none/": {nil, "read the index"}, web.URL: {nil, "--read-only"},
		} {
			status, _, doc := m.call(t, "POST", api, map[string]any{"path": "/other", "uri": uri, "options": c.options})
			if text := fmt.Sprint(doc); status/100 != 4 && status/100 != 5 || !strings.Contains(text, c.text) || strings.Contains(text, az.Key[:9]) {
				t.Errorf("mount %s: status %d: %s", uri, status, text)
			}
		}
	})
	env := append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true")
	RunScript(t, "clouds", 3*time.Minute, env, python, script("clouds.py"), m.S3, m.WebHDFS, AccessKey, SecretKey, "lake", "", "s3/", "s3/az/", "gcs/")

	m.run(t, "a store that dies keeps its trouble to itself", func(t *testing.T) {
		m.write(t, "/lake/s3/az/last", "az")
		m.write(t, "/lake/gcs/last", "gcs")
		for name, c := range map[string]struct {
			kill   func()
			broken string
		}{"azure": {az.Kill, "/lake/s3/az/none"}, "gcs": {gcs.Kill, "/lake/gcs/none"}, "web": {web.Kill, "/lake/gcs/web/none"}} {
			c.kill()
			start := time.Now()
			if status, _, body := m.fetch(t, c.broken); status != http.StatusServiceUnavailable || time.Since(start) > 10*time.Second {
				t.Errorf("%s is dead: status %d after %v: %s", name, status, time.Since(start), body)
			}
			m.write(t, "/lake/alive", name)
			m.expect(t, "/lake/alive", name)
			m.write(t, "/lake/s3/alive", name)
			m.expect(t, "/lake/s3/alive", name)
		}
	})
}
