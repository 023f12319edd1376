package page

import "math"

// Writer keeps the bytes of a content that is being written, from its start, so that they need not be read back. It never
// fails: where there is no memory or no room in the store it stops, and the pages are misses later. A Writer is for one
// goroutine. Exactly one of Finish and Drop ends it; Drop after Finish forgets the pages too.
type Writer struct {
	c       *Cache
	content Content
	next    uint32 // index of the page being collected
	buf     []byte // nil, or of whole capacity
	room    int64  // taken for buf
	off     bool   // stopped
}

// NewWriter returns a writer of content, whose Len is not used. It keeps nothing if the content is NoCache.
func (c *Cache) NewWriter(content Content) *Writer {
	return &Writer{c: c, content: content, off: content.NoCache}
}

// Write takes the next bytes of the content. It returns len(p) and nil always.
func (w *Writer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && !w.off {
		if len(w.buf) == 0 && len(p) >= Size {
			w.put(p[:Size])
			p = p[Size:]
			continue
		}
		m := min(len(p), Size-len(w.buf))
		if !w.reserve(len(w.buf) + m) {
			w.stop()
			break
		}
		w.buf = append(w.buf, p[:m]...)
		p = p[m:]
		if len(w.buf) == Size {
			w.put(w.buf)
			w.buf = w.buf[:0]
		}
	}
	return n, nil
}

// reserve makes room for n bytes in buf. It grows in steps, so that small files and slow clients take little.
func (w *Writer) reserve(n int) bool {
	if n <= cap(w.buf) {
		return true
	}
	size := min(Size, max(copyBytes, 4*cap(w.buf)))
	for size < n {
		size = min(Size, 4*size)
	}
	if !w.c.writeRoom.TryAcquire(int64(size) - w.room) {
		return false
	}
	w.room = int64(size)
	old := w.buf
	switch size {
	case Size:
		w.buf = w.c.pagePool.Get().(*[Size]byte)[:0]
	case copyBytes:
		w.buf = w.c.copyPool.Get().(*[copyBytes]byte)[:0]
	default:
		w.buf = make([]byte, 0, size)
	}
	w.buf = append(w.buf, old...)
	w.c.recycle(old)
	return true
}

func (w *Writer) put(data []byte) {
	if w.next == math.MaxUint32 || w.c.store.Put(w.content.key(w.next), data) != nil {
		w.stop()
		return
	}
	w.next++
}

// stop ends the keeping of pages and gives the memory back.
func (w *Writer) stop() {
	w.off = true
	w.c.recycle(w.buf)
	w.c.writeRoom.Release(w.room)
	w.buf, w.room = nil, 0
}

// Finish keeps the last page.
func (w *Writer) Finish() {
	if !w.off && len(w.buf) > 0 {
		w.put(w.buf)
	}
	w.stop()
}

// Drop forgets everything that was written.
func (w *Writer) Drop() {
	w.stop()
	if w.next > 0 {
		w.c.store.Drop(w.content.key(0), 0, w.next)
	}
	w.next = 0
}
