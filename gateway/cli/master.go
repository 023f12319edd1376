package cli

import (
	"fmt"
	"net/http"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func masterCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "master", Short: "Look at the masters, and change who leads", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return usageError{fmt.Errorf("a subcommand is needed")} },
	}
	c.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(masterList(c, s), masterHandover(c, s))
	return cmd
}

func masterList(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the masters", Aliases: []string{"list"}, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var list admin.List[admin.Master]
			if err := c.call(cmd.Context(), http.MethodGet, "/masters", nil, nil, &list); err != nil {
				return fmt.Errorf("list the masters: %w", err)
			}
			if c.json() {
				return printJSON(s.Out, list)
			}
			w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tADDRESS\tPEER\tID")
			for _, m := range list.Items {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.State, m.Address, m.Peer, m.ID)
			}
			return w.Flush()
		},
	}
}

func masterHandover(c *client, s Streams) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use: "handover", Short: "Have another master lead", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var done admin.Handover
			if err := c.call(cmd.Context(), http.MethodPost, "/masters/handover", nil, admin.HandoverRequest{To: to}, &done); err != nil {
				return fmt.Errorf("hand over: %w", err)
			}
			if c.json() {
				return printJSON(s.Out, done)
			}
			_, err := fmt.Fprintf(s.Out, "%s leads instead of %s, after %d ms\n", done.To, done.From, done.Ms)
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the master that is to lead (default: any other)")
	return cmd
}
