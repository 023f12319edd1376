package gateway

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/gateway/config"
)

// The bounds of a tier whose quota is not configured: a tenth of what is free, so that Sluice is a guest on a machine it
// shares, and no more than is useful without thinking about it.
const (
	maxMemory = 4 << 30
	maxDisk   = 64 << 30
	minTier   = 16 << 20 // a smaller one evicts what it was just given
)

const sharedMemory = "/dev/shm"

// tiers returns the tiers to open, fastest first, all with quotas. Tiers of the default that the machine has no room for
// are left out, each with a reason in skipped.
func tiers(c config.Config) (open []config.Tier, skipped []string) {
	if len(c.Cache.Tiers) > 0 {
		for _, t := range c.Cache.Tiers {
			if t.Quota == 0 {
				var err error
				if t.Quota, err = autoQuota(t); err != nil {
					t.Quota = config.Bytes(diskUsage(t.Dir)) // what is wrong with the directory shows when it is opened
				}
				t.Quota = max(t.Quota, minTier) // a full file system is dealt with there too
			}
			open = append(open, t)
		}
		return open, nil
	}
	id := sha256.Sum256([]byte(c.Data))
	for _, t := range []config.Tier{
		{Dir: filepath.Join(sharedMemory, "sluice-"+hex.EncodeToString(id[:6])), Medium: "mem"},
		{Dir: filepath.Join(c.Data, "cache"), Medium: "ssd"},
	} {
		if t.Medium == "mem" && !isTmpfs(sharedMemory) {
			skipped = append(skipped, sharedMemory+" is no memory file system")
			continue
		}
		var err error
		if t.Quota, err = autoQuota(t); err != nil || t.Quota < minTier {
			skipped = append(skipped, fmt.Sprintf("%s: a tenth of what is free is %v, less than %v", t.Dir, t.Quota, config.Bytes(minTier)))
			continue
		}
		open = append(open, t)
	}
	return open, skipped
}

func segmentOptions(c config.Cache, t config.Tier, log *slog.Logger) page.SegmentOptions {
	return page.SegmentOptions{
		Dir: t.Dir, Quota: int64(t.Quota), Medium: t.Medium, Policy: page.Policy(t.Policy), High: float64(t.High) / 100, Low: float64(t.Low) / 100,
		TTL: c.TTL, VerifyAlways: c.Verify == "always", ScrubInterval: c.ScrubInterval, ScrubRate: int64(c.ScrubRate), Logger: log,
	}
}

// autoQuota is a tenth of what is free for a tier; what it holds already counts as free.
func autoQuota(t config.Tier) (config.Bytes, error) {
	free, err := freeSpace(t.Dir)
	if err != nil {
		return 0, err
	}
	free += diskUsage(t.Dir)
	limit := int64(maxDisk)
	if t.Medium == "mem" {
		limit = maxMemory
		if m := availableMemory(); m > 0 {
			free = min(free, m)
		}
	}
	return config.Bytes(min(free/10, limit) &^ (1<<20 - 1)), nil
}

// freeSpace returns the free bytes of the file system of dir, or of the nearest parent that exists.
func freeSpace(dir string) (int64, error) {
	for {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		if err == nil {
			return int64(s.Bavail) * s.Bsize, nil
		}
		if parent := filepath.Dir(dir); err != unix.ENOENT || parent == dir {
			return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
		} else {
			dir = parent
		}
	}
}

func diskUsage(dir string) (total int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				total += s.Blocks * 512 // what it takes, not how long it is: segments are sparse
			}
		}
	}
	return total
}

func isTmpfs(dir string) bool {
	var s unix.Statfs_t
	return unix.Statfs(dir, &s) == nil && s.Type == unix.TMPFS_MAGIC
}

// availableMemory returns the bytes that can be used without swapping, 0 if unknown.
func availableMemory() int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return kb << 10
		}
	}
	return 0
}
