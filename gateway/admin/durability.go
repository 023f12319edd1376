package admin

import (
	"context"
	"time"

	"github.com/sluicefs/sluice/core"
)

// Durability says what the bytes of a file would survive.
type Durability struct {
	Path      string     `json:"path"`
	Durable   bool       `json:"durable" doc:"Its store has it."`
	State     string     `json:"state" enum:"STORED,PENDING,HELD,REFUSED" doc:"STORED: in the store. PENDING: workers hold it, and it is on its way there. HELD: workers hold it, and nothing else is to have it. REFUSED: workers hold it, and the store has something else under its name."`
	WriteType string     `json:"write_type,omitempty" doc:"How the write was acknowledged, unless the store has it."`
	Holders   []string   `json:"holders" nullable:"false" doc:"Workers that were given all of its bytes, unless the store has it."`
	Lost      []string   `json:"lost" nullable:"false" doc:"Those of them that cannot be reached now, or say that they have not the bytes."`
	Since     *time.Time `json:"since,omitempty" doc:"When the write was acknowledged, unless the store has it."`
	Why       string     `json:"why,omitempty" doc:"It was refused, or what the last try failed with."`
	ETag      string     `json:"etag" doc:"Of the version that this is about."`
	Size      int64      `json:"size"`
}

// durabilityEvery is how often a file is looked at that is waited for.
const durabilityEvery = 100 * time.Millisecond

func (s *Server) durability(ctx context.Context, in *struct {
	PathInput
	Wait string `query:"wait" doc:"Answer only once the file is not PENDING, or after this long." example:"30s"`
}) (*body[Durability], error) {
	if s.o.Persister == nil {
		return nil, failed(ctx, absent("GetDurability"))
	}
	p, err := parseFile(in.Path)
	if err != nil {
		return nil, failed(ctx, err)
	}
	wait, err := parseWait(in.Wait)
	if err != nil {
		return nil, failed(ctx, err)
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	for waited := wait == 0; ; {
		d, err := s.o.Persister.Durability(ctx, p)
		if err != nil {
			return nil, failed(ctx, err)
		}
		if waited || d.State != core.Pending {
			return &body[Durability]{renderDurability(in.Path, d)}, nil
		}
		select {
		case <-time.After(durabilityEvery):
		case <-over.C:
			waited = true
		case <-ctx.Done():
			return nil, failed(ctx, context.Cause(ctx))
		}
	}
}

func renderDurability(path string, d core.Durability) Durability {
	return Durability{
		Path: path, Durable: d.State == core.InStore, State: string(d.State), WriteType: string(d.Write),
		Holders: append([]string{}, d.Holders...), Lost: append([]string{}, d.Lost...), Since: known(d.Since), Why: d.Why,
		ETag: d.Info.ETag, Size: d.Info.Size,
	}
}
