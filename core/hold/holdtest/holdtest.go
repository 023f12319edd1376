// Package holdtest is the suite that every core.Holder passes. It checks the contract of the interface, sentence by sentence, and a
// random model; what is special to one holder (files, connections, damage) is tested beside it.
package holdtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Run runs the suite. open returns a holder of nothing, with room for 64 MiB, and registers its closing with t.Cleanup. durable says
// whether it can commit durably.
func Run(t *testing.T, durable bool, open func(t *testing.T) core.Holder) {
	for name, f := range map[string]func(*testing.T, core.Holder, bool){
		"HeldReturnsWhatWasWritten": heldReturnsWhatWasWritten,
		"HeldReadsRanges":           heldReadsRanges,
		"NothingIsHeldBeforeCommit": nothingIsHeldBeforeCommit,
		"IDsDifferInBothFields":     idsDiffer,
		"HoldRefusesWhatIsHeld":     holdRefuses,
		"ReleaseGivesUp":            releaseGivesUp,
		"ReleaseSparesReaders":      releaseSparesReaders,
		"SucceededReignsAreRefused": succeededReigns,
		"EndedContextHoldsNothing":  endedContext,
		"ConcurrentModel":           concurrentModel,
	} {
		t.Run(name, func(t *testing.T) { f(t, open(t), durable) })
	}
}

// ID returns the id of attempt number n.
func ID(n int) core.HeldID {
	id := core.HeldID{Rev: uint64(n)*3 + 1}
	binary.BigEndian.PutUint64(id.ID[:], uint64(n))
	id.ID[15] = 'H'
	return id
}

// Data returns size bytes that no other attempt has.
func Data(id core.HeldID, size int) []byte {
	var seed [32]byte
	copy(seed[:], id.ID[:])
	binary.LittleEndian.PutUint64(seed[16:], id.Rev)
	b := make([]byte, size)
	rand.NewChaCha8(seed).Read(b)
	return b
}

// Sizes returns sizes in bytes about the limits that holders are likely to have.
func Sizes() []int {
	return []int{0, 1, 511, 4096, 64<<10 - 1, 64 << 10, 64<<10 + 1, 200_000, 1 << 20, 1<<20 + 1, 3<<20 + 77}
}

// Put writes Data(id, size) in uneven pieces and commits it.
func Put(ctx context.Context, h core.Holder, id core.HeldID, size int, durable bool) error {
	w, err := h.Hold(ctx, id)
	if err != nil {
		return err
	}
	for data, n := Data(id, size), 1+size/3; len(data) > 0; {
		k, err := w.Write(data[:min(n, len(data))])
		if err != nil {
			return errors.Join(err, w.Abort())
		}
		data = data[k:]
	}
	return w.Commit(ctx, durable)
}

// Get reads all of an attempt of size bytes, and says whether it is what Put wrote.
func Get(ctx context.Context, h core.Holder, id core.HeldID, size int) error {
	got, err := read(ctx, h, id, 0, int64(size))
	if err == nil && !bytes.Equal(got, Data(id, size)) {
		err = fmt.Errorf("%v: other bytes than were written", id)
	}
	return err
}

func read(ctx context.Context, h core.Holder, id core.HeldID, off, n int64) ([]byte, error) {
	r, err := h.Held(ctx, id, off, n)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

func put(t *testing.T, h core.Holder, id core.HeldID, size int, durable bool) {
	t.Helper()
	if err := Put(t.Context(), h, id, size, durable); err != nil {
		t.Fatalf("Put of %d bytes: %v", size, err)
	}
}

func get(t *testing.T, h core.Holder, id core.HeldID, size int) {
	t.Helper()
	if err := Get(t.Context(), h, id, size); err != nil {
		t.Fatalf("Get of %d bytes: %v", size, err)
	}
}

// All returns what h holds.
func All(t *testing.T, h core.Holder) map[core.HeldID]int64 {
	t.Helper()
	all := map[core.HeldID]int64{}
	for e, err := range h.Holds(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := all[e.HeldID]; twice {
			t.Fatalf("%v is held twice", e.HeldID)
		}
		all[e.HeldID] = e.Size
	}
	return all
}

func want(t *testing.T, what string, err error, kind errs.Kind) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%s: %v, want %v", what, err, kind)
	}
}

func heldReturnsWhatWasWritten(t *testing.T, h core.Holder, durable bool) {
	if h.Name() == "" {
		t.Error("the holder has no name")
	}
	wanted := map[core.HeldID]int64{}
	for i, size := range Sizes() {
		put(t, h, ID(i), size, durable && i%2 == 0)
		wanted[ID(i)] = int64(size)
		get(t, h, ID(i), size)
	}
	for i, size := range Sizes() {
		get(t, h, ID(i), size)
	}
	if got := All(t, h); !maps.Equal(got, wanted) {
		t.Errorf("Holds = %v, want %v", got, wanted)
	}
}

func heldReadsRanges(t *testing.T, h core.Holder, _ bool) {
	for i, size := range []int{0, 100, 300_000, 2 << 20} {
		put(t, h, ID(i), size, false)
		all := Data(ID(i), size)
		for range 20 {
			off := rand.Int64N(int64(size) + 1)
			n := rand.Int64N(int64(size) - off + 1)
			got, err := read(t.Context(), h, ID(i), off, n)
			if err != nil || !bytes.Equal(got, all[off:off+n]) {
				t.Fatalf("[%d, %d) of %d: %d bytes, %v", off, off+n, size, len(got), err)
			}
		}
		for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, int64(size) + 1}, {int64(size) + 1, 0}, {1, 1<<63 - 1}} {
			_, err := read(t.Context(), h, ID(i), r[0], r[1])
			want(t, fmt.Sprint("range ", r, " of ", size), err, errs.Range)
		}
	}
}

func nothingIsHeldBeforeCommit(t *testing.T, h core.Holder, durable bool) {
	for i, size := range Sizes() {
		w, err := h.Hold(t.Context(), ID(i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(Data(ID(i), size)); err != nil {
			t.Fatal(err)
		}
		_, err = read(t.Context(), h, ID(i), 0, 0)
		want(t, "Held before Commit", err, errs.NotExist)
		if err := w.Abort(); err != nil {
			t.Fatal(err)
		}
		_, err = read(t.Context(), h, ID(i), 0, 0)
		want(t, "Held after Abort", err, errs.NotExist)
		if got := All(t, h); len(got) > 0 {
			t.Fatalf("Holds = %v after Abort", got)
		}
	}
	put(t, h, ID(1), 100, durable) // what was aborted can be held
	get(t, h, ID(1), 100)
}

func idsDiffer(t *testing.T, h core.Holder, _ bool) {
	a, b := ID(1), ID(1)
	b.Rev++
	put(t, h, a, 10, false)
	_, err := read(t.Context(), h, b, 0, 10)
	want(t, "another revision", err, errs.NotExist)
	put(t, h, b, 20, false)
	get(t, h, a, 10)
	get(t, h, b, 20)
}

func holdRefuses(t *testing.T, h core.Holder, _ bool) {
	put(t, h, ID(1), 10, false)
	want(t, "Hold of what is held", Put(t.Context(), h, ID(1), 10, false), errs.Exist)
	get(t, h, ID(1), 10)
	w, err := h.Hold(t.Context(), ID(2))
	if err != nil {
		t.Fatal(err)
	}
	want(t, "Hold of what is written", Put(t.Context(), h, ID(2), 10, false), errs.Busy)
	if err := w.Commit(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	get(t, h, ID(2), 0)
}

func releaseGivesUp(t *testing.T, h core.Holder, durable bool) {
	for i, size := range Sizes() {
		put(t, h, ID(i), size, durable)
	}
	if err := h.Release(t.Context(), ID(0), ID(2), ID(10), ID(10), ID(999)); err != nil {
		t.Fatal(err)
	}
	for i, size := range Sizes() {
		if i != 0 && i != 2 && i != 10 {
			get(t, h, ID(i), size)
			continue
		}
		_, err := read(t.Context(), h, ID(i), 0, 0)
		want(t, "Held after Release", err, errs.NotExist)
	}
	if got := len(All(t, h)); got != len(Sizes())-3 {
		t.Errorf("%d attempts are held, want %d", got, len(Sizes())-3)
	}
	put(t, h, ID(2), 700, durable) // again
	get(t, h, ID(2), 700)
	if err := h.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// succeededReigns calls in one reign after the other, and then in those before.
func succeededReigns(t *testing.T, h core.Holder, durable bool) {
	in := func(life byte, term uint64) context.Context {
		return core.WithReign(t.Context(), core.Reign{Life: [8]byte{life}, Term: term})
	}
	for i, k := range []struct {
		name string
		hear func(ctx context.Context) error
	}{
		{"Hold", func(ctx context.Context) error { return Put(ctx, h, ID(1), 100, durable) }},
		{"Held", func(ctx context.Context) error { return Get(ctx, h, ID(1), 100) }},
		{"Holds", func(ctx context.Context) error {
			for _, err := range h.Holds(ctx) {
				if err != nil {
					return err
				}
			}
			return nil
		}},
		{"Release", func(ctx context.Context) error { return h.Release(ctx, ID(99)) }},
		{"a Hold of what is held", func(ctx context.Context) error {
			_, err := h.Hold(ctx, ID(1))
			want(t, "Hold of what is held", err, errs.Exist)
			return nil
		}},
	} {
		life := byte(1 + i)
		if err := h.Release(in(life, 7), ID(98)); err != nil {
			t.Fatal(err)
		}
		if err := k.hear(in(life, 8)); err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
		want(t, "late Release after "+k.name, h.Release(in(life, 7), ID(1)), errs.Conflict)
		_, err := h.Hold(in(life, 7), ID(2))
		want(t, "late Hold after "+k.name, err, errs.Conflict)
		if err := Get(in(life, 7), h, ID(1), 100); err != nil {
			t.Errorf("late Held after %s: %v", k.name, err)
		}
	}
	if err := h.Release(in(200, 1), ID(1)); err != nil {
		t.Errorf("Release in another life: %v", err)
	}
}

func releaseSparesReaders(t *testing.T, h core.Holder, _ bool) {
	for i, size := range []int{1 << 20, 3 << 20} {
		put(t, h, ID(i), size, false)
		r, err := h.Held(t.Context(), ID(i), 0, int64(size))
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 1000)
		if _, err := io.ReadFull(r, head); err != nil {
			t.Fatal(err)
		}
		if err := h.Release(t.Context(), ID(i)); err != nil {
			t.Fatal(err)
		}
		put(t, h, ID(100+i), size, false) // what would take its place
		rest, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(append(head, rest...), Data(ID(i), size)) {
			t.Fatalf("a reader of what is released: %d bytes, %v", len(head)+len(rest), err)
		}
	}
}

func endedContext(t *testing.T, h core.Holder, durable bool) {
	for i, size := range []int{100, 3 << 20} {
		ctx, cancel := context.WithCancel(t.Context())
		w, err := h.Hold(ctx, ID(i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(Data(ID(i), size)); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := w.Commit(ctx, durable); err == nil {
			t.Fatal("Commit after the end of its context says that the bytes are held")
		}
		if got := All(t, h); len(got) > 0 {
			t.Fatalf("Holds = %v", got)
		}
	}
}

// concurrentModel has writers with ids of their own do random things, each against a map of what it holds.
func concurrentModel(t *testing.T, h core.Holder, durable bool) {
	const writers, steps = 8, 60
	var mu sync.Mutex
	all := map[core.HeldID]int64{}
	var group sync.WaitGroup
	for n := range writers {
		random := rand.New(rand.NewPCG(uint64(n), 7))
		group.Go(func() {
			held := map[int]int{}
			for step := range steps {
				i := n*1000 + random.IntN(20)
				size, there := held[i]
				var err error
				switch {
				case there && random.IntN(2) == 0:
					err = Get(t.Context(), h, ID(i), size)
				case there:
					err = h.Release(t.Context(), ID(i))
					delete(held, i)
				default:
					size = random.IntN(1 << (4 + random.IntN(17)))
					err = Put(t.Context(), h, ID(i), size, durable && random.IntN(2) == 0)
					held[i] = size
				}
				if err != nil {
					t.Errorf("writer %d, step %d: %v", n, step, err)
					return
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for i, size := range held {
				all[ID(i)] = int64(size)
			}
		})
	}
	group.Wait()
	if got := All(t, h); !maps.Equal(got, all) {
		t.Fatalf("%d attempts are held, want %d", len(got), len(all))
	}
	for id, size := range all {
		if err := Get(t.Context(), h, id, int(size)); err != nil {
			t.Error(err)
		}
	}
}
