// Package hadoopfs is what the drivers of HDFS have in common, whatever protocol they speak to it (hdfsufs: Hadoop's RPC,
// webhdfsufs: HTTP): a ufs.Store on top of a Client. A file of the store is a file of the same relative name and the same
// bytes; what Sluice keeps beside the bytes is in the extended attribute "user.sluice" (attr.go). Both drivers pass
// ufs/ufstest.
//
// A write is staged in .sluice/tmp below the root, closed, given its attributes, and made visible by one rename, which on
// HDFS is atomic for files and directories and, like every change of names, in the name node's log before it is answered.
// Bytes are acknowledged when all datanodes of a pipeline have them, which is HDFS's own promise: whether they are on disks
// by then is dfs.datanode.synconclose's to say.
//
// A file's version is its inode's number, length and modification time in milliseconds. HDFS changes bytes in place only by
// append and truncate, which move the time. It has no conditional change but that a new name must not be taken: other
// conditions are judged just before the step, and bind writers of this process only.
package hadoopfs

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Options say what the client of a Store leads to.
type Options struct {
	Kind    string // of the features: "hdfs", "webhdfs"
	Root    string // the directory, an absolute path of HDFS
	Base    string // identity of HDFS's root, "hdfs://host:port", without a slash at its end
	NoAttrs bool   // keep no attributes: a server without extended attributes
	Create  bool   // Probe makes a missing root where ufs.WithMaking allows it
}

// Store is a ufs.Store in a directory of HDFS.
type Store struct {
	c    Client
	o    Options
	root string // without a slash at its end: "" is HDFS's own root
	feat ufs.Features

	// names serialises the steps that settle one name, so that a condition judged on it holds until the step is done, among
	// the writers of this process. The lock is held across calls of the name node, never across a transfer of bytes.
	names [64]sync.Mutex
	seed  maphash.Seed
	// uploads serialises the ends of one upload. A lock of it is taken before those of names, never after.
	uploads [64]sync.Mutex

	noOwner atomic.Bool // owners cannot be set: we are not HDFS's superuser
	plain   atomic.Bool // the server cannot rename over what is there

	open *writers

	mu    sync.Mutex
	there time.Time // when the root was last seen
}

// racy is how long a version may hide a change: two of them within a millisecond, and clocks that differ.
const racy = 2 * time.Second

// The limits of names. Source: dfs.namenode.fs-limits.max-component-length, and MAX_PATH_LENGTH and MAX_PATH_DEPTH of
// org.apache.hadoop.hdfs.protocol.HdfsConstants.
const (
	maxName  = 255
	maxPath  = 8000
	maxDepth = 1000
)

// New returns the store that c leads to, and owns c. Errors: errs.Invalid for a root that is no absolute path.
func New(c Client, o Options) (*Store, error) {
	const op = "hadoopfs.New"
	root := path.Clean("/" + strings.Trim(o.Root, "/"))
	if len(root) > maxPath/2 || strings.Contains(root, ":") || strings.HasPrefix(root, "/.reserved") {
		return nil, errs.New(op, root, errs.Invalid, "HDFS cannot have such a directory")
	}
	root = strings.TrimSuffix(root, "/")
	s := &Store{c: c, o: o, root: root, seed: maphash.MakeSeed(), open: writersOf(o.Base + root + "/")}
	s.feat = ufs.Features{
		Kind: o.Kind, Root: o.Base + root + "/", Remote: true, Dirs: true, AtomicRename: true, Attrs: !o.NoAttrs, MaxName: maxName,
		MaxKey: maxPath - len(root) - len("/.sluice/uploads/"), NoChars: ":", Mkdir: true, Trash: true, Append: true,
		SetAttr: !o.NoAttrs, Compose: true, Discard: true, Probe: true, Mark: true, Racy: racy,
	}
	_, s.feat.Watch = c.(Watcher)
	return s, nil
}

// Features implements ufs.Store. Whether renames are atomic, of those that replace too, is known when Probe has asked.
func (s *Store) Features() ufs.Features {
	f := s.feat
	f.AtomicRename = !s.plain.Load()
	return f
}

// Close implements ufs.Store. Open readers and writers fail.
func (s *Store) Close() error { return s.c.Close() }

// begin judges what every method is given.
func (s *Store) begin(ctx context.Context, op, name string, check func(f ufs.Features, op, name string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := check(s.feat, op, name); err != nil {
		return err
	}
	if strings.Count(s.root, "/")+strings.Count(name, "/")+1 > maxDepth {
		return errs.New(op, name, errs.Invalid, fmt.Sprintf("HDFS holds at most %d directories in each other", maxDepth))
	}
	for seg := range strings.SplitSeq(name, "/") {
		if seg == ".snapshot" || seg == ".reserved" && s.root == "" {
			return errs.New(op, name, errs.Invalid, fmt.Sprintf("the segment %q is HDFS's own", seg))
		}
	}
	return nil
}

// at returns the path of a name.
func (s *Store) at(name string) string {
	if name == "" {
		return s.root + "/"[:1-min(1, len(s.root))]
	}
	return s.root + "/" + strings.TrimSuffix(name, "/")
}

// byID returns a path that leads to the inode of st wherever it lies, or p if the server does not tell inodes. What is read
// there cannot be another file's.
func byID(p string, st *Status) string {
	if st.ID == 0 {
		return p
	}
	return fmt.Sprintf("/.reserved/.inodes/%d", st.ID)
}

// lock takes the locks of names and returns what releases them.
func (s *Store) lock(names ...string) (unlock func()) {
	var held [64]bool
	for _, n := range names {
		held[maphash.String(s.seed, strings.TrimSuffix(n, "/"))%64] = true
	}
	for i := range held { // in one order, so that two renames cannot wait for each other
		if held[i] {
			s.names[i].Lock()
		}
	}
	return func() {
		for i := range held {
			if held[i] {
				s.names[i].Unlock()
			}
		}
	}
}

// status returns the facts of a name that is of the kind it asks for. Errors: errs.NotExist, only if the root is there.
func (s *Store) status(ctx context.Context, op, name string) (Status, error) {
	st, err := s.c.Status(ctx, s.at(name))
	if errors.Is(err, errs.Permission) && s.belowFile(ctx, name) {
		err = errs.E(op, name, errs.NotExist, nil)
	}
	if err == nil && (st.Other || st.Dir != ufs.IsDir(name)) {
		return st, errs.E(op, name, errs.NotExist, nil)
	}
	return st, s.absent(ctx, op, name, err)
}

// belowFile reports whether an ancestor of name is a file: HDFS says that as if access were denied.
func (s *Store) belowFile(ctx context.Context, name string) bool {
	for dir := parent(name); dir != ""; dir = parent(dir) {
		st, err := s.c.Status(ctx, s.at(dir))
		if err == nil {
			return !st.Dir
		}
		if !errors.Is(err, errs.Permission) {
			return false
		}
	}
	return false
}

// parent returns the directory that name is in: "a/" of "a/b" and of "a/b/", "" of "a".
func parent(name string) string {
	name = strings.TrimSuffix(name, "/")
	return name[:strings.LastIndexByte(name, '/')+1]
}

// absent judges an errs.NotExist of a name, which says nothing of it if the whole root is gone.
func (s *Store) absent(ctx context.Context, op, name string, err error) error {
	if !errors.Is(err, errs.NotExist) {
		return err
	}
	if perr := s.present(ctx, op); perr != nil {
		return perr
	}
	return errs.E(op, name, errs.NotExist, nil)
}

// present reports errs.Unavailable if the root is not there.
func (s *Store) present(ctx context.Context, op string) error {
	const trust = 10 * time.Second // how long a root that was there is taken to be there
	s.mu.Lock()
	known := time.Since(s.there) < trust
	s.mu.Unlock()
	if known {
		return nil
	}
	st, err := s.c.Status(ctx, s.at(""))
	switch {
	case errors.Is(err, errs.NotExist):
		return errs.New(op, s.feat.Root, errs.Unavailable, "the store's root directory does not exist; make it (the option create=true does when it is mounted)")
	case err != nil:
		return err
	case !st.Dir:
		return errs.New(op, s.feat.Root, errs.Unavailable, "the store's root is not a directory")
	}
	s.mu.Lock()
	s.there = time.Now()
	s.mu.Unlock()
	return nil
}

// Stat implements ufs.Store.
func (s *Store) Stat(ctx context.Context, name string) (ufs.Info, error) {
	const op = "hadoopfs.Stat"
	if err := s.begin(ctx, op, name, ufs.CheckName); err != nil {
		return ufs.Info{}, err
	}
	return s.describe(ctx, op, name)
}

// describe returns the facts of name with what Sluice keeps there. The two come in two answers, and are taken for the same
// file's if the attributes name it, or if it has not changed around them.
func (s *Store) describe(ctx context.Context, op, name string) (ufs.Info, error) {
	const tries = 8 // it changes between the calls each time
	for range tries {
		st, err := s.status(ctx, op, name)
		if err != nil {
			return ufs.Info{}, err
		}
		if s.o.NoAttrs || name == "" {
			return s.info(name, &st, nil), nil
		}
		value, err := s.c.XAttr(ctx, s.at(name), xattr)
		if errors.Is(err, errs.Permission) { // the bytes cannot be read either
			in := s.info(name, &st, nil)
			in.Full = false
			return in, nil
		}
		if err != nil && !errors.Is(err, errs.NotExist) {
			return ufs.Info{}, err
		}
		if r := parseRecord(value, &st); err == nil && r != nil {
			return s.info(name, &st, r), nil
		}
		if again, err := s.status(ctx, op, name); err != nil {
			return ufs.Info{}, err
		} else if again.same(&st) {
			return s.info(name, &again, nil), nil
		}
	}
	return ufs.Info{}, errs.New(op, name, errs.Conflict, "the name changes faster than it can be looked at")
}

// versionOf returns what changes with every change of a file's bytes.
func versionOf(st *Status) string { return fmt.Sprintf("%x.%x.%x", st.ID, st.Size, st.MTime) }

// info describes name by its facts and the record r that fits them, nil if there is none.
func (s *Store) info(name string, st *Status, r *record) ufs.Info {
	in := ufs.Info{
		Name: name, Dir: st.Dir, Size: st.Size, ModTime: time.UnixMilli(st.MTime), Version: versionOf(st), Owner: st.Owner, Group: st.Group,
		Mode: st.Mode, Full: !s.o.NoAttrs,
	}
	if st.Dir {
		in.Size = 0
	}
	if r == nil {
		return in
	}
	in.Attr = r.attr()
	in.Marker, in.ETag = in.Attr.Marker, in.Attr.ETag
	if r.Mode != 0 && st.Mode == r.StoreMode { // else someone changed it without Sluice
		in.Mode = r.Mode
	}
	if r.Owner != "" && st.Owner == r.StoreOwner {
		in.Owner = r.Owner
	}
	if r.Group != "" && st.Group == r.StoreGroup {
		in.Group = r.Group
	}
	return in
}

// make makes the root if it is missing and ctx allows it, cf. ufs.WithMaking.
func (s *Store) make(ctx context.Context, op string) error {
	if _, err := s.c.Status(ctx, s.at("")); !errors.Is(err, errs.NotExist) {
		return nil // whatever is wrong with it, the probe tells
	}
	may, dry, err := ufs.MayMake(ctx, s.Features().Root)
	if err != nil || !may {
		return err
	}
	if !dry {
		if err := s.c.Mkdirs(ctx, s.at("")); err != nil {
			return fmt.Errorf("make the directory: %w", err)
		}
		return nil
	}
	for dir := path.Dir(strings.TrimSuffix(s.at(""), "/")); ; dir = path.Dir(dir) {
		st, err := s.c.Status(ctx, dir)
		switch {
		case errors.Is(err, errs.NotExist) && dir != "/":
			continue
		case err != nil:
			return err
		case !st.Dir:
			return errs.New(op, "", errs.NotDir, "the directory cannot be made: "+dir+" is a file")
		}
		return ufs.ErrWouldMake
	}
}

// Probe implements ufs.Prober.
func (s *Store) Probe(ctx context.Context, write bool) error {
	const op = "hadoopfs.Probe"
	s.mu.Lock()
	s.there = time.Time{}
	s.mu.Unlock()
	if s.o.Create && write {
		if err := s.make(ctx, op); err != nil {
			return err
		}
	}
	if err := s.present(ctx, op); err != nil {
		return err
	}
	if _, _, err := s.c.List(ctx, s.at(""), ""); err != nil {
		return fmt.Errorf("list the directory: %w", err)
	}
	if !write {
		return nil
	}
	if r, ok := s.c.(Replacer); ok {
		replaces, err := r.Replaces(ctx, s.at(ufs.Staging+"probe"))
		if err != nil {
			return fmt.Errorf("ask what renames can do: %w", err)
		}
		s.plain.Store(!replaces)
	}
	const text = "probe"
	w, err := s.stage(ctx, op, "", int64(len(text)), ufs.CreateOptions{})
	if err != nil {
		return fmt.Errorf("write below .sluice: %w", err)
	}
	defer w.Abort() //nolint:errcheck // CleanStaging takes what it leaves
	if _, err = w.Write([]byte(text)); err == nil {
		err = w.prepare(ctx, op)
	}
	if err != nil {
		return fmt.Errorf("write below .sluice: %w", err)
	}
	got := make([]byte, len(text))
	r, err := s.c.Open(ctx, s.at(w.staged()), 0, int64(len(text)))
	if err == nil {
		err = readFull(r, got)
	}
	if err != nil || string(got) != text {
		return errs.E(op, "", errs.Unavailable, errors.Join(errors.New("what was written does not come back"), err))
	}
	return nil
}
