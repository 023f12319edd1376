package s3ufs

import (
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/sluicefs/sluice/core/needtest"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

// opener returns a function that opens stores at endpoint, each below a prefix of its own.
func opener(t *testing.T, endpoint, access, secret string) func(t *testing.T) ufs.Store {
	t.Helper()
	const bucket = "suite"
	open := func(t *testing.T, prefix string) *Store {
		s, err := Open(Options{
			Bucket: bucket, Prefix: prefix, Endpoint: endpoint, AccessKey: access, SecretKey: secret, PathStyle: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	name := bucket
	if _, err := open(t, "").client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &name}); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int32
	return func(t *testing.T) ufs.Store {
		s := open(t, fmt.Sprintf("t%d", n.Add(1)))
		if err := s.Probe(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func TestGofakes3(t *testing.T) {
	if testing.Short() {
		t.Skip("-short leaves out what starts servers")
	}
	server := httptest.NewServer(gofakes3.New(s3mem.New()).Server())
	t.Cleanup(server.Close)
	ufstest.Run(t, opener(t, server.URL, "access", "secret"), gofakes3Deviations...)
}

var gofakes3Deviations = []ufstest.Deviation{
	{Test: "Names/names with control characters and backslashes are byte-exact", Reason: "ignores encoding-type=url, so that control characters are lost in XML"},
	{Test: "Create/attributes are kept", Reason: "keeps no Cache-Control and Content-Language"},
	{Test: "Create/SetAttr before Commit replaces attributes", Reason: "keeps no Cache-Control and Content-Language"},
	{Test: "Create/Commit returns the facts Stat has", Reason: "a multipart upload has two ETags, from Complete and from HEAD"},
	{Test: "Copy/bytes and attributes", Reason: "merges the metadata where it should replace them"},
	{Test: "SetAttr/attributes change, bytes do not", Reason: "merges the metadata where it should replace them"},
	{Test: "Compose/a file of parts", Reason: "has no UploadPartCopy"},
}

// TestVersitygw runs the suite against a gateway in a process of its own, if its binary is in PATH or $SLUICE_CACHE.
func TestVersitygw(t *testing.T) {
	ufstest.Run(t, opener(t, versitygw(t), "access", "secretsecret"), versitygwDeviations...)
}

// versitygw starts a gateway with the keys "access" and "secretsecret" and returns its URL.
func versitygw(t *testing.T) string {
	t.Helper()
	binary := needtest.Server(t, "versitygw", "versitygw", "versitygw")
	addr := freeAddress(t)
	return serve(t, addr, exec.Command(binary, "--port", addr, "--access", "access", "--secret", "secretsecret", "--quiet", "posix", t.TempDir()))
}

// TestMinio runs the suite against MinIO, whose binary SLUICE_MINIO names. It takes some minutes to build and is no part of any other run:
//
//	go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
func TestMinio(t *testing.T) {
	binary := os.Getenv("SLUICE_MINIO")
	if binary == "" {
		t.Skip("SLUICE_MINIO names no binary of MinIO")
	}
	addr := freeAddress(t)
	cmd := exec.Command(binary, "server", "--quiet", "--address", addr, t.TempDir())
	cmd.Env = append(os.Environ(), "MINIO_ROOT_USER=access", "MINIO_ROOT_PASSWORD=secretsecret", "MINIO_UPDATE=off", "MINIO_BROWSER=off")
	ufstest.Run(t, opener(t, serve(t, addr, cmd), "access", "secretsecret"), minioDeviations...)
}

// freeAddress returns an address of loopback at which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// serve runs a server until the test ends, and returns its URL once it listens.
func serve(t *testing.T, addr string, cmd *exec.Cmd) string {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	needtest.Listens(t, addr)
	return "http://" + addr
}

var minioDeviations = []ufstest.Deviation{
	{Test: "Names/a file and a directory of one name stand side by side", Reason: "lists nothing of a directory beside a file of its name"},
	{Test: "List/byte order with what is not ASCII, and directories whose slash sorts late", Reason: "lists nothing of a directory beside a file of its name"},
	{Test: "List/flat: every key at any depth", Reason: "lists nothing of a directory beside a file of its name"},
	{Test: "Create/IfVersion: what came while the bytes were written stays", Reason: "answers 503 after 30 s instead of 412: the PUT that waits for its body has the lock"},
}

// On a file system it cannot hold every S3 key.
var versitygwDeviations = []ufstest.Deviation{
	{Test: "Names/names with control characters and backslashes are byte-exact", Reason: "ignores encoding-type=url, so that control characters are lost in XML"},
	{Test: "Names/a file and a directory of one name stand side by side", Reason: "a name is a file or a directory"},
	{Test: "List/byte order with what is not ASCII, and directories whose slash sorts late", Reason: "a name is a file or a directory"},
	{Test: "List/flat: every key at any depth", Reason: "a name is a file or a directory"},
}
