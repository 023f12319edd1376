// Package minidfs starts HDFS for tests: Hadoop's own MiniDFSCluster, a name node and datanodes in one Java process, with jars
// from Maven Central. They are installed under SLUICE_CACHE, else "sluice" in the user's cache directory, if SLUICE_INSTALL or
// SLUICE_REQUIRE is set; without, a test is skipped. It is for tests only.
package minidfs

import (
	"bytes"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core/needtest"
)

//go:embed minidfs.xml
var pom string

// Options are the settings of a cluster.
type Options struct {
	Config map[string]string // Hadoop's properties
	Java   []string          // more arguments of the virtual machine
}

// Cluster is a running cluster.
type Cluster struct {
	RPC  string // host:port of the name node
	HTTP string // host:port of its WebHDFS
	Log  string // file

	options Options
	dir     string
	process *process
}

// Start starts a cluster of one datanode, whose superuser is the user of the process. It ends with the test, or the process.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := &Cluster{RPC: freePort(t), HTTP: freePort(t), options: o, dir: t.TempDir()}
	c.Log = filepath.Join(c.dir, "log")
	c.start(t, "-format")
	t.Cleanup(c.Kill)
	return c
}

// Restart starts a killed cluster again, at its addresses and with what it has.
func (c *Cluster) Restart(t testing.TB) {
	t.Helper()
	c.start(t)
}

// Kill ends the cluster as kill -9 does, and waits until it is gone.
func (c *Cluster) Kill() { c.process.kill() }

func (c *Cluster) start(t testing.TB, more ...string) {
	t.Helper()
	details := filepath.Join(c.dir, "details.json")
	_ = os.Remove(details)
	config := map[string]string{
		"dfs.replication":                          "1",
		"dfs.datanode.address":                     "127.0.0.1:0",
		"dfs.datanode.http.address":                "127.0.0.1:0",
		"dfs.datanode.ipc.address":                 "127.0.0.1:0",
		"dfs.namenode.edits.noeditlogchannelflush": "true", // nobody pulls the plug
		"dfs.ls.limit":                             "20",   // so that listings have pages
	}
	if me, err := user.Current(); err == nil { // HttpFS runs as us, and acts for others
		config["hadoop.proxyuser."+me.Username+".hosts"], config["hadoop.proxyuser."+me.Username+".groups"] = "*", "*"
	}
	for k, v := range c.options.Config {
		config[k] = v
	}
	_, rpc, _ := net.SplitHostPort(c.RPC)
	_, http, _ := net.SplitHostPort(c.HTTP)
	argv := append([]string{"-Dtest.build.data=" + c.dir}, c.options.Java...)
	argv = append(argv, "org.apache.hadoop.test.MiniDFSClusterManager", "-datanodes", "1", "-nnport", rpc, "-httpport", http, "-writeDetails", details)
	argv = append(argv, more...)
	for k, v := range config {
		argv = append(argv, "-D", k+"="+v)
	}
	c.process = java(t, c.dir, c.Log, argv...)
	c.process.await(t, func() bool {
		_, err := os.Stat(details)
		return err == nil
	})
}

// StartHttpFS starts HttpFS in front of c, and returns its host:port.
func (c *Cluster) StartHttpFS(t testing.TB) string {
	t.Helper()
	dir, addr := t.TempDir(), freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	for name, props := range map[string]map[string]string{
		"core-site.xml": {"fs.defaultFS": "hdfs://" + c.RPC}, "hdfs-site.xml": {"dfs.replication": "1"},
		"httpfs-site.xml": {"httpfs.http.hostname": "127.0.0.1", "httpfs.http.port": port},
	} {
		var b bytes.Buffer
		b.WriteString("<configuration>")
		for k, v := range props {
			fmt.Fprintf(&b, "<property><name>%s</name><value>%s</value></property>", k, v)
		}
		b.WriteString("</configuration>")
		if err := os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "httpfs-signature.secret"), []byte("a secret of the test"), 0o600); err != nil {
		t.Fatal(err)
	}
	argv := make([]string, 0, 8)
	for _, d := range []string{"home", "config", "log", "temp"} {
		argv = append(argv, "-Dhttpfs."+d+".dir="+dir)
	}
	argv = append(argv, "org.apache.hadoop.fs.http.server.HttpFSServerWebServer")
	p := java(t, dir, filepath.Join(dir, "log"), argv...)
	p.await(t, func() bool {
		n, err := net.Dial("tcp", addr)
		if err == nil {
			_ = n.Close()
		}
		return err == nil
	})
	return addr
}

// process is a Java process.
type process struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	once   sync.Once
}

// java starts a virtual machine with the jars on its class path.
func java(t testing.TB, dir, log string, argv ...string) *process {
	t.Helper()
	jars := install(t)
	if err := os.WriteFile(filepath.Join(dir, "log4j.properties"), []byte(log4j), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(jars, "*.jar"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no jars in %s: %v", jars, err)
	}
	slices.Sort(all)
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close() //nolint:errcheck // the process has its own
	line := append([]string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx400m", "-Djava.net.preferIPv4Stack=true",
		"--add-opens=java.base/java.lang=ALL-UNNAMED", // as Hadoop's own scripts do
		"-cp", strings.Join(append([]string{dir}, all...), ":")}, argv...)
	p := &process{cmd: exec.Command(virtualMachine(t), line...), log: log, exited: make(chan struct{})} //nolint:gosec // the test's own
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(p.kill)
	return p
}

const log4j = `log4j.rootLogger=WARN, A
log4j.appender.A=org.apache.log4j.ConsoleAppender
log4j.appender.A.layout=org.apache.log4j.PatternLayout
log4j.appender.A.layout.ConversionPattern=%d %p %c: %m%n
`

func (p *process) kill() {
	p.once.Do(func() { _ = p.cmd.Process.Kill() })
	<-p.exited
}

// await returns when ready says so. A loaded machine takes long to start Java.
func (p *process) await(t testing.TB, ready func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(90 * time.Second); !ready(); {
		select {
		case <-p.exited:
			t.Fatalf("the Java process ended at its start\n%s", p.tail())
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the Java process is not ready after 90 s\n%s", p.tail())
		}
	}
}

// tail returns the end of the log.
func (p *process) tail() string {
	b, _ := os.ReadFile(p.log)
	return string(b[max(0, len(b)-4000):])
}

// freePort returns an address that nobody listens at.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // only its address is wanted
	return l.Addr().String()
}

// virtualMachine returns the java of a JDK that Hadoop 3.4 runs on.
func virtualMachine(t testing.TB) string {
	t.Helper()
	for _, java := range []string{"/usr/lib/jvm/java-17-openjdk-amd64/bin/java", os.Getenv("JAVA_HOME") + "/bin/java", "java"} {
		out, err := exec.Command(java, "-version").CombinedOutput() //nolint:gosec // the test's own
		if err == nil && (bytes.Contains(out, []byte(`version "17`)) || bytes.Contains(out, []byte(`version "11`))) {
			return java
		}
	}
	needtest.Skip(t, "a JDK 17 (Debian: openjdk-17-jre-headless)")
	return ""
}

// install returns the directory of the jars. It brings them there once, for all processes that share the cache.
func install(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SLUICE_CACHE")
	if dir == "" {
		d, err := os.UserCacheDir()
		if err != nil {
			d = os.TempDir()
		}
		dir = filepath.Join(d, "sluice")
	}
	jars, stamp := filepath.Join(dir, "jars-minidfs"), filepath.Join(dir, "jars-minidfs.stamp")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "jars-minidfs.lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the cache's
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() //nolint:errcheck // which gives the lock back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(stamp); err == nil && string(have) == pom { //nolint:gosec // the cache's
		return jars
	}
	if os.Getenv("SLUICE_REQUIRE") == "" && os.Getenv("SLUICE_INSTALL") == "" {
		t.Skipf("Hadoop's mini cluster is not installed; SLUICE_INSTALL=1 lets the test install it under %s", dir)
	}
	if err := fetch(t.TempDir(), jars); err != nil {
		needtest.Skip(t, "the jars of Hadoop's mini cluster: %v", err)
	}
	if err := os.WriteFile(stamp, []byte(pom), 0o600); err != nil {
		t.Fatal(err)
	}
	return jars
}

func fetch(tmp, jars string) error {
	file := filepath.Join(tmp, "pom.xml")
	if err := os.WriteFile(file, []byte(pom), 0o600); err != nil {
		return err
	}
	if err := os.RemoveAll(jars); err != nil {
		return err
	}
	out, err := exec.Command("mvn", "-q", "-B", "-f", file, "dependency:copy-dependencies", "-DoutputDirectory="+jars).CombinedOutput() //nolint:gosec // the test's own
	if err != nil {
		return fmt.Errorf("mvn: %w\n%s", err, out[max(0, len(out)-2000):])
	}
	return nil
}
