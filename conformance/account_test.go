package conformance

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestAccountMount mounts all buckets of an account, and has boto3 and WebHDFS use them, make some and remove some; the account's own
// S3 says what came of it.
func TestAccountMount(t *testing.T) {
	python, versity := Python(t), StartVersitygw(t)
	makeBucket(t, versity, "first-one")
	putBehind := behindBucket(versity, "first-one")
	putBehind(t, "was/there", "before")
	m := newMounts(t, "mounts-account", versity, Options{})
	m.attach(t, "/acct", "s3://*", map[string]any{"sync_interval": "0s"})
	env := append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true")
	RunScript(t, "account", 3*time.Minute, env, python, script("account.py"), m.S3, m.WebHDFS, AccessKey, SecretKey, "acct",
		versity.URL, versity.AccessKey, versity.SecretKey)

	m.run(t, "a bucket of it is not mounted writable beside it, nor is it where one is", func(t *testing.T) {
		m.refused(t, http.StatusUnprocessableEntity, "POST", api, map[string]any{"path": "/one", "uri": "s3://first-one", "options": versity.Options()}, "overlaps")
		m.attach(t, "/one", "s3://first-one", map[string]any{"read_only": true})
		m.expect(t, "/one/was/there", "before")
		m.refused(t, http.StatusUnprocessableEntity, "POST", api, map[string]any{"path": "/again", "uri": "s3://*", "options": versity.Options()}, "overlaps")
	})
	m.run(t, "what an account cannot be mounted with", func(t *testing.T) {
		m.refused(t, http.StatusUnprocessableEntity, "POST", api, map[string]any{"path": "/x", "uri": "s3://*/prefix", "options": versity.Options()}, "has no path")
		options := versity.Options()
		options["secret_key"] = "wrong-secret-key"
		m.refused(t, http.StatusUnprocessableEntity, "POST", api, map[string]any{"path": "/x", "uri": "s3://*", "read_only": true, "options": options}, "ListAllMyBuckets")
	})
	m.run(t, "buckets are neither made nor removed where that is forbidden", func(t *testing.T) {
		m.ok(t, http.StatusOK, "PATCH", api+"/acct", map[string]any{"options": map[string]string{"manage_buckets": "false"}})
		makeBucket(t, versity, "empty-one")
		for method, c := range map[string][2]string{"PUT": {"/acct/new-one", "MKDIRS"}, "DELETE": {"/acct/empty-one", "DELETE"}} {
			if status, _, b := m.do(t, m.webhdfs(method, c[0], c[1], "", nil)); status != http.StatusForbidden || !strings.Contains(string(b), "manage_buckets=false") {
				t.Errorf("%s of %s: status %d %s", c[1], c[0], status, b)
			}
		}
		m.write(t, "/acct/empty-one/key", "written")
		m.expect(t, "/acct/empty-one/key", "written")
	})
}
