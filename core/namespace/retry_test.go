package namespace

import (
	"testing"
	"time"
)

// TestRetryPause checks that the pauses between tries grow, differ, and end.
func TestRetryPause(t *testing.T) {
	for tries := 1; tries <= 80; tries++ {
		most := persistRetryMax
		if tries <= 10 {
			most = min(most, time.Second<<(tries-1))
		}
		seen := map[time.Duration]bool{}
		for range 50 {
			got := retryPause(time.Second, tries)
			seen[got] = true
			if got < most/2 || got > most {
				t.Fatalf("after %d tries: %v, want %v at most and half of it at least", tries, got, most)
			}
		}
		if len(seen) < 10 {
			t.Errorf("after %d tries 50 pauses were of %d lengths", tries, len(seen))
		}
	}
}
