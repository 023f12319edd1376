package namespace

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
)

// The kinds of findings of a check beside those of meta.Flaw.
const (
	foundSetting = "setting" // a configuration key of the journal
	foundMissing = "missing" // the store has no such file
	foundOther   = "other"   // the store has another version
)

// Check implements core.Care. Beside a namespace that changes, what is found must be there at a second look too.
func (n *Namespace) Check(ctx context.Context, o core.CheckOptions) (core.CheckReport, error) {
	if err := n.operator(ctx); err != nil {
		return core.CheckReport{}, err
	}
	report, err := checkLog(ctx, n.log)
	if err != nil {
		return core.CheckReport{}, err
	}
	if len(report.Findings) > 0 {
		first := report.Findings
		if report, err = checkLog(ctx, n.log); err != nil {
			return core.CheckReport{}, err
		}
		report.Findings = slices.DeleteFunc(report.Findings, func(f core.Finding) bool { return !slices.Contains(first, f) })
	}
	if !o.Stores {
		return report, nil
	}
	p := &proof{n: n, found: map[string]*tally{}}
	if err := p.walk(ctx, p.compare); err != nil {
		return core.CheckReport{}, err
	}
	report.Proved, report.Findings = p.proved, append(report.Findings, p.findings...)
	return report, nil
}

// HasJournal reports whether a journal is in kv: whether somebody has ever claimed one. Errors: errs.Unavailable; ctx's.
func HasJournal(ctx context.Context, kv meta.KV) (bool, error) {
	log, err := meta.OpenLog(kv, meta.LogOptions{Group: JournalGroup})
	if err != nil {
		return false, err
	}
	_, err = log.Leader(ctx)
	switch errs.KindOf(err) {
	case errs.NotExist:
		return false, nil
	case errs.Corrupt: // for the check to tell
		return true, nil
	}
	return err == nil, err
}

// CheckJournal checks the journal in kv, which no process need have open. Errors: errs.Unavailable; ctx's.
func CheckJournal(ctx context.Context, kv meta.KV) (core.CheckReport, error) {
	log, err := meta.OpenLog(kv, meta.LogOptions{Group: JournalGroup})
	if err != nil {
		return core.CheckReport{}, err
	}
	return checkLog(ctx, log)
}

// checker looks at one reading of a journal.
type checker struct {
	report core.CheckReport
	mounts map[string]record
}

func (c *checker) find(kind, name, why string, args ...any) {
	c.report.Findings = append(c.report.Findings, core.Finding{Kind: kind, Name: name, Why: fmt.Sprintf(why, args...)})
}

func checkLog(ctx context.Context, log *meta.Log) (core.CheckReport, error) {
	c := &checker{mounts: map[string]record{}}
	tree, read, err := log.Check(ctx, func(f meta.Flaw) { c.find(f.Kind, f.Name, "%s", f.Why) })
	if err != nil {
		return c.report, err
	}
	c.report.Seq, c.report.Records, c.report.Pages, c.report.Entries = read.Seq, read.Records, read.Pages, read.Entries
	if err := c.settings(ctx, log); err != nil {
		return c.report, err
	}
	if tree != nil {
		tree.View(func(v meta.View) {
			c.points(v)
			c.uploads(v)
			c.intents(v)
		})
	}
	return c.report, nil
}

// settings looks at the configuration keys.
func (c *checker) settings(ctx context.Context, log *meta.Log) error {
	kvs, err := log.ListConfig(ctx, "sys/")
	if err != nil {
		return err
	}
	for _, kv := range kvs {
		id, mount := strings.CutPrefix(kv.Key, mountPrefix)
		switch {
		case mount:
			var r record
			err := json.Unmarshal(kv.Value, &r)
			if err == nil {
				_, err = r.spec()
			}
			if err == nil && r.ID != id {
				err = fmt.Errorf("it says that it is %q", r.ID)
			}
			if err != nil {
				c.find(foundSetting, kv.Key, "the mount cannot be read: %v", err)
				continue
			}
			c.mounts[r.ID] = r
		case strings.HasPrefix(kv.Key, rulePrefix+"/"):
			if _, err := ruleOf(kv); err != nil {
				c.find(foundSetting, kv.Key, "the path rule cannot be read: %v", err)
			}
		case strings.HasPrefix(kv.Key, credentialPrefix):
			if _, err := credentialOf(kv); err != nil {
				c.find(foundSetting, kv.Key, "the named secret cannot be read: %v", err)
			}
		case strings.HasPrefix(kv.Key, revisionPrefix):
			if _, err := revisionOf(kv); err != nil {
				c.find(foundSetting, kv.Key, "the revision cannot be read: %v", err)
			}
		case strings.HasPrefix(kv.Key, aliasPrefix):
			if _, err := aliasOf(kv); err != nil {
				c.find(foundSetting, kv.Key, "the bucket alias cannot be read: %v", err)
			}
		case kv.Key == invalidKey:
			if _, err := invalidOf(kv); err != nil {
				c.find(foundSetting, kv.Key, "%v", err)
			}
		case kv.Key == secretKey:
			if secret, err := hex.DecodeString(string(kv.Value)); err != nil || len(secret) != 32 {
				c.find(foundSetting, kv.Key, "the cluster's secret is not 64 hexadecimal digits")
			}
		case kv.Key == rootMarkKey:
			var m rootMark
			if err := json.Unmarshal(kv.Value, &m); err != nil || m.Mark == "" {
				c.find(foundSetting, kv.Key, "the mark of the root store cannot be read: %v", err)
			}
		case kv.Key == incarnationKey:
			var l life
			if err := json.Unmarshal(kv.Value, &l); err != nil || l.ID == "" {
				c.find(foundSetting, kv.Key, "the journal's life cannot be read: %v", err)
			}
			c.report.Incarnation = l.ID
		}
	}
	return nil
}

// points requires that mounts and mount points belong to each other.
func (c *checker) points(v meta.View) {
	pointed := map[string]bool{rootID: true}
	for dir := range v.Dirs() {
		for edge, e := range v.Children(dir, "") {
			if !e.Mount {
				continue
			}
			path, _ := v.Path(dir)
			r, ok := c.mounts[e.Base.Store]
			switch {
			case !ok:
				c.find(foundMount, path+edge, "it is the mount point of %q, which is no mount", e.Base.Store)
			case r.Path != path+edge:
				c.find(foundMount, path+edge, "its mount %q is recorded at %s", r.ID, r.Path)
			}
			pointed[e.Base.Store] = true
		}
	}
	for id, r := range c.mounts {
		if !pointed[id] {
			c.find(foundMount, r.Path, "the mount %q has no mount point", id)
		}
	}
}

// uploads looks at the uploads in progress and the memory of those completed.
func (c *checker) uploads(v meta.View) {
	for edge, e := range v.Children(meta.UploadsDir, "") {
		name := "upload " + strings.TrimSuffix(edge, "/")
		if _, err := core.ParsePath(e.Extra["path"]); err != nil {
			c.find(foundUpload, name, "its path %q is none", e.Extra["path"])
		}
		if e.Class != meta.Directory {
			continue
		}
		if id := e.Extra["mount"]; id != rootID {
			if _, ok := c.mounts[id]; !ok {
				c.find(foundUpload, name, "its mount %q is no mount", id)
			}
		}
		for part, p := range v.Children(e.Dir, "") {
			if number, err := strconv.Atoi(part); err != nil || number < 1 || number > maxParts || p.Class != meta.Note || part != partEdge(number) {
				c.find(foundUpload, name, "%q is no part", part)
			}
		}
	}
}

// intents requires that every unfinished change can be carried on.
func (c *checker) intents(v meta.View) {
	known := []opKind{opPut, opPersist, opMkdir, opParents, opRemove, opRename, opTrash, opCopyTree, opCarry, opDropTree}
	rev := v.Counter("rev")
	for edge, e := range v.Children(meta.IntentsDir, "") {
		in, err := intentOf(edge, e)
		if err == nil {
			_, err = core.ParsePath(in.path)
		}
		if err == nil && in.to != "" {
			_, err = core.ParsePath(in.to)
		}
		if number, nerr := strconv.ParseUint(edge, 16, 64); err == nil && (nerr != nil || number >= rev) {
			err = fmt.Errorf("its number is not one that was drawn")
		}
		switch {
		case err != nil:
			c.find(foundIntent, edge, "the change cannot be read: %v", err)
		case !slices.Contains(known, in.op):
			c.find(foundIntent, in.path, "a change %q is not known", in.op)
		}
	}
}

// compare reports the files of a run of entries whose bytes are not in their store as the journal has them.
func (p *proof) compare(ctx context.Context, b branch, some []child) (dirs []branch, err error) {
	var files []child
	for _, c := range some {
		switch c.entry.Class {
		case meta.Directory:
			if to, ok := p.below(b, c); ok {
				dirs = append(dirs, to)
			}
		case meta.Persisted:
			files = append(files, c)
		case meta.Local:
			p.lookHeld(ctx, b, c)
		}
	}
	if len(files) == 0 {
		return dirs, nil
	}
	if b.mount.err != nil {
		return nil, b.mount.unavailable()
	}
	listed, err := p.n.listing(ctx, b, files)
	if err != nil {
		return nil, err
	}
	for _, c := range files {
		if info, there := listed[b.keyOf(c)]; there && sameVersion(c.entry.Version, info.Version) {
			p.count(b, true)
			continue
		}
		if err := p.look(ctx, b, c); err != nil {
			return nil, err
		}
	}
	return dirs, nil
}

// lookHeld asks the workers for a file that they hold, while nobody changes it.
func (p *proof) lookHeld(ctx context.Context, b branch, c child) {
	path := b.path.Child(c.edge)
	unlock, ok := p.n.locks.tryLock(path)
	if !ok {
		return
	}
	defer unlock()
	pl := p.n.walk(path)
	if !pl.local() {
		return
	}
	if lost, away := p.n.heldBy(ctx, pl.entry); !lost {
		p.count(branch{mount: pl.mount}, true)
	} else if len(away) > 0 {
		p.note(foundHeld, path.String(), "no store has its bytes yet, and the workers that hold them cannot be reached: "+strings.Join(away, ", "))
	} else {
		p.note(foundMissing, path.String(), "no store and no worker has its bytes")
	}
	if why := pl.entry.Hold.Refused; why != "" {
		p.note(foundOther, path.String(), why)
	}
}

// look compares one file with its store while nobody changes it; one that somebody does is passed over.
func (p *proof) look(ctx context.Context, b branch, c child) error {
	path := b.path.Child(c.edge)
	unlock, ok := p.n.locks.tryLock(path)
	if !ok {
		return nil
	}
	defer unlock()
	pl := p.n.walk(path)
	if !pl.persisted() || pl.hidden || p.n.renaming(&pl) {
		return nil
	}
	info, err := p.n.stat(ctx, branch{mount: pl.mount}, pl.key)
	switch {
	case err != nil:
		return err
	case info == nil:
		p.note(foundMissing, path.String(), "the store has no such file")
	case sameVersion(pl.entry.Version, info.Version) || ours(*info, pl.entry):
		p.count(branch{mount: pl.mount}, true)
	default:
		p.note(foundOther, path.String(), "the store has another version: it was changed behind Sluice")
	}
	return nil
}

var _ core.Care = (*Namespace)(nil)
