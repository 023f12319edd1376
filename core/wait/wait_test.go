package wait

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := errors.New("why")
		ended, end := context.WithCancelCause(t.Context())
		end(why)
		ending, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		for _, c := range []struct {
			ctx     context.Context
			d, took time.Duration
			err     error
		}{
			{ending, time.Minute, time.Second, why},
			{t.Context(), time.Minute, time.Minute, nil},
			{t.Context(), 0, 0, nil},
			{t.Context(), -time.Minute, 0, nil},
			{ended, time.Minute, 0, why},
			{ended, 0, 0, why},
		} {
			began := time.Now()
			if err := For(c.ctx, c.d); !errors.Is(err, c.err) || time.Since(began) != c.took {
				t.Errorf("%v: %v after %v, want %v after %v", c.d, err, time.Since(began), c.err, c.took)
			}
		}
	})
}
