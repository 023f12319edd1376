package localufs

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// TestTurns checks that those who come while a directory is synced share the next fsync, of the descriptor opened first, and
// nobody one that had begun before.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s turns
		dir, other := inode{1, 2}, inode{1, 3}
		broken := errors.New("broken")
		var mu sync.Mutex
		var began []int // the descriptors of the calls, in order
		outcome, ended := make(map[int]chan error), make(map[int]error)
		for _, fd := range []int{10, 12, 14, 20} {
			outcome[fd] = make(chan error)
		}
		fsync := func(fd int) error {
			mu.Lock()
			began = append(began, fd)
			mu.Unlock()
			return <-outcome[fd]
		}
		come := func(dir inode, fd int, number uint64) {
			go func() {
				err := s.sync(dir, place{dir: fd, opened: number}, fsync)
				mu.Lock()
				defer mu.Unlock()
				ended[fd] = err
			}()
			synctest.Wait()
		}
		want := func(what string, calls []int, done ...int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			got := make([]int, 0, len(ended))
			for fd := range ended {
				got = append(got, fd)
			}
			slices.Sort(got)
			if !slices.Equal(began, calls) || !slices.Equal(got, done) {
				t.Fatalf("%s: got calls %v and %v done, want %v and %v", what, began, got, calls, done)
			}
		}
		come(dir, 10, 1)
		come(dir, 11, 5)
		come(dir, 12, 3)
		come(dir, 13, 4)
		want("one runs", []int{10})
		come(other, 20, 6)
		want("another directory", []int{10, 20})
		outcome[10] <- nil
		want("the first has ended", []int{10, 20, 12}, 10)
		come(dir, 14, 2)
		outcome[20] <- nil
		want("one comes after the second has begun", []int{10, 20, 12}, 10, 20)
		outcome[12] <- broken
		want("the second has ended", []int{10, 20, 12, 14}, 10, 11, 12, 13, 20)
		outcome[14] <- nil
		want("the last has ended", []int{10, 20, 12, 14}, 10, 11, 12, 13, 14, 20)
		for fd, err := range ended {
			if failed := fd >= 11 && fd <= 13; (err != nil) != failed {
				t.Errorf("descriptor %d: got %v, want an error: %v", fd, err, failed)
			}
		}
		if len(s.running) > 0 {
			t.Errorf("left behind: %v", s.running)
		}
	})
}
