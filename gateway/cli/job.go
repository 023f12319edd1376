package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
	"github.com/sluicefs/sluice/gateway/telemetry"
)

func jobCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "job", Short: "Look at jobs, wait for them, and cancel them", Args: cobra.NoArgs,
		Long: `Look at jobs, wait for them, and cancel them. The leading master runs them; a job ends if another takes over, and is to be
started again.`,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("a subcommand is needed")} },
	}
	c.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(jobList(c, s), jobWatch(c, s), jobCancel(c, s))
	return cmd
}

func jobList(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the jobs that wait, run or have ended lately", Aliases: []string{"list"}, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showList(cmd, c, s, "/jobs", nil, "list the jobs", "ID\tKIND\tPATH\tSTATE\tFILES\tBYTES\tFAILED\tSTARTED\tTOOK", func(w io.Writer, j *admin.Job) {
				started, took := "", ""
				if j.Started != nil {
					started, took = j.Started.Local().Format(time.DateTime), lasted(j).String()
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d/%d\t%s\t%d\t%s\t%s\n", j.ID, j.Kind, j.Path, j.State, j.Done, j.Total,
					humanize.IBytes(uint64(max(j.Bytes, 0))), j.Failures, started, took)
			})
		},
	}
}

// lasted returns for how long a job has run.
func lasted(j *admin.Job) time.Duration {
	end := time.Now()
	if j.Ended != nil {
		end = *j.Ended
	}
	return end.Sub(*j.Started).Round(time.Second / 10)
}

func jobWatch(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Show how far a job is until it ends; fails if the job does", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			j, err := c.watchJob(cmd.Context(), s, args[0])
			if err != nil {
				return err
			}
			return c.showEnd(s, j)
		},
	}
}

func jobCancel(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "cancel ID...", Short: "Have jobs end", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(s, args, func(id string) error {
				if err := c.call(cmd.Context(), http.MethodDelete, "/jobs/"+url.PathEscape(id), nil, nil, nil); err != nil {
					return fmt.Errorf("cancel %s: %w", id, err)
				}
				return nil
			})
		},
	}
}

// startJob starts a job and, unless it is to be left alone, waits for its end.
func (c *client) startJob(ctx context.Context, s Streams, in admin.NewJob, detach bool) error {
	return c.runJob(ctx, s, in.Kind, in.Path, "/jobs", in, detach)
}

// runJob is startJob of a kind of job that is started by what is at to.
func (c *client) runJob(ctx context.Context, s Streams, kind, path, to string, in any, detach bool) error {
	var j admin.Job
	if err := c.call(ctx, http.MethodPost, to, nil, in, &j); err != nil {
		return fmt.Errorf("%s %s: %w", kind, path, err)
	}
	if detach {
		if c.json() {
			return printJSON(s.Out, j)
		}
		_, err := fmt.Fprintln(s.Out, j.ID)
		return err
	}
	j, err := c.watchJob(ctx, s, j.ID)
	if err != nil {
		return err
	}
	return c.showEnd(s, j)
}

// How often a job is looked at: a line on a terminal moves, others add up.
const (
	onTerminal = time.Second
	inLog      = 10 * time.Second
)

// watchJob shows how far a job is, on one line of a terminal or on lines one after the other, until it has ended.
func (c *client) watchJob(ctx context.Context, s Streams, id string) (j admin.Job, err error) {
	terminal := telemetry.IsTerminal(s.Err)
	wait, before, after := inLog, "", "\n"
	if terminal {
		wait, before, after = onTerminal, "\r\x1b[K", ""
	}
	shown := false
	for {
		if err := c.call(ctx, http.MethodGet, "/jobs/"+url.PathEscape(id), query{"wait": wait.String()}, nil, &j); err != nil {
			if ctx.Err() != nil {
				return j, fmt.Errorf("job %s goes on; see `sluice job watch %s`, or end it with `sluice job cancel %s`", id, id, id)
			}
			return j, fmt.Errorf("job %s: %w", id, err)
		}
		if j.Ended != nil {
			if shown && terminal {
				fmt.Fprint(s.Err, before)
			}
			return j, nil
		}
		fmt.Fprint(s.Err, before+progress(&j)+after)
		shown = true
	}
}

// progress renders how far a job is.
func progress(j *admin.Job) string {
	if j.Started != nil && j.Diff != nil {
		return fmt.Sprintf("%s %s: %d names (%.0f/s), %d added, %d changed, %d removed, %d failed", j.Kind, j.Path, j.Done, j.Rate,
			j.Diff.Added, j.Diff.Changed, j.Diff.Removed, j.Failures)
	}
	if j.Started == nil || j.Total == 0 {
		return fmt.Sprintf("%s %s: %s", j.Kind, j.Path, map[bool]string{true: "queued", false: "counting files"}[j.Started == nil])
	}
	line := fmt.Sprintf("%s %s: %d of %d files, %s of %s", j.Kind, j.Path, j.Done, j.Total, humanize.IBytes(uint64(max(j.Bytes, 0))), humanize.IBytes(uint64(j.TotalBytes)))
	if j.Failures > 0 {
		line += fmt.Sprintf(", %d failed", j.Failures)
	}
	if took := time.Since(*j.Started).Seconds(); took > 1 && j.Bytes > 0 {
		rate := float64(j.Bytes) / took
		left := time.Duration(float64(j.TotalBytes-j.Bytes) / rate * float64(time.Second))
		line += fmt.Sprintf(", %s/s, %v left", humanize.IBytes(uint64(rate)), max(left, 0).Round(time.Second))
	}
	return line
}

// showEnd prints how a job ended; it returns an error unless it went well.
func (c *client) showEnd(s Streams, j admin.Job) error {
	if c.json() {
		if err := printJSON(s.Out, j); err != nil {
			return err
		}
	} else {
		for _, f := range j.Failed {
			fmt.Fprintf(s.Err, "sluice: %s: %s\n", f.Path, f.Why)
		}
		if more := j.Failures - int64(len(j.Failed)); more > 0 {
			fmt.Fprintf(s.Err, "sluice: and %d more\n", more)
		}
		if j.Diff != nil {
			showDiff(s, &j)
		} else if _, err := fmt.Fprintf(s.Out, "%s %s: %s; %d files, %s%s\n", j.Kind, j.Path, j.State, j.Done, humanize.IBytes(uint64(max(j.Bytes, 0))), duration(&j)); err != nil {
			return err
		}
	}
	switch {
	case j.State == "done":
		return nil
	case j.Why != "":
		return fmt.Errorf("job %s %s: %s", j.ID, j.State, j.Why)
	case j.Failures > 0 && j.Diff != nil:
		return fmt.Errorf("job %s: %d names could not be compared; what was known of them stays", j.ID, j.Failures)
	case j.Failures > 0:
		return fmt.Errorf("job %s: %d of %d files failed", j.ID, j.Failures, j.Total)
	}
	return fmt.Errorf("job %s was %s", j.ID, j.State)
}

func duration(j *admin.Job) string {
	if j.Started == nil || j.Ended == nil {
		return ""
	}
	return fmt.Sprintf(" in %v", lasted(j))
}

func cacheCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "cache", Short: "Load files into the caches of workers, free them, and see what is cached", Args: cobra.NoArgs,
		Long: `Load files into the caches of workers, free them, and see what is cached. A PATH that is a directory stands for all files
below it, and with --recursive=false for its own only.`,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("a subcommand is needed")} },
	}
	c.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(
		cacheJob(c, s, "load", "Read all pages of files into the caches of the workers that they belong to", `Read all pages of files into the caches of the workers that they belong to. Files that could not be loaded, or of which a cache
did not keep all pages, are named and make the exit status 1; the others are loaded all the same.`),
		cacheJob(c, s, "free", "Drop files from the caches of all workers", "Drop the pages of files from the caches of all workers. The files stay what they are."),
		cacheJob(c, s, "pin", "Load files, and keep them and their later versions in the caches", `Load files, and keep them and their later versions in the caches until they are unpinned: they are not evicted, and what workers
lose is loaded again, within some minutes. At most half of a cache is kept so; files that do not fit are named and make the exit
status 1, and are tried again and again. What is pinned is journaled, by its path.`),
		cacheJob(c, s, "unpin", "Take a pin back", "Take back a pin of exactly this path. What is cached stays until it is evicted, or freed."),
		cachePins(c, s), cacheStat(c, s), cacheWhere(c, s))
	return cmd
}

func cachePins(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "pins", Short: "List what is pinned", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showList(cmd, c, s, "/cache/pins", nil, "list what is pinned", "PATH\tFILES\tBYTES\tNOT KEPT\tCHECKED\tSINCE\tBY\tWHY", func(w io.Writer, p *admin.Pin) {
				checked, why := "", p.Why
				if p.Checked != nil {
					checked = p.Checked.Local().Format(time.DateTime)
				}
				if why == "" && len(p.Failed) > 0 {
					why = p.Failed[0].Path + ": " + p.Failed[0].Why
				}
				since, by := p.Since.Local().Format(time.DateTime), p.By
				if p.Rule {
					since, by = "", "replication_min"
				}
				fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\t%s\t%s\t%s\n", p.Path, p.Files, humanize.IBytes(uint64(p.Bytes)), p.Failures, checked,
					since, by, why)
			})
		},
	}
}

// recursiveFlag defines what a directory stands for.
func recursiveFlag(cmd *cobra.Command, recursive *bool) {
	cmd.Flags().BoolVarP(recursive, "recursive", "r", true, "a directory stands for everything below it")
}

func cacheJob(c *client, s Streams, kind, short, long string) *cobra.Command {
	var recursive, detach bool
	cmd := &cobra.Command{
		Use: kind + " PATH...", Short: short, Long: long, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				return c.startJob(cmd.Context(), s, admin.NewJob{Kind: kind, Path: path, Recursive: &recursive}, detach)
			})
		},
	}
	recursiveFlag(cmd, &recursive)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "only start the job, and print its id")
	return cmd
}

func cacheStat(c *client, s Streams) *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "stat PATH...", Short: "Count what of files is cached, page by page on the workers", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				var r admin.Residency
				if err := c.call(cmd.Context(), http.MethodGet, "/cache/residency", query{"path": path, "recursive": fmt.Sprint(recursive)}, nil, &r); err != nil {
					return fmt.Errorf("count %s: %w", path, err)
				}
				return c.showResidency(s, r)
			})
		},
	}
	recursiveFlag(cmd, &recursive)
	return cmd
}

func (c *client) showResidency(s Streams, r admin.Residency) error {
	if c.json() {
		return printJSON(s.Out, r)
	}
	for _, f := range r.Failed {
		fmt.Fprintf(s.Err, "sluice: %s: %s\n", f.Path, f.Why)
	}
	fmt.Fprintf(s.Out, "%s: %v %% cached: %d of %d pages, %s of %s, %d of %d files whole", r.Path, r.Percent, r.Cached, r.Pages,
		humanize.IBytes(uint64(r.CachedBytes)), humanize.IBytes(uint64(r.Bytes)), r.WholeFiles, r.Files)
	if r.Short > 0 {
		fmt.Fprintf(s.Out, "; %d pages on fewer workers than replication_min says", r.Short)
	}
	if r.Elsewhere > 0 {
		fmt.Fprintf(s.Out, "; %d pages only on workers that are not asked for them", r.Elsewhere)
	}
	fmt.Fprintln(s.Out)
	if err := printWorkers(s.Out, r.Workers); err != nil {
		return err
	}
	if r.Failures > 0 {
		return fmt.Errorf("%d files could not be looked at", r.Failures)
	}
	return nil
}

func printWorkers(out io.Writer, all []admin.WorkerPages) error {
	w := newTable(out)
	fmt.Fprintln(w, "WORKER\tTIER\tMEDIUM\tPAGES\tBYTES")
	for _, x := range all {
		for _, t := range x.Tiers {
			fmt.Fprintf(w, "%s\t%d\t%s\t%d\t%s\n", x.Worker, t.Tier, t.Medium, t.Pages, humanize.IBytes(uint64(t.Bytes)))
		}
		if len(x.Tiers) == 0 {
			fmt.Fprintf(w, "%s\t\t\t0\t0 B\n", x.Worker)
		}
		if x.Why != "" {
			fmt.Fprintf(w, "%s\t\t\t?\t%s\n", x.Worker, x.Why)
		}
	}
	return w.Flush()
}

func cacheWhere(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "where FILE", Short: "Say which workers have which bytes of a file", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return showList(cmd, c, s, "/cache/places", query{"path": args[0]}, "where "+args[0], "OFFSET\tLENGTH\tOWNER\tCACHED ON\tKEPT BY", func(w io.Writer, x *admin.Stretch) {
				on := ""
				for i, p := range x.Places {
					if i > 0 {
						on += ", "
					}
					on += fmt.Sprintf("%s (%s)", p.Worker, p.Medium)
				}
				keep := ""
				if x.CopiesMin > 0 {
					keep = fmt.Sprintf("%s (replication_min %d)", strings.Join(x.Keepers, ", "), x.CopiesMin)
				}
				fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%d\t%d\t%s\t%s\t%s", x.Offset, x.Length, x.Owner, on, keep), "\t"))
			})
		},
	}
}
