package nstest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
)

// version returns n bytes of which every 4 KiB say which writer and which of his writes they are of, and where they lie.
func version(writer, write, n int) string {
	var b bytes.Buffer
	for b.Len() < n {
		head := fmt.Sprintf("writer %03d write %05d at %010d ", writer, write, b.Len())
		b.WriteString(head + strings.Repeat(string(rune('a'+write%26)), 4096-len(head)))
	}
	return b.String()[:n]
}

// wholeVersion reports whether s is one version, at its own length.
func wholeVersion(s string) error {
	var writer, write, at int
	if _, err := fmt.Sscanf(s, "writer %d write %d at %d", &writer, &write, &at); err != nil {
		return fmt.Errorf("no version at all: %.60q", s)
	}
	if want := version(writer, write, sizeOf(write)); s != want {
		for i := 0; i < len(s); i += 4096 {
			if i >= len(want) || s[i:min(len(s), i+4096)] != want[i:min(len(want), i+4096)] {
				return fmt.Errorf("%d bytes that begin as %.40q and go on at %d as %.40q", len(s), s, i, s[i:])
			}
		}
		return fmt.Errorf("%d of %d bytes of %.40q", len(s), len(want), s)
	}
	return nil
}

// sizeOf is the length of a writer's n-th write: now within a page, now beyond one.
func sizeOf(write int) int { return 40_000 + write%3*540_000 + write%7*4096 }

// storm has writers overwrite a name and readers read it, each reading whole.
func storm(f *fixture, write func(writer, n int) error) {
	f.put("d/a", version(0, 0, sizeOf(0)))
	const writers, writes, readers = 3, 5, 2
	var wg, reading sync.WaitGroup
	var done atomic.Bool
	var reads atomic.Int64
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				if err := write(w, i); err != nil {
					f.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	for range readers {
		reading.Go(func() {
			for !done.Load() {
				got, err := f.read("d/a", core.All)
				if errors.Is(err, errs.Conflict) {
					continue // the version it was opened for has gone
				}
				if err == nil {
					err = wholeVersion(got)
				}
				if err != nil {
					f.Error(err)
					return
				}
				reads.Add(1)
			}
		})
	}
	wg.Wait()
	done.Store(true)
	reading.Wait()
	f.Logf("%d reads", reads.Load())
	if err := wholeVersion(f.get("d/a")); err != nil {
		f.Error(err)
	}
	f.wantStored("d/a", f.get("d/a"))
}

// race runs n contenders at once and returns how many succeeded and the last of them; the others must fail as a kind.
func (f *fixture) race(n int, run func(i int) error, lost ...errs.Kind) (won int, winner int) {
	f.Helper()
	results := make([]error, n)
	var start, wg sync.WaitGroup
	start.Add(1)
	for i := range n {
		wg.Go(func() { start.Wait(); results[i] = run(i) })
	}
	start.Done()
	wg.Wait()
	for i, err := range results {
		if err == nil {
			won, winner = won+1, i
		} else {
			f.wantErr(fmt.Sprint("contender ", i), err, lost...)
		}
	}
	return won, winner
}

const contenders = 8

var raceTests = []entry{
	{name: "pruning removals side by side leave no directory", test: func(f *fixture) {
		for round := range 30 {
			var names []string
			for i := range 16 {
				names = append(names, fmt.Sprintf("x/%d/%d/a%d", i%4, i%8, i))
				names = append(names, fmt.Sprintf("x/%d/b%d", i%4, i))
			}
			for _, name := range names {
				f.putWith(name, "x", core.CreateOptions{Size: 1, MakeParents: true})
			}
			var wg sync.WaitGroup
			for _, name := range names {
				wg.Go(func() {
					if err := f.removeErr(name, core.RemoveOptions{Prune: true}); err != nil {
						f.Errorf("remove %s: %v", name, err)
					}
				})
			}
			wg.Wait()
			if _, err := f.Stat(f.ctx(), f.path("x/")); errs.KindOf(err) != errs.NotExist {
				f.Fatalf("round %d: the directory is there still: %v", round, err)
			}
		}
	}},
	{name: "exactly one CreateNew wins", test: func(f *fixture) {
		for round := range 3 {
			name := fmt.Sprintf("d%d/a", round)
			won, winner := f.race(contenders, func(i int) error {
				_, err := f.write(name, fmt.Sprint("contender ", i), core.CreateOptions{Mode: core.CreateNew, Size: -1, MakeParents: true})
				return err
			}, errs.Exist)
			if won != 1 {
				f.Fatalf("%d won", won)
			}
			f.wantData(name, fmt.Sprint("contender ", winner))
			f.wantStored(name, fmt.Sprint("contender ", winner))
		}
	}},
	{name: "exactly one If-None-Match: * wins", test: func(f *fixture) {
		won, winner := f.race(contenders, func(i int) error {
			_, err := f.write("a", fmt.Sprint("contender ", i), core.CreateOptions{Size: -1, Cond: core.Cond{IfNoneMatch: "*"}})
			return err
		}, errs.Precondition, errs.Exist)
		if won != 1 {
			f.Fatalf("%d won", won)
		}
		f.wantData("a", fmt.Sprint("contender ", winner))
	}},
	{name: "exactly one of those that match the same version wins", test: func(f *fixture) {
		tag := f.put("a", "base").ETag
		won, winner := f.race(contenders, func(i int) error {
			_, err := f.write("a", fmt.Sprint("contender ", i), core.CreateOptions{Size: -1, Cond: core.Cond{IfMatch: tag}})
			return err
		}, errs.Precondition)
		if won != 1 {
			f.Fatalf("%d won", won)
		}
		f.wantData("a", fmt.Sprint("contender ", winner))
	}},
	{name: "exactly one Mkdir wins, without a parent too", test: func(f *fixture) {
		won, _ := f.race(contenders, func(int) error {
			_, err := f.Mkdir(f.ctx(), f.path("p/q/d/"), core.MkdirOptions{MakeParents: true})
			return err
		}, errs.Exist)
		if won != 1 {
			f.Errorf("%d won", won)
		}
	}},
	{name: "exactly one rename of a name wins", test: func(f *fixture) {
		f.put("a", "x")
		won, winner := f.race(contenders, func(i int) error { return f.renameErr("a", fmt.Sprint("to", i), false) }, errs.NotExist)
		if won != 1 {
			f.Errorf("%d won", won)
		}
		f.wantKeys("", fmt.Sprint("to", winner))
	}},
	{name: "exactly one rename to a name wins", test: func(f *fixture) {
		for i := range contenders {
			f.put(fmt.Sprint("from", i), fmt.Sprint(i))
		}
		won, winner := f.race(contenders, func(i int) error { return f.renameErr(fmt.Sprint("from", i), "to", false) }, errs.Exist)
		if won != 1 {
			f.Errorf("%d won", won)
		}
		f.wantData("to", fmt.Sprint(winner))
	}},
	{name: "exactly one removal of a name wins", test: func(f *fixture) {
		f.put("a", "x")
		if won, _ := f.race(contenders, func(int) error { return f.removeErr("a", core.RemoveOptions{}) }, errs.NotExist); won != 1 {
			f.Errorf("%d won", won)
		}
	}},
	{name: "appends side by side are Busy or add up", test: func(f *fixture) {
		f.put("a", "")
		won, _ := f.race(contenders, func(int) error {
			_, err := f.write("a", "12345678", core.CreateOptions{Mode: core.Append, Size: -1})
			return err
		}, errs.Busy, errs.Conflict)
		if got := f.get("a"); got != strings.Repeat("12345678", won) || won == 0 {
			f.Errorf("%d appends made %q", won, got)
		}
		f.wantStored("a", f.get("a"))
	}},
	{name: "exactly one Complete of an upload takes place, and all answer alike", test: func(f *fixture) {
		id := f.begin("a", core.CreateOptions{})
		p := f.part("a", id, 1, "x")
		if won, _ := f.race(contenders, func(int) error { _, err := f.complete("a", id, p); return err }); won != contenders {
			f.Errorf("%d answered", won)
		}
		f.wantData("a", "x")
	}},
	{name: "files come and go in a directory that comes and goes", test: func(f *fixture) {
		f.race(contenders, func(i int) error {
			name := fmt.Sprintf("d/e/%d", i)
			for range 10 {
				if _, err := f.write(name, name, core.CreateOptions{Size: -1, MakeParents: true}); err != nil {
					return err
				}
				if got, err := f.read(name, core.All); err != nil || got != name {
					return fmt.Errorf("read %q: %w", got, err)
				}
				if err := f.removeErr(name, core.RemoveOptions{Prune: true}); err != nil {
					return err
				}
			}
			return nil
		})
		f.wantKeys("")
		f.wantChildren("")
	}},
	{name: "a directory renamed to and fro while files in it are read and written", test: func(f *fixture) {
		f.put("d/a", "x")
		f.put("d/b", "x")
		f.race(4, func(i int) error {
			for n := range 10 {
				var err error
				switch i {
				case 0:
					err = errors.Join(f.renameErr("d/", "e/", false), f.renameErr("e/", "d/", false))
				case 1:
					_, err = f.write("d/b", fmt.Sprint("write ", n), core.CreateOptions{Size: -1})
				case 2:
					_, err = f.read("d/a", core.All)
				case 3:
					// A listing that has to ask the store between two names is not of one moment; what it shows of a directory is.
					keys, lerr := f.names("", core.ListOptions{})
					if err = lerr; err == nil && slices.Contains(keys, "d/a") != slices.Contains(keys, "d/b") || slices.Contains(keys, "e/a") != slices.Contains(keys, "e/b") {
						err = fmt.Errorf("a listing saw %q", keys)
					}
				}
				if k := errs.KindOf(err); err != nil && k != errs.NotExist && k != errs.Conflict && k != errs.NotDir {
					return err
				}
			}
			return nil
		})
		f.wantKeys("d/", "a", "b")
		f.wantData("d/a", "x")
		f.wantStored("d/b", f.get("d/b"))
	}},
	{name: "storm of overwrites: every read is one whole version", test: func(f *fixture) {
		storm(f, func(w, i int) error {
			_, err := f.write("d/a", version(w, i, sizeOf(i)), core.CreateOptions{Size: int64(sizeOf(i))})
			return err
		})
	}},
	{name: "storm of overwrites, nothing cached", with: noCache, test: func(f *fixture) {
		storm(f, func(w, i int) error {
			_, err := f.write("d/a", version(w, i, sizeOf(i)), core.CreateOptions{Size: -1, WriteType: core.Through})
			return err
		})
	}},
	{name: "storm of renames over a name", test: func(f *fixture) {
		storm(f, func(w, i int) error {
			from := fmt.Sprintf("d/from%d", w)
			if _, err := f.write(from, version(w, i, sizeOf(i)), core.CreateOptions{Size: int64(sizeOf(i))}); err != nil {
				return err
			}
			return f.renameErr(from, "d/a", true)
		})
	}},
	{name: "storm of changes behind", needs: mounted, with: func(o *Options) { synced(0)(o); noCache(o) }, test: func(f *fixture) {
		var mu sync.Mutex
		storm(f, func(w, i int) error {
			mu.Lock() // one stranger at a time: the store need not order them
			defer mu.Unlock()
			f.storePut("d/a", version(w, i, sizeOf(i)))
			return nil
		})
	}},
}
