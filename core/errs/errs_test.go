package errs_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sluicefs/sluice/core/errs"
)

// TestLongName shows the beginning of a long name, and all else: whole characters, and a name of no characters too.
func TestLongName(t *testing.T) {
	const size = 600 << 10
	for what, k := range map[string]struct{ name, want string }{
		"short":      {strings.Repeat("x", 1024), strings.Repeat("x", 1024)},
		"long":       {strings.Repeat("x", size), strings.Repeat("x", 1024) + "…"},
		"characters": {"/" + strings.Repeat("€", size), "/" + strings.Repeat("€", 341) + "…"},
	} {
		err := errs.New("test.Op", k.name, errs.Invalid, "it is wrong")
		if got, want := err.Error(), "test.Op "+k.want+": invalid argument: it is wrong"; got != want || !utf8.ValidString(got) {
			t.Errorf("%s: %d bytes, %.2000s, want %d", what, len(got), got, len(want))
		}
	}
	if got := errs.New("test.Op", strings.Repeat("\x80", size), errs.Invalid, "it is wrong").Error(); len(got) > 2<<10 || !strings.HasSuffix(got, "it is wrong") {
		t.Errorf("bytes that are no characters: %d bytes", len(got))
	}
}
