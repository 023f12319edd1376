package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// trace turns lines of calls into what strace -xx writes: «text» becomes a string of hexadecimal escapes.
func trace(lines ...string) string {
	quoted := regexp.MustCompile(`«[^»]*»`)
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(quoted.ReplaceAllStringFunc(line, func(s string) string {
			s = strings.TrimSuffix(strings.TrimPrefix(s, "«"), "»")
			return `"` + regexp.MustCompile(`(?s).`).ReplaceAllStringFunc(s, func(c string) string { return fmt.Sprintf(`\x%02x`, c[0]) }) + `"`
		}))
		b.WriteString("\n")
	}
	return b.String()
}

// TestLossy checks the model against what POSIX promises, by what is left at each mark of a trace.
func TestLossy(t *testing.T) {
	const made = `1 openat(AT_FDCWD, «/B/d/f», O_RDWR|O_CREAT, 0600) = 5<x>`
	for _, c := range []struct {
		name  string
		lines []string
		drop  string
		want  string // "name=bytes …" at the mark
	}{
		{"nothing synced", []string{made, `1 write(5<x>, «abc», 3) = 3`, `mark`}, "", ""},
		{"the file only", []string{made, `1 write(5<x>, «abc», 3) = 3`, `1 fsync(5<x>) = 0`, `mark`}, "", ""},
		{"the name only", []string{made, `1 write(5<x>, «abc», 3) = 3`, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`, `mark`}, "", "d/f="},
		{"both", []string{made, `1 write(5<x>, «abc», 3) = 3`, `1 fsync(5<x>) = 0`, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`, `mark`}, "", "d/f=abc"},
		{"both, the file's dropped", []string{made, `1 write(5<x>, «abc», 3) = 3`, `1 fsync(5<x>) = 0`, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`, `mark`}, "file d/f", "d/f="},
		{"a write that ends after the sync began", []string{
			made, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`,
			`2 write(5<x>, «abc», 3 <unfinished ...>`, `1 fsync(5<x> <unfinished ...>`, `2 <... write resumed>) = 3`, `1 <... fsync resumed>) = 0`, `mark`}, "", "d/f="},
		{"a sync that has not ended", []string{
			made, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`, `1 write(5<x>, «abc», 3) = 3`, `1 fsync(5<x> <unfinished ...>`, `mark`,
			`1 <... fsync resumed>) = 0`}, "", "d/f="},
		{"a sync that fails", []string{
			made, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`, `1 write(5<x>, «abc», 3) = 3`, `1 fsync(5<x>) = -1 EIO (x)`, `mark`}, "", "d/f="},
		{"writes at offsets", []string{
			made, `1 pwrite64(5<x>, «yz», 2, 4) = 2`, `1 write(5<x>, «abc», 3) = 3`, `1 lseek(5<x>, 1, SEEK_SET) = 1`, `1 write(5<x>, «B», 1) = 1`,
			`1 fdatasync(5<x>) = 0`, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`, `1 ftruncate(5<x>, 1) = 0`, `mark`}, "", "d/f=aBc\x00yz"},
		{"a write of pieces", []string{
			made, `1 pwritev(5<x>, [{iov_base=«ab», iov_len=2}, {iov_base=«», iov_len=0}, {iov_base=«{"c», iov_len=3}], 3, 1) = 5`,
			`1 fdatasync(5<x>) = 0`, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`,
			`1 pwritev(5<x>, [{iov_base=«z», iov_len=1}], 1, 0) = 1`, `mark`}, "", "d/f=\x00ab{\"c"},
		{"a rename without a sync", []string{
			made, `1 fsync(5<x>) = 0`, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`,
			`1 renameat2(6<x>, «f», AT_FDCWD, «/B/e/g», RENAME_NOREPLACE) = 0`, `mark`}, "", "d/f="},
		{"a rename, the new place synced", []string{
			made, `1 fsync(5<x>) = 0`, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`,
			`1 renameat2(6<x>, «f», AT_FDCWD, «/B/e/g», RENAME_NOREPLACE) = 0`, `1 openat(AT_FDCWD, «/B/e», O_RDONLY) = 7<x>`, `1 fsync(7<x>) = 0`, `mark`}, "", "d/f= e/g="},
		{"a rename, both synced", []string{
			made, `1 fsync(5<x>) = 0`, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`,
			`1 renameat(6<x>, «f», AT_FDCWD, «/B/e/g») = 0`, `1 openat(AT_FDCWD, «/B/e», O_RDONLY) = 7<x>`, `1 fsync(7<x>) = 0`, `1 fsync(6<x>) = 0`, `mark`}, "", "e/g="},
		{"an unlink without a sync", []string{
			made, `1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`, `1 unlinkat(6<x>, «f», 0) = 0`, `mark`}, "", "d/f="},
		{"a made directory", []string{
			`1 mkdirat(AT_FDCWD, «/B/d/n», 0755) = 0`, `1 openat(AT_FDCWD, «/B/d/n/f», O_RDWR|O_CREAT, 0600) = 5<x>`, `1 openat(AT_FDCWD, «/B/d/n», O_RDONLY) = 6<x>`,
			`1 fsync(6<x>) = 0`, `mark`}, "", ""},
		{"a copy", []string{
			made, `1 write(5<x>, «abc», 3) = 3`, `1 lseek(5<x>, 1, SEEK_SET) = 1`, `1 openat(AT_FDCWD, «/B/e/c», O_RDWR|O_CREAT, 0600) = 6<x>`,
			`1 copy_file_range(5<x>, NULL, 6<x>, NULL, 10, 0) = 2`, `1 fsync(6<x>) = 0`, `1 openat(AT_FDCWD, «/B/e», O_RDONLY) = 7<x>`, `1 fsync(7<x>) = 0`, `mark`}, "", "e/c=bc"},
		{"a descriptor that is used again", []string{
			made, `1 close(5<x>) = 0`, `1 openat(AT_FDCWD, «/elsewhere», O_RDWR) = 5<x>`, `1 write(5<x>, «abc», 3) = 3`, `1 fsync(5<x>) = 0`,
			`1 openat(AT_FDCWD, «/B/d», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`, `mark`}, "", "d/f="},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := t.TempDir()
			for _, d := range []string{"d", "e"} {
				if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for i, line := range c.lines {
				if line == "mark" {
					c.lines[i] = `9 write(99<mark>, «x», 1) = 1`
				}
			}
			calls, err := readTrace(strings.NewReader(trace(c.lines...)))
			if err != nil {
				t.Fatal(err)
			}
			l, err := newLossy(base, c.drop, func(string) bool { return false })
			if err != nil {
				t.Fatal(err)
			}
			l.base = "/B"
			got := "no mark"
			isMark := func(c *call) bool { return len(c.args) > 0 && c.args[0] == "99<mark>" }
			if err := l.replay(calls, isMark, func() {
				var all []string
				for name, s := range l.left("") {
					all = append(all, name+"="+string(s.read(0, s.size)))
				}
				slices.Sort(all)
				got = strings.Join(all, " ")
				if err := l.restore(filepath.Join(base, "restored")); err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if n := len(files(t, filepath.Join(base, "restored"))); n != strings.Count(c.want, "=") {
				t.Errorf("%d files were restored, want those of %q", n, c.want)
			}
		})
	}
	t.Run("what it does not know", func(t *testing.T) {
		calls, err := readTrace(strings.NewReader(trace(`1 openat(AT_FDCWD, «/B/f», O_RDWR|O_CREAT, 0600) = 5<x>`, `1 pwritev2(5<x>, [{iov_base=«a», iov_len=1}], 1, 0, 0) = 1`)))
		if err != nil {
			t.Fatal(err)
		}
		l, err := newLossy(t.TempDir(), "", func(string) bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		l.base = "/B"
		if l.replay(calls, func(*call) bool { return false }, nil) == nil {
			t.Error("a call that changes a file in a way the model does not know was passed over")
		}
	})
	t.Run("two failures", func(t *testing.T) {
		replay := func(l *lossy, lines ...string) {
			t.Helper()
			calls, err := readTrace(strings.NewReader(trace(lines...)))
			if err == nil {
				err = l.replay(calls, func(*call) bool { return false }, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		l, err := newLossy(t.TempDir(), "", func(string) bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		l.base = "/B"
		replay(l, `1 openat(AT_FDCWD, «/B/f», O_RDWR|O_CREAT, 0600) = 5<x>`, `1 write(5<x>, «abc», 3) = 3`, `1 fsync(5<x>) = 0`,
			`1 openat(AT_FDCWD, «/B», O_RDONLY) = 6<x>`, `1 fsync(6<x>) = 0`, `1 write(5<x>, «lost», 4) = 4`,
			`1 openat(AT_FDCWD, «/B/lost», O_RDWR|O_CREAT, 0600) = 7<x>`)
		l = l.rebooted()
		replay(l, `1 openat(AT_FDCWD, «/B/f», O_RDWR|O_APPEND) = 5<x>`, `1 write(5<x>, «de», 2) = 2`, `1 fsync(5<x>) = 0`, `1 write(5<x>, «lost», 4) = 4`)
		for name, s := range l.left("") {
			if got := string(s.read(0, s.size)); name != "f" || got != "abcde" {
				t.Errorf("%s is %q", name, got)
			}
		}
		if len(l.left("")) != 1 {
			t.Errorf("%d files are left", len(l.left("")))
		}
	})
}
