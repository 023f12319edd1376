package ufs

import "context"

// MarkName is where a store that keeps names has its mark, so that an operator can put it there, or take it away. It lies in
// Staging: no listing shows it, no method but those of Marked touches it, and CleanStaging leaves it.
const MarkName = Staging + "mark"

// MaxMark is the longest mark in bytes.
const MaxMark = 1 << 10

// Marked is a Store that keeps a text by which it is told from every other, wherever it is opened from: what Features.Root
// says of it is the same for two directories of one path on two hosts, and for a file system and what it is mounted over.
type Marked interface {
	// Mark returns the mark without white space around it, "" if the store has none.
	Mark(ctx context.Context) (string, error)
	// SetMark gives the store a mark, durably. Who calls it has seen that there is none, and looks afterwards whose it is
	// now: two may have called it. Errors: errs.Exist if one is there already.
	SetMark(ctx context.Context, mark string) error
}

// Mark calls s's Marked.
func Mark(ctx context.Context, s Store) (string, error) {
	m, err := ability[Marked](s, s.Features().Mark, "Mark", "")
	if err != nil {
		return "", err
	}
	return m.Mark(ctx)
}

// SetMark calls s's Marked.
func SetMark(ctx context.Context, s Store, mark string) error {
	m, err := ability[Marked](s, s.Features().Mark, "SetMark", "")
	if err != nil {
		return err
	}
	return m.SetMark(ctx, mark)
}
