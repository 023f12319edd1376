package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// HeldID names the bytes of one attempt at a file, as the pages of its content are named. They never change.
type HeldID struct {
	ID  [16]byte
	Rev uint64
}

// Held is what a Holder has of an attempt.
type Held struct {
	HeldID
	Size int64
}

// Reign is on whose behalf a Holder is called: a leader's, in a life of the journal. Terms of one life grow from leader to leader; those
// of different lives say nothing of each other.
type Reign struct {
	Life [8]byte
	Term uint64
}

type reignKey struct{}

// WithReign returns a context whose calls of a Holder are made in the reign r.
func WithReign(ctx context.Context, r Reign) context.Context {
	return context.WithValue(ctx, reignKey{}, r)
}

// ReignOf returns the reign of WithReign, else the zero Reign: the first of a life that no journal has.
func ReignOf(ctx context.Context) Reign {
	r, _ := ctx.Value(reignKey{}).(Reign)
	return r
}

// Holder keeps, on one worker, bytes of files that no store has yet. It is safe for concurrent use. Once it was called in a
// reign, Hold and Release of an earlier one of the same life are errs.Conflict: who does not lead any more cannot know who needs what.
type Holder interface {
	// Name is the worker's name, by which the journal remembers where the bytes are.
	Name() string
	// Hold returns a writer of the bytes of id, which must not be held yet: errs.Exist. Other errors, here or later:
	// errs.Busy while another writer of id has not ended; errs.NoSpace; errs.Unavailable.
	Hold(ctx context.Context, id HeldID) (HoldWriter, error)
	// Held returns a reader of bytes [off, off+n). Errors: errs.NotExist if the bytes are not held, or not whole;
	// errs.Range; here or while reading errs.Unavailable, and errs.Corrupt where a checksum tells that they are damaged.
	Held(ctx context.Context, id HeldID, off, n int64) (io.ReadCloser, error)
	// Release gives the bytes up. What is not held is not an error.
	Release(ctx context.Context, ids ...HeldID) error
	// Holds yields all that is held, in no order.
	Holds(ctx context.Context) iter.Seq2[Held, error]
}

// opHeldAway is the operation of errors that NotGiven made.
const opHeldAway = "namespace.ReadHeld"

// NotGiven returns the errs.Unavailable of a file that no store has yet, when the workers that hold its bytes do not give them: they are
// away, or have lost them. why is what they failed with.
func NotGiven(path string, workers []string, why error) error {
	text := "no store has its bytes yet, and the workers that hold them (" + strings.Join(workers, ", ") + ") do not give them"
	return fmt.Errorf("%w: %v", errs.New(opHeldAway, path, errs.Unavailable, text), why)
}

// WhyNotGiven returns what a user is told of an error that NotGiven made, whatever it was wrapped in and wherever it comes from: it
// names the workers, and not what they failed with. It is "" of other errors.
func WhyNotGiven(err error) string { return toldOf(opHeldAway, err) }

// toldOf returns the text of the error of that operation that err is or wraps, "" if there is none.
func toldOf(op string, err error) string {
	for {
		e, ok := errors.AsType[*errs.Error](err)
		switch {
		case !ok || e.Err == nil:
			return ""
		case e.Op == op:
			return e.Err.Error()
		}
		err = e.Err
	}
}

// HoldWriter takes the bytes of one attempt. Exactly one of Commit and Abort ends it.
type HoldWriter interface {
	io.Writer
	// Commit returns when the bytes are held; with durable, when they survive the loss of power.
	Commit(ctx context.Context, durable bool) error
	// Abort drops them.
	Abort() error
}

// Holders are the workers that hold.
type Holders interface {
	// Choose returns n holders that have room and, if durable, media that survive the loss of power; fewer if there are not
	// as many. They are in distinct failure domains, in none that a holder of the names beside is in, and in distinct zones as
	// far as there are.
	Choose(n int, durable bool, beside ...string) []Holder
	// Holder returns the one of that name; ok is false if it is not reachable now.
	Holder(name string) (h Holder, ok bool)
	// All returns every one that is reachable now.
	All() []Holder
	// Leaving returns the names of those that are to be stopped: what they hold should be elsewhere.
	Leaving() []string
}
