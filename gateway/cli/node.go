package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
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
	if c.json() {
		return printJSON(s.Out, list)
	}
	w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tSTATE\tADDRESS\tHOST\tZONE\tVERSION\tSINCE")
	for _, n := range list.Items {
		state := "ready"
		switch {
		case n.Leader && n.Draining:
			state = "leader, draining"
		case n.Leader:
			state = "leader"
		case n.Draining:
			state = "draining"
		}
		since := ""
		if !n.Since.IsZero() {
			since = n.Since.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Role, state, n.Address, n.Host, n.Zone, n.Version, since)
	}
	return w.Flush()
}

func nodeDrain(c *client, s Streams) *cobra.Command {
	var in admin.DrainRequest
	cmd := &cobra.Command{
		Use: "drain NAME", Short: "Give a node nothing new, so that it can be stopped",
		Long: `Give a node nothing new, so that it can be stopped: a gateway says at /readyz that it is not ready and serves what comes
all the same, a worker is asked for no more blocks, a master hands its leadership over and takes none while another can lead.
It stays so over restarts, until --undo.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var list admin.List[admin.Node]
			if err := c.call(cmd.Context(), http.MethodPost, "/nodes/"+url.PathEscape(args[0])+"/drain", nil, in, &list); err != nil {
				return fmt.Errorf("drain %s: %w", args[0], err)
			}
			return c.showNodes(s, list)
		},
	}
	cmd.Flags().BoolVar(&in.Undo, "undo", false, "end it")
	cmd.Flags().StringVar(&in.Role, "role", "", "in this role only: gateway, master or worker (default: in all that the name has)")
	return cmd
}
