package core

import "time"

// MissedRead is a read of a file that did not find all of what it was to read in the cache of a process.
type MissedRead struct {
	At       time.Time
	Off, Len int64 // in the file: what was read from elsewhere, up to where the cache had the rest, or another stream was asked
	Why      MissReason
	Since    time.Time // what the reason says happened before; zero if that is not known
	Other    bool      // it was of another version of the file than the one that is there now
}

// Misses is what a process remembers of the last read of a file that missed. It remembers a fixed number of them, those of other
// files among them.
type Misses struct {
	Last      *MissedRead // nil: none is remembered
	Forgotten bool        // there may be one that is not remembered any more, later than Last
	Since     time.Time   // when the process began
}

// WorkerMisses are those of one worker.
type WorkerMisses struct {
	Worker string
	Misses
	Err error // why it could not be asked; then it may know of a later one
}

// MissReason says why bytes were not in a cache. The values are part of the protocol between processes.
type MissReason string

// The reasons.
const (
	MissNotKept   MissReason = "NOT_KEPT"
	MissOnce      MissReason = "EVICTED_ONCE"
	MissCold      MissReason = "EVICTED_COLD"
	MissReclaimed MissReason = "EVICTED_RECLAIMED"
	MissExpired   MissReason = "EXPIRED"
	MissDamaged   MissReason = "DAMAGED"
	MissUnread    MissReason = "UNREADABLE"
	MissFreed     MissReason = "FREED"
	MissRefused   MissReason = "REFUSED"
	MissOff       MissReason = "OFF"
	MissVersion   MissReason = "OTHER_VERSION"
	MissNew       MissReason = "NEW"
	MissForgotten MissReason = "NOT_KNOWN"
	MissAtLeader  MissReason = "NO_WORKER"
)

// MissReasons returns all reasons.
func MissReasons() []MissReason {
	return []MissReason{MissNotKept, MissOnce, MissCold, MissReclaimed, MissExpired, MissDamaged, MissUnread, MissFreed, MissRefused,
		MissOff, MissVersion, MissNew, MissForgotten, MissAtLeader}
}

// String says it for people. Since, where it is known, is when.
func (r MissReason) String() string {
	switch r {
	case MissNotKept:
		return "the read was one that keeps nothing in the cache"
	case MissOnce:
		return "it was cached and evicted for want of room, hardly read since it came"
	case MissCold:
		return "it was cached and evicted for want of room, not read for the longest time"
	case MissReclaimed:
		return "it was cached and evicted for want of room, as it lay among pages whose room was needed for pages of another size"
	case MissExpired:
		return "it was cached and not read for the time after which pages expire"
	case MissDamaged:
		return "it was cached, found damaged by its checksum, and dropped"
	case MissUnread:
		return "it was cached, and its disk could not read it"
	case MissFreed:
		return "it was cached and dropped on demand, as by sluice cache free"
	case MissRefused:
		return "it was read before and not kept: the cache had no room for it, or takes no pages"
	case MissOff:
		return "a directory of the cache is turned off, as its disk failed, and what was in it is not read"
	case MissVersion:
		return "the file had changed: another version was read there before, and nothing is remembered of this one"
	case MissNew:
		return "nothing of this version was read or written there before, since the process began"
	case MissForgotten:
		return "it was not in the cache: it is not remembered whether it ever was"
	case MissAtLeader:
		return "the leader read it, for itself or because no worker served it; what the leader reads is not kept"
	default:
		return "a reason that only another release knows"
	}
}
