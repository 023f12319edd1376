package remote

import (
	"context"
	"time"

	"github.com/sluicefs/sluice/core"
)

// method is a call's number on the wire. Numbers are never used again for something else.
type method byte

const (
	methodEcho method = iota // answers with its argument: what a call costs by itself
	methodStat
	methodList
	methodPut
	methodCompose
	methodCopy
	methodMkdir
	methodRename
	methodRemove
	methodSetAttr
	methodCheckName
	methodCheckAccess
	methodCreateUpload
	methodPutPart
	methodCopyPart
	methodCompleteUpload
	methodAbortUpload
	methodListUploads
	methodListParts
	methodLocate
	methodFileChecksum
	methodSummarize
	methodMounts
	methodMount
	methodUpdateMount
	methodUnmount
	methodSecret
	methodUser
	methodOutcome // the answer of a change whose stream broke; made void if it has not arrived
	methodPlace
	methodStores
	methodAliases
	methodTicketSecret
	methodFollow
	methods
)

// repeat says what may be done with a call whose answer did not come.
type repeat byte

const (
	read       repeat = iota // changes nothing: asked again
	repeatable               // a change that does the same if made twice: asked again, of another epoch too
	once                     // a change that is asked again only where its answer would be remembered
)

// describe gives each method its name in errors, and what may be repeated.
var describe = [methods]struct {
	name   string
	repeat repeat
}{
	methodEcho: {"Echo", read}, methodStat: {"Stat", read}, methodList: {"List", read}, methodPut: {"Create", once},
	methodCompose: {"Compose", once}, methodCopy: {"Copy", once}, methodMkdir: {"Mkdir", once}, methodRename: {"Rename", once},
	methodRemove: {"Remove", once}, methodSetAttr: {"SetAttr", repeatable}, methodCheckName: {"CheckName", read},
	methodCheckAccess: {"CheckAccess", read}, methodCreateUpload: {"CreateUpload", once}, methodPutPart: {"PutPart", once},
	methodCopyPart: {"CopyPart", repeatable}, methodCompleteUpload: {"CompleteUpload", repeatable},
	methodAbortUpload: {"AbortUpload", once}, methodListUploads: {"ListUploads", read}, methodListParts: {"ListParts", read},
	methodLocate: {"Locate", read}, methodFileChecksum: {"FileChecksum", read}, methodSummarize: {"Summarize", read},
	methodMounts: {"Mounts", read}, methodMount: {"Mount", once}, methodUpdateMount: {"UpdateMount", repeatable},
	methodUnmount: {"Unmount", once}, methodSecret: {"Secret", read}, methodUser: {"User", read}, methodOutcome: {"Commit", once},
	methodPlace: {"Open", read}, methodStores: {"Stores", read}, methodAliases: {"BucketAliases", read},
	methodTicketSecret: {"TicketSecret", read}, methodFollow: {"Follow", read},
}

// header is what travels with each call beside its arguments.
type header struct {
	left      int64 // of the deadline, microseconds; 0: none
	age       core.MaxAge
	reads     core.ReadType
	request   string
	principal string // coded, so that a server need not decode the same one for each call
	sequence  uint64 // of a change, else 0
	below     uint64 // acknowledged, of a change
}

// set takes over what ctx says.
func (h *header) set(ctx context.Context) {
	h.age, h.reads, h.request = core.MaxAgeOf(ctx), core.ReadTypeOf(ctx), core.RequestID(ctx)
	h.setDeadline(ctx)
}

// setDeadline takes over ctx's deadline as the time that is left. A deadline that has passed is sent as the shortest.
func (h *header) setDeadline(ctx context.Context) {
	h.left = 0
	if at, ok := ctx.Deadline(); ok {
		h.left = max(1, time.Until(at).Microseconds())
	}
}

func (c *coder) header(h *header) {
	deadline, age, request, change, reads := h.left > 0, h.age.Set, h.request != "", h.sequence > 0, h.reads != ""
	c.flags(&deadline, &age, &h.age.OnlyIfCached, &request, &change, &reads)
	if deadline {
		c.varint(&h.left)
	}
	if h.age.Set = age; age {
		c.varint(&h.age.Seconds)
	}
	if request {
		text(c, &h.request)
	}
	c.raw(&h.principal)
	if change {
		c.uvarint(&h.sequence)
		c.uvarint(&h.below)
	}
	if reads {
		text(c, &h.reads)
	}
	if c.reading && (deadline && h.left <= 0 || change && h.sequence == 0 || reads && !h.reads.Known()) {
		c.fail("a header with a value that it says is there and is not")
	}
}

// encodePrincipal returns p as a header has it.
func encodePrincipal(p core.Principal) string {
	var c coder
	c.principal(&p)
	return string(c.b)
}

// The arguments of calls that have more than one, for both sides.

func (c *coder) listArgs(dir *core.Path, o *core.ListOptions) {
	c.path(dir)
	c.listOptions(o)
}

func (c *coder) pathRange(p *core.Path, r *core.Range) {
	c.path(p)
	c.byteRange(r)
}

func (c *coder) composeArgs(dst *core.Path, parts *[]core.Path) {
	c.path(dst)
	list(c, parts, (*coder).path)
}

func (c *coder) copyArgs(src, dst *core.Path, o *core.CopyOptions) {
	c.path(src)
	c.path(dst)
	c.copyOptions(o)
}

func (c *coder) renameArgs(src, dst *core.Path, o *core.RenameOptions) {
	c.flags(&o.Overwrite)
	c.path(src)
	c.path(dst)
}

func (c *coder) uploadArgs(p *core.Path, id *string) {
	c.path(p)
	text(c, id)
}

func (c *coder) copyPartArgs(p *core.Path, id *string, number *int, src *core.Path, r *core.Range) {
	c.uploadArgs(p, id)
	c.int(number)
	c.pathRange(src, r)
}

func (c *coder) completeArgs(p *core.Path, id *string, parts *[]core.Part, o *core.CompleteOptions) {
	c.uploadArgs(p, id)
	list(c, parts, (*coder).part)
	c.completeOptions(o)
}

func (c *coder) listUploadsArgs(dir *core.Path, prefix, key, id *string) {
	c.path(dir)
	text(c, prefix)
	text(c, key)
	text(c, id)
}

// target is what a writer writes: a file or a part of an upload.
type target struct {
	path   core.Path
	file   core.CreateOptions // of a file
	part   bool
	id     string // of a part, as the rest
	number int
	size   int64
}

func (c *coder) target(t *target) {
	kind := targetFile
	if t.part {
		kind = targetPart
	}
	c.byte(&kind)
	c.path(&t.path)
	switch t.part = kind == targetPart; kind {
	case targetFile:
		c.createOptions(&t.file)
	case targetPart:
		text(c, &t.id)
		c.int(&t.number)
		c.varint(&t.size)
	default:
		c.fail("a target of an unknown kind")
	}
}

// known returns the length announced, -1 if it is not known.
func (t *target) known() int64 {
	if t.part {
		return t.size
	}
	return t.file.Size
}

// putArgs codes a small file or part whole. data is a part of the message.
func (c *coder) putArgs(t *target, o *core.CommitOptions, data *string) {
	c.target(t)
	c.commitOptions(o)
	c.raw(data)
}
