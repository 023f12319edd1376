package conformance

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// What the histories of concurrent clients are held to: one tree of a few files, on which every operation of either
// protocol happens at one instant between its request and its answer.
//
// The model knows files and what they hold. Whether a directory without files exists is left open: S3 makes and drops
// directories as keys come and go, WebHDFS does not. So a refusal that may be due to such a directory proves nothing.

// The names of a tree: every directory may hold every file. A third directory leaves a rename of one of two others a
// place to go to.
var (
	linearDirs  = [...]string{"a", "b", "c"}
	linearFiles = [...]string{"x", "y", "z"}
)

// value tells the contents of one history apart: no two writes have the same. 0 is no file.
type value int32

// foreign is a content that nobody wrote, or not as it was written. No model explains it.
const foreign value = -1

// tree is the state of the model: what each file of each directory holds.
type tree [len(linearDirs)][len(linearFiles)]value

func (s tree) String() string {
	var b strings.Builder
	for d := range s {
		for f, v := range s[d] {
			if v != 0 {
				fmt.Fprintf(&b, "%s/%s=%d ", linearDirs[d], linearFiles[f], v)
			}
		}
	}
	return "{" + strings.TrimSpace(b.String()) + "}"
}

// spot is a file of a tree.
type spot struct{ Dir, File int }

func (p spot) String() string { return linearDirs[p.Dir] + "/" + linearFiles[p.File] }

// action is what an operation does, over whichever protocol.
type action string

const (
	put       action = "put"       // S3 PUT, WebHDFS CREATE with overwrite
	create    action = "create"    // S3 PUT with If-None-Match: *, WebHDFS CREATE without overwrite
	replace   action = "replace"   // S3 PUT with If-Match
	get       action = "get"       // S3 GET, WebHDFS OPEN
	head      action = "head"      // S3 HEAD: the content by its ETag
	remove    action = "delete"    // S3 DELETE, which does not tell whether there was something; WebHDFS DELETE does
	rename    action = "rename"    // WebHDFS RENAME of a file
	renameDir action = "renamedir" // WebHDFS RENAME of a directory
	removeDir action = "deletedir" // WebHDFS DELETE of a directory with all that is in it
	list      action = "list"      // S3 ListObjectsV2 of the whole tree: every file with its content by its ETag
	listDir   action = "listdir"   // WebHDFS LISTSTATUS of a directory: its names
	one       action = "name"      // one name of a listing
)

func (a action) reads() bool { return slices.Contains([]action{get, head, list, listDir}, a) }

// reply is what came back.
type reply string

const (
	done    reply = "done"
	missing reply = "missing" // there is no such thing, or no directory for it
	exists  reply = "exists"  // what must not be there is
	changed reply = "changed" // what must be as expected is not
	refused reply = "refused" // for a reason that lies outside the model, and without effect
	unknown reply = "unknown" // no answer, or one that leaves open what happened
)

// input is what a client asked for.
type input struct {
	Do     action
	At     spot
	To     spot   `json:",omitzero"` // of a rename
	Put    value  `json:",omitzero"` // what is written
	Expect value  `json:",omitzero"` // what replace replaces
	By     string // protocol and endpoint, for people
}

// output is what it got.
type output struct {
	Answer    reply
	Got       value  `json:",omitzero"` // what get and head read
	List      tree   `json:",omitzero"` // what list and listDir saw
	NamesOnly bool   `json:",omitzero"` // List has 1 for every name, whatever it holds
	Told      bool   `json:",omitzero"` // delete says that there was a file
	Note      string `json:",omitzero"` // for people
}

// operation is one request of a history. Times are nanoseconds since the history began; Return is when the answer came, or
// the client gave up.
type operation struct {
	Client       int
	Input        input
	Output       output
	Call, Return int64
}

// step is the model: the state after in was answered with out, and whether that can be.
func (s tree) step(in input, out output) (bool, tree) {
	if out.Answer == refused {
		return true, s
	}
	here := &s[in.At.Dir][in.At.File]
	switch in.Do {
	case put:
		if out.Answer == missing { // its directory was dropped as it was made
			return true, s
		}
		*here = in.Put
		return out.Answer == done || out.Answer == unknown, s
	case create, replace:
		return s.stepIf(in, out)
	case get, head:
		return out.Answer == done && *here == out.Got && *here > 0 || out.Answer == missing && *here == 0, s
	case remove:
		ok := out.Answer == done && (!out.Told || *here != 0) || out.Answer == missing && *here == 0 || out.Answer == unknown
		*here = 0
		return ok, s
	case removeDir:
		empty := tree{}[0]
		ok := out.Answer != missing || s[in.At.Dir] == empty
		s[in.At.Dir] = empty
		return ok, s
	case rename:
		return s.stepRename(in, out)
	case renameDir:
		return s.stepRenameDir(in, out)
	case list:
		return out.Answer == done && s == out.List, s
	case one: // listDir tells the names alone
		seen := out.List[in.At.Dir][in.At.File]
		return seen == *here || out.NamesOnly && seen == 1 && *here > 0, s
	case listDir:
		names := s.names(in.At.Dir)
		return out.Answer == done && names == out.List || out.Answer == missing && names == tree{}, s
	}
	return false, s
}

// stepIf is a write with a condition.
func (s tree) stepIf(in input, out output) (bool, tree) {
	here := &s[in.At.Dir][in.At.File]
	holds := *here == in.Expect // of create: 0
	switch out.Answer {
	case exists:
		return in.Do == create && !holds, s
	case changed:
		return in.Do == replace && !holds, s
	case missing: // of create: its directory was dropped as it was made
		return in.Do == create || *here == 0, s
	case done, unknown:
		if holds {
			*here = in.Put
		}
		return holds || out.Answer == unknown, s
	}
	return false, s
}

// stepRename moves a file to where none is.
func (s tree) stepRename(in input, out output) (bool, tree) {
	from, to := &s[in.At.Dir][in.At.File], &s[in.To.Dir][in.To.File]
	possible := *from != 0 && *to == 0
	switch out.Answer {
	case missing:
		return *from == 0 || s[in.To.Dir] == tree{}[0], s
	case exists:
		return *to != 0, s
	case done, unknown:
		if possible {
			*to, *from = *from, 0
		}
		return possible || out.Answer == unknown, s
	}
	return false, s
}

// stepRenameDir moves a directory with all files to where none is.
func (s tree) stepRenameDir(in input, out output) (bool, tree) {
	none := tree{}[0]
	from, to := &s[in.At.Dir], &s[in.To.Dir]
	switch out.Answer {
	case missing:
		return *from == none, s
	case exists:
		return true, s // there may be a directory without files
	case done, unknown:
		possible := *to == none
		if possible {
			*to, *from = *from, none
		}
		return possible || out.Answer == unknown, s
	}
	return false, s
}

// names returns the names of a directory as listDir sees them.
func (s tree) names(dir int) (seen tree) {
	for f, v := range s[dir] {
		if v != 0 {
			seen[dir][f] = 1
		}
	}
	return seen
}

// linearModel is the model in the checker's words.
func linearModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return tree{} },
		Step: func(state, in, out any) (bool, any) { return state.(tree).step(in.(input), out.(output)) },
		Hash: func(state any) uint64 {
			h := uint64(14695981039346656037) // FNV-1a over the values
			for _, dir := range state.(tree) {
				for _, v := range dir {
					h = (h ^ uint64(uint32(v))) * 1099511628211
				}
			}
			return h
		},
		DescribeOperation:         func(in, out any) string { return describe(in.(input), out.(output)) },
		DescribeState:             func(state any) string { return state.(tree).String() },
		DescribeOperationMetadata: func(by any) string { return fmt.Sprint(by) },
	}
}

func describe(in input, out output) string {
	s := fmt.Sprintf("%s %s", in.Do, in.At)
	switch in.Do {
	case put, create:
		s = fmt.Sprintf("%s = %d", s, in.Put)
	case replace:
		s = fmt.Sprintf("%s = %d if %d", s, in.Put, in.Expect)
	case rename:
		s = fmt.Sprintf("%s to %s", s, in.To)
	case renameDir:
		s = fmt.Sprintf("%s %s to %s", in.Do, linearDirs[in.At.Dir], linearDirs[in.To.Dir])
	case one:
		s = fmt.Sprintf("%s %s", s, out.List)
	case list:
		s = "list"
	case listDir, removeDir:
		s = fmt.Sprintf("%s %s", in.Do, linearDirs[in.At.Dir])
	}
	switch {
	case out.Answer != done:
		s += " → " + string(out.Answer)
	case in.Do == get || in.Do == head:
		s = fmt.Sprintf("%s → %d", s, out.Got)
	case in.Do == list || in.Do == listDir:
		s = fmt.Sprintf("%s → %s", s, out.List)
	case out.Told:
		s += " → true"
	}
	if out.Note != "" {
		s += " (" + out.Note + ")"
	}
	return s
}

// listings says what a listing is held to: that it saw all names at one instant, or each at an instant of its own.
type listings bool

const (
	whole     listings = true
	nameByOne listings = false
)

// judge checks a history, at most for limit.
func judge(history []operation, l listings, limit time.Duration) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	return porcupine.CheckOperationsVerbose(linearModel(), checkable(history, l), limit)
}

// checkable puts a history into the checker's words. A change without an answer may happen until the end of it, which is
// as good as never; a read without one says nothing.
func checkable(history []operation, l listings) []porcupine.Operation {
	last, next := int64(0), 0
	for _, o := range history {
		last, next = max(last, o.Return), max(next, o.Client+1)
	}
	ops := make([]porcupine.Operation, 0, len(history))
	for _, o := range history {
		p := porcupine.Operation{ClientId: o.Client, Input: o.Input, Call: o.Call, Output: o.Output, Return: o.Return, Metadata: o.Input.By}
		switch {
		case o.Output.Answer == unknown && o.Input.Do.reads():
		case o.Output.Answer == unknown: // its client goes on, as somebody else
			p.ClientId, p.Return = next, last+1
			next++
			ops = append(ops, p)
		case l == nameByOne && o.lists():
			for _, one := range o.names() {
				p.Input = one
				ops = append(ops, p)
			}
		default:
			ops = append(ops, p)
		}
	}
	return ops
}

// names takes a listing apart: into one for each name that it speaks of.
func (o operation) names() (all []input) {
	for d := range linearDirs {
		for f := range linearFiles {
			if o.Input.Do == list || d == o.Input.At.Dir {
				all = append(all, input{Do: one, At: spot{d, f}, By: o.Input.By})
			}
		}
	}
	return all
}

// reduce returns a smaller history that is still illegal: the shortest beginning of it that is, less the reads that do not
// matter. Every change stays, for a read may have seen what it did.
func reduce(history []operation, l listings, limit time.Duration) []operation {
	deadline := time.Now().Add(limit)
	illegal := func(h []operation) bool {
		return porcupine.CheckOperationsTimeout(linearModel(), checkable(h, l), max(time.Until(deadline), time.Millisecond)) == porcupine.Illegal
	}
	ends := []int64{}
	for _, o := range history {
		ends = append(ends, o.Return)
	}
	slices.Sort(ends)
	i := sort.Search(len(ends), func(i int) bool { return illegal(until(history, ends[i])) })
	if i == len(ends) {
		return history
	}
	small := until(history, ends[i])
	for i := len(small) - 1; i >= 0 && time.Now().Before(deadline); i-- {
		if !small[i].Input.Do.reads() && small[i].Output.Answer != refused {
			continue
		}
		if less := slices.Delete(slices.Clone(small), i, i+1); illegal(less) {
			small = less
		}
	}
	return small
}

// until returns what was known of a history at a time.
func until(history []operation, at int64) []operation {
	var known []operation
	for _, o := range history {
		if o.Call > at {
			continue
		}
		if o.Return > at {
			o.Output, o.Return = output{Answer: unknown}, at
		}
		known = append(known, o)
	}
	return known
}

// linearCheck is how long one check may take.
const linearCheck = 20 * time.Second

// explain returns an error, with where to find the pictures, unless one order of all operations explains the history.
//
// Listings are held to less. The server walks a listing in steps: where it waits for a change under way or asks a store,
// it goes on from the name it had come to, and a rename meanwhile shows with both names or with neither. So a listing that
// no instant explains is let pass, and returned, if the shortest beginning of the history that it makes illegal is
// explained by an instant for each of its names.
func explain(name string, history []operation) (torn []operation, err error) {
	rest := history
	for {
		result, info := judge(rest, whole, linearCheck)
		switch result {
		case porcupine.Ok:
			return torn, nil
		case porcupine.Unknown:
			return torn, report(name, history, nil, result, info)
		}
		small := reduce(rest, whole, linearCheck)
		less := slices.DeleteFunc(slices.Clone(rest), func(o operation) bool {
			if !o.lists() || !slices.Contains(small, o) {
				return false
			}
			torn = append(torn, o)
			return true
		})
		if loose, _ := judge(small, nameByOne, linearCheck); loose != porcupine.Ok || len(less) == len(rest) {
			return torn, report(name, history, small, result, info)
		}
		rest = less
	}
}

// lists reports whether the operation is an answered listing.
func (o operation) lists() bool {
	return o.Output.Answer == done && (o.Input.Do == list || o.Input.Do == listDir)
}

// report writes an unexplained history to a directory of its own, which stays: as JSON and as a picture, and so the
// operations of small that cannot be explained together, if any. It returns the error that says so.
func report(name string, history, small []operation, result porcupine.CheckResult, info porcupine.LinearizationInfo) error {
	dir, err := os.MkdirTemp("", "sluice-linear-")
	if err != nil {
		return err
	}
	slices.SortFunc(history, func(a, b operation) int { return cmp.Compare(a.Call, b.Call) })
	if err := writeHistory(filepath.Join(dir, "history"), history, info); err != nil {
		return err
	}
	text := fmt.Sprintf("%s: %s: %d operations, in %s", name, result, len(history), dir)
	if len(small) == 0 {
		return errors.New(text)
	}
	_, info = judge(small, whole, linearCheck)
	if err := writeHistory(filepath.Join(dir, "reduced"), small, info); err != nil {
		return err
	}
	const most = 40
	if len(small) > most {
		text += fmt.Sprintf("\nthe last %d of %d operations that are illegal together:", most, len(small))
		small = small[len(small)-most:]
	}
	for _, o := range small {
		text += "\n  " + o.String()
	}
	return errors.New(text)
}

func (o operation) String() string {
	at := func(ns int64) string { return fmt.Sprintf("%.3f", float64(ns)/1e6) }
	to := "never"
	if o.Output.Answer != unknown {
		to = at(o.Return)
	}
	return fmt.Sprintf("%s to %s ms, client %d, %s: %s", at(o.Call), to, o.Client, o.Input.By, describe(o.Input, o.Output))
}

// writeHistory writes a history to file.json, and the picture of its check to file.html.
func writeHistory(file string, history []operation, info porcupine.LinearizationInfo) error {
	b, err := json.MarshalIndent(history, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".json", b, 0o644); err != nil {
		return err
	}
	return porcupine.VisualizePath(linearModel(), info, file+".html")
}

// struck reports whether a change that went by what a fault struck was in flight in a history then: sent before, and answered after or
// never.
func struck(history []operation, at int64, by func(client int) bool) bool {
	return slices.ContainsFunc(history, func(o operation) bool {
		return !o.Input.Do.reads() && o.Call <= at && o.Return >= at && by(o.Client)
	})
}
