package wrap

import (
	"context"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// ReadOnly returns s without its changes: each is errs.Permission, and the store never sees it. Probe does not write.
func ReadOnly(s ufs.Store) ufs.Store {
	return readOnly{&base{
		inner: s,
		around: func(ctx context.Context, c *call, do func(context.Context) error) error {
			if c.op.Changes() {
				return errs.New("wrap.ReadOnly", c.name, errs.Permission, string(c.op)+": the store is mounted read-only")
			}
			return do(ctx)
		},
		narrow: func(f ufs.Features) ufs.Features {
			f.AtomicRename, f.Mkdir, f.Trash, f.Copy, f.Append = false, false, false, false, false
			f.SetAttr, f.Compose, f.RemoveFiles = false, false, false
			return f
		},
	}}
}

type readOnly struct{ *base }

func (r readOnly) Probe(ctx context.Context, _ bool) error { return r.base.Probe(ctx, false) }
