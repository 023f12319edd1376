package namespace

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/page"
)

// Content ids are 128 bits in two spaces that the first byte keeps apart: allocated file numbers, and keyed hashes for
// content known only from a store. Both depend on the cluster's secret and the journal's incarnation: a cache that outlived
// its journal (a new data directory over an old cache, a journal that was restored) has nothing that a new namespace could
// take for its own.
const (
	allocatedTag byte = 0x01
	hashedTag    byte = 0x02
)

func (n *Namespace) allocatedContent(x meta.Extent) page.Content {
	c := page.Content{Rev: x.Rev, Len: x.Len}
	copy(c.ID[:8], n.space)
	c.ID[0] = allocatedTag
	binary.BigEndian.PutUint64(c.ID[8:], x.ID)
	return c
}

// hashedContent names the bytes of one version of a store's file. The version is part of the id, so that its full 128
// bits tell versions apart; the key is secret, so that nobody can choose names that collide.
func (n *Namespace) hashedContent(store, key, version string, size int64) page.Content {
	sum := keyed(n.pageKey, store, key, version)
	c := page.Content{Len: size}
	copy(c.ID[:], sum[:16])
	c.ID[0] = hashedTag
	return c
}

func (n *Namespace) hash(parts ...string) []byte { return keyed(n.secret, parts...) }

// TicketSecret implements core.Tickets.
func (n *Namespace) TicketSecret(context.Context) ([]byte, error) { return n.hash("tickets"), nil }

func keyed(key []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, key)
	var l [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(l[:], uint64(len(p)))
		h.Write(l[:])
		io.WriteString(h, p)
	}
	return h.Sum(nil)
}

// rowID returns a stable number for a name known only from its store. It has bit 62 set, which allocated numbers never
// reach, and not bit 63, since HDFS's are signed.
func (n *Namespace) rowID(nd *node) uint64 {
	x, ok := n.hashers.Get().(*hasher)
	if !ok {
		x = &hasher{Hash: hmac.New(sha256.New, n.secret)}
	}
	defer n.hashers.Put(x)
	x.Reset()
	return binary.BigEndian.Uint64(x.sum(nd.mount.ID, nd.key))>>2 | 1<<62
}

// hasher computes what keyed does, of the cluster's secret, again and again: a listing needs it for every name.
type hasher struct {
	hash.Hash
	room []byte
}

func (x *hasher) sum(parts ...string) []byte {
	b := x.room[:0]
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(p))), p...)
	}
	x.Write(b)
	x.room = x.Sum(b[:0])
	return x.room
}

// derivedETag makes an ETag of a store version.
func derivedETag(version string) string {
	sum := md5.Sum([]byte(version))
	return hex.EncodeToString(sum[:]) + "-1"
}

// maxExtents is how many extents an entry keeps. Content of more is folded into one fresh extent: its cached pages are
// given up, and an entry never grows with its file.
const maxExtents = 64

func wholeExtent(id, rev uint64, size int64) []meta.Extent {
	if size == 0 {
		return nil
	}
	return []meta.Extent{{ID: id, Rev: rev, Len: size}}
}

// fold returns xs if they are few, else one extent of the attempt rev.
func fold(xs []meta.Extent, id, rev uint64, size int64) []meta.Extent {
	if len(xs) > maxExtents {
		return wholeExtent(id, rev, size)
	}
	return xs
}

// Entry.Parts holds runs of equal part sizes as pairs of count and size, since nearly all parts of an upload are equal.

func packParts(sizes []int64) (runs []int64) {
	for _, s := range sizes {
		if l := len(runs); l > 0 && runs[l-1] == s {
			runs[l-2]++
			continue
		}
		runs = append(runs, 1, s)
	}
	return runs
}

func unpackParts(runs []int64) (sizes []int64) {
	for i := 0; i+1 < len(runs); i += 2 {
		for range runs[i] {
			sizes = append(sizes, runs[i+1])
		}
	}
	return sizes
}

// stored is where the bytes of one version of a file are in its store.
type stored struct {
	n       *Namespace
	m       *mounted
	key     string
	version string
	entry   *meta.Entry // of bytes written through Sluice, which are known in whatever version the store shows them
	moved   uint64      // position in the list of moves before key was found to be the place
	path    core.Path
}

// open reads bytes [off, off+length) of the version.
func (s *stored) open(ctx context.Context, off, length int64) (io.ReadCloser, error) {
	m := s.m
	if now := s.n.mountOf(m.ID); now.is(m) && now.err == nil {
		m = now // its store may be open with another secret by now, and the one of before be revoked
	}
	if err := m.opened(); err != nil {
		return nil, err
	}
	rc, err := m.store.Open(ctx, s.key, off, length, s.version)
	if err != nil && s.n.mountOf(s.m.ID) == nil && ctx.Err() == nil {
		return nil, errs.New("namespace.Read", s.key, errs.Conflict, "another store is mounted there by now, or none; open the file again")
	}
	key := s.key
	until := time.Now().Add(maxChasing) // whoever reads holds room of the cache
	for range maxHops {
		if !isGone(err) && errs.KindOf(err) != errs.Precondition {
			break
		}
		to, version := s.n.moves.follow(m.ID, s.key, s.version, s.moved)
		if to == key {
			s.n.awaitMove(ctx, m, key, until)
			to, version = s.n.moves.follow(m.ID, s.key, s.version, s.moved)
		}
		if to == key {
			break
		}
		key = to
		rc, err = m.store.Open(ctx, key, off, length, version)
	}
	if errs.KindOf(err) == errs.Precondition && s.entry != nil {
		if info, serr := m.store.Stat(ctx, key); serr == nil && ours(info, s.entry) {
			rc, err = m.store.Open(ctx, key, off, length, info.Version)
		}
	}
	if k := errs.KindOf(err); isGone(err) || k == errs.Precondition || k == errs.Range {
		s.n.outdated(ctx, m, s.key, s.path)
		return nil, errs.New("namespace.Read", s.key, errs.Conflict,
			"this version has left the store and is not wholly cached; open the file again")
	}
	return rc, err
}

// outdated takes note that a store no longer has the version of a file that is known of it, so that the next look at the
// file, however old its answer may be, sees another.
func (n *Namespace) outdated(ctx context.Context, m *mounted, key string, path core.Path) {
	m.derived.Forget(key)
	if err := n.reconcile(ctx, path, false); err != nil {
		n.o.Logger.Debug("a file that has changed in its store cannot be looked at", "path", path.String(), "err", err)
	}
}

// extentSource reads one extent, which starts at base in the stored file.
type extentSource struct {
	*stored
	base int64
}

// Open implements page.Source.
func (s extentSource) Open(ctx context.Context, off, n int64) (io.ReadCloser, error) {
	return s.stored.open(ctx, s.base+off, n)
}

// piece is a run of a file's bytes that one page.Content holds.
type piece struct {
	content page.Content
	off, n  int64 // in content
	source  page.Source
}

// pieces returns what makes up bytes [off, off+length) of the node's version.
func (n *Namespace) pieces(ctx context.Context, nd *node, off, length int64) []piece {
	src := &stored{n: n, m: nd.mount, key: nd.key, moved: nd.moved, path: nd.path}
	how := n.readType(ctx, nd.mount, nd.path)
	noCache, promote := how == core.NoCache, how == core.CachePromote
	if !nd.file() {
		src.version = nd.row.Version
		c := n.hashedContent(nd.mount.StoreID(), nd.key, nd.row.Version, nd.row.Size)
		// A version seen right after its own mtime may change again unseen: its pages are not kept (safety: weak versions). A
		// store over a network may know better than this clock, which is not the one its times are by.
		racy := nd.mount.features.Racy
		c.Promote, c.NoCache = promote, noCache || nd.row.Racy || racy > 0 && nd.rowAt.Sub(time.Unix(0, nd.row.MTime)) < racy
		return []piece{{c, off, length, extentSource{src, 0}}}
	}
	if nd.local() {
		c := n.allocatedContent(nd.entry.Extents[0]) // one attempt wrote all of it
		c.NoCache, c.Promote = noCache, promote
		return []piece{{c, off, length, n.heldSource(&nd.place)}}
	}
	src.version, src.entry = nd.entry.Version, nd.entry
	var ps []piece
	var at int64 // of the extent in the file
	for _, x := range nd.entry.Extents {
		from, to := max(off, at), min(off+length, at+x.Len)
		if from < to {
			c := n.allocatedContent(x)
			c.NoCache, c.Promote = noCache, promote
			// The extent's content starts x.Off before the extent does.
			ps = append(ps, piece{c, x.Off + from - at, to - from, extentSource{src, at - x.Off}})
		}
		at += x.Len
	}
	return ps
}

// reader implements core.Reader over the pieces of one version.
type reader struct {
	n      *Namespace
	ctx    context.Context
	info   core.Info
	off, l int64
	pieces []piece
	cur    *page.Reader
	closed bool
}

// Open implements core.Namespace.
func (n *Namespace) Open(ctx context.Context, p core.Path, r core.Range) (core.Reader, error) {
	nd, err := n.readable(ctx, p)
	if err != nil {
		return nil, err
	}
	return n.openNode(ctx, nd, r)
}

// readable returns the file, or the marker, p if the principal may read it.
func (n *Namespace) readable(ctx context.Context, p core.Path) (*node, error) {
	ctx = n.looking(ctx, looksUp)
	if err := n.traverse(ctx, p); err != nil {
		return nil, err
	}
	nd, err := n.resolve(ctx, p)
	if err != nil {
		return nil, err
	}
	if nd.dir() && !nd.isMarker() {
		return nil, errs.E("namespace.Open", p.String(), errs.IsDir, nil)
	}
	return &nd, n.require(ctx, &nd, read)
}

// isMarker reports whether the directory is an S3 key, which reads as an empty object.
func (nd *node) isMarker() bool {
	return nd.entry != nil && nd.entry.Marker || nd.entry == nil && nd.row != nil && nd.row.Marker
}

func (n *Namespace) openNode(ctx context.Context, nd *node, r core.Range) (core.Reader, error) {
	info, off, length, err := n.span(ctx, nd, r)
	if err != nil {
		return nil, err
	}
	rd := &reader{n: n, ctx: ctx, info: info, off: off, l: length}
	if length > 0 {
		rd.pieces = n.pieces(ctx, nd, off, length)
		switch out := nd.mount.isolation.Outage(); {
		case rd.info.Cache == core.Hit && !n.resident(ctx, rd.pieces):
			rd.info.Cache = core.Miss
		case rd.info.Cache == core.Stale && out != nil && !n.resident(ctx, rd.pieces):
			return nil, nd.mount.notAsked("namespace.Open", nd.path, out)
		}
	}
	return rd, nil
}

// span returns what there is to know of the file, and the range of it that r asks for.
func (n *Namespace) span(ctx context.Context, nd *node, r core.Range) (info core.Info, off, length int64, err error) {
	if err := n.complete(ctx, nd, free); err != nil {
		return info, 0, 0, err
	}
	info = n.infoOf(nd)
	if off, length, err = clamp(r, info.Size); err != nil {
		return info, 0, 0, errs.E("namespace.Open", nd.path.String(), errs.Range, err)
	}
	return info, off, length, nil
}

func (n *Namespace) resident(ctx context.Context, ps []piece) bool {
	for _, p := range ps {
		r := n.o.Cache.NewReader(ctx, p.content, p.off, p.n, p.source)
		pages, total := r.Resident()
		r.Close()
		if pages < total {
			return false
		}
	}
	return true
}

// clamp turns the range asked for into offset and length in a file of size bytes.
func clamp(r core.Range, size int64) (off, n int64, err error) {
	if r.Off < 0 {
		n = min(-r.Off, size)
		return size - n, n, nil
	}
	if r.Off > size {
		return 0, 0, errors.New("the first byte asked for lies beyond the end")
	}
	n = size - r.Off
	if r.Len >= 0 {
		n = min(n, r.Len)
	}
	return r.Off, n, nil
}

// Info implements core.Reader.
func (r *reader) Info() core.Info { return r.info }

// Span implements core.Reader.
func (r *reader) Span() (off, n int64) { return r.off, r.l }

// next makes r.cur the reader of the next piece; false at the end.
func (r *reader) next() bool {
	if r.cur != nil {
		r.cur.Close()
		r.cur = nil
	}
	if len(r.pieces) == 0 {
		return false
	}
	p := r.pieces[0]
	r.pieces = r.pieces[1:]
	r.cur = r.n.o.Cache.NewReader(r.ctx, p.content, p.off, p.n, p.source)
	return true
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, errs.New("namespace.Read", r.info.Path.String(), errs.Invalid, "the reader is closed")
	}
	for {
		if r.cur == nil && !r.next() {
			return 0, io.EOF
		}
		k, err := r.cur.Read(p)
		if k > 0 {
			if err == io.EOF {
				err = nil
			}
			return k, err
		}
		if err != io.EOF {
			return 0, err
		}
		if !r.next() {
			return 0, io.EOF
		}
	}
}

// WriteTo implements io.WriterTo.
func (r *reader) WriteTo(w io.Writer) (total int64, err error) {
	for r.cur != nil || r.next() {
		k, err := r.cur.WriteTo(w)
		total += k
		if err != nil {
			return total, err
		}
		if !r.next() {
			break
		}
	}
	return total, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.closed, r.pieces = true, nil
	if r.cur != nil {
		err := r.cur.Close()
		r.cur = nil
		return err
	}
	return nil
}
