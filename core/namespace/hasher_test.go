package namespace

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/sluicefs/sluice/core/mount"
)

// TestRowIDs has the ids of names made again and again, each as the cluster's secret makes it for ever.
func TestRowIDs(t *testing.T) {
	n := &Namespace{secret: []byte(strings.Repeat("s", 32))}
	m := &mounted{Mount: &mount.Mount{ID: "m"}}
	for _, key := range []string{"a", strings.Repeat("long/", 100), "", "a"} {
		want := binary.BigEndian.Uint64(keyed(n.secret, "m", key))>>2 | 1<<62
		if got := n.rowID(&node{place: place{mount: m, key: key}}); got != want {
			t.Errorf("the id of %q is %x, want %x", key, got, want)
		}
	}
}
