package wrap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Timeout returns s with a deadline on every call, so that a store that does not answer is errs.Unavailable in bounded
// time. answer is for calls that a healthy store answers at once, and for each Read, Check and Write of a stream; work for those
// that move bytes or many names in one call (Commit, Copy, Trash …). It works on stores that honour ctx: a system call
// of a local file system cannot be given up.
func Timeout(s ufs.Store, answer, work time.Duration) ufs.Store {
	return &base{inner: s, around: func(ctx context.Context, c *call, do func(context.Context) error) error {
		d := answer
		switch c.op {
		case Prepare, Commit, Copy, CopyPart, PutPart, Complete, Append, Trash, RemoveFiles, CleanStaging, Probe:
			d = work
		}
		ctx, cancel := context.WithTimeoutCause(ctx, d, errTimeout)
		defer cancel()
		err := do(ctx)
		// A stream that was given up has ended by the same cause: its later calls fail alike.
		if err != nil && ctx.Err() != nil && errors.Is(context.Cause(ctx), errTimeout) {
			return errs.E("wrap.Timeout", c.name, errs.Unavailable,
				fmt.Errorf("%s: %w (%v)", c.op, errTimeout, d))
		}
		return err
	}}
}

var errTimeout = errors.New("the store did not answer in time")
