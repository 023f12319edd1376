package s3api

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestAppendTime(t *testing.T) {
	far := time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	times := []time.Time{{}, time.Unix(0, 0), far, far.Add(1), time.Unix(-1, 1), time.Unix(1<<40, 0), time.Unix(-1<<40, 0),
		time.Date(2024, 2, 29, 1, 2, 3, 4_005_006, time.FixedZone("", -9000))}
	for range 1000 {
		times = append(times, time.Unix(rand.Int64N(1<<33), rand.Int64N(1e9)))
	}
	for _, at := range times {
		if got, want := string(appendTime(nil, at)), at.UTC().Format(timeFormat); got != want {
			t.Errorf("%v is written %s, want %s", at.UnixNano(), got, want)
		}
	}
}
