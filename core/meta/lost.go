package meta

import (
	"strings"

	"github.com/tidwall/btree"
)

// lost is of what names, with all below those that are directories, something was known once that is not any more. It is bounded: of
// too many the directories above them are remembered.
type lost struct{ names btree.Set[string] }

// maxLost is how many names are remembered.
const maxLost = 10_000

func (l *lost) add(name string) {
	if l.has(name) {
		return
	}
	l.names.Insert(name)
	for l.names.Len() > maxLost {
		var coarser btree.Set[string]
		l.names.Scan(func(name string) bool {
			if name != "" {
				name, _ = split(name)
			}
			coarser.Insert(name)
			return true
		})
		l.names = coarser
	}
}

// has reports whether it is of name, or of a directory above it.
func (l *lost) has(name string) bool {
	for l.names.Len() > 0 {
		if l.names.Contains(name) {
			return true
		}
		if name == "" {
			break
		}
		name, _ = split(name)
	}
	return false
}

// below reports whether it is of the directory dir, or of something in it at any depth.
func (l *lost) below(dir string) (some bool) {
	l.names.Ascend(dir, func(name string) bool {
		some = strings.HasPrefix(name, dir)
		return false
	})
	return some
}
