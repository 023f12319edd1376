package cli

import (
	"fmt"
	"net/http"
	"os"
	"reflect"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func mountCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "mount", Short: "Manage what is mounted where", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return usageError{fmt.Errorf("a subcommand is needed")} },
	}
	c.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(mountAdd(c, s), mountList(c, s), mountUpdate(c, s), mountRemove(c, s))
	return cmd
}

// policies are the flags of mount add and mount update.
type policies struct {
	readOnly                                          bool
	interval, owner, group, mode, writeType, readType string
}

func (p *policies) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&p.readOnly, "read-only", false, "refuse changes")
	f.StringVar(&p.interval, "sync-interval", "", "how old facts about the store may be: 60s, 0s (check at each access), -1 (never again)")
	f.StringVar(&p.owner, "owner", "", "owner of what the store names no owner for")
	f.StringVar(&p.group, "group", "", "group of what the store names no group for")
	f.StringVar(&p.mode, "mode", "", "mode of directories the store has none for, octal")
	f.StringVar(&p.writeType, "write-type", "", "CACHE_THROUGH or THROUGH")
	f.StringVar(&p.readType, "read-type", "", "CACHE or NO_CACHE")
}

func mountAdd(c *client, s Streams) *cobra.Command {
	var p policies
	var options []string
	cmd := &cobra.Command{
		Use:   "add PATH URI",
		Short: "Probe a store and mount it",
		Example: `  sluice mount add /nfs file:///mnt/nfs
  sluice mount add /lake s3://bucket/prefix --option endpoint=https://s3.example.com --option region=eu-west-1 \
      --option access_key=AKIA... --option secret_key=@secret.txt`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			parsed, err := parseOptions(options)
			if err != nil {
				return err
			}
			in := admin.NewMount{
				Path: args[0], URI: args[1], ReadOnly: p.readOnly, SyncInterval: p.interval, Owner: p.owner, Group: p.group,
				Mode: p.mode, WriteType: p.writeType, ReadType: p.readType, Options: parsed,
			}
			var m admin.Mount
			if err := c.call(cmd.Context(), http.MethodPost, "/mounts", nil, in, &m); err != nil {
				return fmt.Errorf("mount %s: %w", args[0], err)
			}
			return c.showMount(s, m)
		},
	}
	p.addFlags(cmd)
	addOptions(cmd, &options)
	return cmd
}

func addOptions(cmd *cobra.Command, options *[]string) {
	cmd.Flags().StringArrayVar(options, "option", nil, "option of the store, NAME=VALUE or NAME=@FILE to read the value from a file (repeatable)")
}

// parseOptions reads NAME=VALUE pairs. A secret is better read from a file: arguments can be seen by other users.
func parseOptions(pairs []string) (map[string]string, error) {
	options := map[string]string{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usageError{fmt.Errorf("--option is NAME=VALUE or NAME=@FILE")}
		}
		if file, ok := strings.CutPrefix(value, "@"); ok {
			b, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("option %s: %w", name, err)
			}
			value = strings.TrimRight(string(b), "\r\n")
		}
		options[name] = value
	}
	return options, nil
}

func mountList(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the mounts", Aliases: []string{"list"}, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var list admin.List[admin.Mount]
			if err := c.call(cmd.Context(), http.MethodGet, "/mounts", nil, nil, &list); err != nil {
				return fmt.Errorf("list the mounts: %w", err)
			}
			if c.json() {
				return printJSON(s.Out, list)
			}
			w := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "PATH\tURI\tACCESS\tSYNC\tORIGIN\tSTATE")
			for _, m := range list.Items {
				access := "read-write"
				if m.ReadOnly {
					access = "read-only"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.Path, m.URI, access, m.SyncInterval, m.Origin, m.State)
			}
			return w.Flush()
		},
	}
}

func mountUpdate(c *client, s Streams) *cobra.Command {
	var p policies
	var options []string
	cmd := &cobra.Command{
		Use: "update PATH", Short: "Change a mount's policies and options; flags not given leave them", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			given := func(flag string, value *string) *string {
				if cmd.Flags().Changed(flag) {
					return value
				}
				return nil
			}
			in := admin.MountPatch{
				SyncInterval: given("sync-interval", &p.interval), Owner: given("owner", &p.owner), Group: given("group", &p.group),
				Mode: given("mode", &p.mode), WriteType: given("write-type", &p.writeType), ReadType: given("read-type", &p.readType),
			}
			if cmd.Flags().Changed("read-only") {
				in.ReadOnly = &p.readOnly
			}
			if len(options) > 0 {
				var err error
				if in.Options, err = parseOptions(options); err != nil {
					return err
				}
			}
			if reflect.ValueOf(in).IsZero() {
				return usageError{fmt.Errorf("nothing to change; name at least one policy or option")}
			}
			var m admin.Mount
			if err := c.call(cmd.Context(), http.MethodPatch, "/mounts", query{"path": args[0]}, in, &m); err != nil {
				return fmt.Errorf("update the mount at %s: %w", args[0], err)
			}
			return c.showMount(s, m)
		},
	}
	p.addFlags(cmd)
	addOptions(cmd, &options)
	return cmd
}

func mountRemove(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "rm PATH...", Short: "Unmount; the store is left untouched", Aliases: []string{"remove"}, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				if err := c.call(cmd.Context(), http.MethodDelete, "/mounts", query{"path": path}, nil, nil); err != nil {
					return fmt.Errorf("unmount %s: %w", path, err)
				}
				return nil
			})
		},
	}
}

func (c *client) showMount(s Streams, m admin.Mount) error {
	if c.json() {
		return printJSON(s.Out, m)
	}
	_, err := fmt.Fprintf(s.Out, "%s is %s (%s)\n", m.Path, m.URI, m.State)
	return err
}
