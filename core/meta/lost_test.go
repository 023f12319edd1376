package meta

import (
	"fmt"
	"testing"
)

func TestLost(t *testing.T) {
	var l lost
	l.add("a/b/")
	l.add("a/c")
	for name, want := range map[string]bool{"a/b/": true, "a/b/x": true, "a/c": true, "a/": false, "a/cc": false, "a/bb": false, "": false} {
		if got := l.has(name); got != want {
			t.Errorf("has(%q) is %v", name, got)
		}
	}
	for dir, want := range map[string]bool{"": true, "a/": true, "a/b/": true, "b/": false, "a/d/": false} {
		if got := l.below(dir); got != want {
			t.Errorf("below(%q) is %v", dir, got)
		}
	}
	for i := range 3 * maxLost {
		l.add(fmt.Sprintf("d%d/e%d/f", i%7, i))
	}
	if n := l.names.Len(); n > maxLost || !l.has("d3/e3/f") || !l.has("a/c") || !l.has("a/b/x") {
		t.Errorf("after many: %d names", n)
	}
	for i := range 3 * maxLost {
		l.add(fmt.Sprintf("%d/x", i))
	}
	if n := l.names.Len(); n > maxLost || !l.has("zz") {
		t.Errorf("after too many directories: %d names", n)
	}
}
