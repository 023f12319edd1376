package core

import (
	"context"
	"fmt"

	"github.com/sluicefs/sluice/core/errs"
)

// Call names a change that its caller asks for again if no answer comes: the Sequence-th of a session, from 1. An
// implementation that journals what it answered gives the same name the same answer, and makes the change once.
type Call struct {
	Session  [16]byte
	Sequence uint64
	Below    uint64 // no change of the session below it is asked for again
}

type callKey struct{}

// WithCall returns a context that makes the change c; the zero Call is a change that nobody asks for again.
func WithCall(ctx context.Context, c Call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// CallOf returns the change that ctx makes, the zero value if it has no name.
func CallOf(ctx context.Context) Call {
	c, _ := ctx.Value(callKey{}).(Call)
	return c
}

// opNoMaster is the operation of errors that NoMaster and NoAnswer made.
const opNoMaster = "remote.Master"

// NoMaster returns the errs.Unavailable of a call that no master answered. made says that it may have taken place all the same, why what
// the last try failed with; nil if there was none.
func NoMaster(made bool, why error) error {
	return noMaster("no master answers: none leads, or the one that does cannot be reached", made, why)
}

// NoAnswer is NoMaster of a call whose answer did not come from the master that got it: it has gone, leads no more or cannot be reached.
func NoAnswer(made bool, why error) error {
	return noMaster("the master that was asked did not answer", made, why)
}

func noMaster(text string, made bool, why error) error {
	if made {
		text += "; the change may have taken place"
	}
	err := errs.New(opNoMaster, "", errs.Unavailable, text)
	if why != nil {
		err = fmt.Errorf("%w (%w)", err, why)
	}
	return err
}

// WhyNoMaster returns what a user is told of an error that NoMaster or NoAnswer made, whatever it was wrapped in: that, and not what the try failed
// with. It is "" of other errors.
func WhyNoMaster(err error) string { return toldOf(opNoMaster, err) }
