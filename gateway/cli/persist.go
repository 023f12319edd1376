package cli

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func persistCommand(s Streams) *cobra.Command {
	c := &client{}
	var overwrite, detach bool
	cmd := &cobra.Command{
		Use: "persist PATH...", Short: "Bring what only workers hold to its store, at once",
		Long: `Bring what only workers hold to its store, at once: a file, or everything below a directory. Files that were written with
ASYNC_THROUGH go there by themselves in a while, those written with MUST_CACHE only by this. A file that others have put into
the store since is left alone and named, and the exit status is 1, unless --overwrite.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				return c.startJob(cmd.Context(), s, admin.NewJob{Kind: "persist", Path: path, Overwrite: overwrite}, detach)
			})
		},
	}
	c.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "also replace what others have put into the store since")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "only start the job, and print its id")
	return cmd
}

func durabilityCommand(s Streams) *cobra.Command {
	c := &client{}
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "durability FILE...", Short: "Say what files would survive, or wait until their store has them",
		Long: `Say what files would survive: whether their store has them, or which workers hold them until it has. The exit status is 1 for a
file that its store does not have.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				var d admin.Durability
				if err := c.call(cmd.Context(), http.MethodGet, "/durability", query{"path": path, "wait": wait.String()}, nil, &d); err != nil {
					return fmt.Errorf("durability of %s: %w", path, err)
				}
				return c.showDurability(s, d)
			})
		},
	}
	c.addFlags(cmd.Flags())
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait so long at most for what is on its way to the store")
	return cmd
}

func (c *client) showDurability(s Streams, d admin.Durability) error {
	var err error
	if c.json() {
		err = printJSON(s.Out, d)
	} else {
		line := fmt.Sprintf("%s: %s", d.Path, d.State)
		if len(d.Holders) > 0 {
			line += fmt.Sprintf(" (%s), held by %s since %s", d.WriteType, strings.Join(d.Holders, ", "), d.Since.Local().Format(time.DateTime))
		}
		if len(d.Lost) > 0 {
			line += ", of which do not answer: " + strings.Join(d.Lost, ", ")
		}
		if d.Why != "" {
			line += "; " + d.Why
		}
		_, err = fmt.Fprintln(s.Out, line)
	}
	if err == nil && !d.Durable {
		err = fmt.Errorf("%s is not in its store", d.Path)
	}
	return err
}
