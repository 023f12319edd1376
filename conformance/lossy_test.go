package conformance

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A power failure, from a trace: strace records what a process does to its files, and a lossy replays it into a model of a
// file system that keeps nothing it was not told to. A file is what it was at its last fsync, a directory has the names it
// had at its own, and a name that leads to a file that was never synced leads to an empty one. POSIX promises no more;
// most file systems keep more, so a process that survives this survives them.

// lossyCalls are the system calls a lossy has to see.
const lossyCalls = "open,openat,openat2,creat,close,dup,dup2,dup3,fcntl,lseek,write,pwrite64,writev,pwritev,pwritev2,sendmsg,sendfile,splice," +
	"copy_file_range,ftruncate,truncate,fallocate,fsync,fdatasync,sync,syncfs,sync_file_range,msync,mmap," +
	"mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mknod,mknodat," +
	"chmod,fchmod,fchmodat,setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr,utimensat"

// call is one system call of a trace. Its effect lies between the lines begin and end.
type call struct {
	begin, end int
	name       string
	args       []string
	ret        string  // up to the first space
	at         float64 // seconds since 1970 at its begin, if the trace says so (strace -ttt)

	decoded map[int][]byte // what bytes has made of args
}

func (c *call) failed() bool { return strings.HasPrefix(c.ret, "-") || c.ret == "?" }

func (c *call) number(i int) int64 {
	n, err := strconv.ParseInt(strings.TrimSuffix(c.args[i], "<"), 0, 64)
	if err != nil {
		panic(fmt.Sprintf("%s: argument %d is no number: %s", c.name, i, c.args[i]))
	}
	return n
}

// result is the number a call returned.
func (c *call) result() int64 {
	n, _, _ := strings.Cut(c.ret, "<")
	v, err := strconv.ParseInt(n, 0, 64)
	if err != nil {
		panic(fmt.Sprintf("%s returned %s", c.name, c.ret))
	}
	return v
}

// fd is the descriptor in argument i, -100 for AT_FDCWD.
func (c *call) fd(i int) int {
	text, _, _ := strings.Cut(c.args[i], "<")
	if text == "AT_FDCWD" {
		return unix.AT_FDCWD
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(fmt.Sprintf("%s: argument %d is no descriptor: %s", c.name, i, c.args[i]))
	}
	return n
}

// bytes is the string in argument i, which strace -xx writes as \x00\x01….
func (c *call) bytes(i int) []byte {
	if b, ok := c.decoded[i]; ok {
		return b
	}
	s, ok := strings.CutPrefix(c.args[i], `"`)
	if !ok || !strings.HasSuffix(s, `"`) { // "…"... is a string cut off
		panic(fmt.Sprintf("%s: argument %d is no whole string: %.80s", c.name, i, c.args[i]))
	}
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSuffix(s, `"`), `\x`, ""))
	if err != nil {
		panic(fmt.Sprintf("%s: argument %d: %v", c.name, i, err))
	}
	if c.decoded == nil {
		c.decoded = map[int][]byte{}
	}
	c.decoded[i], c.args[i] = b, ""
	return b
}

// vector is the bytes of the pieces in argument i, which strace writes as [{iov_base="…", iov_len=…}, …].
func (c *call) vector(i int) (all []byte) {
	for _, piece := range strings.Split(c.args[i], "{")[1:] {
		text, length, ok := strings.Cut(strings.TrimPrefix(piece, "iov_base="), ", iov_len=")
		n, err := strconv.Atoi(strings.TrimRight(length, "}, ]"))
		b := (&call{name: c.name, args: []string{text}}).bytes(0)
		if !ok || err != nil || n != len(b) {
			panic(fmt.Sprintf("%s: a piece of argument %d is not whole: %.80s", c.name, i, piece))
		}
		all = append(all, b...)
	}
	return all
}

// readTrace reads what strace -f -xx -yy wrote.
func readTrace(r io.Reader) ([]*call, error) {
	var all []*call
	open := map[string]*call{} // by thread
	text := map[*call]string{}
	lines := bufio.NewReaderSize(r, 1<<20)
	for n := 0; ; n++ {
		line, err := lines.ReadString('\n')
		if err == io.EOF && line == "" {
			return all, nil
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		pid, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		rest = strings.TrimLeft(rest, " ")
		at := 0.0
		if stamp, tail, ok := strings.Cut(rest, " "); ok && len(stamp) > 0 && stamp[0] <= '9' && stamp[0] >= '0' {
			if at, err = strconv.ParseFloat(stamp, 64); err != nil {
				return nil, fmt.Errorf("line %d: %w", n+1, err)
			}
			rest = strings.TrimLeft(tail, " ")
		}
		switch {
		case strings.HasPrefix(rest, "+++"), strings.HasPrefix(rest, "---"), strings.HasSuffix(rest, "<detached ...>"), rest == "":
			continue
		case strings.HasPrefix(rest, "<... "):
			c := open[pid]
			if c == nil {
				return nil, fmt.Errorf("line %d resumes a call that did not begin", n+1)
			}
			delete(open, pid)
			_, tail, _ := strings.Cut(rest, " resumed>")
			c.end = n
			if err := c.parse(text[c] + tail); err != nil {
				return nil, fmt.Errorf("line %d: %w", n+1, err)
			}
			all = append(all, c)
		case strings.HasSuffix(rest, " <unfinished ...>"):
			c := &call{begin: n, at: at}
			open[pid], text[c] = c, strings.TrimSuffix(rest, " <unfinished ...>")
		default:
			c := &call{begin: n, end: n, at: at}
			if err := c.parse(rest); err != nil {
				return nil, fmt.Errorf("line %d: %w", n+1, err)
			}
			all = append(all, c)
		}
	}
}

// parse takes "name(arg, arg) = result" apart.
func (c *call) parse(s string) error {
	name, rest, ok := strings.Cut(s, "(")
	i := strings.LastIndex(rest, " = ")
	if !ok || i < 0 {
		return fmt.Errorf("not a call: %.120s", s)
	}
	args := strings.TrimSuffix(strings.TrimRight(rest[:i], " "), ")")
	c.name = name
	c.ret, _, _ = strings.Cut(rest[i+3:], " ")
	depth, quoted, from := 0, false, 0
	for i := 0; i < len(args); i++ {
		switch b := args[i]; {
		case b == '"':
			quoted = !quoted
		case quoted:
		case b == '{' || b == '[':
			depth++
		case b == '}' || b == ']':
			depth--
		case b == ',' && depth == 0:
			c.args = append(c.args, strings.TrimSpace(args[from:i]))
			from = i + 1
		}
	}
	if last := strings.TrimSpace(args[from:]); last != "" {
		c.args = append(c.args, last)
	}
	return nil
}

// node is a file or a directory of the model.
type node struct {
	dir     bool
	now     state
	kept    *state            // what a power failure leaves; nil: it was never synced
	keptAt  int               // when the sync that kept it began
	attrs   bool              // attributes changed since they were synced
	changes map[string]string // of a directory, since it was synced: name to "file", "directory", "gone"
}

// state is a node's content.
type state struct {
	blocks map[int64][]byte // of a file, by number; a block is never changed, and one that is missing is zeros
	size   int64
	names  map[string]*node // of a directory
	xattrs map[string][]byte
	mtime  *unix.Timespec // if it was set after the last write
	mode   uint32         // permission bits; 0: as restore makes it
}

const lossyBlock = 4 << 10

func (s *state) clone() *state {
	c := *s
	c.blocks, c.names, c.xattrs = maps.Clone(s.blocks), maps.Clone(s.names), maps.Clone(s.xattrs)
	return &c
}

func (s *state) writeAt(p []byte, off int64) {
	s.size, s.mtime = max(s.size, off+int64(len(p))), nil
	for len(p) > 0 {
		n := off / lossyBlock
		block := make([]byte, lossyBlock)
		copy(block, s.blocks[n])
		k := copy(block[off%lossyBlock:], p)
		s.blocks[n] = block
		p, off = p[k:], off+int64(k)
	}
}

func (s *state) read(off, n int64) []byte {
	p := make([]byte, max(0, min(n, s.size-off)))
	for i := 0; i < len(p); {
		at := off + int64(i)
		block := s.blocks[at/lossyBlock]
		k := int(min(lossyBlock-at%lossyBlock, int64(len(p)-i)))
		if block != nil {
			copy(p[i:i+k], block[at%lossyBlock:])
		}
		i += k
	}
	return p
}

func (s *state) truncate(size int64) {
	if size < s.size {
		for n := range s.blocks {
			if n*lossyBlock >= size {
				delete(s.blocks, n)
			}
		}
		if tail := s.blocks[size/lossyBlock]; tail != nil {
			block := make([]byte, lossyBlock)
			copy(block, tail[:size%lossyBlock])
			s.blocks[size/lossyBlock] = block
		}
	}
	s.size, s.mtime = size, nil
}

func newNode(dir bool) *node {
	n := &node{dir: dir}
	n.now.xattrs = map[string][]byte{}
	if dir {
		n.now.names, n.changes = map[string]*node{}, map[string]string{}
	} else {
		n.now.blocks = map[int64][]byte{}
	}
	return n
}

// opened is an open file description.
type opened struct {
	*node
	off    int64
	append bool
}

// lossy is the model while it replays a trace.
type lossy struct {
	base    string // the directory that is modelled
	ignore  func(path string) bool
	root    *node
	fds     map[int]*opened
	paths   map[*node]string // the name each node was last given, relative to base
	drop    string           // the kind of sync that is left out
	seen    map[string]int   // the kinds of syncs, with their numbers
	unknown map[string]bool
}

// newLossy returns the model of base, which is as it is now and all synced. What is below a path that ignore names is
// neither modelled nor kept.
func newLossy(base, drop string, ignore func(path string) bool) (*lossy, error) {
	l := &lossy{base: base, ignore: ignore, drop: drop, fds: map[int]*opened{}, paths: map[*node]string{}, seen: map[string]int{}, unknown: map[string]bool{}}
	var err error
	l.root, err = l.load(base, "")
	return l, err
}

func (l *lossy) load(path, rel string) (*node, error) {
	n := newNode(true)
	l.paths[n] = rel
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			return nil, fmt.Errorf("%s: only directories may be there before the trace", filepath.Join(path, e.Name()))
		}
		child, err := l.load(filepath.Join(path, e.Name()), filepath.Join(rel, e.Name()))
		if err != nil {
			return nil, err
		}
		n.now.names[e.Name()] = child
	}
	n.kept = n.now.clone()
	return n, nil
}

// rebooted returns the model of what a power failure leaves now: it is all there is, and all synced.
func (l *lossy) rebooted() *lossy {
	next := &lossy{base: l.base, ignore: l.ignore, drop: l.drop, fds: map[int]*opened{}, paths: map[*node]string{}, seen: map[string]int{}, unknown: map[string]bool{}}
	again := map[*node]*node{} // by what they were: a file may have several names
	var reboot func(n *node) *node
	reboot = func(n *node) *node {
		if again[n] != nil {
			return again[n]
		}
		is := newNode(n.dir)
		again[n] = is
		if n.kept != nil {
			is.now = *n.kept.clone()
		}
		for name, child := range is.now.names {
			is.now.names[name] = reboot(child)
		}
		is.kept = is.now.clone()
		return is
	}
	next.root = reboot(l.root)
	next.rebase(next.root, "")
	return next
}

// step is one half of a call: what it does when it begins or when it ends.
type step struct {
	at    int
	order int // begins before ends on the same line
	do    func()
}

// replay runs the calls. At the beginning of each call that answers, acknowledged is told.
func (l *lossy) replay(calls []*call, answers func(*call) bool, acknowledged func()) (err error) {
	defer func() {
		if why := recover(); why != nil {
			err = fmt.Errorf("the trace cannot be replayed: %v", why)
		}
	}()
	var steps []step
	for _, c := range calls {
		if answers(c) {
			steps = append(steps, step{c.begin, 0, acknowledged})
			continue
		}
		begin, end := l.effect(c)
		if begin != nil {
			steps = append(steps, step{c.begin, 0, begin})
		}
		if end != nil {
			steps = append(steps, step{c.end, 1, end})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.order, b.order)) })
	for _, s := range steps {
		s.do()
	}
	if len(l.unknown) > 0 {
		return fmt.Errorf("calls that the model does not know: %v", slices.Sorted(maps.Keys(l.unknown)))
	}
	return nil
}

// effect returns what a call does at its begin and at its end.
func (l *lossy) effect(c *call) (begin, end func()) {
	switch c.name {
	case "close":
		return func() { delete(l.fds, c.fd(0)) }, nil
	case "fsync", "fdatasync":
		return l.sync(c)
	}
	if c.failed() {
		return nil, nil
	}
	if do, ok := map[string]func(*call){
		"open": l.open, "openat": l.open, "openat2": l.open, "creat": l.open, "dup": l.dup, "dup2": l.dup, "dup3": l.dup, "fcntl": l.dup,
		"lseek": l.seek, "ftruncate": l.truncate, "fallocate": l.allocate, "mkdir": l.mkdir, "mkdirat": l.mkdir,
		"rename": l.rename, "renameat": l.rename, "renameat2": l.rename, "linkat": l.link, "unlink": l.unlink, "unlinkat": l.unlink, "rmdir": l.unlink,
		"chmod": l.chmod, "fchmod": l.chmod, "fchmodat": l.chmod, "fsetxattr": l.setxattr, "setxattr": l.setxattr, "utimensat": l.utimens, "copy_file_range": l.copyRange, "mmap": l.mmap,
	}[c.name]; ok {
		return nil, func() { do(c) }
	}
	if c.name == "write" || c.name == "pwrite64" || c.name == "pwritev" {
		var f *opened
		return func() { f = l.fds[c.fd(0)] }, func() { l.write(c, f) }
	}
	return nil, func() { // anything else must not concern a file that is modelled
		for i := range c.args {
			if text, _, ok := strings.Cut(c.args[i], "<"); ok {
				if n, err := strconv.Atoi(text); err == nil && l.fds[n] != nil {
					l.unknown[c.name] = true
				}
			}
		}
		if strings.HasPrefix(c.name, "sync") && c.name != "sync_file_range" {
			l.unknown[c.name] = true
		}
	}
}

// lookup returns the directory that holds the name in argument i, which is relative to the descriptor in argument at (-1:
// there is none), and the last part of the name. The directory is nil if it is not modelled.
func (l *lossy) lookup(c *call, at, i int) (dir *node, name string) {
	path := string(c.bytes(i))
	from := l.root
	if strings.HasPrefix(path, "/") {
		rel, ok := strings.CutPrefix(path, l.base)
		if !ok || rel != "" && rel[0] != '/' {
			return nil, ""
		}
		path = rel
	} else if at < 0 || c.fd(at) == unix.AT_FDCWD {
		return nil, ""
	} else if f := l.fds[c.fd(at)]; f != nil {
		from = f.node
	} else {
		return nil, ""
	}
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "." })
	if len(parts) == 0 {
		return from, "."
	}
	for _, p := range parts[:len(parts)-1] {
		if p == ".." {
			panic("a path with ..: " + path)
		}
		if from = from.now.names[p]; from == nil || !from.dir {
			return nil, ""
		}
	}
	if l.ignore(filepath.Join(l.paths[from], parts[len(parts)-1])) {
		return nil, ""
	}
	return from, parts[len(parts)-1]
}

func (n *node) child(name string) *node {
	if name == "." {
		return n
	}
	return n.now.names[name]
}

// enter gives a node a name.
func (l *lossy) enter(dir *node, name string, n *node) {
	dir.now.names[name] = n
	dir.changes[name] = "file"
	if n.dir {
		dir.changes[name] = "directory"
	}
	l.rebase(n, filepath.Join(l.paths[dir], name))
}

func (l *lossy) rebase(n *node, path string) {
	l.paths[n] = path
	for name, child := range n.now.names {
		l.rebase(child, filepath.Join(path, name))
	}
}

func (l *lossy) leave(dir *node, name string) *node {
	n := dir.now.names[name]
	delete(dir.now.names, name)
	dir.changes[name] = "gone"
	return n
}

func (l *lossy) open(c *call) {
	at, i := -1, 0
	if c.name != "open" && c.name != "creat" {
		at, i = 0, 1
	}
	fd := int(c.result())
	delete(l.fds, fd)
	dir, name := l.lookup(c, at, i)
	if dir == nil {
		return
	}
	flags := strings.Join(c.args[i+1:], ",")
	n := dir.child(name)
	if n == nil && strings.Contains(flags, "O_TMPFILE") {
		panic("O_TMPFILE")
	}
	if n == nil {
		if !strings.Contains(flags, "O_CREAT") {
			panic(fmt.Sprintf("%s of %q succeeded, and the model does not have it", c.name, filepath.Join(l.paths[dir], name)))
		}
		n = newNode(false)
		l.enter(dir, name, n)
	}
	if strings.Contains(flags, "O_TRUNC") && !n.dir {
		n.now.truncate(0)
	}
	l.fds[fd] = &opened{node: n, append: strings.Contains(flags, "O_APPEND")}
}

func (l *lossy) dup(c *call) {
	if c.name == "fcntl" && !strings.HasPrefix(c.args[1], "F_DUPFD") {
		return
	}
	to := int(c.result())
	delete(l.fds, to)
	if f := l.fds[c.fd(0)]; f != nil {
		l.fds[to] = f
	}
}

func (l *lossy) seek(c *call) {
	if f := l.fds[c.fd(0)]; f != nil && !f.dir {
		f.off = c.result()
	}
}

func (l *lossy) write(c *call, f *opened) {
	if f == nil {
		return
	}
	if c.name == "pwritev" {
		f.now.writeAt(c.vector(1)[:c.result()], c.number(3))
		return
	}
	p := c.bytes(1)[:c.result()]
	switch {
	case c.name == "pwrite64":
		f.now.writeAt(p, c.number(3))
		return
	case f.append:
		f.off = f.now.size
	}
	f.now.writeAt(p, f.off)
	f.off += int64(len(p))
}

func (l *lossy) copyRange(c *call) {
	in, out := l.fds[c.fd(0)], l.fds[c.fd(2)]
	if in == nil && out == nil {
		return
	}
	if in == nil || out == nil || c.args[1] != "NULL" || c.args[3] != "NULL" {
		panic("copy_file_range across the edge of the model, or with offsets")
	}
	n := c.result()
	out.now.writeAt(in.now.read(in.off, n), out.off)
	in.off, out.off = in.off+n, out.off+n
}

func (l *lossy) truncate(c *call) {
	if f := l.fds[c.fd(0)]; f != nil {
		f.now.truncate(c.number(1))
	}
}

func (l *lossy) allocate(c *call) {
	f := l.fds[c.fd(0)]
	if f == nil || strings.Contains(c.args[1], "FALLOC_FL_KEEP_SIZE") {
		return
	}
	if c.args[1] != "0" {
		panic("fallocate " + c.args[1])
	}
	f.now.size = max(f.now.size, c.number(2)+c.number(3))
}

func (l *lossy) mkdir(c *call) {
	at, i := -1, 0
	if c.name == "mkdirat" {
		at, i = 0, 1
	}
	if dir, name := l.lookup(c, at, i); dir != nil {
		l.enter(dir, name, newNode(true))
	}
}

func (l *lossy) rename(c *call) {
	var from, to *node
	var old, name string
	if c.name == "rename" {
		from, old = l.lookup(c, -1, 0)
		to, name = l.lookup(c, -1, 1)
	} else {
		from, old = l.lookup(c, 0, 1)
		to, name = l.lookup(c, 2, 3)
	}
	if from == nil && to == nil {
		return
	}
	if from == nil || to == nil || from.now.names[old] == nil {
		panic("a rename across the edge of the model")
	}
	other := to.now.names[name]
	l.enter(to, name, l.leave(from, old))
	if c.name == "renameat2" && strings.Contains(c.args[4], "RENAME_EXCHANGE") {
		l.enter(from, old, other)
	}
}

func (l *lossy) link(c *call) {
	from, old := l.lookup(c, 0, 1)
	to, name := l.lookup(c, 2, 3)
	if from != nil && to != nil {
		l.enter(to, name, from.child(old))
	} else if to != nil {
		panic("a link from outside the model")
	}
}

func (l *lossy) unlink(c *call) {
	at, i := -1, 0
	if c.name == "unlinkat" {
		at, i = 0, 1
	}
	if dir, name := l.lookup(c, at, i); dir != nil {
		l.leave(dir, name)
	}
}

func (l *lossy) setxattr(c *call) {
	var n *node
	if c.name == "setxattr" {
		if dir, name := l.lookup(c, -1, 0); dir != nil {
			n = dir.child(name)
		}
	} else if f := l.fds[c.fd(0)]; f != nil {
		n = f.node
	}
	if n != nil {
		n.now.xattrs[string(c.bytes(1))] = c.bytes(2)
		n.attrs = true
	}
}

func (l *lossy) chmod(c *call) {
	var n *node
	i := 2
	switch c.name {
	case "fchmod":
		i = 1
		if f := l.fds[c.fd(0)]; f != nil {
			n = f.node
		}
	case "chmod":
		i = 1
		if dir, name := l.lookup(c, -1, 0); dir != nil {
			n = dir.child(name)
		}
	default:
		if dir, name := l.lookup(c, 0, 1); dir != nil {
			n = dir.child(name)
		}
	}
	if n != nil {
		bits, err := strconv.ParseUint(c.args[i], 8, 32)
		if err != nil {
			panic(err)
		}
		n.now.mode, n.attrs = uint32(bits), true
	}
}

func (l *lossy) utimens(c *call) {
	var n *node
	if c.args[1] == "NULL" {
		if f := l.fds[c.fd(0)]; f != nil {
			n = f.node
		}
	} else if dir, name := l.lookup(c, 0, 1); dir != nil {
		n = dir.child(name)
	}
	if n == nil {
		return
	}
	_, last, _ := strings.Cut(c.args[2], "}")
	var t unix.Timespec
	i := strings.Index(last, "{tv_sec=")
	if i < 0 {
		panic("utimensat " + c.args[2])
	}
	if _, err := fmt.Sscanf(last[i:], "{tv_sec=%d, tv_nsec=%d}", &t.Sec, &t.Nsec); err != nil {
		return // UTIME_OMIT
	}
	n.now.mtime = &t
}

func (l *lossy) mmap(c *call) {
	if len(c.args) < 5 || !strings.Contains(c.args[3], "MAP_SHARED") || !strings.Contains(c.args[2], "PROT_WRITE") || c.args[4] == "-1" {
		return
	}
	if l.fds[c.fd(4)] != nil {
		l.unknown["mmap for writing"] = true
	}
}

// sync keeps what a file or directory was when the call began, once it has ended.
func (l *lossy) sync(c *call) (begin, end func()) {
	var n *node
	var s *state
	return func() {
			f := l.fds[c.fd(0)]
			if f == nil {
				return
			}
			kind := l.kind(f.node)
			l.seen[kind]++
			if kind == l.drop {
				return
			}
			n, s = f.node, f.now.clone()
			n.attrs = false
			clear(n.changes)
		}, func() {
			if n == nil || c.failed() || n.kept != nil && n.keptAt > c.begin {
				return
			}
			if c.name == "fdatasync" && !n.dir { // not the attributes
				s.xattrs, s.mtime, s.mode = nil, nil, 0
				if n.kept != nil {
					s.xattrs, s.mode = n.kept.xattrs, n.kept.mode
				}
			}
			n.kept, n.keptAt = s, c.begin
		}
}

// kind names what a sync of n is for.
func (l *lossy) kind(n *node) string {
	path := l.paths[n]
	if !n.dir {
		return "file " + normal(path)
	}
	whats := map[string]bool{}
	for _, what := range n.changes {
		whats[what] = true
	}
	if n.attrs {
		whats["attributes"] = true
	}
	return "directory " + normal(path) + " after " + cmp.Or(strings.Join(slices.Sorted(maps.Keys(whats)), "+"), "nothing")
}

// normal replaces the parts of a path that differ from run to run or from store to store, or that the test chose.
func normal(path string) string {
	for _, store := range []string{"data/root/", "store/"} {
		rest, ok := strings.CutPrefix(path, store)
		if !ok {
			continue
		}
		parts := strings.Split(rest, "/")
		if parts[0] != ".sluice" {
			return "STORE/*"
		}
		for i := 2; i < len(parts); i++ {
			if parts[i] != "attr" {
				parts[i] = "*"
			}
		}
		return "STORE/" + strings.Join(parts, "/")
	}
	switch path {
	case "data/root", "store":
		return "STORE"
	case "":
		return "BASE"
	}
	if strings.HasPrefix(path, "data/backups/") { // a snapshot is named after its time
		return "data/backups/*"
	}
	if dir, name, ok := strings.Cut(path, "/held/"); ok { // named after a number and a nonce
		kind, _, _ := strings.Cut(name, "-")
		return dir + "/held/" + kind
	}
	return strings.TrimRight(path, "0123456789-.")
}

// left returns the files a power failure would leave now below dir, by their names relative to it.
func (l *lossy) left(dir string) map[string]*state {
	all := map[string]*state{}
	n := l.root
	for _, p := range strings.FieldsFunc(dir, func(r rune) bool { return r == '/' }) {
		if n == nil || n.kept == nil {
			return all
		}
		n = n.kept.names[p]
	}
	if n != nil {
		gather(n, "", all)
	}
	return all
}

func gather(n *node, path string, all map[string]*state) {
	switch {
	case !n.dir && n.kept != nil:
		all[path] = n.kept
	case !n.dir:
		all[path] = &state{}
	case n.kept != nil:
		for name, child := range n.kept.names {
			gather(child, filepath.Join(path, name), all)
		}
	}
}

// restore makes in the directory to what a power failure would leave now.
func (l *lossy) restore(to string) error { return restoreNode(l.root, to) }

func restoreNode(n *node, path string) error {
	s := n.kept
	if s == nil {
		s = &state{}
	}
	if n.dir {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
		for name, child := range s.names {
			if err := restoreNode(child, filepath.Join(path, name)); err != nil {
				return err
			}
		}
	} else if err := s.restoreFile(path); err != nil {
		return err
	}
	return s.restoreAttrs(path)
}

func (s *state) restoreFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(s.size); err != nil {
		return err
	}
	for n, block := range s.blocks {
		if _, err := f.WriteAt(block[:min(lossyBlock, s.size-n*lossyBlock)], n*lossyBlock); err != nil {
			return err
		}
	}
	return nil
}

// restoreAttrs sets the extended attributes. A record that is bound to the inode it lies on is bound to the copy, which
// stands for it.
func (s *state) restoreAttrs(path string) error {
	if s.mtime != nil {
		if err := os.Chtimes(path, time.Time{}, time.Unix(s.mtime.Unix())); err != nil {
			return err
		}
	}
	if s.mode != 0 {
		if err := unix.Chmod(path, s.mode); err != nil {
			return err
		}
	}
	for name, value := range s.xattrs {
		var record map[string]json.RawMessage
		if json.Unmarshal(value, &record) == nil && record["ino"] != nil {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			record["ino"] = strconv.AppendUint(nil, info.Sys().(*syscall.Stat_t).Ino, 10)
			if value, err = json.Marshal(record); err != nil {
				return err
			}
		}
		if err := unix.Setxattr(path, name, value, 0); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) equal(want []byte) bool {
	return s.size == int64(len(want)) && bytes.Equal(s.read(0, s.size), want)
}
