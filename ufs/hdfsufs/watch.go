package hdfsufs

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/hadoopfs"
)

const (
	editsPause = 200 * time.Millisecond // from one question for new edits to the next, when there were some
	editsIdle  = 800 * time.Millisecond // the longest, when there were none
	editsTries = 5                      // questions without an answer, a second apart, until edits count as lost
)

// Watch implements hadoopfs.Watcher by asking the name node for what its edit log has got, as HDFS's own inotify does: changes are
// numbered, and what a name node that fails over or restarts did not tell it tells later. Only HDFS's superuser may.
func (c *Client) Watch(ctx context.Context, tell func(ufs.Change)) error {
	var last int64
	err := c.do(ctx, "hdfsufs.Watch", "", false, func(k *conn) error {
		resp, err := k.call("getCurrentEditLogTxid", nil)
		if err == nil {
			last = field(resp, "txid").Int()
		}
		return err
	})
	if err == nil && last < 0 {
		err = errs.New("hdfsufs.Watch", "", errs.Unavailable, "the name node is about to become active, and has no edit log yet")
	}
	if err == nil { // whether that may be asked for says only the answer
		var e edits
		if e, err = c.edits(ctx, last); err == nil {
			last = min(last, e.last) // what is written counts once it is synced
		}
	}
	if err != nil {
		return watchFailed(err)
	}
	tell(ufs.Change{Kind: ufs.Ready})
	pause := editsPause
	next := time.NewTimer(pause)
	defer next.Stop()
	for failed := 0; ; next.Reset(pause) {
		select {
		case <-next.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		e, err := c.edits(ctx, last)
		switch {
		case err == nil:
			for _, one := range e.changes {
				tell(one)
			}
			failed, pause = 0, e.pause(last, pause)
			last = e.last
		case ctx.Err() != nil:
			return context.Cause(ctx)
		default:
			if failed++; failed == editsTries || errs.KindOf(err) == errs.Permission {
				return watchFailed(err)
			}
			pause = time.Second
		}
	}
}

func watchFailed(err error) error {
	if errs.KindOf(err) == errs.Permission {
		return errs.New("hdfsufs.Watch", "", errs.Permission, "HDFS tells of changes only to its superuser; mount with user or principal of one, or without events: "+err.Error())
	}
	return err
}

// edits are what the name node has told at once.
type edits struct {
	changes []ufs.Change
	last    int64 // the number of the last transaction that was told
	more    bool  // there are later ones already
}

// pause returns how long to wait until the next question, after this answer to one for what came after last, and that pause before.
func (e *edits) pause(last int64, before time.Duration) time.Duration {
	switch {
	case e.more && e.last > last:
		return 0
	case len(e.changes) > 0:
		return editsPause
	}
	return min(2*max(before, editsPause/2), editsIdle)
}

// edits asks for what was done after the transaction last.
func (c *Client) edits(ctx context.Context, last int64) (e edits, err error) {
	err = c.do(ctx, "hdfsufs.Watch", "", false, func(k *conn) error {
		resp, err := k.call("getEditsFromTxid", map[string]any{"txid": last + 1})
		if err == nil {
			e, err = editsOf(field(resp, "eventsList").Message(), last)
		}
		return err
	})
	return e, err
}

// editsOf reads an answer to the question for what came after the transaction last, which the name node has told of or has synced.
func editsOf(list protoreflect.Message, last int64) (edits, error) {
	e := edits{last: last}
	through, synced := field(list, "lastTxid").Int(), field(list, "syncTxid").Int()
	if synced > 0 && synced < last { // it was rolled back or formatted, and numbers other edits as it did those that were told
		return edits{changes: []ufs.Change{{Kind: ufs.Lost}}, last: synced}, nil
	}
	if through == -1 {
		return e, nil // nothing new
	}
	if field(list, "firstTxid").Int() != last+1 { // the edits between are deleted
		e.changes = append(e.changes, ufs.Change{Kind: ufs.Lost})
	}
	e.last, e.more = through, through < synced
	batches := field(list, "batch").List()
	for i := range batches.Len() {
		events := field(batches.Get(i).Message(), "events").List()
		for j := range events.Len() {
			some, err := changesOf(events.Get(j).Message())
			if err != nil {
				return edits{}, err
			}
			e.changes = append(e.changes, some...)
		}
	}
	return e, nil
}

// eventTypes are the messages of the contents of events, and their fields that say of what and when, in milliseconds since 1970.
// Source: inotify.proto.
var eventTypes = map[protoreflect.EnumNumber]struct{ message, path, at string }{
	0: {"CreateEventProto", "path", "ctime"}, 1: {"CloseEventProto", "path", "timestamp"}, 2: {"AppendEventProto", "path", ""},
	3: {"RenameEventProto", "srcPath", "timestamp"}, 4: {"MetadataUpdateEventProto", "path", ""},
	5: {"UnlinkEventProto", "path", "timestamp"}, 6: {"TruncateEventProto", "path", "timestamp"},
}

// changesOf returns what an event says. One of an unknown type may be of anything.
func changesOf(event protoreflect.Message) ([]ufs.Change, error) {
	kind, ok := eventTypes[field(event, "type").Enum()]
	if !ok {
		return []ufs.Change{{Kind: ufs.Lost}}, nil
	}
	m, err := newMessage("hadoop.hdfs." + kind.message)
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(field(event, "contents").Bytes(), m.Interface()); err != nil {
		return nil, errors.New("an event of the name node cannot be read: " + err.Error())
	}
	var at time.Time
	if kind.at != "" && field(m, kind.at).Int() > 0 {
		at = time.UnixMilli(field(m, kind.at).Int())
	}
	all := []ufs.Change{{Kind: ufs.Touched, Name: field(m, kind.path).String(), At: at}}
	if kind.message == "RenameEventProto" {
		all = append(all, ufs.Change{Kind: ufs.Arrived, Name: field(m, "destPath").String(), At: at})
	}
	return all, nil
}

var _ hadoopfs.Watcher = (*Client)(nil)
