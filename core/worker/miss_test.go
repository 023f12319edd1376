package worker_test

import (
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/page"
)

// TestReasonsAreKnown has each reason of a page cache be one of core's, in the same words.
func TestReasonsAreKnown(t *testing.T) {
	known := map[core.MissReason]bool{}
	for _, r := range core.MissReasons() {
		known[r] = true
	}
	for _, why := range []page.Why{page.WhyNotKept, page.WhyOnce, page.WhyCold, page.WhyReclaimed, page.WhyExpired, page.WhyDamaged, page.WhyUnread,
		page.WhyFreed, page.WhyRefused, page.WhyOff, page.WhyVersion, page.WhyNew, page.WhyForgotten} {
		if !known[core.MissReason(why)] {
			t.Errorf("%s is no reason of core's", why)
		}
	}
}
