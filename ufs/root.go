package ufs

import (
	"context"
	"strings"

	"github.com/sluicefs/sluice/core/errs"
)

// SameRoot reports whether two values of Features.Is may be of one root: no fact that both tell differs. A root of which
// nothing is told may be any.
func SameRoot(a, b string) bool {
	told := map[string]string{}
	for fact := range strings.FieldsSeq(a) {
		name, value, _ := strings.Cut(fact, "=")
		told[name] = value
	}
	for fact := range strings.FieldsSeq(b) {
		name, value, _ := strings.Cut(fact, "=")
		if other, ok := told[name]; ok && other != value {
			return false
		}
	}
	return true
}

// Making says what the option create=true of a store is to do about a root directory that is missing.
type Making struct {
	// Check is asked first; root is what Features.Root of the directory will be. Its error keeps it from being made.
	Check func(root string) error
	// Dry has nothing made: what could be is reported as ErrWouldMake.
	Dry bool
}

// ErrWouldMake is reported by a driver that has found that it could make the root directory which is missing.
var ErrWouldMake error = errs.New("ufs.Make", "", errs.NotExist, "the root directory is missing, and would be made")

type makingKey struct{}

// WithMaking returns a context with which a driver's Opener and Probe may make a root directory. Without it none does: who opens
// a store that was there before would cover up that it is not there now.
func WithMaking(ctx context.Context, m Making) context.Context {
	return context.WithValue(ctx, makingKey{}, m)
}

// MayMake reports whether the missing directory root, as Features.Root will have it, may be made; dry: nothing is made, but
// whether it could be is to be found out. Drivers call it before they make one. Errors: Check's.
func MayMake(ctx context.Context, root string) (may, dry bool, err error) {
	m, ok := ctx.Value(makingKey{}).(Making)
	if !ok {
		return false, false, nil
	}
	if m.Check != nil {
		if err := m.Check(root); err != nil {
			return false, m.Dry, err
		}
	}
	return true, m.Dry, nil
}
