// Package memufs is a store in memory, in two flavours: with real directories like POSIX, or flat like S3. It keeps
// nothing after Close and is meant for tests, of what is built on ufs.Store and of the suite itself. Versions are
// deterministic: the n-th change of a store makes version "n". It passes ufs/ufstest in both flavours.
package memufs

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // S3's ETag is an MD5
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Options choose the flavour.
type Options struct {
	Dirs bool             // real directories, atomic rename, append; else flat keys, S3 ETags, multipart uploads
	Now  func() time.Time // the store's clock; nil: time.Now
}

// Store is a ufs.Store in memory with every ability of its flavour.
type Store struct {
	o    Options
	feat ufs.Features

	mu      sync.Mutex
	nodes   btree.Map[string, *node] // by name, directories with their slash; the root has none
	changes uint64                   // number of changes made, the source of versions and upload ids
	uploads map[string]*upload
	mark    string
}

// node is an immutable state of one name: a change puts another node in its place.
type node struct {
	data    []byte
	attr    ufs.Attr
	mtime   time.Time
	version string
	etag    string // the store's own
}

// New returns an empty store.
func New(o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	f := ufs.Features{
		Kind: "mem", Dirs: o.Dirs, Flat: !o.Dirs, AtomicRename: o.Dirs, Conditional: true, OddNames: !o.Dirs,
		MD5ETag: !o.Dirs, Attrs: true, MaxKey: 1024, Mkdir: true, Trash: true, Copy: true, Append: o.Dirs, SetAttr: true,
		Compose: true, Probe: true, Mark: true,
	}
	if o.Dirs {
		f.MaxName, f.MaxKey = 255, 4096
	}
	return &Store{o: o, feat: f, uploads: map[string]*upload{}}
}

// Open is a ufs.Opener: "mem://" with the option dirs=true or false (default).
func Open(_ context.Context, _ *url.URL, options map[string]string) (ufs.Store, error) {
	const op = "memufs.Open"
	if err := ufs.CheckOptions(op, options, "dirs"); err != nil {
		return nil, err
	}
	var dirs bool
	if v, ok := options["dirs"]; ok {
		var err error
		if dirs, err = strconv.ParseBool(v); err != nil {
			return nil, errs.New(op, "", errs.Invalid, "the option dirs must be true or false")
		}
	}
	return New(Options{Dirs: dirs}), nil
}

// Features implements ufs.Store.
func (s *Store) Features() ufs.Features { return s.feat }

// Stat implements ufs.Store.
func (s *Store) Stat(ctx context.Context, name string) (ufs.Info, error) {
	const op = "memufs.Stat"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	defer s.mu.Unlock()
	if n, ok := s.nodes.Get(name); ok {
		return s.info(name, n), nil
	}
	if name == "" || !s.o.Dirs && ufs.IsDir(name) && s.hasBelow(name) {
		return ufs.Info{Name: name, Dir: true}, nil
	}
	return ufs.Info{}, errs.E(op, name, errs.NotExist, nil)
}

// List implements ufs.Store. It shows the store as it is at the call.
func (s *Store) List(ctx context.Context, dir, after string, flat bool) iter.Seq2[ufs.Info, error] {
	const op = "memufs.List"
	return func(yield func(ufs.Info, error) bool) {
		if flat && !s.feat.Flat {
			yield(ufs.Info{}, errs.New(op, dir, errs.Unsupported, "a store with directories has no flat listing"))
			return
		}
		if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
			yield(ufs.Info{}, err)
			return
		}
		_, ok := s.nodes.Get(dir)
		nodes := s.nodes.Copy()
		s.mu.Unlock()
		if s.o.Dirs && dir != "" && !ok {
			yield(ufs.Info{}, errs.E(op, dir, errs.NotExist, nil))
			return
		}
		for in := range s.entries(nodes, dir, after, flat) {
			if err := ctx.Err(); err != nil {
				yield(ufs.Info{}, err)
				return
			}
			if !yield(in, nil) {
				return
			}
		}
	}
}

// entries yields what nodes has in dir after the name after.
func (s *Store) entries(nodes *btree.Map[string, *node], dir, after string, flat bool) iter.Seq[ufs.Info] {
	return func(yield func(ufs.Info) bool) {
		it := nodes.Iter()
		for ok := it.Seek(max(dir, after)); ok && strings.HasPrefix(it.Key(), dir); {
			name, n := it.Key(), it.Value()
			next := name + "\x00"
			if i := strings.IndexByte(name[len(dir):], '/'); i >= 0 && !flat {
				name = name[:len(dir)+i+1]
				next = name[:len(name)-1] + "0" // the byte after "/": behind everything below name
				if n, ok = nodes.Get(name); !ok {
					n = nil
				}
			}
			own := name == dir && s.o.Dirs
			if name > after && !own && !yield(s.info(name, n)) {
				return
			}
			ok = it.Seek(next)
		}
	}
}

// Open implements ufs.Store.
func (s *Store) Open(ctx context.Context, name string, off, n int64, version string) (io.ReadCloser, error) {
	const op = "memufs.Open"
	if err := s.begin(ctx, op, name, ufs.CheckFile); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	f, err := s.get(op, name, version)
	if err != nil {
		return nil, err
	}
	if n, err = ufs.Span(op, name, off, n, int64(len(f.data))); err != nil {
		return nil, err
	}
	return &reader{ctx: ctx, Reader: bytes.NewReader(f.data[off : off+n])}, nil
}

// reader ends with the ctx it was opened with, as a reader over a network would.
type reader struct {
	ctx context.Context
	*bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

func (r *reader) Close() error { return nil }

// Remove implements ufs.Store.
func (s *Store) Remove(ctx context.Context, name, version string) error {
	const op = "memufs.Remove"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if _, err := s.get(op, name, version); err != nil {
		return err
	}
	if s.o.Dirs && ufs.IsDir(name) && s.hasBelow(name) {
		return errs.E(op, name, errs.NotEmpty, nil)
	}
	s.nodes.Delete(name)
	return nil
}

// CleanStaging implements ufs.Store: nothing outlives a writer here.
func (s *Store) CleanStaging(ctx context.Context, _ func(string) bool) error { return ctx.Err() }

// Close implements ufs.Store.
func (s *Store) Close() error { return nil }

// Probe implements ufs.Prober.
func (s *Store) Probe(ctx context.Context, _ bool) error { return ctx.Err() }

// Mark implements ufs.Marked.
func (s *Store) Mark(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mark, ctx.Err()
}

// SetMark implements ufs.Marked.
func (s *Store) SetMark(ctx context.Context, mark string) error {
	if err := errors.Join(ctx.Err(), ufs.Guard(ctx)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mark != "" {
		return errs.New("memufs.SetMark", ufs.MarkName, errs.Exist, "the store is marked already")
	}
	s.mark = mark
	return nil
}

// Rename implements ufs.Renamer.
func (s *Store) Rename(ctx context.Context, from, to string, replace bool) error {
	const op = "memufs.Rename"
	if err := s.begin(ctx, op, from, ufs.CheckName); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if err := s.checkRename(op, from, to, replace); err != nil {
		return err
	}
	if from == to {
		return nil
	}
	if err := s.makeParents(op, to); err != nil {
		return err
	}
	moved := map[string]*node{}
	s.nodes.Ascend(from, func(name string, n *node) bool {
		if name != from && (!ufs.IsDir(from) || !strings.HasPrefix(name, from)) {
			return false
		}
		moved[name] = n
		return true
	})
	for name, n := range moved {
		s.nodes.Delete(name)
		s.nodes.Set(to+name[len(from):], n)
	}
	return nil
}

// checkRename judges a rename. mu must be held.
func (s *Store) checkRename(op, from, to string, replace bool) error {
	if !s.feat.AtomicRename {
		return errs.New(op, from, errs.Unsupported, "a flat store does not rename")
	}
	if err := ufs.CheckName(s.feat, op, to); err != nil {
		return err
	}
	if _, err := s.get(op, from, ""); err != nil {
		return err
	}
	if ufs.IsDir(from) != ufs.IsDir(to) {
		return errs.New(op, to, errs.Invalid, "source and destination must both be files or both directories")
	}
	if from != to && ufs.IsDir(from) && strings.HasPrefix(to, from) {
		return errs.New(op, to, errs.Invalid, "a directory cannot be moved below itself")
	}
	if err := s.checkKind(op, to); err != nil {
		return err
	}
	if _, ok := s.nodes.Get(to); ok && from != to {
		if !replace {
			return errs.E(op, to, errs.Exist, nil)
		}
		if ufs.IsDir(to) && s.hasBelow(to) {
			return errs.E(op, to, errs.NotEmpty, nil)
		}
	}
	return nil
}

// Mkdir implements ufs.Mkdirer.
func (s *Store) Mkdir(ctx context.Context, name string, attr ufs.Attr) (ufs.Info, error) {
	const op = "memufs.Mkdir"
	if err := s.begin(ctx, op, name, ufs.CheckDir); err != nil {
		return ufs.Info{}, err
	}
	defer s.mu.Unlock()
	if name == "" {
		return ufs.Info{Dir: true}, nil
	}
	if n, ok := s.nodes.Get(name); ok {
		if attr.Marker && !n.attr.Marker {
			c := *n
			c.attr.Marker = true
			n = &c
			s.nodes.Set(name, n)
		}
		return s.info(name, n), nil
	}
	if err := s.makeParents(op, name); err != nil {
		return ufs.Info{}, err
	}
	return s.info(name, s.put(name, nil, attr, "")), nil
}

// Trash implements ufs.Trasher.
func (s *Store) Trash(ctx context.Context, dir string) error {
	const op = "memufs.Trash"
	if err := s.begin(ctx, op, dir, ufs.CheckDir); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if dir == "" {
		return errs.New(op, dir, errs.Invalid, "the root of a store cannot be removed")
	}
	var names []string
	s.nodes.Ascend(dir, func(name string, _ *node) bool {
		if !strings.HasPrefix(name, dir) {
			return false
		}
		names = append(names, name)
		return true
	})
	if len(names) == 0 {
		return errs.E(op, dir, errs.NotExist, nil)
	}
	for _, name := range names {
		s.nodes.Delete(name)
	}
	return nil
}

// Copy implements ufs.Copier.
func (s *Store) Copy(ctx context.Context, from, version, to string, attr *ufs.Attr) (ufs.Info, error) {
	const op = "memufs.Copy"
	if err := s.begin(ctx, op, from, ufs.CheckFile); err != nil {
		return ufs.Info{}, err
	}
	defer s.mu.Unlock()
	if err := ufs.CheckFile(s.feat, op, to); err != nil {
		return ufs.Info{}, err
	}
	n, err := s.get(op, from, version)
	if err != nil {
		return ufs.Info{}, err
	}
	if err := s.makeParents(op, to); err != nil {
		return ufs.Info{}, err
	}
	a := n.attr
	if attr != nil {
		a = *attr
	}
	return s.info(to, s.put(to, n.data, a, n.etag)), nil
}

// SetAttr implements ufs.AttrSetter.
func (s *Store) SetAttr(ctx context.Context, name, version string, attr ufs.Attr) (ufs.Info, error) {
	const op = "memufs.SetAttr"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	defer s.mu.Unlock()
	n, err := s.get(op, name, version)
	if err != nil {
		return ufs.Info{}, err
	}
	mtime := n.mtime
	n = s.put(name, n.data, attr, n.etag)
	if s.o.Dirs {
		n.mtime = mtime
	}
	return s.info(name, n), nil
}

// begin judges the arguments of a method and, if they are good, returns with mu held.
func (s *Store) begin(
	ctx context.Context, op, name string, check func(f ufs.Features, op, name string) error,
) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := errors.Join(check(s.feat, op, name), ufs.Guard(ctx)); err != nil {
		return err
	}
	s.mu.Lock()
	return nil
}

// get returns the node name of the given version. mu must be held.
func (s *Store) get(op, name, version string) (*node, error) {
	n, ok := s.nodes.Get(name)
	if !ok {
		return nil, errs.E(op, name, errs.NotExist, nil)
	}
	if version != "" && n.version != version {
		return nil, errs.New(op, name, errs.Precondition, "the version is "+n.version+", not "+version)
	}
	return n, nil
}

// put makes name be a new node. mu must be held.
func (s *Store) put(name string, data []byte, attr ufs.Attr, etag string) *node {
	s.changes++
	n := &node{data: data, attr: clone(attr), mtime: s.o.Now(), version: strconv.FormatUint(s.changes, 10), etag: etag}
	if s.feat.MD5ETag && etag == "" {
		sum := md5.Sum(data) //nolint:gosec // S3's ETag is an MD5
		n.etag = hex.EncodeToString(sum[:])
	}
	s.nodes.Set(name, n)
	return n
}

// checkKind reports that name's place is taken by the other kind, or lies below a file. mu must be held.
func (s *Store) checkKind(op, name string) error {
	if !s.o.Dirs {
		return nil
	}
	bare := strings.TrimSuffix(name, "/")
	for i := range len(bare) {
		if bare[i] != '/' {
			continue
		}
		if _, ok := s.nodes.Get(bare[:i]); ok {
			return errs.New(op, name, errs.NotDir, "the ancestor "+bare[:i]+" is a file")
		}
	}
	if _, ok := s.nodes.Get(bare + "/"); ok && bare == name {
		return errs.E(op, name, errs.IsDir, nil)
	}
	if _, ok := s.nodes.Get(bare); ok && bare != name {
		return errs.E(op, name, errs.NotDir, nil)
	}
	return nil
}

// makeParents makes the missing ancestors of name on a store with directories. mu must be held.
func (s *Store) makeParents(op, name string) error {
	if !s.o.Dirs {
		return nil
	}
	if err := s.checkKind(op, name); err != nil {
		return err
	}
	for i := range len(name) - 1 {
		if name[i] != '/' {
			continue
		}
		if _, ok := s.nodes.Get(name[:i+1]); !ok {
			s.put(name[:i+1], nil, ufs.Attr{}, "")
		}
	}
	return nil
}

// hasBelow reports whether a name lies below dir. mu must be held.
func (s *Store) hasBelow(dir string) (found bool) {
	s.nodes.Ascend(dir, func(name string, _ *node) bool {
		found = name != dir && strings.HasPrefix(name, dir)
		return name == dir
	})
	return found
}

// info describes the node n of name; a nil n is a prefix.
func (s *Store) info(name string, n *node) ufs.Info {
	in := ufs.Info{Name: name, Dir: ufs.IsDir(name)}
	if n == nil {
		return in
	}
	in.Size, in.ModTime, in.Version, in.Full, in.Attr = int64(len(n.data)), n.mtime, n.version, true, clone(n.attr)
	in.Owner, in.Group, in.Mode = n.attr.Owner, n.attr.Group, n.attr.Mode
	in.Marker = in.Dir && (n.attr.Marker || !s.o.Dirs)
	in.Attr.Marker = in.Marker
	if !in.Dir {
		in.ETag = n.attr.ETag
		if in.ETag == "" {
			in.ETag = n.etag
		}
	}
	return in
}

func clone(a ufs.Attr) ufs.Attr {
	a.Headers, a.User = maps.Clone(a.Headers), maps.Clone(a.User)
	return a
}
