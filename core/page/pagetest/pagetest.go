// Package pagetest is the suite that every page.Store passes. It checks the contract of the interface, sentence by
// sentence, and a random model; what is special to one store (files, tiers, damage) is tested beside it.
package pagetest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/page"
)

// Run runs the suite. open returns a fresh empty store with room for at least 24 pages of full size and for at most 100,
// and registers its closing with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) page.Store) {
	for name, f := range map[string]func(*testing.T, page.Store){
		"GetReturnsWhatWasPut":    getReturnsWhatWasPut,
		"MissIsNotOK":             missIsNotOK,
		"PutKeepsACopy":           putKeepsACopy,
		"PutKeepsThePageThatIs":   putKeepsThePageThatIs,
		"PutRefusesBadLengths":    putRefusesBadLengths,
		"KeysDifferInEveryField":  keysDifferInEveryField,
		"HasTellsAndDoesNotTouch": hasTells,
		"DropForgetsTheRange":     dropForgetsTheRange,
		"DropSparesHolders":       dropSparesHolders,
		"EvictionSparesHolders":   evictionSparesHolders,
		"EvictionMakesRoom":       evictionMakesRoom,
		"SizesMayChangePlaces":    sizesMayChangePlaces,
		"ReleaseMayBeRepeated":    releaseMayBeRepeated,
		"CloseEndsAll":            closeEndsAll,
		"ConcurrentModel":         concurrentModel,
	} {
		t.Run(name, func(t *testing.T) { f(t, open(t)) })
	}
}

// Key returns the key of page index of content number n.
func Key(n, index int) page.Key {
	k := page.Key{Rev: uint64(n) * 7, Index: uint32(index)}
	k.ID[0], k.ID[1], k.ID[15] = byte(n), byte(n>>8), 'T'
	return k
}

// Data returns n bytes that no other key has.
func Data(k page.Key, n int) []byte {
	var seed [32]byte
	copy(seed[:], k.ID[:])
	seed[16], seed[17], seed[20], seed[21], seed[22] = byte(k.Rev), byte(k.Rev>>8), byte(k.Index), byte(k.Index>>8), byte(k.Index>>16)
	b := make([]byte, n)
	rand.NewChaCha8(seed).Read(b)
	return b
}

func put(t *testing.T, s page.Store, k page.Key, n int) {
	t.Helper()
	if err := s.Put(k, Data(k, n)); err != nil {
		t.Fatalf("Put(%v, %d bytes) = %v", k, n, err)
	}
}

func want(t *testing.T, s page.Store, k page.Key, n int) {
	t.Helper()
	h, ok := s.Get(k)
	if !ok {
		t.Fatalf("Get(%v): not here", k)
	}
	defer h.Release()
	if !bytes.Equal(h.Bytes(), Data(k, n)) {
		t.Fatalf("Get(%v): wrong bytes", k)
	}
}

func wantMiss(t *testing.T, s page.Store, k page.Key) {
	t.Helper()
	if h, ok := s.Get(k); ok {
		h.Release()
		t.Fatalf("Get(%v): here", k)
	}
}

func getReturnsWhatWasPut(t *testing.T, s page.Store) {
	for i, n := range []int{1, 100, 4095, 4096, 4097, 10000, 65536, 100000, 300000, 340 << 10, 512 << 10, page.Size - 1, page.Size} {
		put(t, s, Key(1, i), n)
		want(t, s, Key(1, i), n)
	}
}

func missIsNotOK(t *testing.T, s page.Store) { wantMiss(t, s, Key(1, 0)) }

func putKeepsACopy(t *testing.T, s page.Store) {
	b := Data(Key(1, 0), 5000)
	if err := s.Put(Key(1, 0), b); err != nil {
		t.Fatal(err)
	}
	clear(b)
	want(t, s, Key(1, 0), 5000)
}

func putKeepsThePageThatIs(t *testing.T, s page.Store) {
	put(t, s, Key(1, 0), 5000)
	if err := s.Put(Key(1, 0), []byte("other")); err != nil {
		t.Fatal(err)
	}
	want(t, s, Key(1, 0), 5000)
}

func putRefusesBadLengths(t *testing.T, s page.Store) {
	if err := s.Put(Key(1, 0), nil); !errors.Is(err, errs.Invalid) {
		t.Errorf("Put of nothing = %v, want Invalid", err)
	}
	if err := s.Put(Key(1, 0), make([]byte, page.Size+1)); !errors.Is(err, errs.TooLarge) {
		t.Errorf("Put of too much = %v, want TooLarge", err)
	}
	wantMiss(t, s, Key(1, 0))
}

func keysDifferInEveryField(t *testing.T, s page.Store) {
	k := Key(1, 0)
	put(t, s, k, 10)
	for _, other := range []page.Key{{ID: k.ID, Rev: k.Rev + 1}, {ID: k.ID, Rev: k.Rev, Index: 1}, {Rev: k.Rev}} {
		wantMiss(t, s, other)
	}
}

func hasTells(t *testing.T, s page.Store) {
	if s.Has(Key(1, 0)) {
		t.Error("Has before Put")
	}
	put(t, s, Key(1, 0), 10)
	if !s.Has(Key(1, 0)) {
		t.Error("not Has after Put")
	}
}

func dropForgetsTheRange(t *testing.T, s page.Store) {
	for i := range 8 {
		put(t, s, Key(1, i), 4096)
		put(t, s, Key(2, i), 4096)
	}
	s.Drop(Key(1, 5), 2, 4)
	for i := range 8 {
		want(t, s, Key(2, i), 4096)
		if i == 2 || i == 3 {
			wantMiss(t, s, Key(1, i))
		} else {
			want(t, s, Key(1, i), 4096)
		}
	}
	s.Drop(Key(1, 0), 0, ^uint32(0))
	for i := range 8 {
		wantMiss(t, s, Key(1, i))
		want(t, s, Key(2, i), 4096)
	}
	put(t, s, Key(1, 0), 100)
	want(t, s, Key(1, 0), 100)
}

func dropSparesHolders(t *testing.T, s page.Store) {
	put(t, s, Key(1, 0), page.Size)
	h, ok := s.Get(Key(1, 0))
	if !ok {
		t.Fatal("not here")
	}
	s.Drop(Key(1, 0), 0, 1)
	wantMiss(t, s, Key(1, 0))
	fill(t, s, 2, 130)
	if !bytes.Equal(h.Bytes(), Data(Key(1, 0), page.Size)) {
		t.Error("a held page changed after Drop")
	}
	h.Release()
	put(t, s, Key(1, 0), page.Size)
	want(t, s, Key(1, 0), page.Size)
}

// fill puts n pages of full size, more than there is room for.
func fill(t *testing.T, s page.Store, content, n int) {
	t.Helper()
	data := make([]byte, page.Size)
	for i := range n {
		copy(data, Data(Key(content, i), 64))
		if err := s.Put(Key(content, i), data); err != nil {
			t.Fatalf("Put %d = %v", i, err)
		}
	}
}

func evictionSparesHolders(t *testing.T, s page.Store) {
	var held []page.Handle
	for i := range 5 {
		put(t, s, Key(1, i), page.Size>>i)
		h, ok := s.Get(Key(1, i))
		if !ok {
			t.Fatal("not here")
		}
		held = append(held, h)
	}
	fill(t, s, 2, 130)
	for i, h := range held {
		if !bytes.Equal(h.Bytes(), Data(Key(1, i), page.Size>>i)) {
			t.Errorf("held page %d changed", i)
		}
		h.Release()
	}
	fill(t, s, 3, 130)
}

func evictionMakesRoom(t *testing.T, s page.Store) {
	fill(t, s, 1, 130)
	here := 0
	for i := range 130 {
		if s.Has(Key(1, i)) {
			here++
		}
	}
	if here < 20 || here > 100 {
		t.Errorf("%d of 130 pages are here, want the room's worth", here)
	}
	if !s.Has(Key(1, 129)) {
		t.Error("the last page put is not here")
	}
}

func sizesMayChangePlaces(t *testing.T, s page.Store) {
	for round, n := range []int{page.Size, 3000, 200000, 20000, page.Size, 100} {
		for i := range 110 {
			put(t, s, Key(round, i), n)
		}
		want(t, s, Key(round, 109), n)
	}
}

func releaseMayBeRepeated(t *testing.T, s page.Store) {
	put(t, s, Key(1, 0), 100)
	a, _ := s.Get(Key(1, 0))
	b, _ := s.Get(Key(1, 0))
	a.Release()
	a.Release()
	fill(t, s, 2, 130)
	if !bytes.Equal(b.Bytes(), Data(Key(1, 0), 100)) {
		t.Error("a held page changed")
	}
	b.Release()
}

func closeEndsAll(t *testing.T, s page.Store) {
	put(t, s, Key(1, 0), 100)
	h, _ := s.Get(Key(1, 0))
	done := make(chan error)
	go func() { done <- s.Close() }()
	select {
	case <-done:
		t.Error("Close did not wait for the handle")
	default:
	}
	if !bytes.Equal(h.Bytes(), Data(Key(1, 0), 100)) {
		t.Error("held page changed by Close")
	}
	h.Release()
	if err := <-done; err != nil {
		t.Errorf("Close = %v", err)
	}
	wantMiss(t, s, Key(1, 0))
	if err := s.Put(Key(1, 1), []byte("x")); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Put after Close = %v, want Unavailable", err)
	}
	s.Drop(Key(1, 0), 0, 9)
	if err := s.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

// concurrentModel puts, gets, drops and holds at random; whatever is found must be the key's bytes, as long as it is held.
func concurrentModel(t *testing.T, s page.Store) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	length := func(k page.Key) int { return 1 + int(k.Rev*2654435761+uint64(k.Index)*40503)%(page.Size>>(k.Rev%9)) }
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g)))
			var held []func()
			for range 300 {
				k := Key(r.IntN(20), r.IntN(20))
				switch n := r.IntN(20); {
				case n < 8:
					if err := s.Put(k, Data(k, length(k))); err != nil && !errors.Is(err, errs.NoSpace) {
						t.Errorf("Put = %v", err)
					}
				case n == 8:
					s.Drop(k, k.Index, k.Index+3)
				default:
					h, ok := s.Get(k)
					if !ok {
						continue
					}
					held = append(held, func() {
						if !bytes.Equal(h.Bytes(), Data(k, length(k))) {
							t.Errorf("wrong bytes for %v", k)
						}
						h.Release()
					})
				}
				if len(held) > 3 {
					held[0]()
					held = held[1:]
				}
			}
			for _, check := range held {
				check()
			}
		})
	}
	wg.Wait()
}
