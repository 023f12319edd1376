package meta

import (
	"slices"
	"sort"
)

// span says that everything about the edges of one directory from lo up to, but not including, hi is known as of at. An
// empty hi is the end of the directory: no span could end before the empty edge.
type span struct {
	lo, hi string
	at     int64 // nanoseconds since Derived.born
}

// holds reports whether edge lies in s.
func (s span) holds(edge string) bool { return s.lo <= edge && (s.hi == "" || edge < s.hi) }

// spans is a set of spans, ascending and disjoint.
type spans []span

// after returns the index of the first span that ends after edge.
func (ss spans) after(edge string) int {
	return sort.Search(len(ss), func(i int) bool { return ss[i].hi == "" || ss[i].hi > edge })
}

// at returns the span that holds edge.
func (ss spans) at(edge string) (span, bool) {
	if i := ss.after(edge); i < len(ss) && ss[i].lo <= edge {
		return ss[i], true
	}
	return span{}, false
}

// whole reports whether the spans leave no gap in the directory.
func (ss spans) whole() bool {
	if len(ss) == 0 || ss[0].lo != "" {
		return false
	}
	for i := range ss[1:] {
		if ss[i].hi != ss[i+1].lo {
			return false
		}
	}
	return ss[len(ss)-1].hi == ""
}

// overlap returns the range of indexes of the spans that have edges in [lo, hi).
func (ss spans) overlap(lo, hi string) (i, j int) {
	i = ss.after(lo)
	for j = i; j < len(ss) && (hi == "" || ss[j].lo < hi); j++ {
	}
	return i, j
}

// cut takes the edges [lo, hi) out of the set.
func (ss spans) cut(lo, hi string) spans {
	i, j := ss.overlap(lo, hi)
	if i == j {
		return ss
	}
	var rest [2]span
	keep := rest[:0]
	if first := ss[i]; first.lo < lo {
		keep = append(keep, span{first.lo, lo, first.at})
	}
	if last := ss[j-1]; hi != "" && (last.hi == "" || last.hi > hi) {
		keep = append(keep, span{hi, last.hi, last.at})
	}
	return slices.Replace(ss, i, j, keep...)
}

// cover adds s, in place of what the set says of its edges. Neighbours of the same age become one span; others stay
// apart, because a joined span would have to be as old as the older one.
func (ss spans) cover(s span) spans {
	ss = ss.cut(s.lo, s.hi)
	i := ss.after(s.lo)
	if i < len(ss) && s.hi != "" && ss[i].lo == s.hi && ss[i].at == s.at {
		s.hi = ss[i].hi
		ss = slices.Delete(ss, i, i+1)
	}
	if i > 0 && ss[i-1].hi == s.lo && ss[i-1].at == s.at {
		ss[i-1].hi = s.hi
		return ss
	}
	return slices.Insert(ss, i, s)
}

// notNewer returns the parts of [lo, hi) of which nothing is known that was learnt after at.
func (ss spans) notNewer(lo, hi string, at int64) []span {
	var parts []span
	i, j := ss.overlap(lo, hi)
	for _, s := range ss[i:j] {
		if s.at <= at {
			continue
		}
		if lo < s.lo {
			parts = append(parts, span{lo, s.lo, at})
		}
		if s.hi == "" {
			return parts
		}
		lo = max(lo, s.hi)
	}
	if hi == "" || lo < hi {
		parts = append(parts, span{lo, hi, at})
	}
	return parts
}
