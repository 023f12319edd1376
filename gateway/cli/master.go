package cli

import (
	"fmt"
	"io"
	"net/http"

	"github.com/dustin/go-humanize"
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
	cmd.AddCommand(masterList(c, s), masterHandover(c, s), masterAdd(c, s), masterPromote(c, s), masterRemove(c, s))
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
			return c.showMasters(s, list)
		},
	}
}

func (c *client) showMasters(s Streams, list admin.List[admin.Master]) error {
	return printList(c, s, list, "NAME\tSTATE\tADDRESS\tPEER\tID", func(w io.Writer, m *admin.Master) {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.State, m.Address, m.Peer, m.ID)
	})
}

func masterAdd(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "add URL", Short: "Tell the cluster of a new master, which learns at first",
		Long: `Tell the cluster of a new master, which the others' etcd members will reach at URL. Then start it with --join-existing and
with itself beside the others in --join, and let it vote with 'sluice master promote' once it runs. To replace a master:

  sluice master add http://10.0.0.4:2380
  sluice serve --name m4 --join m1=…,m2=…,m3=…,m4=http://10.0.0.4:2380 --join-existing …
  sluice master promote m4 --remove m1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var list admin.List[admin.Master]
			if err := c.call(cmd.Context(), http.MethodPost, "/masters", nil, admin.NewMaster{Peer: args[0]}, &list); err != nil {
				return fmt.Errorf("add %s: %w", args[0], err)
			}
			return c.showMasters(s, list)
		},
	}
}

func masterPromote(c *client, s Streams) *cobra.Command {
	var remove []string
	cmd := &cobra.Command{
		Use: "promote NAME...", Short: "Let masters vote that have learnt, in the place of others or beside them",
		Long: `Let masters vote that were added and have caught up, which is waited for. 1, 3 or 5 must vote afterwards: promote one and
remove another, or promote two.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.changeMasters(cmd, s, admin.MastersChange{Promote: args, Remove: remove})
		},
	}
	cmd.Flags().StringSliceVar(&remove, "remove", nil, "a master that leaves in the same change (repeatable)")
	return cmd
}

func masterRemove(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME...", Short: "Have masters leave for ever; 1, 3 or 5 must be left", Aliases: []string{"rm"}, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.changeMasters(cmd, s, admin.MastersChange{Remove: args})
		},
	}
}

func (c *client) changeMasters(cmd *cobra.Command, s Streams, change admin.MastersChange) error {
	if err := c.check(); err != nil {
		return err
	}
	var list admin.List[admin.Master]
	if err := c.call(cmd.Context(), http.MethodPost, "/masters/change", nil, change, &list); err != nil {
		return fmt.Errorf("change the masters: %w", err)
	}
	return c.showMasters(s, list)
}

func defragCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "defrag", Short: "Give back what the journal's databases do not use",
		Long: `Give back what the journal's databases do not use, and end the mode in which only reads and deletes are served, if they
are small enough then. One member is done at a time, the leader last, after another has taken over; a member answers nothing
meanwhile, at some 100 MB/s. A process that is complete of its own answers no change meanwhile.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var list admin.List[admin.Defragmented]
			if err := c.call(cmd.Context(), http.MethodPost, "/masters/defrag", nil, nil, &list); err != nil {
				return fmt.Errorf("defragment: %w", err)
			}
			failed := 0
			for _, d := range list.Items {
				if d.Error != "" {
					fmt.Fprintf(s.Err, "sluice: defragment %s: %s\n", d.Member, d.Error)
					failed++
				}
			}
			if err := printList(c, s, list, "MEMBER\tBEFORE\tAFTER\tTOOK", func(w io.Writer, d *admin.Defragmented) {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d ms\n", d.Member, humanize.IBytes(uint64(d.Before)), humanize.IBytes(uint64(d.After)), d.Ms)
			}); err != nil {
				return err
			}
			if failed > 0 {
				return partialError{failed, len(list.Items)}
			}
			return nil
		},
	}
	c.addFlags(cmd.Flags())
	return cmd
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
