// Package namespace is the one implementation of core.Namespace and the interfaces beside it: it joins the overlay and the
// derived layer into one tree, decides permissions and freshness, carries changes through to the under-stores, and reads
// and writes bytes through the page cache. It knows neither protocol and no particular store. Its suite is core/nstest.
//
// # How a change happens
//
// A change takes write locks on the names it is about (shared on their ancestors), so that changes of one name follow each
// other and a directory's rename or removal waits for the changes below it. Readers take no locks. Bytes are staged before
// any lock is taken. Then
//
//	journal an intent → the store's one visible step → journal the outcome and close the intent → reply
//
// An intent found open at start is resolved by looking at the store (see intents.go). Facts that a store tells are ignored
// for names with a change pending or committed after the question was sent (meta.Derived).
//
// # What is where
//
// resolve.go finds names, load.go asks stores, list.go walks; content.go and write.go move bytes, place.go has workers do it;
// remove.go, rename.go, copy.go, dirs.go and attrs.go change names; uploads.go is multipart; perm.go decides who may; mounts.go is
// the mount table; answers.go remembers what was answered.
package namespace

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/mount"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
)

// Options are what a Namespace is made of.
type Options struct {
	KV    meta.KV     // where the journal lives; the caller closes it after Close. Not needed with Log
	Log   *meta.Log   // the journal, claimed; nil: that of KV is claimed by Open
	Cache *page.Cache // the caller closes it after Close
	Root  ufs.Store   // the store behind "/" where nothing is mounted; closed by Close
	// SharedRoot says that other processes are to see the same root store, which bears a mark then (mark.go). Run ends with
	// errs.Precondition where it is not the one that the journal belongs to.
	SharedRoot bool
	// OpenStore opens the store of a mount.
	OpenStore func(ctx context.Context, m core.MountSpec) (ufs.Store, error)
	// SecretKey, of seal.KeySize bytes, encrypts the secrets of mounts in KV and signs tickets; nil leaves them as they are.
	SecretKey []byte
	// Reserved are the roots, as ufs.Features has them, that no mount may be, hold or lie in.
	Reserved []string

	// Full returns why the journal takes nothing but removals now, an error of errs.Full, nil if it takes everything. It is
	// asked before each change. nil: it always does.
	Full func() error

	Member     string // this process, in the leader key
	Superuser  string // owner of "/"
	Supergroup string
	RootMode   uint32 // of "/"; 0: 0755

	Store string // identity of the store that KV is, which changes when that is restored; "": unknown
	Seen  Seen   // how far the journal had got when this process saw it last; the zero value: it never did

	SyncInterval time.Duration // of mounts that do not say; 0: on each access; see DefaultSyncInterval
	LoadType     core.LoadType // of mounts that do not say; "": core.LoadOnce
	// WriteType and ReadType are those of mounts that do not say, and of what no mount is for. "": core.CacheThrough, core.CachePromote.
	WriteType    core.WriteType
	ReadType     core.ReadType
	ProbeTimeout time.Duration // of a new mount; 0: 5 s
	ConfirmEmpty time.Duration // until a directory that was not empty, and is listed as empty, is listed again; 0: 1 s
	Sync         SyncOptions   // how much of the stores and this process syncs take
	FeedRescan   time.Duration // the least time from one rescan of a mount whose feed lost events to the next; 0: 30 s
	FeedLook     time.Duration // how often is looked for mounts that came or went, by Feed; 0: 500 ms
	// EventOptions returns the options of a mount that count for its feed. nil: its own.
	EventOptions func(core.MountSpec) map[string]string
	WatchOpen    time.Duration // how long an intent without an answer is watched; 0: 15 min, S3's signature window
	Settle       time.Duration // how long a cut-off upload must have been without a part to be cancelled; 0: ufs.Settle
	Host         string        // host:port under which this process serves blocks
	// Holders keep the bytes of writes that are acknowledged before their store has them. nil: there are no such writes
	Holders  core.Holders
	Replicas int // of such writes with ASYNC_THROUGH, of mounts that do not say; 0: 2
	// ReplicationMin and ReplicationMax are those of mounts that do not say, as in core.Policies; 0 of the latter: 1.
	ReplicationMin, ReplicationMax int

	// RenameThrough is how long a rename of a directory waits for a store that copies it, where nothing else is said; then it is acknowledged
	// and carried on. 0: until it is done.
	RenameThrough time.Duration
	PersistDelay  time.Duration // how long after it was acknowledged a file is brought to its store, of mounts that do not say; 0: at once
	MaxHeld       int64         // bytes that no store has yet, beyond which such writes are errs.Overload; 0: 8 GiB
	PersistRetry  time.Duration // after a first try that failed, doubled from try to try up to 5 minutes, less up to half by chance; 0: 1 s
	HoldCare      time.Duration // how often orphans are looked for, and how long a worker is away before what it holds is copied; 0: 1 min
	// Answer encodes what a method returned beside its error (a core.Info, a core.MountInfo, a string, or nil for nothing) as
	// it is sent to who asks for the change again: changes that have a core.Call are answered once. nil: they are not.
	Answer     func(v any) []byte
	MaxDerived int // rows of store facts kept per mount; 0: 4 million
	Logger     *slog.Logger
}

// DefaultSyncInterval is how old store facts may be where no mount says otherwise.
const DefaultSyncInterval = 60 * time.Second

func (o Options) withDefaults() Options {
	if o.Supergroup == "" {
		o.Supergroup = "supergroup"
	}
	if o.Superuser == "" {
		o.Superuser = "root"
	}
	if o.RootMode == 0 {
		o.RootMode = 0o755
	}
	if o.ProbeTimeout == 0 {
		o.ProbeTimeout = 5 * time.Second
	}
	if o.ConfirmEmpty == 0 {
		o.ConfirmEmpty = time.Second
	}
	o.Sync = o.Sync.withDefaults()
	if o.FeedRescan == 0 {
		o.FeedRescan = 30 * time.Second
	}
	if o.FeedLook == 0 {
		o.FeedLook = 500 * time.Millisecond
	}
	if o.WatchOpen == 0 {
		o.WatchOpen = 15 * time.Minute
	}
	if o.Settle == 0 {
		o.Settle = ufs.Settle
	}
	if o.MaxDerived == 0 {
		o.MaxDerived = 4_000_000
	}
	if o.Replicas == 0 {
		o.Replicas = 2
	}
	if o.MaxHeld == 0 {
		o.MaxHeld = 8 << 30
	}
	if o.PersistRetry == 0 {
		o.PersistRetry = time.Second
	}
	if o.HoldCare == 0 {
		o.HoldCare = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Namespace implements core.Namespace, core.Attrs, core.Uploads, core.Locator, core.Mounts, core.PathRules and core.BucketAdmin. Run must be running for
// changes to commit.
type Namespace struct {
	o     Options
	log   *meta.Log
	tree  *meta.Tree
	union *meta.Union
	locks *locks
	// reconciling are the locks of those who compare an entry with its store, which make no change of anybody's. Taken before locks.
	reconciling *locks
	loads       singleflight.Group

	sealer  *seal.Sealer
	secret  []byte    // keys the ids of names
	hashers sync.Pool // of *hasher
	pageKey []byte    // keys the ids of content, of this incarnation alone
	space   []byte    // of allocated content ids: bytes 1 to 7

	life      atomic.Pointer[life] // nil until Run has begun
	released  chan struct{}        // closed once changes are accepted
	releasing sync.Mutex           // held by Release

	mountMu sync.Mutex // serialises changes of the mount table
	mounts  atomic.Pointer[mountSet]
	ways    atomic.Pointer[ways]
	rules   atomic.Pointer[mount.Rules]          // changed under mountMu; nil while there are none
	aliases atomic.Pointer[map[string]core.Path] // of buckets, by name; changed under mountMu, never nil
	invalid atomic.Pointer[invalidated]          // likewise

	credentials atomic.Pointer[map[string]*credential] // named secrets; changed under mountMu
	past        []revision                             // what is remembered, the oldest first; guarded by mountMu
	retired     []*retired                             // stores that were replaced; guarded by mountMu

	ids  counter // file numbers
	revs counter // attempts
	dirs counter // directories

	appendMu  sync.Mutex
	appending map[uint64]bool // file numbers with an append open

	moves     moves
	done      completedUploads
	answers   answers
	holds     *holds
	holders   *reigned // o.Holders; nil if they are
	syncs     *syncs
	skipped   skipped
	stretches stretches
	feeds     feeds

	resolving sync.Mutex // guards open, resolved, lost, late, gone and carrying
	open      map[string]openIntent
	resolved  chan struct{}        // closed, and another made, when an intent leaves open
	lost      map[string]time.Time // by upload id: when it is looked for
	late      int64                // renames that were acknowledged before they were carried through
	gone      int64                // files that renames went on without
	carrying  map[string]*carriage // by edge: of intents that are carried through in the background
	removals  removals

	running  context.Context // of what is carried through in the background; ends with Run
	end      context.CancelFunc
	carriers sync.WaitGroup
}

// mountSet is a snapshot of the table with the open stores.
type mountSet struct {
	table *mount.Table
	byID  map[string]*mounted
}

// mounted is a mount with its open store and what is known of it.
type mounted struct {
	*mount.Mount
	store    ufs.Store
	features ufs.Features
	derived  *meta.Derived
	err      error // why the store could not be opened; then store answers nothing else
	renew    error // why the store does not open with the options that it has now; store is open with those of before
	*trouble
}

// is reports whether two states of the mount table name the same mount of the same store.
func (m *mounted) is(other *mounted) bool {
	return m != nil && other != nil && m.ID == other.ID && m.Taken == other.Taken
}

// JournalGroup names the one journal there is.
const JournalGroup = "0"

// Open claims and loads the journal of o.KV, opens the mounts it names, and returns the namespace as the last acknowledged change
// left it. Intents that a crash left open are resolved by Run, before it accepts changes.
func Open(ctx context.Context, o Options) (*Namespace, error) {
	o = o.withDefaults()
	n := &Namespace{o: o, log: o.Log, locks: newLocks(), reconciling: newLocks(), appending: map[uint64]bool{}, open: map[string]openIntent{},
		resolved: make(chan struct{}), lost: map[string]time.Time{}, carrying: map[string]*carriage{}, removals: newRemovals(), released: make(chan struct{}), holds: newHolds(), syncs: newSyncs(o.Sync)}
	n.running, n.end = context.WithCancel(context.WithoutCancel(ctx))
	sealer, err := seal.New(o.SecretKey)
	if err != nil {
		return nil, err
	}
	n.sealer = sealer
	if o.Holders != nil {
		n.holders = &reigned{Holders: o.Holders}
	}
	if n.log == nil {
		if n.log, err = meta.OpenLog(o.KV, meta.LogOptions{Group: JournalGroup, Member: o.Member, Logger: o.Logger}); err != nil {
			return nil, err
		}
		if err := n.log.Claim(ctx); err != nil {
			return nil, err
		}
	}
	n.tree = n.log.Tree()
	n.union = &meta.Union{Tree: n.tree, Store: n.derivedOf}
	n.tree.View(func(v meta.View) {
		n.ids = newCounter("id", v.Counter("id"), 1)
		n.revs = newCounter("rev", v.Counter("rev"), 1)
		n.dirs = newCounter("dir", v.Counter("dir"), uint64(meta.FirstDir))
		n.done.restore(v)
		n.answers.restore(v)
	})
	if err := n.loadCredentials(ctx); err != nil {
		return nil, err
	}
	if err := n.loadHistory(ctx); err != nil {
		return nil, err
	}
	if err := n.openMounts(ctx); err != nil {
		return nil, err
	}
	if err := n.loadRules(ctx); err != nil {
		return nil, err
	}
	if err := n.loadAliases(ctx); err != nil {
		return nil, err
	}
	if err := n.loadInvalid(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// Run commits changes until ctx ends, and first resolves the intents that a crash left open. It calls ready, if not nil,
// once changes are accepted.
func (n *Namespace) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer n.carriers.Wait()
	defer func() {
		n.resolving.Lock() // nothing begins from now on
		defer n.resolving.Unlock()
		n.end()
	}()
	result := make(chan error, 1)
	wg.Go(func() {
		err := n.log.Run(ctx)
		cancel(err)
		result <- err
	})
	if err := n.start(ctx); err != nil {
		cancel(err)
		return errors.Join(err, <-result)
	}
	if ready != nil {
		ready()
	}
	wg.Go(func() { n.watchIntents(ctx) })
	wg.Go(func() { n.keepHolds(ctx) })
	return <-result
}

// start makes sure of the cluster secret and resolves what the last process left unfinished.
func (n *Namespace) start(ctx context.Context) error {
	if err := n.log.Lease(ctx); err != nil { // a leader before this one may still be changing stores
		return err
	}
	if err := n.loadSecret(ctx); err != nil {
		return err
	}
	if err := n.enterLife(ctx); err != nil {
		return err
	}
	n.pageKey = n.hash("pages", n.life.Load().ID)
	n.space = keyed(n.pageKey, "allocated")[:8]
	if n.holders != nil {
		n.holders.reign.Store(&core.Reign{Life: [8]byte(n.space), Term: uint64(n.log.Term())})
	}
	if err := n.checkRoot(ctx); err != nil {
		return err
	}
	if n.holding() {
		n.reopenIf(ctx, func(m *mounted) bool { return isReplaced(m.err) }) // cf. sameIs
		return nil
	}
	n.sweepUploads()
	n.resolveAll(ctx)
	n.cleanStaging(ctx, near)
	return nil
}

const secretKey = "sys/secret"

func (n *Namespace) loadSecret(ctx context.Context) error {
	kvs, err := n.log.ListConfig(ctx, secretKey)
	if err != nil {
		return err
	}
	for _, kv := range kvs {
		if n.secret, err = hex.DecodeString(string(kv.Value)); err == nil && len(n.secret) == 32 {
			return nil
		}
		return errs.New("namespace.Open", secretKey, errs.Corrupt, "the cluster secret in etcd is not 64 hexadecimal digits")
	}
	n.secret = make([]byte, 32)
	rand.Read(n.secret)
	_, err = n.log.Append(ctx, meta.Batch{Puts: []meta.KeyValue{{Key: secretKey, Value: []byte(hex.EncodeToString(n.secret))}}})
	return err
}

// Close closes the stores. Run must have returned.
func (n *Namespace) Close() error {
	var all []error
	if s := n.mounts.Load(); s != nil {
		for _, m := range s.byID {
			if m.store != nil {
				all = append(all, m.store.Close())
			}
		}
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	for _, r := range n.retired {
		all = append(all, r.close())
	}
	return errors.Join(all...)
}

// leads reports whether this process may still change stores. It is asked in the last moment before each change: a leader
// that was paused may have been succeeded, and its successor has resolved its intents. A lease that has lapsed is waited for,
// but not for long.
func (n *Namespace) leads() error { return n.log.Leads() }

// Log returns the journal.
func (n *Namespace) Log() *meta.Log { return n.log }

// Seq returns the sequence of the last committed change.
func (n *Namespace) Seq() uint64 { return n.log.Seq() }

func (n *Namespace) mountOf(id string) *mounted { return n.mounts.Load().byID[id] }

func (n *Namespace) derivedOf(id string) *meta.Derived {
	if m := n.mountOf(id); m != nil && !m.NoAccess {
		return m.derived
	}
	return nil
}

// commit appends ops, with the counters they rely on, as one record.
func (n *Namespace) commit(ctx context.Context, ops ...meta.Op) (uint64, error) {
	return n.committing(ctx, ops)()
}

// committing queues the operations for the journal and returns what commit does after that, which must be called once.
func (n *Namespace) committing(ctx context.Context, ops []meta.Op) (outcome func() (uint64, error)) {
	if l := n.life.Load(); l != nil && l.Held != "" && !l.releasing {
		n.answers.wrote(core.CallOf(ctx))
		return func() (uint64, error) { return 0, n.held() }
	}
	recorded := n.recording(ctx, ops)
	return func() (uint64, error) {
		defer n.answers.wrote(core.CallOf(ctx))
		return recorded()
	}
}

// record is commit for what is no name and nothing of one, which is journaled while changes are held too.
func (n *Namespace) record(ctx context.Context, ops ...meta.Op) (uint64, error) {
	return n.recording(ctx, ops)()
}

func (n *Namespace) recording(ctx context.Context, ops []meta.Op) (outcome func() (uint64, error)) {
	return n.recordingBatch(ctx, meta.Batch{Ops: ops})
}

// recordingBatch is recording with configuration keys.
func (n *Namespace) recordingBatch(ctx context.Context, b meta.Batch) (outcome func() (uint64, error)) {
	ops := b.Ops
	if !slices.ContainsFunc(ops, func(op meta.Op) bool { return op.Kind != meta.Set || op.Entry.Class != meta.Note }) {
		return n.log.Begin(context.WithoutCancel(ctx), b) // of no name: no held bytes are waiting for it
	}
	number := n.holds.records.begin()
	appended := n.log.Begin(context.WithoutCancel(ctx), b)
	return func() (uint64, error) {
		defer n.holds.records.end(number)
		seq, err := appended()
		if err == nil {
			n.holds.note(ops)
		}
		return seq, err
	}
}

// opList is a list of the operations of one record. Nobody keeps any of it once the record was committed, or was not, so that it serves
// for the next one: an operation has room for a whole entry.
type opList struct{ ops []meta.Op }

var opLists = sync.Pool{New: func() any { return &opList{make([]meta.Op, 0, 4)} }}

func newRecord() *opList { return opLists.Get().(*opList) }

func (l *opList) free() {
	clear(l.ops)
	if l.ops = l.ops[:0]; cap(l.ops) <= 16 { // a rare long one does not stay
		opLists.Put(l)
	}
}

// A counter hands out numbers that are never used twice: it journals the end of a block before it hands out the first
// number of it.
type counter struct {
	name        string
	mu          *sync.Mutex
	next, limit uint64
}

const counterBlock = 1 << 20

func newCounter(name string, journaled, first uint64) counter {
	return counter{name: name, mu: new(sync.Mutex), next: max(journaled, first), limit: max(journaled, first)}
}

func (n *Namespace) draw(ctx context.Context, c *counter) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == c.limit {
		limit := c.limit + counterBlock
		if _, err := n.record(ctx, meta.Op{Kind: meta.Counter, Name: c.name, Value: limit}); err != nil {
			return 0, err
		}
		c.limit = limit
	}
	c.next++
	return c.next - 1, nil
}

// end returns the first number that no call of draw, so far, can have returned.
func (c *counter) end() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.limit
}

// origin marks the bytes of an attempt in a store, so that after a crash they are known for ours.
func origin(id, rev uint64) string {
	var stack [33]byte
	return string(appendOrigin(stack[:0], id, rev))
}

func appendOrigin(b []byte, id, rev uint64) []byte {
	return meta.AppendHex(append(meta.AppendHex(b, id), '.'), rev)
}

var (
	_ core.Namespace   = (*Namespace)(nil)
	_ core.Attrs       = (*Namespace)(nil)
	_ core.Uploads     = (*Namespace)(nil)
	_ core.Locator     = (*Namespace)(nil)
	_ core.Mounts      = (*Namespace)(nil)
	_ core.MountLife   = (*Namespace)(nil)
	_ core.PathRules   = (*Namespace)(nil)
	_ core.Placer      = (*Namespace)(nil)
	_ core.Follower    = (*Namespace)(nil)
	_ core.Persister   = (*Namespace)(nil)
	_ core.BucketAdmin = (*Namespace)(nil)
)
