package cluster

import (
	"cmp"
	"math"
	"slices"

	"github.com/zeebo/xxh3"
)

/*
Weighted rendezvous hashing. Every node gets a score for a key that depends on nothing but the key, the node's name and its
weight; the highest scores own the key. So all who know the same nodes agree without talking, and when a node comes or goes
only the keys move that it gains or had. With h uniform in (0,1), -weight/ln(h) is highest for a node with the probability
weight/sum: that is the weighting of Schindelhauer and Schomaker.
*/

// Ring is an immutable set of nodes that own keys. The zero value has none.
type Ring struct {
	nodes []Node
}

// NewRing returns a ring of those nodes that have a capacity, which is their weight. The names must differ; the order of the
// nodes does not matter.
func NewRing(nodes []Node) *Ring {
	r := &Ring{}
	for _, n := range nodes {
		if n.Capacity > 0 {
			r.nodes = append(r.nodes, n)
		}
	}
	slices.SortFunc(r.nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return r
}

// Len returns how many nodes can own keys.
func (r *Ring) Len() int { return len(r.nodes) }

// Owner returns the node that owns key, false if the ring is empty. It allocates nothing.
func (r *Ring) Owner(key string) (Node, bool) {
	best, high, seed := -1, 0.0, xxh3.HashString(key)
	for i := range r.nodes {
		if s := score(seed, &r.nodes[i]); best < 0 || s > high {
			best, high = i, s
		}
	}
	if best < 0 {
		return Node{}, false
	}
	return r.nodes[best], true
}

// Owners returns the n nodes that own key, the first owner first, and all nodes if there are no more than n. The owners of
// fewer copies are the first of the owners of more.
func (r *Ring) Owners(key string, n int) []Node {
	type scored struct {
		node  *Node
		score float64
	}
	seed := xxh3.HashString(key)
	all := make([]scored, len(r.nodes))
	for i := range r.nodes {
		all[i] = scored{&r.nodes[i], score(seed, &r.nodes[i])}
	}
	// A stable sort leaves equal scores in the order of the names, as Owner sees them.
	slices.SortStableFunc(all, func(a, b scored) int { return cmp.Compare(b.score, a.score) })
	owners := make([]Node, 0, max(0, min(n, len(all))))
	for _, s := range all[:cap(owners)] {
		owners = append(owners, *s.node)
	}
	return owners
}

// score returns the node's score for the key with the hash seed.
func score(seed uint64, n *Node) float64 {
	const bits = 53 // of a float64's fraction: the hash becomes a number strictly between 0 and 1
	h := (float64(xxh3.HashStringSeed(n.Name, seed)>>(64-bits)) + 0.5) / (1 << bits)
	return -float64(n.Capacity) / math.Log(h)
}

// Spread puts the first node of each failure domain before the other nodes of it, in the order of both else, and returns how many
// domains there are: as many nodes at the front share none. A node without a domain is one of its own.
func Spread(nodes []Node) (domains int) {
	seen := make(map[string]bool, len(nodes))
	var more []Node
	for _, n := range nodes {
		if seen[n.Domain] {
			more = append(more, n)
			continue
		}
		if n.Domain != "" {
			seen[n.Domain] = true
		}
		nodes[domains] = n
		domains++
	}
	copy(nodes[domains:], more)
	return domains
}
