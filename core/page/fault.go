package page

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicefs/sluice/core/errs"
)

// errFault is the use of a mapped page that its disk, or its file, does not have any more.
var errFault = errs.New("page.Read", "", errs.Unavailable, "a cached page could not be read from its disk; it is dropped, try again")

// errTorn is errFault where it is not known how many bytes were used.
var errTorn = fmt.Errorf("%w", errFault)

// copyPage is copy(p, data) from a mapping.
func copyPage(p, data []byte) (n int, err error) {
	err = touch(data, func() error {
		n = copy(p, data)
		return nil
	})
	return n, err
}

// writePage is w.Write(data) from a mapping. The kernel finds a fault in write(2), and tells how far it came; w may find it when
// it copies, which is errTorn.
func writePage(w io.Writer, data []byte) (n int, err error) {
	err = touch(data, func() (err error) {
		n, err = writeAll(w, data)
		return err
	})
	return n, err
}

// touch calls use, which reads data from a mapping, and returns its error; it is errFault if data cannot be read, errTorn if
// it was use that found out: where a file was cut short, or its disk fails, the kernel sends SIGBUS, which would otherwise end
// the process.
func touch(data []byte, use func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		start := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
		f, ok := p.(interface{ Addr() uintptr })
		if !ok || f.Addr() < start || f.Addr() >= start+uintptr(len(data)) {
			panic(p)
		}
		err = errTorn
	}()
	if err = use(); errors.Is(err, unix.EFAULT) {
		err = errFault
	}
	return err
}
