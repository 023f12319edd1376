package namespace_test

import (
	"testing"

	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/namespace"
)

// TestUnreadableInvalid leads with a list of what was invalidated that cannot be read, which keeps nobody from starting.
func TestUnreadableInvalid(t *testing.T) {
	const key = "sys/invalid"
	s, root := newShared(t), dirs()
	if err := s.run(root, func(n *namespace.Namespace) {
		s.make(n)
		if err := n.Invalidate(s.ctx, s.path("/d")); err != nil {
			t.Fatal(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.kv.Get(s.ctx, key); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`["/d"]`, `["d/"]`, "{"} {
		if _, _, err := s.kv.Txn(s.ctx, meta.Txn{Puts: []meta.KeyValue{{Key: key, Value: []byte(bad)}}}); err != nil {
			t.Fatal(err)
		}
		if err := s.run(root, s.there); err != nil {
			t.Errorf("with %s: %v", bad, err)
		}
	}
}
