package core

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/sluicefs/sluice/core/errs"
)

// PathRules is the admin's side of the path rules: settings of data for parts of the tree, whatever is mounted where. A rule
// is of a name and of all below it, and is journaled. What a request asks for by itself comes first, then, for each setting by
// itself, the rule of the longest path that has it, then the mount. Only a superuser may use it: errs.Permission.
type PathRules interface {
	// PathRules returns all rules, by path.
	PathRules(ctx context.Context) ([]PathRule, error)
	// SetPathRule sets what p names, beside what the rule of the path has already, and makes the rule if there is none. Nothing
	// need be at the path. Errors: errs.Invalid, also if p names nothing; errs.NoSpace beyond MaxPathRules.
	SetPathRule(ctx context.Context, at Path, p Policies) (PathRule, error)
	// RemovePathRule takes the settings out of the rule of the path, or all of them if none is named; a rule without any is gone.
	// Errors: errs.NotExist if there is no such rule, or it has not all of them.
	RemovePathRule(ctx context.Context, at Path, settings ...Setting) error
	// PoliciesAt returns what applies to the path, every setting with where it comes from.
	PoliciesAt(ctx context.Context, p Path) ([]Policy, error)
}

// MaxPathRules is how many rules there may be.
const MaxPathRules = 10_000

// PathRule is what is set for a path and all below it.
type PathRule struct {
	Path Path // a directory's, whatever is there
	Policies
}

// Policies are settings of data. The zero value of each is one that is left open.
type Policies struct {
	WriteType    WriteType
	ReadType     ReadType
	Replicas     int            // workers that hold a file before its store has it; 1 to MaxReplicas
	PersistDelay *time.Duration // from there to the store; not negative
	// ReplicationMin and ReplicationMax say how many workers keep a copy of what is cached, see Copies: 0 to MaxCopies, and 1 to
	// MaxCopies or AllWorkers. Of the two that apply to a file, ReplicationMin counts if it is greater.
	ReplicationMin *int
	ReplicationMax int
	RenameThrough  *time.Duration // how long a rename waits for a store that copies; 0: until it is done; not negative
	SyncInterval   *time.Duration // how old facts about the store may be; negative: of any age; 0: it is asked at each access
	LoadType       LoadType       // whether the store is asked for what is not known, where SyncInterval is negative
}

// Copies says how many workers keep a block of cached bytes, in the version that is current. The zero value is as if Max were 1.
type Copies struct {
	// Min workers, in distinct failure domains, keep it whether it is read or not: they load it, and evict it only once that is taken
	// back. 0: it stays for as long as there is room for it.
	Min int
	// Max is over how many workers readers spread that read it much. What the others of them have is evicted like anything
	// else. AllWorkers: over all that there are.
	Max int
}

// MaxCopies is the greatest number of copies that can be named, and AllWorkers what stands for as many as there are workers.
const (
	MaxCopies  = 16
	AllWorkers = -1
)

// Copies returns what p says of copies. What it leaves open is no minimum and one copy.
func (p *Policies) Copies() Copies {
	c := Copies{Max: max(p.ReplicationMax, 1)}
	if p.ReplicationMin != nil {
		c.Min = *p.ReplicationMin
	}
	if c.Max = max(c.Max, c.Min); p.ReplicationMax == AllWorkers {
		c.Max = AllWorkers
	}
	return c
}

// CheckCopies returns errs.Invalid unless ReplicationMin and ReplicationMax are as Policies wants them, and the one at most the
// other. op names who asks.
func (p *Policies) CheckCopies(op string) error {
	low, high := p.ReplicationMin, p.ReplicationMax
	switch {
	case low != nil && (*low < 0 || *low > MaxCopies):
		return errs.New(op, strconv.Itoa(*low), errs.Invalid, "replication_min is 0 to "+strconv.Itoa(MaxCopies))
	case high != AllWorkers && (high < 0 || high > MaxCopies):
		return errs.New(op, strconv.Itoa(high), errs.Invalid, "replication_max is 1 to "+strconv.Itoa(MaxCopies)+", or -1 for all workers")
	case low != nil && high > 0 && *low > high:
		return errs.New(op, strconv.Itoa(*low), errs.Invalid, "replication_min is at most replication_max, which is "+strconv.Itoa(high))
	}
	return nil
}

// Setting names one of the Policies.
type Setting string

// The settings, by the names that operators write.
const (
	SetWriteType     Setting = "write_type"
	SetReadType      Setting = "read_type"
	SetReplicas      Setting = "replicas"
	SetPersistDelay  Setting = "persist_delay"
	SetCopiesMin     Setting = "replication_min"
	SetCopiesMax     Setting = "replication_max"
	SetRenameThrough Setting = "rename_through_timeout"
	SetSyncInterval  Setting = "sync_interval"
	SetLoadType      Setting = "load_type"
)

// Settings returns all of them, in the order in which they are shown.
func Settings() []Setting {
	return []Setting{SetWriteType, SetReadType, SetReplicas, SetPersistDelay, SetCopiesMin, SetCopiesMax, SetRenameThrough, SetSyncInterval, SetLoadType}
}

// Known reports whether s is one of the settings.
func (s Setting) Known() bool { return slices.Contains(Settings(), s) }

// Has reports whether p names the setting.
func (p *Policies) Has(s Setting) bool {
	switch s {
	case SetWriteType:
		return p.WriteType != ""
	case SetReadType:
		return p.ReadType != ""
	case SetReplicas:
		return p.Replicas != 0
	case SetPersistDelay:
		return p.PersistDelay != nil
	case SetCopiesMin:
		return p.ReplicationMin != nil
	case SetCopiesMax:
		return p.ReplicationMax != 0
	case SetRenameThrough:
		return p.RenameThrough != nil
	case SetSyncInterval:
		return p.SyncInterval != nil
	case SetLoadType:
		return p.LoadType != ""
	}
	return false
}

// Take sets the setting to what it is in q.
func (p *Policies) Take(s Setting, q *Policies) {
	switch s {
	case SetWriteType:
		p.WriteType = q.WriteType
	case SetReadType:
		p.ReadType = q.ReadType
	case SetReplicas:
		p.Replicas = q.Replicas
	case SetRenameThrough:
		p.RenameThrough = q.RenameThrough
	case SetSyncInterval:
		p.SyncInterval = q.SyncInterval
	case SetLoadType:
		p.LoadType = q.LoadType
	case SetPersistDelay:
		p.PersistDelay = q.PersistDelay
	case SetCopiesMin:
		p.ReplicationMin = q.ReplicationMin
	case SetCopiesMax:
		p.ReplicationMax = q.ReplicationMax
	}
}

// Over returns what p names, and of what it leaves open what q says.
func (p Policies) Over(q *Policies) Policies {
	for _, s := range Settings() {
		if !p.Has(s) {
			p.Take(s, q)
		}
	}
	return p
}

// Policy is a setting as it applies to a path.
type Policy struct {
	Setting Setting
	Value   Policies // of which that setting alone counts
	Origin  PolicyOrigin
	Path    Path // of the rule or the mount; the zero Path of a default
}

// PolicyOrigin says where a setting comes from.
type PolicyOrigin string

// The origins of policies.
const (
	FromRule    PolicyOrigin = "rule"
	FromMount   PolicyOrigin = "mount"   // its own, or what the configuration gives mounts that leave it open
	FromDefault PolicyOrigin = "default" // the mount leaves it open
)
