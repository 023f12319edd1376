package conformance

import (
	"encoding/json"
	"os"
	account "os/user"
	"path/filepath"
	"testing"
	"time"
)

// TestSpark writes tables with Spark through S3A and WebHDFS, on a mounted directory and on a mounted bucket of a separate
// S3 server, and reads them through the other protocol and behind Sluice.
func TestSpark(t *testing.T) {
	python, jars, java := Python(t), Jars(t, "s3a"), Java(t)
	me, err := account.Current()
	if err != nil {
		t.Fatal(err)
	}
	store, dir := StartVersitygw(t), t.TempDir()
	makeBucket(t, store, "tables")
	s := Start(t, Options{Args: []string{"--mount", "/spark-local=file://" + dir, "--mount", store.Mount("/spark-s3", "tables", "")}})
	config, err := json.Marshal(map[string]any{
		"s3": s.S3, "webhdfs": s.WebHDFS, "admin": s.Admin, "access": AccessKey, "secret": SecretKey, "user": me.Username,
		"jars": jars, "work": t.TempDir(), "mounts": []any{
			map[string]any{"name": "local", "bucket": "spark-local", "dir": dir},
			map[string]any{"name": "versitygw", "bucket": "spark-s3", "store": map[string]string{
				"url": store.URL, "access": store.AccessKey, "secret": store.SecretKey, "bucket": "tables",
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true", "JAVA_HOME="+filepath.Dir(filepath.Dir(java)),
		"SPARK_LOCAL_IP=127.0.0.1", "PYSPARK_PYTHON="+python)
	RunScript(t, "spark", 15*time.Minute, env, python, script("spark_suite.py"), string(config))
}
