package memkv_test

import (
	"testing"

	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/kvtest"
	"github.com/sluicefs/sluice/core/meta/memkv"
)

func TestKV(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) meta.KV {
		kv := memkv.New()
		t.Cleanup(func() { kv.Close() })
		return kv
	})
}
