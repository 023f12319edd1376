package localufs

import (
	"testing"

	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/ufstest"
)

func TestSuite(t *testing.T) {
	ufstest.Run(t, func(t *testing.T) ufs.Store { return openTemp(t) })
}

func openTemp(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
