package memufs_test

import (
	"testing"

	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/memufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

func TestSuite(t *testing.T) {
	for name, o := range map[string]memufs.Options{"flat": {}, "dirs": {Dirs: true}} {
		t.Run(name, func(t *testing.T) {
			ufstest.Run(t, func(*testing.T) ufs.Store { return memufs.New(o) })
		})
	}
}
