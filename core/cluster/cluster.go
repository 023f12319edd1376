// Package cluster is the words for processes that work together: who leads (Election), who is there (Registry), and which of
// them a block belongs to (Ring). The interfaces are implemented on etcd; placement is pure code and lives here. The package
// moves no bytes, decides nothing about names, and does not know what a master or a worker does.
package cluster

import (
	"context"
	"errors"
	"iter"
	"time"
)

// Member is a process that may lead.
type Member struct {
	Name string
	Addr string // host:port on which the others reach it; "" if it is reached by nobody
}

// Election lets one of several members lead. It is a hint, made as good as time allows, and never the safety of anything: what
// two leaders at once may not do is fenced by the term (meta.Log). It is safe for concurrent use.
type Election interface {
	// Campaign blocks until this member may claim the journal. A member has one reign at a time: while one lasts, Campaign
	// waits for its end and then for the next. Errors: ctx's; errs.Unavailable once the election is closed.
	Campaign(ctx context.Context) (*Reign, error)

	// Leader returns who leads as far as this member knows. Errors: errs.NotExist if nobody does now; errs.Unavailable.
	Leader(ctx context.Context) (Member, error)

	// Observe yields the leader, at once and after every change, the zero Member while nobody leads, until ctx ends, whose
	// error comes last. Changes that follow each other quickly may show as the last one only.
	Observe(ctx context.Context) iter.Seq2[Member, error]

	// Handover makes the member named to the leader, as planned; "" leaves the choice to the election. The reign of this
	// member ends no later than Handover returns without an error. Errors: errs.Precondition unless this member leads;
	// errs.NotExist if there is no such candidate; errs.Unavailable if it did not take over in time, which leaves this
	// member leading or not: its Reign says so.
	Handover(ctx context.Context, to string) error
}

// ErrClosed is why a reign ended that did not lose an election: the member itself is going.
var ErrClosed = errors.New("the member stops")

// ErrMoved is why a member lists a node no more that another one is about to list.
var ErrMoved = errors.New("the node is listed by another member")

// Reign is one uninterrupted time in which a member leads, as an Election sees it.
type Reign struct{ ctx context.Context }

// NewReign starts a reign of at most ctx's life, and returns what ends it and says why. It is for implementations of Election.
func NewReign(ctx context.Context) (r *Reign, end context.CancelCauseFunc) {
	ctx, end = context.WithCancelCause(ctx)
	return &Reign{ctx: ctx}, end
}

// Done is closed the moment the member must stop serving.
func (r *Reign) Done() <-chan struct{} { return r.ctx.Done() }

// Err returns why the reign has ended, nil while it lasts.
func (r *Reign) Err() error { return context.Cause(r.ctx) }

// Role is what a registered process does for the others.
type Role string

// The roles.
const (
	Master  Role = "master"
	Worker  Role = "worker"
	Gateway Role = "gateway"
)

// Node is a registered process.
type Node struct {
	Name        string `json:"name"` // unique within its role; not empty, without "/"
	Role        Role   `json:"role"`
	Addr        string `json:"addr"`            // host:port on which the others reach it
	Pages       string `json:"pages,omitempty"` // host:port of a worker's page stream
	Version     string `json:"version,omitempty"`
	Host        string `json:"host,omitempty"`        // the machine: nodes of one host fail together
	Zone        string `json:"zone,omitempty"`        // as the operator names them
	Domain      string `json:"domain,omitempty"`      // what fails as a whole, the machine unless the operator says otherwise
	Capacity    int64  `json:"capacity,omitempty"`    // bytes of its cache; its weight in a Ring
	Hold        int64  `json:"hold,omitempty"`        // bytes that no store has yet of which a worker may hold so many; 0: it holds none
	Incarnation string `json:"incarnation,omitempty"` // differs between two starts of the same node
	// Since is when it was started, by its own clock.
	Since time.Time `json:"since,omitzero"`
	// Draining nodes are to be given nothing new: the operator wants to stop them.
	Draining bool `json:"draining,omitempty"`
	// Volatile nodes lose what they hold with their power.
	Volatile bool `json:"volatile,omitempty"`
}

// Registry is the list of the processes that are alive. It is safe for concurrent use.
type Registry interface {
	// Register lists n until ctx ends, and puts it back whenever it is lost. It blocks, and returns ctx's error after it has
	// taken n off the list, unless the cause of ctx's end is ErrMoved: then another member lists n from now on, or it is off the
	// list when it was not heard of for a while. A node of the same role and name is replaced: it is taken for an earlier start of the same one,
	// whose Register ends with errs.Conflict. Errors: errs.Invalid; errs.Conflict. An outage is no error, only a wait.
	Register(ctx context.Context, n Node) error

	// Nodes returns the live nodes, by role and name. Errors: errs.Unavailable.
	Nodes(ctx context.Context) ([]Node, error)

	// Watch yields all live nodes, by role and name, at once and after every change, until ctx ends, whose error comes
	// last. Changes that follow each other quickly may show as one. A slice yielded is the caller's.
	Watch(ctx context.Context) iter.Seq2[[]Node, error]
}
