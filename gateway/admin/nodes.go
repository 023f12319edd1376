package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Nodes is what the leading master knows of the cluster's processes. Its errors have kinds of package errs.
type Nodes interface {
	// Nodes returns the live nodes, by role and name.
	Nodes(ctx context.Context) ([]Node, error)
	// Drain has the nodes of a name, in one role unless role is empty, given nothing new, until that is undone. It returns
	// them as they are then. Errors: errs.NotExist.
	Drain(ctx context.Context, name, role string, undo bool) ([]Node, error)
}

// Node is a process in one of its roles.
type Node struct {
	Name     string    `json:"name"`
	Role     string    `json:"role" enum:"gateway,master,worker"`
	Address  string    `json:"address" doc:"Where it is reached: a gateway by clients, a master or worker by the other processes." example:"10.0.0.1:9010"`
	Pages    string    `json:"pages,omitempty" doc:"Where a worker's bytes are read."`
	Leader   bool      `json:"leader" doc:"It is the master that leads."`
	Since    time.Time `json:"since" doc:"When it was started."`
	Version  string    `json:"version"`
	Host     string    `json:"host"`
	Zone     string    `json:"zone"`
	Domain   string    `json:"domain" doc:"What it fails together with: of a write that workers hold, no two replicas are in one domain."`
	Capacity int64     `json:"capacity" doc:"Bytes of a worker's cache."`
	Draining bool      `json:"draining" doc:"It is given nothing new."`
	Held     *int64    `json:"held,omitempty" doc:"Files that a worker which is drained holds, and that neither a store nor another worker is known to have in its place: when there are none it can be stopped. Not there if the worker does not say."`
	Waits    string    `json:"waits,omitempty" doc:"Why files that a worker which is drained holds do not go to another."`
}

// DrainInput names a node.
type DrainInput struct {
	Name string `path:"name" doc:"The node's name."`
	Body *DrainRequest
}

// DrainRequest says how a node is to be drained.
type DrainRequest struct {
	Role string `json:"role,omitempty" enum:"gateway,master,worker" doc:"In this role only; in all that the name has if left out."`
	Undo bool   `json:"undo,omitempty" doc:"End it."`
}

func (s *Server) registerNodes() {
	const all = base + "/nodes"
	huma.Register(s.api, clusterOperation("ListNodes", http.MethodGet, all, "List the processes of the cluster"), s.listNodes)
	huma.Register(s.api, clusterOperation("DrainNode", http.MethodPost, all+"/{name}/drain", "Give a node nothing new, or end that"), s.drainNode)
}

func (s *Server) listNodes(ctx context.Context, _ *struct{}) (*body[List[Node]], error) {
	if s.o.Nodes == nil {
		return nil, failed(ctx, absent("ListNodes"))
	}
	found, err := s.o.Nodes.Nodes(ctx)
	return listOf(ctx, found, err, itself)
}

func (s *Server) drainNode(ctx context.Context, in *DrainInput) (*body[List[Node]], error) {
	if s.o.Nodes == nil {
		return nil, failed(ctx, absent("DrainNode"))
	}
	var how DrainRequest
	if in.Body != nil {
		how = *in.Body
	}
	found, err := s.o.Nodes.Drain(ctx, in.Name, how.Role, how.Undo)
	return listOf(ctx, found, err, itself)
}
