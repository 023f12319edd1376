package namespace

import (
	"cmp"
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/ufs"
)

// A multipart upload is a directory of meta.UploadsDir whose edge is its id, with a Note for each part. Its bytes are parts
// of an upload that the store itself has in progress, so that Complete moves none of them where the store is S3.

const (
	maxParts    = 10_000
	minPartSize = 5 << 20 // bytes of every part but the last. Source: Amazon S3 multipart upload limits
)

// upload is an upload in progress as the overlay holds it.
type upload struct {
	id    string
	dir   meta.DirID
	entry *meta.Entry // of the upload; ID, Rev, Headers, User, Mode, Owner … are those of the file to be
	path  core.Path
}

func (u *upload) attr() core.FileAttr {
	e := u.entry
	return core.FileAttr{Mode: e.Mode & 0o1777, Headers: e.Headers, User: e.User, BlockSize: e.BlockSize, Replication: int(e.Replication)}
}

func (u *upload) public() core.Upload {
	x := u.entry.Extra
	return core.Upload{
		ID: u.id, Path: u.path, Initiated: time.Unix(0, u.entry.MTime), Owner: u.entry.Owner, Attr: u.attr(),
		Checksum: core.Checksum{Algorithm: x["checksum"], Type: x["checksum_type"]},
	}
}

// CreateUpload implements core.Uploads.
func (n *Namespace) CreateUpload(ctx context.Context, p core.Path, o core.CreateOptions) (string, error) {
	if err := n.grows(); err != nil {
		return "", err
	}
	if p.IsDir() {
		return "", errs.New("namespace.CreateUpload", p.String(), errs.Invalid, "a multipart upload makes a file, whose name does not end in /")
	}
	if err := n.checkName(p); err != nil {
		return "", err
	}
	old, in, exists, err := n.mayCreate(ctx, p, o, false)
	if err != nil {
		return "", err
	}
	if err := old.mount.opened(); err != nil {
		return "", err
	}
	composer, err := ufs.ComposerOf(old.mount.store)
	if err != nil {
		return "", err
	}
	id, err1 := n.fileID(ctx, &old, exists)
	rev, err2 := n.draw(ctx, &n.revs)
	dir, err3 := n.draw(ctx, &n.dirs)
	if err := cmp.Or(err1, err2, err3); err != nil {
		return "", err
	}
	e, err := n.newEntry(ctx, p, &old, in, exists, o, id, rev)
	if err != nil {
		return "", err
	}
	file := e
	e.Class, e.Dir, e.Explicit, e.MTime = meta.Directory, meta.DirID(dir), true, time.Now().UnixNano()
	e.Owner = core.PrincipalOf(ctx).User
	e.Extra = map[string]string{
		"path": p.String(), "mount": old.mount.ID, "key": old.key, "owner": file.Owner, "write_type": string(o.WriteType),
		"checksum": o.Checksum.Algorithm, "checksum_type": o.Checksum.Type,
	}
	name := newUploadID()
	set := meta.Op{Kind: meta.Set, Dir: meta.UploadsDir, Edge: name + "/", Entry: e}
	if _, err := n.commit(ctx, set); err != nil {
		return "", err
	}
	attr := (&writer{entry: file, id: id, rev: rev}).attr()
	storeID, err := composer.Begin(context.WithoutCancel(ctx), old.key, attr)
	unclear := unanswered(err) && !errors.Is(err, ufs.ErrUnsent)
	if err == nil {
		if err = n.began(ctx, p, set, name, storeID); err == nil {
			return name, nil
		}
		cerr := composer.Cancel(context.WithoutCancel(ctx), old.key, storeID)
		unclear, err = cerr != nil, errors.Join(err, cerr)
	}
	if unclear {
		n.lose(name, time.Unix(0, e.MTime))
		return "", err
	}
	_, cerr := n.commit(ctx, n.endUpload(name)...)
	return "", cmp.Or(err, cerr)
}

// began journals the store's id of the upload id, unless its mount has gone meanwhile and the entry with it.
func (n *Namespace) began(ctx context.Context, p core.Path, set meta.Op, id, storeID string) error {
	unlock, err := n.locks.lock(context.WithoutCancel(ctx), p)
	if err != nil {
		return err
	}
	defer unlock()
	there := false
	n.tree.View(func(v meta.View) { _, there = v.Get(set.Dir, set.Edge) })
	if !there {
		return errs.New("namespace.CreateUpload", p.String(), errs.Conflict, "the mount changed since the upload was started")
	}
	set.Entry.Extra = maps.Clone(set.Entry.Extra)
	set.Entry.Extra["store_id"] = storeID
	_, err = n.commit(ctx, append(n.answered(core.CallOf(ctx), id), set)...)
	return err
}

// newUploadID returns an id that nobody can guess. Ids sort by the time they were made, so that those of one key are listed
// in that order.
func newUploadID() string {
	var b [20]byte
	binary.BigEndian.PutUint64(b[:], uint64(time.Now().UnixNano()))
	rand.Read(b[8:])
	return base32.HexEncoding.EncodeToString(b[:])
}

// endUpload are the operations that forget an upload.
func (n *Namespace) endUpload(id string) (ops []meta.Op) {
	n.tree.View(func(v meta.View) { ops = n.endUploadIn(v, id) })
	return ops
}

func (n *Namespace) endUploadIn(v meta.View, id string) []meta.Op {
	e, ok := v.Get(meta.UploadsDir, id+"/")
	if !ok {
		return nil
	}
	return []meta.Op{{Kind: meta.Del, Dir: meta.UploadsDir, Edge: id + "/"}, {Kind: meta.DropDir, Dir: e.Dir}}
}

func noUpload(p core.Path) error {
	return errs.New("namespace.Upload", p.String(), errs.NotExist, "no such upload; it may have been completed or aborted")
}

// upload returns the upload id to p if the principal may go on with it.
func (n *Namespace) upload(ctx context.Context, p core.Path, id string) (*upload, error) {
	u := &upload{id: id, path: p}
	ok := false
	n.tree.View(func(v meta.View) { u.entry, ok = v.Get(meta.UploadsDir, id+"/") })
	if !ok || strings.Contains(id, "/") || u.entry.Extra["path"] != p.String() || u.entry.Extra["store_id"] == "" {
		return nil, noUpload(p)
	}
	u.dir = u.entry.Dir
	if who := core.PrincipalOf(ctx); !who.Super && (who.User != u.entry.Owner || who.User == core.Anonymous.User) {
		return nil, errs.New("namespace.Upload", p.String(), errs.Permission, "the upload was started by another user")
	}
	return u, nil
}

// mount returns the upload's open store.
func (n *Namespace) uploadStore(u *upload) (*mounted, ufs.Composer, error) {
	m := n.mountOf(u.entry.Extra["mount"])
	if m == nil {
		return nil, nil, noUpload(u.path)
	}
	if m.err != nil {
		return nil, nil, m.unavailable()
	}
	if err := m.refuses(u.path); err != nil {
		return nil, nil, err
	}
	c, err := ufs.ComposerOf(m.store)
	return m, c, err
}

// uploadLock names an upload, or with a number one of its parts, for the writers' locks; no path holds a NUL.
func uploadLock(id string, number int) core.Path {
	p := core.Root.Child("\x00" + id)
	if number > 0 {
		return p.Child(strconv.Itoa(number))
	}
	return p
}

func partEdge(number int) string { return fmt.Sprintf("%05d", number) }

// CopyPart implements core.Uploads.
func (n *Namespace) CopyPart(ctx context.Context, p core.Path, id string, number int, src core.Path, r core.Range) (core.Part, error) {
	rd, err := n.Open(ctx, src, r)
	if err != nil {
		return core.Part{}, err
	}
	defer rd.Close()
	if rd.Info().Cache == core.Stale {
		return core.Part{}, tooOld("namespace.CopyPart", src)
	}
	_, size := rd.Span()
	w, err := n.PutPart(ctx, p, id, number, size)
	if err != nil {
		return core.Part{}, err
	}
	defer w.Abort()
	if _, err := rd.WriteTo(w); err != nil {
		return core.Part{}, err
	}
	info, err := w.Commit(ctx, core.CommitOptions{})
	return core.Part{Number: number, Size: info.Size, ETag: info.ETag, ModTime: info.ModTime}, err
}

// AbortUpload implements core.Uploads.
func (n *Namespace) AbortUpload(ctx context.Context, p core.Path, id string) error {
	if err := n.held(); err != nil {
		return err
	}
	unlock, err := n.locks.lock(ctx, uploadLock(id, 0))
	if err != nil {
		return err
	}
	defer unlock()
	u, err := n.upload(ctx, p, id)
	if err != nil {
		return err
	}
	if n.completing(id) {
		return errs.New("namespace.AbortUpload", p.String(), errs.Conflict, "the upload is being completed")
	}
	_, composer, err := n.uploadStore(u)
	if err != nil {
		return err
	}
	if err := composer.Cancel(context.WithoutCancel(ctx), u.entry.Extra["key"], u.entry.Extra["store_id"]); err != nil {
		return err
	}
	for _, part := range n.parts(u, 0) {
		n.dropPages(part.ID, part.Rev, part.Size)
	}
	_, err = n.commit(ctx, append(n.endUpload(id), n.answered(core.CallOf(ctx), nil)...)...)
	return err
}

// completing reports whether a Complete of the upload got no answer from its store yet.
func (n *Namespace) completing(id string) bool {
	n.resolving.Lock()
	defer n.resolving.Unlock()
	for _, in := range n.open {
		if in.upload == id {
			return true
		}
	}
	return false
}

func (n *Namespace) dropPages(id, rev uint64, size int64) {
	n.o.Cache.Drop(n.allocatedContent(meta.Extent{ID: id, Rev: rev, Len: size}))
}

// part is one part of an upload as the overlay holds it: its pages are under (ID, Rev), Version is the store's tag of it.
type part struct {
	number int
	*meta.Entry
}

func (n *Namespace) parts(u *upload, after int) (ps []part) {
	n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(u.dir, partEdge(after+1)) {
			number, err := strconv.Atoi(edge)
			if err == nil {
				ps = append(ps, part{number, e})
			}
		}
	})
	return ps
}

func (p part) public() core.Part {
	return core.Part{Number: p.number, Size: p.Size, ETag: p.ETag, ModTime: time.Unix(0, p.MTime), Checksums: decodeChecksums(p.Checksums)}
}

// ListParts implements core.Uploads.
func (n *Namespace) ListParts(ctx context.Context, p core.Path, id string, after int) (core.Upload, iter.Seq2[core.Part, error], error) {
	u, err := n.upload(ctx, p, id)
	if err != nil {
		return core.Upload{}, nil, err
	}
	ps := n.parts(u, max(after, 0))
	return u.public(), func(yield func(core.Part, error) bool) {
		for _, p := range ps {
			if !yield(p.public(), nil) {
				return
			}
		}
	}, nil
}

// ListUploads implements core.Uploads.
func (n *Namespace) ListUploads(ctx context.Context, dir core.Path, prefix, afterKey, afterID string) iter.Seq2[core.Upload, error] {
	return func(yield func(core.Upload, error) bool) {
		nd, err := n.lookup(ctx, dir.Dir())
		if err == nil {
			err = nd.mount.denies(dir)
		}
		if err == nil {
			err = n.require(ctx, &nd, read)
		}
		if err != nil {
			yield(core.Upload{}, err)
			return
		}
		for _, u := range n.uploadsBelow(dir.Dir(), prefix) {
			if u.Name < afterKey || u.Name == afterKey && (afterID == "" || u.ID <= afterID) {
				continue
			}
			if !yield(u, nil) {
				return
			}
		}
	}
}

func (n *Namespace) uploadsBelow(dir core.Path, prefix string) (all []core.Upload) {
	n.tree.View(func(v meta.View) {
		for edge, e := range v.Children(meta.UploadsDir, "") {
			p, err := core.ParsePath(e.Extra["path"])
			if err != nil || e.Class != meta.Directory || e.Extra["store_id"] == "" {
				continue
			}
			if name, ok := dir.Rel(p); ok && strings.HasPrefix(name, prefix) {
				u := (&upload{id: strings.TrimSuffix(edge, "/"), entry: e, path: p}).public()
				u.Name = name
				all = append(all, u)
			}
		}
	})
	slices.SortFunc(all, func(a, b core.Upload) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return all
}

// CompleteUpload implements core.Uploads.
func (n *Namespace) CompleteUpload(ctx context.Context, p core.Path, id string, want []core.Part, o core.CompleteOptions) (core.Info, error) {
	if err := n.grows(); err != nil {
		return core.Info{}, err
	}
	unlock, err := n.locks.lock(ctx, uploadLock(id, 0))
	if err != nil {
		return core.Info{}, err
	}
	defer unlock()
	u, err := n.upload(ctx, p, id)
	if errs.KindOf(err) == errs.NotExist {
		if etag, ok := n.done.again(id, p, want); ok {
			if info, err := n.Stat(ctx, p); err == nil && info.ETag == etag {
				return info, nil
			}
			return core.Info{Path: p, ETag: etag}, nil
		}
	}
	if err != nil {
		return core.Info{}, err
	}
	m, composer, err := n.uploadStore(u)
	if err != nil {
		return core.Info{}, err
	}
	chosen, err := n.choose(u, want)
	if err != nil {
		return core.Info{}, err
	}
	c := &completion{n: n, u: u, m: m, composer: composer, entry: n.completed(u, chosen, o), want: want}
	for _, part := range chosen {
		c.parts = append(c.parts, ufs.Part{Number: part.number, ETag: part.Version, Size: part.Size})
	}
	for range chase {
		if err := n.parentsWithin(ctx, p, o.Within, true, false, 0); err != nil {
			return core.Info{}, err
		}
		info, again, err := c.commit(ctx, o.Cond)
		if !again {
			return info, err
		}
	}
	return core.Info{}, errs.New("namespace.CompleteUpload", p.String(), errs.Conflict, "the parent directory keeps changing")
}

// choose returns the parts the client lists, or a *core.PartError.
func (n *Namespace) choose(u *upload, want []core.Part) (chosen []part, err error) {
	have := map[int]part{}
	for _, p := range n.parts(u, 0) {
		have[p.number] = p
	}
	last := 0
	for i, w := range want {
		p, ok := have[w.Number]
		switch {
		case w.Number <= last:
			return nil, &core.PartError{Number: w.Number, Order: true, ETag: w.ETag}
		case !ok || strings.Trim(w.ETag, `"`) != p.ETag || !sameChecksums(w.Checksums, decodeChecksums(p.Checksums)):
			return nil, &core.PartError{Number: w.Number, ETag: w.ETag}
		case i < len(want)-1 && p.Size < minPartSize:
			return nil, &core.PartError{Number: w.Number, TooSmall: true, Size: p.Size, ETag: p.ETag}
		}
		last = w.Number
		chosen = append(chosen, p)
	}
	if len(chosen) == 0 {
		return nil, errs.New("namespace.CompleteUpload", u.path.String(), errs.Invalid, "at least one part must be listed")
	}
	return chosen, nil
}

// sameChecksums reports whether no checksum the client names differs from the part's.
func sameChecksums(named, kept []core.Checksum) bool {
	for _, c := range named {
		if i := slices.IndexFunc(kept, func(k core.Checksum) bool { return k.Algorithm == c.Algorithm }); i >= 0 && kept[i].Value != c.Value {
			return false
		}
	}
	return true
}

// completed returns the entry of the file the parts make. Its ETag is the MD5 of the parts' MD5s, and their number.
func (n *Namespace) completed(u *upload, parts []part, o core.CompleteOptions) meta.Entry {
	e := *u.entry
	e.Class, e.Dir, e.Explicit, e.Extra = meta.Persisted, 0, false, nil
	e.Owner, e.Checksums = u.entry.Extra["owner"], encodeChecksums(o.Checksums)
	h := md5.New()
	var sizes []int64
	for _, p := range parts {
		sum, _ := hex.DecodeString(p.ETag) // ours: it is an MD5
		h.Write(sum)
		sizes = append(sizes, p.Size)
		if p.Size > 0 {
			e.Extents = append(e.Extents, meta.Extent{ID: p.ID, Rev: p.Rev, Len: p.Size})
		}
		e.Size += p.Size
	}
	e.ETag = hex.EncodeToString(h.Sum(nil)) + "-" + strconv.Itoa(len(parts))
	e.Parts = packParts(sizes)
	e.Extents = fold(e.Extents, e.ID, e.Rev, e.Size)
	e.MTime = time.Now().UnixNano()
	e.ATime = e.MTime
	return e
}

// completion is one Complete on its way.
type completion struct {
	n        *Namespace
	u        *upload
	m        *mounted
	composer ufs.Composer
	parts    []ufs.Part
	want     []core.Part
	entry    meta.Entry
}

// commit completes the store's upload under the target's lock; again says that the parent has gone.
func (c *completion) commit(ctx context.Context, cond core.Cond) (info core.Info, again bool, err error) {
	n, p := c.n, c.u.path
	unlock, err := n.locks.lock(ctx, p)
	if err != nil {
		return core.Info{}, false, err
	}
	defer unlock()
	pl := n.walk(p)
	if !pl.inTree {
		return core.Info{}, true, nil
	}
	if !pl.mount.is(c.m) {
		return core.Info{}, false, errs.New("namespace.CompleteUpload", p.String(), errs.Conflict, "the mount changed since the upload was started")
	}
	if err := n.blocked(&pl); err != nil {
		return core.Info{}, false, err
	}
	w := &writer{n: n, path: p, o: core.CreateOptions{Cond: cond}, mount: c.m, id: c.entry.ID, rev: c.entry.Rev, entry: c.entry}
	if err := w.recheck(ctx, core.CommitOptions{}); err != nil {
		return core.Info{}, false, err
	}
	in := openIntent{op: opPut, path: p.String(), store: c.m.ID, key: pl.key, token: c.u.entry.Extra["store_id"], upload: c.u.id, parts: digest(c.want), entry: c.entry}
	var stored ufs.Info
	err = n.through(ctx, &pl, &in, func(ctx context.Context) error {
		so := ufs.CreateOptions{Attr: w.attr(), IfNew: cond.IfNoneMatch == "*" && c.m.features.Conditional}
		stored, err = c.composer.Complete(ctx, pl.key, c.u.entry.Extra["store_id"], c.parts, so)
		return err
	}, func(ops []meta.Op) []meta.Op {
		settle(&c.entry, &c.m.features, stored)
		ops = append(append(ops, n.endUpload(c.u.id)...), meta.Op{Kind: meta.Set, Dir: pl.parent, Edge: pl.edge, Entry: c.entry})
		return append(ops, n.done.add(c.u.id, p, in.parts, c.entry.ETag)...)
	}, &stored)
	if err != nil {
		return core.Info{}, false, err
	}
	return n.committed(p, time.Now()), false, nil
}
