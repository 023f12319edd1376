package cli

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func explainCommand(s Streams) *cobra.Command {
	c := &client{}
	var user string
	var fresh, asJSON bool
	cmd := &cobra.Command{
		Use: "explain PATH...", Short: "Say why a name is answered as it is",
		Long: `Say why a name is answered as it is: its mount, what applies to it and where that comes from, what is known of it and how old that
is, what an access would do now, where its bytes are and what would be lost with which worker, who may do what, and what
conditions on its writes are worth. It changes nothing and asks no store, unless --fresh.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				q := query{"path": path}
				if user != "" {
					q["user"] = user
				}
				if fresh {
					q["fresh"] = "true"
				}
				var x admin.Explanation
				if err := c.call(cmd.Context(), http.MethodGet, "/explain", q, nil, &x); err != nil {
					return fmt.Errorf("explain %s: %w", path, err)
				}
				if asJSON || c.json() {
					return printJSON(s.Out, x)
				}
				return showExplanation(s.Out, &x)
			})
		},
	}
	c.addFlags(cmd.Flags())
	cmd.Flags().StringVar(&user, "user", "", "say what this user may do with it, instead of the caller")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "ask the store about the name first")
	cmd.Flags().BoolVar(&asJSON, "json", false, "the same as --output json")
	return cmd
}

// showExplanation writes an explanation for people: what it is about on the left, the facts on the right.
func showExplanation(out io.Writer, x *admin.Explanation) error {
	w := newTable(out)
	line := func(about, format string, args ...any) {
		fmt.Fprintf(w, "%s\t"+format+"\n", append([]any{about}, args...)...)
	}
	fmt.Fprintf(w, "%s\n", x.Path)
	state := strings.ToLower(x.State)
	switch x.By {
	case "journal":
		if state += ", by the journal"; x.State == "UNKNOWN" {
			state = "unknown: it is in the journal, and not yet compared with the store"
		}
	case "store":
		state += ", as the store said"
	case "listing":
		state += ": " + x.About + " was listed without it"
	case "directory":
		state += ": so is " + x.About
	}
	line("state", "%s", state)
	if e := x.Entry; e != nil && e.Type == "file" {
		line("file", "%d bytes, ETag %s, of %s", e.Size, e.ETag, e.Modified.Local().Format(time.DateTime))
	}
	access := "read-write"
	if x.Mount.ReadOnly {
		access = "read-only"
	}
	line("mount", "%s is %s (%s, %s)", x.Mount.Path, x.Mount.URI, access, x.Mount.State)
	showFeed(line, x.Mount.Feed)
	for i, p := range x.Policies {
		about := ""
		if i == 0 {
			about = "policies"
		}
		line(about, "%s %s (%s)", p.Setting, p.Value, strings.TrimRight(p.Origin+" "+p.Path, " "))
	}
	if x.Checked != nil {
		line("checked", "%s, %s ago", x.Checked.Local().Format(time.DateTime), seconds(x.Age))
	}
	line("an access", "%s", x.Access)
	if y := x.Synced; y != nil {
		how := ""
		if y.Partly {
			how = ", not all of it"
		}
		line("synced", "%s, as %s%s", y.Ended.Local().Format(time.DateTime), y.Path, how)
	}
	if x.Carried != "" {
		line("a rename", "%s", x.Carried)
	}
	if r := x.Rename; r != nil {
		line("", "%s", progressOf(r))
		if r.Error != "" {
			line("", "the last try failed: %s", r.Error)
		}
	}
	if x.Changing {
		line("", "a change through Sluice is under way there")
	}
	if c := x.Children; c != nil {
		whole := "not wholly listed"
		if c.Complete {
			whole = "wholly listed, every other name is absent"
		}
		line("names in it", "%d in the store, %d found absent, %d in the journal; %s", c.Present, c.Absent, c.Journaled, whole)
	}
	for i, a := range x.Aliases {
		about := ""
		if i == 0 {
			about = "over S3"
		}
		line(about, "also %s (%s is an alias of %s)", a.URI, a.Bucket, a.Path)
	}
	showBytes(line, x)
	if x.Entry != nil {
		line("rights", "%s for %s (owner %s, group %s, mode %s)", x.Rights, x.User, x.Entry.Owner, x.Entry.Group, x.Entry.Mode)
	}
	line("conditions", "%s", x.Conditions)
	return w.Flush()
}

// showFeed says how the store of the mount tells of changes.
func showFeed(line func(about, format string, args ...any), f *admin.Feed) {
	if f == nil {
		return
	}
	line("events", "%s", f)
	last := "none yet"
	if f.Last != nil {
		last = fmt.Sprintf("the last one %s, taken in after %s", f.Last.Local().Format(time.DateTime), seconds(f.Lag))
	}
	line("", "%d since the leader began, %d of them of own writes, %s; %d gaps, %d rescans, %d names pending", f.Events, f.Own, last, f.Gaps, f.Rescans, f.Pending)
	if f.Confirm != "" {
		line("", "a subscription waits to be confirmed: %s", f.Confirm)
	}
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond)
}

// some writes the first of so many names.
func some(first []string, all int64) string {
	text := strings.Join(first, ", ")
	if all > int64(len(first)) {
		text += ", …"
	}
	return text
}

// showBytes says where a file's bytes are.
func showBytes(line func(about, format string, args ...any), x *admin.Explanation) {
	if d := x.Durability; d != nil {
		text := d.State
		if len(d.Holders) > 0 {
			text += fmt.Sprintf(" (%s), held by %s", d.WriteType, strings.Join(d.Holders, ", "))
		}
		if d.Why != "" {
			text += "; " + d.Why
		}
		line("durability", "%s", text)
	}
	for _, e := range x.Exposed {
		away := ""
		if e.Away {
			away = ", which is away"
		}
		line("with "+e.Worker+away, "%d files (%s) would be lost; %d that it holds are elsewhere too", e.Files, humanize.IBytes(uint64(max(0, e.Bytes))), e.Shared)
	}
	if g := x.Gone; g != nil {
		line("lost", "%d files (%s): none of the workers that held them has them any more: %s", g.Files, humanize.IBytes(uint64(max(0, g.Bytes))), some(g.First, g.Files))
	}
	if x.More {
		line("", "of the first 100,000 files that no store has; there are more below")
	}
	if r := x.Residency; r != nil {
		line("cached", "%v %%: %d of %d pages", r.Percent, r.Cached, r.Pages)
		for _, w := range r.Workers {
			for _, t := range w.Tiers {
				line("", "%s: %d pages in tier %d (%s)", w.Worker, t.Pages, t.Tier, t.Medium)
			}
			if w.Why != "" {
				line("", "%s: %s", w.Worker, w.Why)
			}
		}
	}
	if x.Uncounted != "" {
		line("cached", "not counted: %s", x.Uncounted)
	}
	about := "last miss"
	if m := x.LastMiss; m != nil {
		line(about, "%s, %d bytes from %d on, at %s", m.At.Local().Format(time.DateTime), m.Length, m.Offset, m.Worker)
		line("", "%s", m.Reason)
		about = ""
	}
	if x.Unmissed != "" {
		line(about, "%s", x.Unmissed)
	}
}
