package namespace

import "time"

// A look at the store, or a step that needs its parent directory, is repeated while concurrent changes overtake it: maxLoads
// times, and for maxChasing at least.
const (
	maxLoads   = 16
	maxChasing = 5 * time.Second
)

// chase yields while something that concurrent changes overtake is worth another try.
func chase(yield func(int) bool) {
	start := time.Now()
	for i := 0; i < maxLoads || time.Since(start) < maxChasing; i++ {
		if !yield(i) {
			return
		}
	}
}
