package localufs

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
)

// room reports errs.NoSpace if the file system would have fewer than Options.Reserve bytes left with n more in it.
func (s *Store) room(op, name string, n int64) error {
	if s.reserve == 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(int(s.root.Fd()), &fs) }); err != nil {
		return classify(op, name, err)
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free-n < s.reserve { //nolint:unconvert // the widths differ by architecture
		return errs.New(op, name, errs.NoSpace, fmt.Sprintf("%d MiB are free, of which %d MiB are kept for others", free>>20, s.reserve>>20))
	}
	return nil
}

// spending returns r with room checked as it is read. A file passes as it is, so that the kernel copies it.
func (s *Store) spending(op, name string, r io.Reader) io.Reader {
	if _, ok := r.(*os.File); ok || s.reserve == 0 {
		return r
	}
	return &spender{r, s, op, name}
}

type spender struct {
	io.Reader
	s        *Store
	op, name string
}

// Read implements io.Reader.
func (r *spender) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		if err := r.s.room(r.op, r.name, int64(n)); err != nil {
			return 0, err
		}
	}
	return n, err
}
