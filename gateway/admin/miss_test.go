package admin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluicefs/sluice/core"
)

// missing is a core.CacheCare whose workers remember what the function says.
type missing func() ([]core.WorkerMisses, error)

func (missing) Residency(context.Context, core.Path, bool) (core.Residency, error) {
	return core.Residency{}, nil
}
func (missing) Where(context.Context, core.Path, int) ([]core.Stretch, error)      { return nil, nil }
func (missing) Pins(context.Context) ([]core.Pin, error)                           { return nil, nil }
func (m missing) LastMiss(context.Context, core.Path) ([]core.WorkerMisses, error) { return m() }

// TestExplainMisses says of files why the last read missed, or why that is not told.
func TestExplainMisses(t *testing.T) {
	at := time.Unix(1_800_000_000, 0).UTC()
	miss := func(worker string, after time.Duration, why core.MissReason) core.WorkerMisses {
		m := &core.MissedRead{At: at.Add(after), Off: 3, Len: 4, Why: why}
		return core.WorkerMisses{Worker: worker, Misses: core.Misses{Since: at.Add(-time.Hour), Last: m}}
	}
	none := core.WorkerMisses{Worker: "w0", Misses: core.Misses{Since: at.Add(-time.Minute)}}
	full := core.WorkerMisses{Worker: "w8", Misses: core.Misses{Since: at, Forgotten: true}}
	silent := core.WorkerMisses{Worker: "w9", Err: errors.New("it is silent")}
	long := miss("w1", 0, core.MissCold)
	long.Last.Since, long.Last.Other = at.Add(-time.Second), true
	present := core.Explanation{Path: core.Root, State: core.NamePresent, Info: &core.Info{Size: 1}, Durability: &core.Durability{State: core.InStore}}
	with := func(change func(x *core.Explanation)) core.Explanation {
		x := present
		change(&x)
		return x
	}
	for _, k := range []struct {
		name          string
		x             core.Explanation
		all           []core.WorkerMisses
		err           error
		at            string // worker and kind
		reason, doubt string // what they say
	}{
		{"the last of all", present, []core.WorkerMisses{none, miss("w1", 0, core.MissNew), miss("w2", 1, core.MissFreed), miss("w3", -1, core.MissNew)}, nil,
			"w2 FREED", "dropped on demand", ""},
		{"since when", present, []core.WorkerMisses{long}, nil, "w1 EVICTED_COLD", "(2027-01-15T07:59:59Z); that was another version", ""},
		{"none", present, []core.WorkerMisses{none, none}, nil, "", "", "no read of this name has missed since 2027-01-15T07:59:00Z"},
		{"none, and one is silent", present, []core.WorkerMisses{none, silent}, nil, "", "", "not known: w9 did not say (it is silent)"},
		{"one, and others may have a later one", present, []core.WorkerMisses{silent, long, full}, nil, "w1 EVICTED_COLD", "", "there may be a later one: w9 did not say (it is silent); w8 may have forgotten one"},
		{"forgotten", present, []core.WorkerMisses{full, none}, nil, "", "", "not known: w8 may have forgotten one"},
		{"nobody", present, nil, nil, "", "", "not known: "},
		{"an error", present, nil, errors.New("no such thing"), "", "", "not known: no such thing"},
		{"a directory", with(func(x *core.Explanation) { x.Info = &core.Info{Dir: true} }), []core.WorkerMisses{long}, nil, "", "", ""},
		{"what is not there", with(func(x *core.Explanation) { x.State = core.NameAbsent }), []core.WorkerMisses{long}, nil, "", "", ""},
		{"an empty file", with(func(x *core.Explanation) { x.Info = &core.Info{} }), []core.WorkerMisses{long}, nil, "", "", "the file is empty"},
		{"what no store has", with(func(x *core.Explanation) { x.Durability = &core.Durability{State: core.OnlyHeld} }), []core.WorkerMisses{long}, nil, "", "", "no store has"},
		{"what is not kept by a rule", with(func(x *core.Explanation) {
			x.Policies = []core.Policy{{Setting: core.SetReadType, Value: core.Policies{ReadType: core.NoCache}, Origin: core.FromRule, Path: core.Root}}
		}), []core.WorkerMisses{miss("w1", 0, core.MissNotKept)}, nil, "w1 NOT_KEPT", "read_type is NO_CACHE (rule ", ""},
		{"what is not kept else", present, []core.WorkerMisses{miss("w1", 0, core.MissNotKept)}, nil, "w1 NOT_KEPT", "X-Sluice-Read-Type", ""},
	} {
		s := &Server{o: Options{Caches: missing(func() ([]core.WorkerMisses, error) { return k.all, k.err })}}
		var out Explanation
		s.missed(t.Context(), &k.x, &out)
		at, reason := "", ""
		if m := out.LastMiss; m != nil {
			at, reason = m.Worker+" "+m.Kind, m.Reason
		}
		if at != k.at || !strings.Contains(reason, k.reason) || !strings.HasPrefix(out.Unmissed, k.doubt) || (k.doubt == "") != (out.Unmissed == "") {
			t.Errorf("%s: %s, %q, %q", k.name, at, reason, out.Unmissed)
		}
	}
}

// TestEveryReasonIsSaid has people be told each reason in words of its own.
func TestEveryReasonIsSaid(t *testing.T) {
	said := map[string]core.MissReason{core.MissReason("of tomorrow").String(): ""}
	for _, r := range core.MissReasons() {
		if other, twice := said[r.String()]; twice {
			t.Errorf("%s is said as %q is: %s", r, other, r)
		}
		said[r.String()] = r
	}
}
