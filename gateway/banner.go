package gateway

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"

	"github.com/sluicefs/sluice/gateway/config"
)

// Addrs are the URLs of the listeners that are open, "" for those that are not.
type Addrs struct {
	S3, S3TLS, WebHDFS, WebHDFSTLS, Admin string
}

// banner writes what a person needs to use the process that has just become ready: URLs, keys, lines to copy. The secret
// is written only if showSecret. simple says that WebHDFS believes user.name.
func banner(w io.Writer, version string, a Addrs, c config.Config, root config.Root, user string, simple, showSecret bool) {
	secret, note := root.SecretKey.Reveal(), ""
	if !showSecret {
		secret = "$SLUICE_ROOT_SECRET_KEY"
		note = "as configured"
		if c.Root.AccessKey == "" {
			note = "in " + filepath.Join(c.Data, CredentialsFile)
		}
	}
	fmt.Fprintf(w, "Sluice %s is ready; data in %s\n\n", version, c.Data)
	for _, l := range []struct{ name, url string }{
		{"S3", a.S3}, {"S3 (TLS)", a.S3TLS}, {"WebHDFS", suffixed(a.WebHDFS, "/webhdfs/v1")},
		{"WebHDFS (TLS)", suffixed(a.WebHDFSTLS, "/webhdfs/v1")}, {"Admin API", suffixed(a.Admin, "/api/v1")},
		{"Metrics", suffixed(a.Admin, "/metrics")},
	} {
		if l.url != "" {
			fmt.Fprintf(w, "  %-14s %s\n", l.name, l.url)
		}
	}
	fmt.Fprintf(w, "  %-14s %s\n  %-14s %s\n", "Superuser", user, "Access key", root.AccessKey)
	if note == "" {
		note = secret
	}
	fmt.Fprintf(w, "  %-14s %s\n\nTry:\n", "Secret key", note)
	examples(w, a, root.AccessKey, secret, c.S3.Region, user, simple)
}

// examples writes lines that work as they are when pasted into a shell, and a Spark configuration.
func examples(w io.Writer, a Addrs, key, secret, region, user string, simple bool) {
	if region == "" {
		region = "us-east-1"
	}
	if s3 := cmp.Or(a.S3, a.S3TLS); s3 != "" {
		fmt.Fprintf(w, `  export AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s AWS_REGION=%s AWS_ENDPOINT_URL=%s
  aws s3 mb s3://demo && echo hello | aws s3 cp - s3://demo/hello.txt && aws s3 ls s3://demo
  spark-sql --packages org.apache.hadoop:hadoop-aws:3.4.1 \
    --conf spark.hadoop.fs.s3a.endpoint=%s --conf spark.hadoop.fs.s3a.path.style.access=true \
    --conf spark.hadoop.fs.s3a.access.key=%s --conf spark.hadoop.fs.s3a.secret.key=%s
`, key, secret, region, s3, s3, key, secret)
	}
	if h := cmp.Or(a.WebHDFS, a.WebHDFSTLS); h != "" && !simple {
		fmt.Fprintf(w, `  curl -L -u "%s:%s" '%s/webhdfs/v1/demo/hello.txt?op=OPEN'
  # hdfs dfs and others that only name their user need --webhdfs-auth simple, which believes whoever reaches the port
`, key, secret, h)
	} else if h != "" {
		scheme := "webhdfs"
		if strings.HasPrefix(h, "https:") {
			scheme = "swebhdfs"
		}
		_, host, _ := strings.Cut(h, "://")
		fmt.Fprintf(w, `  curl -L '%s/webhdfs/v1/demo/hello.txt?op=OPEN&user.name=%s'
  HADOOP_USER_NAME=%s hdfs dfs -ls %s://%s/demo
`, h, user, user, scheme, host)
	}
	fmt.Fprintln(w)
}

func suffixed(url, path string) string {
	if url == "" {
		return ""
	}
	return url + path
}

// urlOf returns the URL of a listener; one that listens on every address is reached at localhost.
func urlOf(l net.Listener, scheme string) string {
	if l == nil {
		return ""
	}
	addr := l.Addr().(*net.TCPAddr)
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, fmt.Sprint(addr.Port))
}
