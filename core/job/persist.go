package job

import (
	"context"
	"errors"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// Persist returns the job that brings what workers hold to the stores. A file that its store has another version of fails, the
// others are brought there all the same; a store that does not answer is waited for.
func Persist(by core.Persister) Func {
	return func(ctx context.Context, s core.JobSpec, p *Progress) error {
		asked, err := by.Persist(ctx, s.Path, core.PersistOptions{Overwrite: s.Overwrite})
		if err != nil {
			return err
		}
		p.Expect(int64(asked.Files), asked.Bytes)
		_, err = by.Persist(ctx, s.Path, core.PersistOptions{Wait: true, Overwrite: s.Overwrite})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var refused int64
		for _, one := range apart(err) {
			if !errors.Is(one, errs.Conflict) {
				return err
			}
			refused++
			p.Did(about(one, s.Path), one)
		}
		p.DidAll(max(0, int64(asked.Files)-refused), asked.Bytes)
		return nil
	}
}

// about returns the path that err names, otherwise p.
func about(err error, p core.Path) core.Path {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		if named, err := core.ParsePath(e.Name); err == nil {
			return named
		}
	}
	return p
}

// apart returns the errors that were joined.
func apart(err error) []error {
	if err == nil {
		return nil
	}
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return all.Unwrap()
	}
	return []error{err}
}
