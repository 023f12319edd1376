package mempage_test

import (
	"testing"

	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/page/pagetest"
)

func TestStore(t *testing.T) {
	pagetest.Run(t, func(*testing.T) page.Store { return mempage.New(90) })
}
