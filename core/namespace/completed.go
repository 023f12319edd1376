package namespace

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
)

// completedUploads remembers the uploads completed last, so that a repeated Complete is answered as the first was. They are
// Notes of meta.UploadsDir with the upload's id as their edge.
type completedUploads struct {
	mu   sync.Mutex
	ids  []string // oldest first
	last map[string]map[string]string
}

// maxCompleted bounds how many completed uploads are remembered.
const maxCompleted = 1000

func (c *completedUploads) restore(v meta.View) {
	c.last = map[string]map[string]string{}
	for edge, e := range v.Children(meta.UploadsDir, "") {
		if e.Class == meta.Note {
			c.ids = append(c.ids, edge)
			c.last[edge] = e.Extra
		}
	}
}

// add remembers that the upload id to p was completed from the parts of that digest, and returns the operations that journal
// it.
func (c *completedUploads) add(id string, p core.Path, parts, etag string) []meta.Op {
	c.mu.Lock()
	defer c.mu.Unlock()
	extra := map[string]string{"path": p.String(), "parts": parts, "etag": etag}
	c.ids, c.last[id] = append(c.ids, id), extra
	ops := []meta.Op{{Kind: meta.Set, Dir: meta.UploadsDir, Edge: id, Entry: meta.Entry{Class: meta.Note, Extra: extra}}}
	for len(c.ids) > maxCompleted {
		delete(c.last, c.ids[0])
		ops = append(ops, meta.Op{Kind: meta.Del, Dir: meta.UploadsDir, Edge: c.ids[0]})
		c.ids = c.ids[1:]
	}
	return ops
}

// again returns the ETag that completing the upload id to p from just these parts gave.
func (c *completedUploads) again(id string, p core.Path, parts []core.Part) (etag string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.last[id]
	return x["etag"], x != nil && x["path"] == p.String() && x["parts"] == digest(parts)
}

func digest(parts []core.Part) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d %s\n", p.Number, strings.Trim(p.ETag, `"`))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
