package cluster_test

import (
	"context"
	"errors"
	"testing"

	"github.com/sluicefs/sluice/core/cluster"
)

func TestReign(t *testing.T) {
	r, end := cluster.NewReign(t.Context())
	select {
	case <-r.Done():
		t.Fatal("over before it ended")
	default:
	}
	if err := r.Err(); err != nil {
		t.Fatalf("Err while it lasts: %v", err)
	}
	end(cluster.ErrClosed)
	end(errors.New("too late"))
	<-r.Done()
	if err := r.Err(); !errors.Is(err, cluster.ErrClosed) {
		t.Errorf("got %v, want the first reason", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, _ = cluster.NewReign(ctx)
	cancel()
	<-r.Done()
	if err := r.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}
