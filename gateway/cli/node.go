package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func nodeCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "node", Short: "Look at the processes of the cluster, and drain them", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return usageError{fmt.Errorf("a subcommand is needed")} },
	}
	c.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(nodeList(c, s), nodeDrain(c, s))
	return cmd
}

func nodeList(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the processes of the cluster", Aliases: []string{"list"}, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var list admin.List[admin.Node]
			if err := c.call(cmd.Context(), http.MethodGet, "/nodes", nil, nil, &list); err != nil {
				return fmt.Errorf("list the nodes: %w", err)
			}
			return c.showNodes(s, list)
		},
	}
}

func (c *client) showNodes(s Streams, list admin.List[admin.Node]) error {
	return printList(c, s, list, "NAME\tROLE\tSTATE\tADDRESS\tHOST\tZONE\tVERSION\tSINCE", func(w io.Writer, n *admin.Node) {
		state := "ready"
		switch {
		case n.Leader && n.Draining:
			state = "leader, draining"
		case n.Leader:
			state = "leader"
		case n.Draining && n.Held != nil && *n.Held > 0:
			state = fmt.Sprintf("draining, holds %d files", *n.Held)
			if n.Waits != "" {
				state += " (" + n.Waits + ")"
			}
		case n.Draining:
			state = "draining"
		}
		since := ""
		if !n.Since.IsZero() {
			since = n.Since.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Role, state, n.Address, n.Host, n.Zone, n.Version, since)
	})
}

func nodeDrain(c *client, s Streams) *cobra.Command {
	var in admin.DrainRequest
	var wait bool
	cmd := &cobra.Command{
		Use: "drain NAME", Short: "Give a node nothing new, so that it can be stopped",
		Long: `Give a node nothing new, so that it can be stopped: a gateway says at /readyz that it is not ready and serves what comes
all the same, a worker is asked for no more blocks and holds nothing more of what no store has yet, a master hands its leadership over and
takes none while another can lead. It stays so over restarts, until --undo.

What a worker holds already, and no store has, is copied to others in failure domains of their own. --wait returns when it holds
nothing: not before then can it be taken away for good. Until then it says what it waits for.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var list admin.List[admin.Node]
			if err := c.call(cmd.Context(), http.MethodPost, "/nodes/"+url.PathEscape(args[0])+"/drain", nil, in, &list); err != nil {
				return fmt.Errorf("drain %s: %w", args[0], err)
			}
			if wait && !in.Undo {
				if err := c.awaitDrained(cmd.Context(), s.Err, &list); err != nil {
					return fmt.Errorf("wait for %s to hold nothing: %w", args[0], err)
				}
			}
			return c.showNodes(s, list)
		},
	}
	cmd.Flags().BoolVar(&in.Undo, "undo", false, "end it")
	cmd.Flags().BoolVar(&wait, "wait", false, "until a worker holds nothing that no store has")
	cmd.Flags().StringVar(&in.Role, "role", "", "in this role only: gateway, master or worker (default: in all that the name has)")
	return cmd
}

// drainedEvery is how often a worker that is waited for is asked whether it holds anything.
const drainedEvery = time.Second

// awaitDrained returns when the workers of the list hold nothing, and says to w what they wait for. It brings the list up to date.
func (c *client) awaitDrained(ctx context.Context, w io.Writer, list *admin.List[admin.Node]) error {
	said := ""
	for {
		empty, waits := true, ""
		for _, n := range list.Items {
			if n.Role == "worker" && (n.Held == nil || *n.Held > 0) {
				empty, waits = false, cmp.Or(waits, n.Waits)
			}
		}
		if waits != "" && waits != said {
			fmt.Fprintln(w, "waiting:", waits)
			said = waits
		}
		if empty {
			return nil
		}
		select {
		case <-time.After(drainedEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var all admin.List[admin.Node]
		if err := c.call(ctx, http.MethodGet, "/nodes", nil, nil, &all); err != nil {
			return err
		}
		for i, n := range list.Items {
			at := slices.IndexFunc(all.Items, func(m admin.Node) bool { return m.Name == n.Name && m.Role == n.Role })
			switch {
			case at >= 0 && !all.Items[at].Draining:
				return fmt.Errorf("somebody has ended the draining of %s", n.Name)
			case at >= 0:
				list.Items[i] = all.Items[at]
			default: // it is not there, and what it holds is not known
				list.Items[i].Held, list.Items[i].Waits = nil, "the worker is not there"
			}
		}
	}
}
