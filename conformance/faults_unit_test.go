package conformance

import (
	"bytes"
	"io"
	"testing"
)

// TestSame checks that the comparison every test of faults rests on sees each kind of wrong bytes.
func TestSame(t *testing.T) {
	c := content{"/b/k", 3, 3*contentBlock + 17}
	good := c.bytes()
	if err := same(bytes.NewReader(good), c); err != nil {
		t.Errorf("the same bytes: %v", err)
	}
	if err := same(io.MultiReader(bytes.NewReader(good), bytes.NewReader(good)), c, c); err != nil {
		t.Errorf("two contents: %v", err)
	}
	swapped := bytes.Clone(good)
	copy(swapped, good[contentBlock:2*contentBlock])
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for what, b := range map[string][]byte{
		"another generation": content{"/b/k", 4, c.size}.bytes(),
		"another name":       content{"/b/l", 3, c.size}.bytes(),
		"too short":          good[:len(good)-1],
		"empty":              {},
		"too long":           append(bytes.Clone(good), 'x'),
		"zeros":              make([]byte, c.size),
		"another offset":     swapped,
		"one bit":            flipped,
	} {
		if same(bytes.NewReader(b), c) == nil {
			t.Errorf("%s: taken for the same bytes", what)
		}
	}
}
