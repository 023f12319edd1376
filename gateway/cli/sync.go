package cli

import (
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func syncCommand(s Streams) *cobra.Command {
	c := &client{}
	var recursive, force, dryRun, resume, detach bool
	cmd := &cobra.Command{
		Use: "sync PATH...", Short: "Compare names with their stores now, and take over what others changed there",
		Long: `Compare names with their stores now, whatever the sync interval, and take over what others changed there: a file, the names in a
directory or, with --recursive, everything below it and in the mounts there. What it finds is counted, and the first names are
shown: + new, or never looked at; ~ changed; - removed. Directories that could not be compared are named, keep what was known of
them, and make the exit status 1. An empty directory that was not is looked at a second time, a second later, before that is
believed. It is a job of the leading master; sluice job cancel ends it, and what was compared until then stays: with --resume the
next one goes on from there, with what had failed too, unless another master leads by then, a day has passed or a mount has changed:
that begins anew.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				in := admin.NewSync{Path: path, Recursive: recursive, Force: force, DryRun: dryRun, Resume: resume}
				return c.runJob(cmd.Context(), s, "sync", path, "/sync", in, detach)
			})
		},
	}
	c.addFlags(cmd.Flags())
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "everything below a directory")
	cmd.Flags().BoolVar(&force, "force", false, "ask also about each file of which more is known than listings say, where they show the version that is known")
	cmd.Flags().BoolVarP(&dryRun, "dry-run", "n", false, "only say what differs")
	cmd.Flags().BoolVar(&resume, "resume", false, "go on where the last sync of the path was cut off, if that is known; not with --dry-run")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "only start the job, and print its id")
	return cmd
}

func invalidateCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "invalidate PATH...", Short: "Have the next access ask the store, whatever is known",
		Long: `Have nothing count that is known of the paths and of what is below them: the next access asks the store, also where the sync
interval is -1. It asks no store itself; what no store has yet stays what it is.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			if err := c.call(cmd.Context(), http.MethodPost, "/invalidate", nil, admin.Invalidation{Paths: args}, nil); err != nil {
				return fmt.Errorf("invalidate: %w", err)
			}
			return nil
		},
	}
	c.addFlags(cmd.Flags())
	return cmd
}

// showDiff says what a sync has found.
func showDiff(s Streams, j *admin.Job) {
	signs := map[string]string{"added": "+", "changed": "~", "removed": "-"}
	for _, f := range j.Diff.First {
		fmt.Fprintf(s.Out, "%s %s\n", signs[f.Change], f.Path)
	}
	about := "taken over"
	if j.DryRun {
		about = "would be taken over"
	}
	if j.Resumed != nil {
		fmt.Fprintf(s.Out, "%s: goes on from the sync that began at %s\n", j.Path, j.Resumed.Format(time.RFC3339))
	}
	fmt.Fprintf(s.Out, "%s: %d added, %d changed, %d removed, %s; %d names compared in %d answers of stores\n",
		j.Path, j.Diff.Added, j.Diff.Changed, j.Diff.Removed, about, j.Done, j.Diff.Answers)
}
