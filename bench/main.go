// Command bench measures the built binary against other servers on the same machine and disk, in one run:
//
//	go run ./bench [-run REGEXP] [-peers REGEXP] [-base BIN] [-pairs N] [-short] [-out FILE] [-dir DIR]
//
// It builds sluice, starts it and its peers on loopback, gives all of them the same objects, checks that they give them back
// byte for byte, and then measures in rounds: in each round every server of a row has one turn, so that what else happens
// on the machine hits all of them alike. What it prints is one line of JSON for the machine, one for each server with its
// command line, and one for each row and peer; README.md says how to read them. A table for people goes to stderr.
//
// It knows Sluice from outside, over HTTP, and is no test: it fails if an answer is wrong, not if it is slow.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 5 && os.Args[1] == serveCommand {
		fmt.Fprintln(os.Stderr, serve(os.Args[2], os.Args[3], os.Args[4]))
		os.Exit(1)
	}
	var o options
	only := flag.String("run", "", "measure only rows whose name matches `REGEXP`")
	peers := flag.String("peers", "", "compare only with peers whose name matches `REGEXP`")
	flag.StringVar(&o.base, "base", "", "compare with another build of sluice too, the binary `BIN`")
	flag.IntVar(&o.pairs, "pairs", 9, "rounds of each row")
	flag.BoolVar(&o.short, "short", false, "measure each turn for an eighth of the time")
	out := flag.String("out", "", "write the lines of JSON to `FILE` too")
	dir := flag.String("dir", os.TempDir(), "keep what is stored below `DIR`; its file system is part of what is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := func() (err error) {
		if o.only, err = regexp.Compile(*only); err != nil {
			return err
		}
		if o.peers, err = regexp.Compile(*peers); err != nil {
			return err
		}
		o.out = os.Stdout
		if *out != "" {
			f, err := os.Create(*out)
			if err != nil {
				return err
			}
			defer f.Close()
			o.out = io.MultiWriter(os.Stdout, f)
		}
		if o.dir, err = os.MkdirTemp(*dir, "sluice-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.dir)
		if o.memory, err = os.MkdirTemp("/dev/shm", "sluice-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.memory)
		return measure(ctx, o)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are what a run is told.
type options struct {
	only, peers *regexp.Regexp
	base        string // the binary of another build of sluice; "": none
	pairs       int
	short       bool
	out         io.Writer
	dir, memory string // on the disk measured, and on tmpfs
}

// measure runs the rows.
func measure(ctx context.Context, o options) error {
	runtime.GOMAXPROCS(64) // threads that wait in recv(2) never have to give up their processor
	var todo []row
	for _, r := range rows() {
		if o.only.MatchString(r.name) {
			todo = append(todo, r.among(o))
		}
	}
	if len(todo) == 0 {
		return errors.New("no row has such a name")
	}
	lines := json.NewEncoder(o.out)
	if err := lines.Encode(map[string]any{"machine": describe(o.dir), "time": time.Now().UTC().Format(time.RFC3339)}); err != nil {
		return err
	}
	servers, err := startAll(ctx, o, todo)
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	if err != nil {
		return err
	}
	for _, s := range servers {
		if err := lines.Encode(map[string]string{"server": s.name, "command": s.command, "note": s.note}); err != nil {
			return err
		}
	}
	table := tabwriter.NewWriter(os.Stderr, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "row\t\tsluice\tpeer\t\tratio\tquartiles\tp50 µs\tp99 µs\tCPU µs/op")
	defer table.Flush()
	for _, r := range todo {
		fmt.Fprintf(os.Stderr, "%s …\n", r.name)
		results, err := r.measure(ctx, o, servers)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		for _, res := range results {
			if err := lines.Encode(res); err != nil {
				return err
			}
			fmt.Fprintf(table, "%s\t%s\t%.0f\t%s\t%.0f\t%.2f\t%.2f–%.2f\t%.0f / %.0f\t%.0f / %.0f\t%.0f / %.0f\n", res.Name, res.Unit, res.Value, res.Against,
				res.AgainstValue, res.Ratio, res.RatioQ1, res.RatioQ3, res.P50, res.AgainstP50, res.P99, res.AgainstP99, res.CPU, res.AgainstCPU)
		}
	}
	return nil
}

// describe says what the run is made on.
func describe(dir string) map[string]any {
	m := map[string]any{"cpus": runtime.NumCPU(), "go": runtime.Version()}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpuinfo)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m["cpu"] = strings.TrimSpace(value)
		}
	}
	meminfo, _ := os.ReadFile("/proc/meminfo")
	if f := strings.Fields(string(meminfo)); len(f) > 1 {
		m["memory_kib"] = f[1]
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m["kernel"] = strings.TrimSpace(string(release))
	load, _ := os.ReadFile("/proc/loadavg")
	m["load_before"], _, _ = strings.Cut(string(load), " ")
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		names := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.BTRFS_SUPER_MAGIC: "btrfs"}
		m["file_system"] = names[int64(fs.Type)]
		if m["file_system"] == "" {
			m["file_system"] = fmt.Sprintf("%#x", fs.Type)
		}
	}
	return m
}

// cacheDir is where tools that are not part of Go are installed, as for the conformance tests.
func cacheDir() string {
	if d := os.Getenv("SLUICE_CACHE"); d != "" {
		return d
	}
	d, err := os.UserCacheDir()
	if err != nil {
		d = os.TempDir()
	}
	return filepath.Join(d, "sluice")
}
