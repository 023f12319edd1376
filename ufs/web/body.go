package web

import (
	"errors"
	"fmt"
	"io"
)

// Body returns a reader of the body of an answer, which must have the length that was announced; else its end is an error, not
// io.EOF. fail gives an error its kind.
func Body(body io.ReadCloser, length int64, fail func(error) error) io.ReadCloser {
	return &announced{body, length, fail}
}

type announced struct {
	body io.ReadCloser
	left int64 // bytes still to come
	fail func(error) error
}

func (r *announced) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.left -= int64(n)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF) && r.left == 0:
		return n, io.EOF
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("the body ended with %d bytes missing", r.left)
	}
	return n, r.fail(err)
}

func (r *announced) Close() error { return r.body.Close() }
