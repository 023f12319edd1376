package namespace

import (
	"context"
	"io"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
)

// damagedHolder holds everything, and none of it can be read.
type damagedHolder struct {
	core.Holder
	released int
}

func (d *damagedHolder) Hold(context.Context, core.HeldID) (core.HoldWriter, error) {
	return nil, errs.E("test.Hold", "", errs.Exist, nil)
}

func (d *damagedHolder) Held(context.Context, core.HeldID, int64, int64) (io.ReadCloser, error) {
	return nil, errs.E("test.Held", "", errs.Corrupt, nil)
}

func (d *damagedHolder) Release(context.Context, ...core.HeldID) error {
	d.released++
	return nil
}

// TestCopyIsNotReleasedByWhoDoesNotLead copies to a worker that has the bytes already, and seems to have them damaged: who leads may
// have journaled that it holds them.
func TestCopyIsNotReleasedByWhoDoesNotLead(t *testing.T) {
	log, err := meta.OpenLog(memkv.New(), meta.LogOptions{Group: JournalGroup})
	if err != nil {
		t.Fatal(err)
	}
	n, to := &Namespace{log: log}, &damagedHolder{}
	err = n.copyTo(t.Context(), &place{entry: &meta.Entry{Size: 1, Hold: &meta.Hold{}}}, core.HeldID{}, to, true)
	if errs.KindOf(err) != errs.Unavailable || to.released != 0 {
		t.Errorf("got %v, and it was told %d times to release what it holds", err, to.released)
	}
}
