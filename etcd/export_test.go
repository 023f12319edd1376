package etcd

import (
	"go.etcd.io/etcd/client/pkg/v3/types"
)

// Kill stops the member as a crash would as far as the others can tell: it hands nothing over. Close is still needed.
func (s *Server) Kill() {
	s.stopping.Store(true)
	for _, p := range s.etcd.Peers {
		p.Listener.Close() // first, as the others would wait for an answer from an address on which somebody listens
	}
	s.etcd.Server.HardStop()
}

// Cut drops everything between this member and the others, in both directions, until Mend.
func (s *Server) Cut() { s.eachPeer(s.etcd.Server.CutPeer) }

// Mend ends Cut.
func (s *Server) Mend() { s.eachPeer(s.etcd.Server.MendPeer) }

func (s *Server) eachPeer(do func(types.ID)) {
	for _, m := range s.etcd.Server.Cluster().Members() {
		if m.ID != s.etcd.Server.MemberID() {
			do(m.ID)
		}
	}
}

// What is tested by itself: decoders of stored values, and the judgement of versions.
var (
	DecodeMember = decodeMember
	DecodeNode   = decodeNode
	Outdated     = outdated
)
