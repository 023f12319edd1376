package cli

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

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
	cmd.AddCommand(mountAdd(c, s), mountList(c, s), mountUpdate(c, s), mountRemove(c, s), mountHistory(c, s), mountRollback(c, s))
	return cmd
}

// policies are the flags of mount add and mount update.
type policies struct {
	readOnly, dryRun                                  bool
	access                                            string
	interval, owner, group, mode, writeType, readType string
	replicas                                          int
	delay                                             string
	copiesMin, copiesMax                              int
	loadType                                          string
}

func (p *policies) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&p.readOnly, "read-only", false, "refuse changes: --access readOnly")
	f.StringVar(&p.access, "access", "", "noAccess (the mount point shows, and nothing in it), readOnly or readWrite")
	f.BoolVar(&p.dryRun, "dry-run", false, "make all checks and probes, say what would change, and change nothing")
	f.StringVar(&p.interval, "sync-interval", "", "how old facts about the store may be: 60s, 0s (check at each access), -1 (never again)")
	f.StringVar(&p.loadType, "load-type", "", "where the sync interval is -1: ONCE (ask the store for what is not known), NEVER, ALWAYS (also for what was absent, and for every listing)")
	f.StringVar(&p.owner, "owner", "", "owner of what the store names no owner for")
	f.StringVar(&p.group, "group", "", "group of what the store names no group for")
	f.StringVar(&p.mode, "mode", "", "mode of directories the store has none for, octal")
	f.StringVar(&p.writeType, "write-type", "", "CACHE_THROUGH, THROUGH, ASYNC_THROUGH or MUST_CACHE")
	f.StringVar(&p.readType, "read-type", "", "CACHE_PROMOTE, CACHE or NO_CACHE")
	f.IntVar(&p.replicas, "replicas", 0, "workers that hold a write of type ASYNC_THROUGH before the store has it (0: the configuration's)")
	f.StringVar(&p.delay, "persist-delay", "", "from such a write to the store, such as 2s")
	f.IntVar(&p.copiesMin, "replication-min", -1, "workers, in distinct failure domains, that load and keep what is there; 0: what is read stays while there is room (-1: the configuration's)")
	f.IntVar(&p.copiesMax, "replication-max", 0, "workers that reads of a cached block are spread over when it is read much (-1: all; 0: the configuration's)")
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
				Mode: p.mode, WriteType: p.writeType, ReadType: p.readType, Options: parsed, Replicas: p.replicas, PersistDelay: p.delay,
				CopiesMax: p.copiesMax, Access: p.access, LoadType: p.loadType,
			}
			if p.copiesMin != -1 {
				in.CopiesMin = &p.copiesMin
			}
			var m admin.MountAnswer
			if err := c.call(cmd.Context(), http.MethodPost, "/mounts", asked(p.dryRun, false, nil), in, &m); err != nil {
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
			return showList(cmd, c, s, "/mounts", nil, "list the mounts", "PATH\tURI\tACCESS\tSYNC\tEVENTS\tORIGIN\tSTATE", func(w io.Writer, m *admin.Mount) {
				access := "read-write"
				switch {
				case m.Access == "noAccess":
					access = "none"
				case m.ReadOnly:
					access = "read-only"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Path, m.URI, access, m.SyncInterval, m.Feed, m.Origin, m.State)
			})
		},
	}
}

// asked returns the parameters of a change.
func asked(dry, force bool, q query) query {
	all := query{}
	maps.Copy(all, q)
	if dry {
		all["dry_run"] = "true"
	}
	if force {
		all["force"] = "true"
	}
	return all
}

const forceUsage = "give up files that the store does not have yet, changes that wait for its answer and open multipart uploads, and say so"

func mountUpdate(c *client, s Streams) *cobra.Command {
	var p policies
	var options, defaults []string
	var uri string
	var force, adopt bool
	cmd := &cobra.Command{
		Use: "update PATH", Short: "Change a mount's policies and options, or switch it to another store; flags not given leave them", Args: cobra.ExactArgs(1),
		Example: `  sluice mount update /lake --sync-interval 10s --default write_type
  sluice mount update /lake --option secret=lake-keys --option access_key= --option secret_key=
  sluice mount update /lake --uri s3://bucket-2/prefix --dry-run
  sluice mount update /nfs --adopt --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			in := map[string]any{} // of admin.MountPatch, with what is to be null
			for flag, field := range map[string]struct {
				name  string
				value any
			}{
				"uri": {"uri", uri}, "adopt": {"adopt", adopt}, "access": {"access", p.access}, "read-only": {"read_only", p.readOnly},
				"sync-interval": {ruleSyncInterval, p.interval}, "owner": {"owner", p.owner}, "group": {"group", p.group}, "mode": {"mode", p.mode},
				"write-type": {ruleWriteType, p.writeType}, "read-type": {ruleReadType, p.readType}, "persist-delay": {rulePersistDelay, p.delay},
				"load-type": {ruleLoadType, p.loadType},
				"replicas":  {ruleReplicas, p.replicas}, "replication-min": {ruleCopiesMin, p.copiesMin}, "replication-max": {ruleCopiesMax, p.copiesMax},
			} {
				if cmd.Flags().Changed(flag) {
					in[field.name] = field.value
				}
			}
			for _, name := range defaults {
				if _, twice := in[name]; twice || name == "uri" || name == "options" || name == "adopt" {
					return usageError{fmt.Errorf("--default %s: it has no default, or is given a value too", name)}
				}
				in[name] = nil
			}
			if len(options) > 0 {
				parsed, err := parseOptions(options)
				if err != nil {
					return err
				}
				in["options"] = parsed
			}
			if len(in) == 0 {
				return usageError{fmt.Errorf("nothing to change; name at least one policy or option")}
			}
			var m admin.MountAnswer
			if err := c.call(cmd.Context(), http.MethodPatch, "/mounts", asked(p.dryRun, force, query{"path": args[0]}), in, &m); err != nil {
				return fmt.Errorf("update the mount at %s: %w", args[0], err)
			}
			return c.showMount(s, m)
		},
	}
	p.addFlags(cmd)
	addOptions(cmd, &options)
	cmd.Flags().StringVar(&uri, "uri", "", "switch the mount to this store, in one step; an endpoint is given as an option with it")
	cmd.Flags().BoolVar(&adopt, "adopt", false, "take the directory that is at the mount's URI now for the mount's: it was moved or restored on purpose or, with --option create=true, "+
		"is missing and is made; files that workers hold are kept, and go there")
	cmd.Flags().StringArrayVar(&defaults, "default", nil, "policy that is to be the default again, by its name in the API, such as sync_interval (repeatable)")
	cmd.Flags().BoolVar(&force, "force", false, "with --uri: "+forceUsage)
	return cmd
}

func mountRemove(c *client, s Streams) *cobra.Command {
	var dry, force bool
	cmd := &cobra.Command{
		Use: "rm PATH...", Short: "Unmount; the store is left untouched", Aliases: []string{"remove"}, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				var m admin.MountAnswer
				var out any // there is no answer unless it says something
				if dry || force {
					out = &m
				}
				if err := c.call(cmd.Context(), http.MethodDelete, "/mounts", asked(dry, force, query{"path": path}), nil, out); err != nil {
					return fmt.Errorf("unmount %s: %w", path, err)
				}
				if m.Path == "" {
					return nil
				}
				return c.showMount(s, m)
			})
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "make all checks, say what would change, and change nothing")
	cmd.Flags().BoolVar(&force, "force", false, forceUsage)
	return cmd
}

func mountHistory(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "history", Short: "List the changes of mounts, named secrets and path rules, the latest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showList(cmd, c, s, "/mount-history", nil, "list the changes of mounts", "REVISION\tAT\tBY\tWHAT", func(w io.Writer, r *admin.Revision) {
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", r.Number, r.At.Format(time.RFC3339), r.By, r.What)
			})
		},
	}
}

func mountRollback(c *client, s Streams) *cobra.Command {
	var dry, force bool
	cmd := &cobra.Command{
		Use: "rollback REVISION", Short: "Make mounts and path rules what they were after a revision", Args: cobra.ExactArgs(1),
		Long: `Make mounts and path rules what they were after a revision of sluice mount history. Each change that this takes passes the checks
of any other, is made after the other, and is a revision of its own; the first that is refused ends the rollback, and what was done
before stays. Secrets are never taken back: named ones stay as they are, a mount keeps the credentials that it has, and one that is made
again has those that it had.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			if _, err := strconv.ParseUint(args[0], 10, 64); err != nil {
				return usageError{fmt.Errorf("%q is not the number of a revision", args[0])}
			}
			var out admin.Rollback
			if err := c.call(cmd.Context(), http.MethodPost, "/mount-history/"+args[0]+"/rollback", asked(dry, force, nil), nil, &out); err != nil {
				return fmt.Errorf("roll back to %s: %w", args[0], err)
			}
			if c.json() {
				return printJSON(s.Out, out)
			}
			return sayDid(s, out.DryRun, out.Did)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be done, and change nothing")
	cmd.Flags().BoolVar(&force, "force", false, forceUsage)
	return cmd
}

func sayDid(s Streams, dry bool, did []string) error {
	before := ""
	if dry {
		before = "dry run: "
	}
	for _, what := range did {
		if _, err := fmt.Fprintln(s.Out, before+what); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) showMount(s Streams, m admin.MountAnswer) error {
	if c.json() {
		return printJSON(s.Out, m)
	}
	if len(m.Did) > 0 || len(m.GaveUp) > 0 {
		return sayDid(s, m.DryRun, append(m.Did, m.GaveUp...))
	}
	_, err := fmt.Fprintf(s.Out, "%s is %s (%s)\n", m.Path, m.URI, m.State)
	return err
}
