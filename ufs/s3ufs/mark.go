package s3ufs

import (
	"context"
	"errors"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Mark implements ufs.Marked.
func (s *Store) Mark(ctx context.Context) (string, error) {
	text, err := s.getStaged(ctx, "s3ufs.Mark", ufs.MarkName)
	if errors.Is(err, errs.NotExist) {
		return "", nil
	}
	return strings.TrimSpace(text), err
}

// SetMark implements ufs.Marked.
func (s *Store) SetMark(ctx context.Context, mark string) error {
	const op = "s3ufs.SetMark"
	switch was, err := s.Mark(ctx); {
	case err != nil:
		return err
	case was != "":
		return errs.New(op, ufs.MarkName, errs.Exist, "the store is marked already")
	}
	if err := ufs.Guard(ctx); err != nil {
		return err
	}
	return s.putStaged(ctx, op, ufs.MarkName, mark)
}
