package conformance

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func script(name string) string { return filepath.Join("clients", name) }

// TestBoto3 runs every operation over plain HTTP and over TLS, whose wire shapes differ.
func TestBoto3(t *testing.T) {
	python := Python(t)
	s := Start(t, Options{TLS: true})
	env := append(os.Environ(), "AWS_EC2_METADATA_DISABLED=true")
	t.Run("http", func(t *testing.T) {
		RunScript(t, "boto3-http", 5*time.Minute, env, python, script("boto3_suite.py"), s.S3, AccessKey, SecretKey, "boto-http")
	})
	t.Run("tls", func(t *testing.T) {
		RunScript(t, "boto3-tls", 5*time.Minute, env, python, script("boto3_suite.py"), s.S3TLS, AccessKey, SecretKey, "boto-tls", s.CA)
	})
}
