package meta

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// Flaw is something that is wrong with what a journal holds.
type Flaw struct {
	Kind string // journal: it cannot be read on; tree: what it adds up to contradicts itself; counter: a number may come twice
	Name string // the key, directory or path
	Why  string
}

// Checked says what a check has read.
type Checked struct {
	Seq     uint64 // of the last record
	Records int64  // after the checkpoint
	Pages   int64  // of the checkpoint
	Entries int64
}

// Check reads the journal again, from its store into memory of its own, as a member that starts would: every record's and
// page's checksum, the chain of the records, and that the pages leave nothing out. It then looks at what that adds up to, and
// calls flaw for everything that is wrong. The tree it returns is that; nil if the journal cannot be read. It changes
// nothing, and the Log may be running. What it finds is no error. Errors: errs.Unavailable; ctx's.
func (l *Log) Check(ctx context.Context, flaw func(Flaw)) (*Tree, Checked, error) {
	again, err := OpenLog(l.kv, LogOptions{Group: l.o.Group, Logger: l.o.Logger})
	if err != nil {
		return nil, Checked{}, err
	}
	err = again.Load(ctx)
	switch bad, classified := errors.AsType[*errs.Error](err); {
	case classified && bad.Kind == errs.Corrupt:
		flaw(Flaw{"journal", bad.Name, bad.Error()})
		return nil, Checked{Seq: again.Seq()}, nil
	case err != nil:
		return nil, Checked{}, err
	}
	if _, err := again.Leader(ctx); errs.KindOf(err) == errs.Corrupt {
		flaw(Flaw{"journal", again.leaderKey(), err.Error()})
	}
	ck, _, err := again.checkpoint(ctx)
	if err != nil {
		return nil, Checked{}, err
	}
	done := Checked{Seq: again.Seq(), Records: int64(again.Seq() - min(ck.Seq, again.Seq()))}
	again.tree.View(func(v View) { done.Entries = v.check(flaw) })
	again.tree.mu.RLock()
	defer again.tree.mu.RUnlock()
	again.tree.layout.pages.Scan(func(s *leaf) bool {
		if s.rev != 0 {
			done.Pages++
		}
		return true
	})
	return again.tree, done, nil
}

// highest are the greatest numbers found, by the counter they were drawn from.
type highest map[string]uint64

func (h highest) see(counter string, n uint64) { h[counter] = max(h[counter], n) }

// check looks at every entry and directory, and returns how many entries there are.
func (v View) check(flaw func(Flaw)) (entries int64) {
	used := highest{}
	for id := range v.Dirs() {
		path, rooted := v.where(id)
		if !rooted {
			flaw(Flaw{"tree", fmt.Sprintf("directory %d", id), "no chain of directories leads to it from the root"})
		}
		if id >= FirstDir {
			used.see("dir", uint64(id))
		}
		last := ""
		for edge, e := range v.Children(id, "") {
			entries++
			if edge <= last {
				flaw(Flaw{"tree", path + edge, "it is not in the order of its directory"})
			}
			last = edge
			if why := v.wrong(id, edge, e, used); why != "" {
				flaw(Flaw{"tree", path + edge, why})
			}
		}
	}
	for _, counter := range []string{"id", "rev", "dir"} {
		if next := v.Counter(counter); used[counter] >= next && used[counter] > 0 {
			flaw(Flaw{"counter", counter, fmt.Sprintf("%d is in use, and the numbers from %d on are taken for free", used[counter], next)})
		}
	}
	return entries
}

// where returns the path of a directory for people, and whether one of the directories that always are leads to it.
func (v View) where(id DirID) (path string, rooted bool) {
	roots := map[DirID]string{RootDir: "/", UploadsDir: "uploads:", IntentsDir: "intents:", AnswersDir: "answers:"}
	for range maxDepth {
		if root, ok := roots[id]; ok {
			return root + path, true
		}
		parent, edge, e, ok := v.Dir(id)
		if !ok || e.Class != Directory || e.Dir != id {
			return fmt.Sprintf("directory %d/%s", id, path), false
		}
		id, path = parent, edge+path
	}
	return path, false // a circle
}

// maxDepth is how many directories a path may have: each edge has a byte and a slash at least.
const maxDepth = 4096

// wrong says what is wrong with an entry, "" if nothing is.
func (v View) wrong(dir DirID, edge string, e *Entry, used highest) string {
	isDir := strings.HasSuffix(edge, "/")
	reserved := dir == UploadsDir || dir == IntentsDir || dir == AnswersDir
	switch e.Class {
	case Directory:
		if !isDir {
			return "a directory's name lacks its slash"
		}
		if e.Dir < FirstDir {
			return fmt.Sprintf("it leads to the reserved directory %d", e.Dir)
		}
		if parent, at, _, ok := v.Dir(e.Dir); !ok || parent != dir || at != edge {
			return fmt.Sprintf("the directory %d that it leads to has another name too", e.Dir)
		}
		if e.Base.Kind > Opaque || e.Base.Kind == Absolute && e.Base.Store == "" {
			return "where its files are is not known"
		}
		if dir == UploadsDir {
			used.see("id", e.ID)
			used.see("rev", e.Rev)
		}
	case Persisted:
		if isDir || edge == "" || reserved {
			return "a file stands where none can be"
		}
		if e.Hold != nil {
			return "its bytes are in the store, and workers hold them"
		}
		return e.wrongFile(used)
	case Local:
		if isDir || edge == "" || reserved {
			return "a file stands where none can be"
		}
		if e.Hold == nil || len(e.Hold.Workers) == 0 {
			return "nobody has its bytes"
		}
		return e.wrongFile(used)
	case Whiteout:
		if reserved {
			return "a whiteout stands where no names are"
		}
	case Note:
		if up, _, _, ok := v.Dir(dir); ok && up == UploadsDir { // a part
			used.see("id", e.ID)
			used.see("rev", e.Rev)
		}
	default:
		return fmt.Sprintf("its class %q is not known", e.Class)
	}
	return ""
}

// wrongFile says what is wrong with a file.
func (e *Entry) wrongFile(used highest) string {
	used.see("id", e.ID)
	used.see("rev", e.Rev)
	if e.ID == 0 || e.Rev == 0 {
		return "it has no number of its own"
	}
	var size int64
	for _, x := range e.Extents {
		used.see("id", x.ID)
		used.see("rev", x.Rev)
		if x.Len <= 0 || x.Off < 0 {
			return fmt.Sprintf("an extent of %d bytes from %d on", x.Len, x.Off)
		}
		size += x.Len
	}
	if size != e.Size {
		return fmt.Sprintf("its extents are %d bytes, and it has %d", size, e.Size)
	}
	if len(e.Parts)%2 != 0 {
		return "its parts cannot be told"
	}
	var parts int64
	for i := 0; i+1 < len(e.Parts); i += 2 {
		parts += e.Parts[i] * e.Parts[i+1]
	}
	if len(e.Parts) > 0 && parts != e.Size {
		return fmt.Sprintf("its parts are %d bytes, and it has %d", parts, e.Size)
	}
	return ""
}
