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
	// AddMaster tells the cluster of a master that others will reach at the URL peer, as one that learns.
	AddMaster(ctx context.Context, peer string) error
	// ChangeMasters makes learners voters, once they have caught up, and has members leave. 1, 3 or 5 must vote afterwards.
	// Members are named by their names; one that never started, by its URL.
	ChangeMasters(ctx context.Context, promote, remove []string) error
	// Defrag gives back what the journal's databases do not use, of one member at a time.
	Defrag(ctx context.Context) ([]Defragmented, error)
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

// Defragmented is the journal's database of one member that was rewritten without what it did not use.
type Defragmented struct {
	Member string `json:"member"`
	Before int64  `json:"before" doc:"Size of the database in bytes."`
	After  int64  `json:"after"`
	Ms     int64  `json:"ms" doc:"For which the member answered nothing, in milliseconds."`
	Error  string `json:"error,omitempty" doc:"Why it was not done."`
}

// HandoverRequest asks for a change of leader.
type HandoverRequest struct {
	To string `json:"to,omitempty" doc:"The master that is to lead; any other if left out."`
}

// NewMaster is a master that is to join.
type NewMaster struct {
	Peer string `json:"peer" doc:"URL on which the other masters' etcd members will reach it." example:"http://10.0.0.4:2380"`
}

// MastersChange is a change of who votes.
type MastersChange struct {
	Promote []string `json:"promote,omitempty" doc:"Learners that become voters; it is waited until they have caught up."`
	Remove  []string `json:"remove,omitempty" doc:"Members that leave for ever."`
}

func (s *Server) registerMasters() {
	const all = base + "/masters"
	huma.Register(s.api, clusterOperation("AddMaster", http.MethodPost, all, "Tell the cluster of a new master, which learns at first"), s.addMaster)
	huma.Register(s.api, clusterOperation("ChangeMasters", http.MethodPost, all+"/change", "Promote learners and remove masters; 1, 3 or 5 must vote afterwards"), s.changeMasters)
	huma.Register(s.api, clusterOperation("ListMasters", http.MethodGet, all, "List the masters"), s.listMasters)
	huma.Register(s.api, clusterOperation("Handover", http.MethodPost, all+"/handover", "Have another master lead"), s.handover)
	huma.Register(s.api, clusterOperation("Defrag", http.MethodPost, all+"/defrag", "Give back what the journal's databases do not use"), s.defrag)
}

func (s *Server) listMasters(ctx context.Context, _ *struct{}) (*body[List[Master]], error) {
	if s.o.Masters == nil {
		return nil, failed(ctx, absent("ListMasters"))
	}
	found, err := s.o.Masters.Masters(ctx)
	return listOf(ctx, found, err, itself)
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

func (s *Server) addMaster(ctx context.Context, in *body[NewMaster]) (*body[List[Master]], error) {
	if s.o.Masters == nil {
		return nil, failed(ctx, absent("AddMaster"))
	}
	if err := s.o.Masters.AddMaster(ctx, in.Body.Peer); err != nil {
		return nil, failed(ctx, err)
	}
	return s.listMasters(ctx, nil)
}

func (s *Server) changeMasters(ctx context.Context, in *body[MastersChange]) (*body[List[Master]], error) {
	if s.o.Masters == nil {
		return nil, failed(ctx, absent("ChangeMasters"))
	}
	limited, cancel := context.WithTimeout(ctx, operationLimit)
	defer cancel()
	if err := s.o.Masters.ChangeMasters(limited, in.Body.Promote, in.Body.Remove); err != nil {
		return nil, failed(ctx, err)
	}
	return s.listMasters(ctx, nil)
}

func (s *Server) defrag(ctx context.Context, _ *struct{}) (*body[List[Defragmented]], error) {
	if s.o.Masters == nil {
		return nil, failed(ctx, absent("Defrag"))
	}
	done, err := s.o.Masters.Defrag(ctx)
	return listOf(ctx, done, err, itself)
}

// operationLimit is how long a change of the masters may take that waits for no person.
const operationLimit = 30 * time.Second
