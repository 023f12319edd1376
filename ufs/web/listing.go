package web

import (
	"errors"
	"iter"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
)

// Pages yields the answers to a listing that comes in pages. get returns the page at a place, "" for the first, and the place of the
// next, "" after the last. An error ends it; that the place of the next page is the page's own is one, for there would be no end.
func Pages[P any](get func(at string) (page P, next string, err error)) iter.Seq2[P, error] {
	return func(yield func(P, error) bool) {
		for at := ""; ; {
			page, next, err := get(at)
			if !yield(page, err) || err != nil || next == "" {
				return
			}
			if next == at {
				var none P
				yield(none, errors.New("the listing does not advance"))
				return
			}
			at = next
		}
	}
}

// Entries yields the names greater than after of a listing of dir, from pages of which each is in order; what is staged is left out, and
// a prefix that goes on in the next page comes once. Errors: those of the pages; errs.Unavailable if the pages are not in the order of
// names, for what would be left out then would seem to be gone.
func Entries(op, dir, after string, pages iter.Seq2[[]ufs.Info, error]) iter.Seq2[ufs.Info, error] {
	return func(yield func(ufs.Info, error) bool) {
		last := ""
		for page, err := range pages {
			if err != nil {
				yield(ufs.Info{}, err)
				return
			}
			for _, e := range page {
				switch {
				case e.Name == last:
					continue
				case e.Name < last:
					yield(ufs.Info{}, errs.New(op, dir, errs.Unavailable, "the listing is not in the order of names"))
					return
				}
				last = e.Name
				if e.Name <= after || ufs.Staged(e.Name) {
					continue
				}
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}
