package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Masters is what the leading master knows and does of the masters. Its errors have kinds of package errs.
type Masters interface {
	// Masters returns the members of the journal's cluster, by name.
	Masters(ctx context.Context) ([]Master, error)
	// Handover has the master named to lead, any other if to is empty, and returns when it does.
	Handover(ctx context.Context, to string) (Handover, error)
}

// Master is a member of the journal's cluster.
type Master struct {
	Name    string `json:"name"`
	Address string `json:"address" doc:"Where the other processes reach it." example:"10.0.0.1:9010"`
	Peer    string `json:"peer" doc:"URL on which the masters' etcd members reach each other."`
	ID      string `json:"id" doc:"etcd's, hexadecimal."`
	State   string `json:"state" enum:"leader,standby,learner,unstarted" doc:"A learner is sent everything and does not vote."`
}

// Handover is a change of leader that took place.
type Handover struct {
	From string `json:"from"`
	To   string `json:"to"`
	Ms   int64  `json:"ms" doc:"From the last answer of the one to the other's first, in milliseconds."`
}

// HandoverRequest asks for a change of leader.
type HandoverRequest struct {
	To string `json:"to,omitempty" doc:"The master that is to lead; any other if left out."`
}

func (s *Server) registerMasters() {
	const all = base + "/masters"
	huma.Register(s.api, clusterOperation("ListMasters", http.MethodGet, all, "List the masters"), s.listMasters)
	huma.Register(s.api, clusterOperation("Handover", http.MethodPost, all+"/handover", "Have another master lead"), s.handover)
}

func (s *Server) listMasters(ctx context.Context, _ *struct{}) (*body[List[Master]], error) {
	if s.o.Masters == nil {
		return nil, failed(ctx, absent("ListMasters"))
	}
	found, err := s.o.Masters.Masters(ctx)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[List[Master]]{Body: List[Master]{Items: append([]Master{}, found...)}}, nil
}

func (s *Server) handover(ctx context.Context, in *struct{ Body *HandoverRequest }) (*body[Handover], error) {
	if s.o.Masters == nil {
		return nil, failed(ctx, absent("Handover"))
	}
	var to string
	if in.Body != nil {
		to = in.Body.To
	}
	ctx, cancel := context.WithTimeout(ctx, operationLimit)
	defer cancel()
	done, err := s.o.Masters.Handover(ctx, to)
	if err != nil {
		return nil, failed(ctx, err)
	}
	return &body[Handover]{done}, nil
}

// operationLimit is how long a change of the masters may take that waits for no person.
const operationLimit = 30 * time.Second
