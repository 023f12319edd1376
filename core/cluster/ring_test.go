package cluster_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluicefs/sluice/core/cluster"
)

// nodes returns n nodes with capacities from the list, in turn.
func nodes(n int, capacities ...int64) []cluster.Node {
	all := make([]cluster.Node, n)
	for i := range all {
		all[i] = cluster.Node{Name: fmt.Sprintf("worker-%d", i), Capacity: capacities[i%len(capacities)]}
	}
	return all
}

func key(i int) string { return fmt.Sprintf("%016x/%d", uint64(i)*0x9e3779b97f4a7c15, i%64) }

func TestRingBalance(t *testing.T) {
	const keys = 60_000
	for _, c := range []struct {
		name  string
		nodes []cluster.Node
	}{
		{"three equal", nodes(3, 1<<40)},
		{"twenty equal", nodes(20, 1<<30)},
		{"weights 1 2 4", nodes(9, 1<<30, 2<<30, 4<<30)},
		{"a thousandfold", nodes(4, 1<<40, 1<<30)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, total := cluster.NewRing(c.nodes), int64(0)
			for _, n := range c.nodes {
				total += n.Capacity
			}
			got := map[string]int{}
			for i := range keys {
				n, ok := r.Owner(key(i))
				if !ok {
					t.Fatal("no owner")
				}
				got[n.Name]++
			}
			for _, n := range c.nodes {
				share := float64(n.Capacity) / float64(total)
				want := keys * share
				// Five standard deviations of a binomial distribution: a fair hash fails once in a million times.
				if off := math.Abs(float64(got[n.Name]) - want); off > 5*math.Sqrt(want*(1-share))+1 {
					t.Errorf("%s: got %d keys, want about %.0f", n.Name, got[n.Name], want)
				}
			}
		})
	}
}

// TestRingMovesTheLeast takes a node away and brings it back: only its own keys move.
func TestRingMovesTheLeast(t *testing.T) {
	all := nodes(7, 1<<30, 3<<30)
	whole := cluster.NewRing(all)
	for gone := range all {
		rest := cluster.NewRing(slices.Delete(slices.Clone(all), gone, gone+1))
		for i := range 3000 {
			owners := whole.Owners(key(i), 3)
			want := slices.DeleteFunc(owners, func(n cluster.Node) bool { return n.Name == all[gone].Name })[:2]
			if got := rest.Owners(key(i), 2); !slices.Equal(got, want) {
				t.Fatalf("without %s, key %d: got %v, want %v", all[gone].Name, i, got, want)
			}
		}
	}
}

// TestRingGrowsByWeight gives one node more weight: keys move to it only.
func TestRingGrowsByWeight(t *testing.T) {
	all := nodes(5, 1<<30)
	before := cluster.NewRing(all)
	all[2].Capacity *= 2
	after, moved := cluster.NewRing(all), 0
	for i := range 10_000 {
		was, _ := before.Owner(key(i))
		now, _ := after.Owner(key(i))
		if was.Name != now.Name {
			moved++
			if now.Name != all[2].Name {
				t.Fatalf("key %d moved from %s to %s", i, was.Name, now.Name)
			}
		}
	}
	if want := 10_000 * (2.0/6 - 1.0/5); math.Abs(float64(moved)-want) > want/5 { // from 1/5 to 2/6 of the keys
		t.Errorf("%d keys moved, want about %.0f", moved, want)
	}
}

func TestRingIgnoresOrder(t *testing.T) {
	all := nodes(6, 5, 9, 1)
	want := cluster.NewRing(all)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 500 {
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		if got := cluster.NewRing(all).Owners(key(i), 6); !slices.Equal(got, want.Owners(key(i), 6)) {
			t.Fatalf("key %d: got %v", i, got)
		}
	}
}

func TestRingOwners(t *testing.T) {
	r := cluster.NewRing(append(nodes(4, 7), cluster.Node{Name: "full of nothing"}))
	for i := range 1000 {
		all := r.Owners(key(i), 99)
		if len(all) != 4 || r.Len() != 4 {
			t.Fatalf("got %d owners, want 4: a node without capacity owns nothing", len(all))
		}
		for n := range 5 {
			if got := r.Owners(key(i), n); !slices.Equal(got, all[:n]) {
				t.Fatalf("%d owners: got %v, want %v", n, got, all[:n])
			}
		}
		if first, _ := r.Owner(key(i)); first != all[0] {
			t.Fatalf("Owner: got %v, want %v", first, all[0])
		}
	}
	if got := r.Owners("k", -1); len(got) != 0 {
		t.Errorf("a negative number: got %v", got)
	}
	if _, ok := new(cluster.Ring).Owner("k"); ok {
		t.Error("an empty ring has an owner")
	}
}

// TestRingIsStable holds the placement to what is on disks already.
func TestRingIsStable(t *testing.T) {
	r := cluster.NewRing(nodes(5, 10, 20))
	var got []string
	for i := range 8 {
		n, _ := r.Owner(fmt.Sprint("key-", i))
		got = append(got, n.Name)
	}
	want := []string{"worker-3", "worker-3", "worker-3", "worker-4", "worker-1", "worker-0", "worker-3", "worker-1"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func BenchmarkRingOwner(b *testing.B) {
	r := cluster.NewRing(nodes(100, 1<<40))
	for b.Loop() {
		r.Owner("0123456789abcdef/17")
	}
}

// TestSpread takes the owners of keys apart: the first of each failure domain come first, in their order, and a node that goes moves
// none of the others.
func TestSpread(t *testing.T) {
	all := nodes(7, 1<<30)
	for i, domain := range []string{"a", "a", "b", "b", "c", "", ""} {
		all[i].Domain = domain
	}
	names := func(nodes []cluster.Node) (all []string) {
		for _, n := range nodes {
			all = append(all, n.Name)
		}
		return all
	}
	for i := range 2000 {
		r := cluster.NewRing(all)
		owners := r.Owners(key(i), len(all))
		spread := slices.Clone(owners)
		if n := cluster.Spread(spread); n != 5 || spread[0].Name != owners[0].Name {
			t.Fatalf("%d domains, %v of %v", n, names(spread), names(owners))
		}
		seen := map[string]bool{}
		for _, n := range spread[:5] {
			if n.Domain != "" && seen[n.Domain] {
				t.Fatalf("%v share a domain", names(spread[:5]))
			}
			seen[n.Domain] = true
		}
		if a, b := names(owners), names(spread); !slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))) {
			t.Fatalf("%v of %v", b, a)
		}
		// Of two copies the one that is left stays where it is.
		less := cluster.NewRing(slices.DeleteFunc(slices.Clone(all), func(n cluster.Node) bool { return n.Name == spread[0].Name })).Owners(key(i), len(all))
		cluster.Spread(less)
		if !slices.Contains(names(less[:2]), spread[1].Name) {
			t.Fatalf("without %s: %v, before %v", spread[0].Name, names(less), names(spread))
		}
	}
	if n := cluster.Spread(nil); n != 0 {
		t.Errorf("%d domains of none", n)
	}
}
