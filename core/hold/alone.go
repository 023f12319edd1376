package hold

import "github.com/sluicefs/sluice/core"

// Alone implements core.Holders for a process that has no other workers than itself.
type Alone struct{ *Store }

// Choose implements core.Holders.
func (a Alone) Choose(n int, durable bool, beside ...string) []core.Holder {
	if n < 1 || len(beside) > 0 || a.Room() < enough() || durable && !a.Persistent() {
		return nil
	}
	return []core.Holder{a.Store}
}

// Holder implements core.Holders. Whatever the process was called when it took bytes, it has them here.
func (a Alone) Holder(string) (core.Holder, bool) { return a.Store, true }

// All implements core.Holders.
func (a Alone) All() []core.Holder { return []core.Holder{a.Store} }

// Leaving implements core.Holders. There is nowhere else that anything could go.
func (a Alone) Leaving() []string { return nil }
