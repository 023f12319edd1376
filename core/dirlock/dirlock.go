// Package dirlock keeps two processes out of one directory. What holds data on a disk (the journal, the cache's tiers, the log of
// held writes) takes the lock of its directory before it reads anything there.
package dirlock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
)

// Take takes dir for this process, by the lock of the file of that name in it, which is made if missing, until what is returned is
// closed or the process ends. The process's number is left in the file for whom it keeps out; a full disk takes only that from them.
//
// Errors: errs.Busy, with the number of the process that has it; what opening and locking a file gives.
func Take(dir, name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		owner, _ := io.ReadAll(io.LimitReader(f, 20))
		f.Close()
		return nil, errs.New("flock", dir, errs.Busy, "the data directory is in use by process "+strings.TrimSpace(string(owner))+"; give each its own")
	case err != nil:
		f.Close()
		return nil, os.NewSyscallError("flock", err)
	}
	if f.Truncate(0) == nil {
		_, _ = fmt.Fprintln(f, os.Getpid())
	}
	return f, nil
}
