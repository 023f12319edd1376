package ufstest

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/sluicefs/sluice/ufs"
)

// Turns counts the turns that a driver takes under a context of theirs.
type Turns struct {
	now, taken atomic.Int32
}

// Context returns ctx with the turns.
func (x *Turns) Context(ctx context.Context) context.Context {
	return ufs.WithTurns(ctx, func(context.Context) func() {
		x.now.Add(1)
		x.taken.Add(1)
		return func() { x.now.Add(-1) }
	})
}

// Want fails t if not so many turns are held, which is what the driver does.
func (x *Turns) Want(t testing.TB, held int32, what string) {
	t.Helper()
	if n := x.now.Load(); n != held {
		t.Errorf("%d turns are held %s, want %d", n, what, held)
	}
}

// Taken returns how many turns were taken.
func (x *Turns) Taken() int { return int(x.taken.Load()) }

// WantTurns lists names of s, which come in pages whose service says with Want that no turn is held while it is asked. For each page one
// must be taken, and one for what is made of it, and none be held while a name is yielded.
func (x *Turns) WantTurns(t *testing.T, s ufs.Store, pages, names int) {
	t.Helper()
	for in, err := range s.List(x.Context(t.Context()), "", "", false) {
		if err != nil {
			t.Fatal(err)
		}
		x.Want(t, 0, "while "+in.Name+" is yielded")
		names--
	}
	x.Want(t, 0, "after the listing")
	if n := x.Taken(); names != 0 || n != 2*pages {
		t.Errorf("%d turns were taken, want %d; %d names are missing", n, 2*pages, names)
	}
}
