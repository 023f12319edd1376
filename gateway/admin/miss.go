package admin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluicefs/sluice/core"
)

// LastMiss is the last read of a file that did not find all of it in a cache, as far as processes remember.
type LastMiss struct {
	At     time.Time  `json:"at"`
	Offset int64      `json:"offset" doc:"In the file: where what was not there began."`
	Length int64      `json:"length" doc:"Bytes that were read from elsewhere, up to where the cache had the rest or another stream was opened."`
	Kind   string     `json:"kind" doc:"The reason, for programs." example:"EVICTED_COLD"`
	Since  *time.Time `json:"since,omitempty" doc:"When the bytes were evicted, dropped or refused; of OTHER_VERSION, when the other version was read."`
	Reason string     `json:"reason"`
	Worker string     `json:"worker" doc:"Where; of NO_WORKER, the leader."`
}

// missed adds why the last read of the file missed.
func (s *Server) missed(ctx context.Context, x *core.Explanation, out *Explanation) {
	switch {
	case x.State != core.NamePresent || x.Info.Dir:
		return
	case s.o.Caches == nil:
		out.Unmissed = "this process has no caches to ask"
		return
	case x.Durability != nil && x.Durability.State != core.InStore:
		out.Unmissed = "no store has the file's bytes yet; it is read from the workers that hold them"
		return
	case x.Info.Size == 0:
		out.Unmissed = "the file is empty: there is nothing to read"
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, countTime, errUncounted)
	defer cancel()
	ctx = core.WithMaxAge(ctx, core.MaxAge{Set: true, Seconds: -1, OnlyIfCached: true})
	all, err := s.o.Caches.LastMiss(ctx, x.Path)
	if err != nil {
		out.Unmissed = "not known: " + err.Error()
		return
	}
	last, doubt := latest(all)
	if out.Unmissed = doubt; last != nil {
		m := last.Last
		out.LastMiss = &LastMiss{At: m.At.UTC(), Offset: m.Off, Length: m.Len, Kind: string(m.Why), Since: known(m.Since), Reason: whyMissed(m, x.Policies), Worker: last.Worker}
	}
}

// latest returns the last miss of all, nil if none is remembered, and in words why there is none, or may be a later one.
func latest(all []core.WorkerMisses) (last *core.WorkerMisses, doubt string) {
	var silent, full []string
	var since time.Time
	for i := range all {
		w := &all[i]
		switch {
		case w.Err != nil:
			silent = append(silent, fmt.Sprintf("%s did not say (%v)", w.Worker, w.Err))
			continue
		case w.Forgotten:
			full = append(full, w.Worker)
		case w.Last != nil && (last == nil || w.Last.At.After(last.Last.At)):
			last = w
		}
		if w.Since.After(since) {
			since = w.Since
		}
	}
	doubts := silent
	if len(full) > 0 {
		doubts = append(doubts, strings.Join(full, ", ")+" may have forgotten one: of so many files none is remembered")
	}
	doubt = strings.Join(doubts, "; ")
	switch {
	case last != nil && doubt != "":
		return last, "there may be a later one: " + doubt
	case len(all) == 0:
		return nil, "not known: there is no process to ask"
	case doubt != "":
		return nil, "not known: " + doubt
	case last == nil:
		return nil, "no read of this name has missed since " + since.UTC().Format(time.RFC3339) + ", when the last of the processes that were asked began"
	}
	return last, ""
}

// whyMissed says for people why the read missed. The policies are those of the file now.
func whyMissed(m *core.MissedRead, policies []core.Policy) string {
	text := m.Why.String()
	if m.Why == core.MissNotKept {
		why := "; it said so itself (X-Sluice-Read-Type), the read_type was NO_CACHE then, or the version was too young to be told from the next one"
		for _, p := range renderPolicies(policies) {
			if p.Setting == string(core.SetReadType) && p.Value == string(core.NoCache) {
				why = ": read_type is NO_CACHE (" + strings.TrimRight(p.Origin+" "+p.Path, " ") + ")"
			}
		}
		text += why
	}
	if !m.Since.IsZero() {
		text += " (" + m.Since.UTC().Format(time.RFC3339) + ")"
	}
	if m.Other {
		text += "; that was another version than the one that is there now"
	}
	return text
}
