package admin

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/gateway/config"
)

// Explanation says why a name is answered as it is.
type Explanation struct {
	Path    string     `json:"path" doc:"A directory's ends in a slash."`
	State   string     `json:"state" enum:"PRESENT,ABSENT,UNKNOWN" doc:"UNKNOWN: nobody has asked the store yet, or what it said is forgotten."`
	By      string     `json:"by,omitempty" enum:"journal,store,listing,directory" doc:"What decides that. journal: Sluice itself, or if UNKNOWN, it is in the journal and not yet compared with the store; store: it was asked about the name, or listed; listing: the directory was listed without the name; directory: one above is not there."`
	About   string     `json:"about,omitempty" doc:"The directory that was listed, or is not there."`
	Checked *time.Time `json:"checked,omitempty" doc:"When the store was asked whose word decides; none if the journal is the authority."`
	Entry   *Entry     `json:"entry,omitempty" doc:"If it is there; if it is UNKNOWN and by the journal, as that has it."`

	Mount    Mount    `json:"mount"`
	Kind     string   `json:"store_kind" example:"s3"`
	Policies []Policy `json:"policies" nullable:"false" doc:"What applies to it, and where that comes from."`

	Interval string  `json:"sync_interval" example:"60s"`
	Age      float64 `json:"age" doc:"Seconds since checked."`
	Access   string  `json:"access" doc:"What an access without wishes of its own does now."`
	Asks     bool    `json:"asks_store" doc:"It asks the store before it answers."`
	Carried  string  `json:"carried,omitempty" doc:"What rename is not carried through to the store yet, that the name is part of."`
	Rename   *Rename `json:"rename,omitempty" doc:"That rename: how far it is, why not further, and when it is tried again."`
	Changing bool    `json:"changing" doc:"A change through Sluice is under way there."`

	Synced *Synced `json:"synced,omitempty" doc:"The last sync of it by this leader."`

	Children   *KnownChildren `json:"children,omitempty" doc:"Of a directory."`
	Durability *Durability    `json:"durability,omitempty" doc:"Of a file."`
	Exposed    []Exposure     `json:"exposed" nullable:"false" doc:"What would be lost with which worker; none if the store has everything, or it is gone."`
	Gone       *Gone          `json:"gone,omitempty" doc:"What is lost already."`
	More       bool           `json:"exposed_more" doc:"Exposed and gone are of the first 100,000 files that no store has; there are more."`
	Residency  *Residency     `json:"residency,omitempty" doc:"Of a file that its store has: what of it is in caches."`
	Uncounted  string         `json:"residency_unknown,omitempty" doc:"Why residency is not told."`
	LastMiss   *LastMiss      `json:"last_miss,omitempty" doc:"Of a file that its store has: the last read that did not find all in a cache, and why."`
	Unmissed   string         `json:"last_miss_unknown,omitempty" doc:"Why last_miss is not told, as that no read has missed; beside it, why there may be a later one."`

	User        string   `json:"user" doc:"Whose rights follow."`
	Groups      []string `json:"groups" nullable:"false"`
	Super       bool     `json:"superuser"`
	Rights      string   `json:"rights" example:"rw-" doc:"Read, write, execute: what the user may do with it, passing the directories above included."`
	Conditional bool     `json:"conditional" doc:"If-Match and If-None-Match hold against all who write to the store, and not only among Sluice's writers."`
	Conditions  string   `json:"conditions"`

	Aliases []AliasOf `json:"bucket_aliases" nullable:"false" doc:"Buckets of the S3 front-end that stand for it, or for a directory above it."`
}

// AliasOf is a bucket by which something is reached over S3, beside the name in its path.
type AliasOf struct {
	Bucket string `json:"bucket" example:"warehouse"`
	Path   string `json:"path" doc:"The directory that the bucket stands for." example:"/lake/prod/warehouse"`
	URI    string `json:"uri" doc:"Of what is explained." example:"s3://warehouse/t/part-0"`
	Origin string `json:"origin" enum:"api,config"`
}

// Rename is a rename of a directory that was answered before its store had everything under the new name.
type Rename struct {
	ID     string     `json:"id" doc:"What X-Sluice-Rename said."`
	From   string     `json:"from"`
	To     string     `json:"to,omitempty"`
	Phase  string     `json:"phase" enum:"copying,removing" doc:"removing: all has its copy, and the originals go."`
	Since  time.Time  `json:"since"`
	Copied int64      `json:"copied" doc:"Files that have their copy, of those that this leader has come to."`
	Left   int64      `json:"left" doc:"Files that were found to have none."`
	More   bool       `json:"left_more" doc:"There may be more: the old name was not gone through to its end."`
	Failed int64      `json:"failed" doc:"Tries of this leader that failed."`
	Error  string     `json:"error,omitempty" doc:"Why the last of them did; told to superusers."`
	Next   *time.Time `json:"next_try,omitempty" doc:"When it is tried again; none, or in the past: now."`

	Refused []Failure `json:"refused,omitempty" doc:"The first of what the last of them could not copy, by the new names; told to superusers."`
}

// Synced is a sync that has ended.
type Synced struct {
	Path      string    `json:"path"`
	Began     time.Time `json:"began"`
	Ended     time.Time `json:"ended"`
	Recursive bool      `json:"recursive"`
	Partly    bool      `json:"partly" doc:"Something in it could not be compared."`
}

// KnownChildren is what is known of the names in a directory without asking its store.
type KnownChildren struct {
	Present   int        `json:"present" doc:"Names that the store has."`
	Absent    int        `json:"absent" doc:"Names that it was found not to have, each by itself."`
	Complete  bool       `json:"complete" doc:"It was listed to its end: every other name is absent."`
	Oldest    *time.Time `json:"oldest,omitempty" doc:"When it was listed, the oldest part of it."`
	Journaled int        `json:"journaled" doc:"Names in the journal, 10,000 at most."`
}

// Exposure is what would be lost with a worker.
type Exposure struct {
	Worker string   `json:"worker"`
	Away   bool     `json:"away" doc:"It cannot be reached now, or does not say what it has."`
	Files  int64    `json:"files" doc:"That nobody else has whom one can reach; of a worker that is away: that nobody else has at all."`
	Bytes  int64    `json:"bytes"`
	Shared int64    `json:"shared_files" doc:"Further files that it holds, and others too."`
	First  []string `json:"first" nullable:"false" doc:"The first of files."`
}

// Gone are files that are lost.
type Gone struct {
	Files int64    `json:"files" doc:"That no store has, and none of the workers that held them has any more."`
	Bytes int64    `json:"bytes"`
	First []string `json:"first" nullable:"false" doc:"The first of files."`
}

func (s *Server) registerExplain() {
	huma.Register(s.api, clusterOperation("Explain", http.MethodGet, base+"/explain", "Say why a name is answered as it is: what is known of it, how old that is, what applies, who has its bytes, who may"), s.explain)
	huma.Register(s.api, clusterOperation("ListRenames", http.MethodGet, base+"/renames", "List the renames of directories that were answered and are not carried through to their stores"), s.listRenames)
}

func (s *Server) explain(ctx context.Context, in *struct {
	PathInput
	User  string `query:"user" doc:"Whose rights are told; without it the caller's."`
	Fresh bool   `query:"fresh" doc:"Ask the store about the name first. Otherwise none is asked."`
}) (*body[Explanation], error) {
	if s.o.Explainer == nil {
		return nil, failed(ctx, absent("Explain"))
	}
	p, err := parsePath(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	o := core.ExplainOptions{Fresh: in.Fresh}
	if in.User != "" {
		who, err := s.o.Authenticator.User(ctx, in.User)
		if err != nil {
			return nil, failed(ctx, err)
		}
		o.For = &who
	}
	x, err := s.o.Explainer.Explain(ctx, p, o)
	if err != nil {
		return nil, failed(ctx, err)
	}
	out := s.renderExplanation(&x)
	if core.PrincipalOf(ctx).Super {
		feeds, err := s.feeds(ctx)
		if err != nil {
			return nil, failed(ctx, err)
		}
		out.Mount.Feed = feeds[out.Mount.Path]
	}
	if out.Aliases, err = s.aliasesOf(ctx, x.Path); err != nil {
		return nil, failed(ctx, err)
	}
	var asked sync.WaitGroup
	asked.Go(func() { s.missed(ctx, &x, &out) })
	s.count(ctx, &x, &out)
	asked.Wait()
	return &body[Explanation]{out}, nil
}

func (s *Server) listRenames(ctx context.Context, _ *struct{}) (*body[List[Rename]], error) {
	if s.o.Explainer == nil {
		return nil, failed(ctx, absent("ListRenames"))
	}
	all, err := s.o.Explainer.CarriedRenames(ctx)
	return listOf(ctx, all, err, renderRename)
}

func renderRename(r core.CarriedRename) Rename {
	out := Rename{ID: r.ID, From: r.From, To: r.To, Phase: "copying", Since: r.Since.UTC(), Copied: r.Copied, Left: r.Left, More: !r.Counted, Failed: r.Tries, Next: known(r.Next)}
	if r.Removing {
		out.Phase, out.Copied, out.Left, out.More = "removing", 0, 0, false
	}
	if r.Err != nil {
		out.Error = r.Err.Error()
	}
	for _, f := range r.Refused {
		out.Refused = append(out.Refused, Failure{Path: f.Path.String(), Why: f.Err.Error()})
	}
	return out
}

// aliasesOf returns the bucket aliases that lead to the path.
func (s *Server) aliasesOf(ctx context.Context, p core.Path) ([]AliasOf, error) {
	all := []AliasOf{}
	if s.o.Buckets == nil {
		return all, nil
	}
	buckets, err := s.buckets(ctx)
	if err != nil {
		return nil, err
	}
	for _, b := range buckets {
		at, err := core.ParsePath(b.Path)
		if err != nil {
			continue // of the configuration: it leads nowhere
		}
		at = at.Dir()
		if at != p.Dir() && !at.Contains(p) {
			continue
		}
		key := strings.TrimPrefix(p.String(), at.String())
		if at == p.Dir() {
			key = ""
		}
		all = append(all, AliasOf{b.Name, b.Path, "s3://" + b.Name + "/" + key, b.Origin})
	}
	return all, nil
}

// countTime is how long workers are asked for what they have of the file: a silent one takes seconds for each part of it.
const countTime = 5 * time.Second

var errUncounted = errors.New("the workers did not say within 5 s what they have of it; `sluice cache stat` waits for them")

// count adds what of the file is in caches, as far as that can be said without asking a store.
func (s *Server) count(ctx context.Context, x *core.Explanation, out *Explanation) {
	switch {
	case x.State != core.NamePresent || x.Info.Dir:
		return
	case s.o.Caches == nil:
		out.Uncounted = "this process has no caches to ask"
		return
	case x.Durability != nil && x.Durability.State != core.InStore:
		out.Uncounted = "no store has the file's bytes yet; it is read from the workers that hold them"
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, countTime, errUncounted)
	defer cancel()
	ctx = core.WithMaxAge(ctx, core.MaxAge{Set: true, Seconds: -1, OnlyIfCached: true})
	r, err := s.o.Caches.Residency(ctx, x.Path, true)
	switch {
	case err != nil && ctx.Err() != nil:
		out.Uncounted = errUncounted.Error()
		return
	case err != nil && x.Asks && errs.KindOf(err) == errs.Unavailable:
		out.Uncounted = "the store would have to be asked about the file first, as an access does"
		return
	case err != nil:
		out.Uncounted = err.Error()
		return
	}
	shown := renderResidency(x.Path.String(), r)
	out.Residency = &shown
}

func (s *Server) renderExplanation(x *core.Explanation) Explanation {
	out := Explanation{
		Path: x.Path.String(), State: string(x.State), By: string(x.By), Checked: known(x.At), Mount: s.render(x.Mount), Kind: x.Kind,
		Policies: renderPolicies(x.Policies), Interval: config.Interval(x.Interval).String(), Age: x.Age.Seconds(), Access: x.Access, Asks: x.Asks,
		Changing: x.Changing, Exposed: make([]Exposure, len(x.Exposed)), More: x.More, User: x.For.User, Groups: append([]string{}, x.For.Groups...),
		Super: x.For.Super, Rights: rights(x.Rights), Conditional: x.Conditional, Conditions: x.Conditions,
	}
	if !x.About.IsZero() {
		out.About = x.About.String()
	}
	if x.Carried != nil {
		out.Carried = x.Carried.String()
		r := renderRename(*x.Carried)
		out.Rename = &r
	}
	if y := x.Synced; y != nil {
		out.Synced = &Synced{y.Path.String(), y.Began.UTC(), y.Ended.UTC(), y.Recursive, y.Partly}
	}
	if x.Info != nil {
		e := entry(*x.Info)
		out.Entry = &e
	}
	if c := x.Children; c != nil {
		out.Children = &KnownChildren{c.Present, c.Absent, c.Complete, known(c.Oldest), c.Journaled}
	}
	if x.Durability != nil {
		d := renderDurability(x.Path.String(), *x.Durability)
		out.Durability = &d
	}
	for i, e := range x.Exposed {
		out.Exposed[i] = Exposure{e.Worker, e.Away, e.Files, e.Bytes, e.Shared, texts(e.First)}
	}
	if g := x.Gone; g.Files > 0 {
		out.Gone = &Gone{g.Files, g.Bytes, texts(g.First)}
	}
	return out
}

func texts(paths []core.Path) []string {
	all := make([]string, len(paths))
	for i, p := range paths {
		all[i] = p.String()
	}
	return all
}

// rights writes a sum of rights as ls does.
func rights(sum uint32) string {
	b := []byte("rwx")
	for i := range b {
		if sum>>(2-i)&1 == 0 {
			b[i] = '-'
		}
	}
	return string(b)
}
