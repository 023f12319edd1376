package meta

import "strings"

// Text gathers the text of many small things in few pieces of memory. A piece lives as long as anything in it is referred to, so
// it is for what is used and forgotten together.
type Text struct {
	b    strings.Builder
	size int // of the current piece
}

const (
	firstText = 128     // bytes of the first piece
	mostText  = 8 << 10 // bytes of a piece, unless something alone is longer
)

// room makes sure that the next n bytes written to b stay in one piece with each other, and what was written where it is.
func (t *Text) room(n int) {
	if t.b.Cap()-t.b.Len() >= n {
		return
	}
	t.size = min(max(2*t.size, firstText), mostText)
	t.b.Reset()
	t.b.Grow(max(t.size, n))
}

// Keep returns a string of b, in the text.
func (t *Text) Keep(b []byte) string {
	t.room(len(b))
	from := t.b.Len()
	t.b.Write(b)
	return t.b.String()[from:]
}
