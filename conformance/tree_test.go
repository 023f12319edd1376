package conformance

import (
	"encoding/json"
	"os"
	account "os/user"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicefs/sluice/ufs/hadoopfs/minidfs"
)

// TestTree mounts stores of five kinds that can be written in one tree, nested two deep: Spark writes a table into each and joins them,
// directories are renamed, files are copied and trees are copied by Hadoop's DistCp from each to another. Without
// SLUICE_FULL one join of three and one DistCp stand for all.
func TestTree(t *testing.T) {
	python, jars, java := Python(t), Jars(t, "s3a")+"/*:"+Jars(t, "distcp")+"/*", Java(t)
	me, err := account.Current()
	if err != nil {
		t.Fatal(err)
	}
	az, gcs, versity, cluster := StartAzurite(t), StartGCS(t), StartVersitygw(t), minidfs.Start(t, minidfs.Options{})
	az.makeContainer(t, "under")
	gcs.MakeBucket(t, "under")
	makeBucket(t, versity, "under")
	local := t.TempDir()
	m := newMounts(t, "tree-mounts", versity, Options{})
	m.run(t, "mounts", func(t *testing.T) {
		m.attach(t, "/tree", "file://"+local, nil)
		m.attach(t, "/tree/s3", "s3://under", nil)
		m.attach(t, "/tree/s3/az", "azure://under@"+az.Account+"/pre", map[string]any{"options": az.Options()})
		m.attach(t, "/tree/hdfs", "hdfs://"+cluster.RPC+"/under", map[string]any{"options": map[string]string{"create": "true"}})
		m.attach(t, "/tree/hdfs/gcs", "gs://under/pre", map[string]any{"options": gcs.Options()})
	})
	config, err := json.Marshal(map[string]any{
		"s3": m.S3, "webhdfs": m.WebHDFS, "access": AccessKey, "secret": SecretKey, "user": me.Username, "jars": jars, "work": t.TempDir(), "bucket": "tree", "full": os.Getenv("SLUICE_FULL") != "",
		"stores": map[string]string{"local": "", "s3": "s3/", "azure": "s3/az/", "hdfs": "hdfs/", "gcs": "hdfs/gcs/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true", "JAVA_HOME="+filepath.Dir(filepath.Dir(java)),
		"SPARK_LOCAL_IP=127.0.0.1", "PYSPARK_PYTHON="+python)
	RunScript(t, "tree", 15*time.Minute, env, python, script("tree_suite.py"), string(config))
}
