package namespace

import "testing"

// TestSlotsAreNotSharedOnTheWay acknowledges a change whose client has given it up while its answer is on its way to the
// journal.
func TestSlotsAreNotSharedOnTheWay(t *testing.T) {
	for _, k := range []struct {
		name        string
		acknowledge func(s *session)
	}{
		{"next", func(s *session) { s.acknowledge(2) }},
		{"far", func(s *session) { s.acknowledge(100) }},
	} {
		t.Run(k.name, func(t *testing.T) {
			s := newSession("", 1, 1)
			given := s.take(1)
			k.acknowledge(s)
			if other := s.take(200); other == given {
				t.Errorf("two answers on their way have the slot %d", other)
			}
			s.wrote(200)
			s.wrote(1)
			if next := s.take(201); next != given {
				t.Errorf("got the slot %d, want %d, which is free again", next, given)
			}
			s.wrote(201)
			if s.acknowledge(202); len(s.slots) != 0 || len(s.free) != 2 || len(s.writing) != 0 {
				t.Errorf("%d answers, %d free slots and %d on their way are left", len(s.slots), len(s.free), len(s.writing))
			}
		})
	}
}
