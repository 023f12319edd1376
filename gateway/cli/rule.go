package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

// What a rule sets, by the names that the API has.
const (
	ruleWriteType     = "write_type"
	ruleReadType      = "read_type"
	ruleReplicas      = "replicas"
	rulePersistDelay  = "persist_delay"
	ruleCopiesMin     = "replication_min"
	ruleCopiesMax     = "replication_max"
	ruleRenameThrough = "rename_through_timeout"
	ruleSyncInterval  = "sync_interval"
	ruleLoadType      = "load_type"
)

var ruleKeys = []string{ruleWriteType, ruleReadType, ruleReplicas, rulePersistDelay, ruleCopiesMin, ruleCopiesMax, ruleRenameThrough, ruleSyncInterval, ruleLoadType}

func ruleCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "path-rule", Short: "Say for parts of the tree how data is written, read and kept", Args: cobra.NoArgs,
		Long: `Say for parts of the tree how data is written, read and kept. A rule is of a path and all below it, by whole names, whatever is
there or mounted there, and is journaled. What a request asks for comes before rules; of rules, the longest path's that says
anything; then the mount, then the configuration.

  write_type=CACHE_THROUGH | THROUGH | ASYNC_THROUGH | MUST_CACHE
  read_type=CACHE_PROMOTE | CACHE | NO_CACHE
  replicas=N          workers that hold a write of type ASYNC_THROUGH or MUST_CACHE before the store has it
  persist_delay=2s    from such a write to the store
  replication_min=N   workers, in distinct failure domains, that load and keep what is there; 0: what is read stays while there is room
  replication_max=N   workers that reads of a cached block are spread over when it is read much; -1: all of them
  rename_through_timeout=30s   how long a rename of a directory waits for a store that has to copy it; then it goes on by itself; 0s: until it is done
  sync_interval=60s   how old facts about the store may be; 0s: it is asked at each access; -1: never again
  load_type=ONCE | NEVER | ALWAYS   where sync_interval is -1: the store is asked for what is not known; never; also for what was absent, and to list`,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("a subcommand is needed")} },
	}
	c.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(ruleSet(c, s), ruleList(c, s), ruleRemove(c, s))
	return cmd
}

func ruleSet(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "set PATH KEY=VALUE...", Short: "Set something for a path and all below it; what is not named stays", Args: cobra.MinimumNArgs(2),
		Example: "  sluice path-rule set /lake/tmp write_type=MUST_CACHE replicas=1",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			in := admin.PathRule{Path: args[0]}
			for _, arg := range args[1:] {
				key, value, ok := strings.Cut(arg, "=")
				if !ok || value == "" {
					return usageError{fmt.Errorf("%q is not KEY=VALUE", arg)}
				}
				if err := setIn(&in, key, value); err != nil {
					return err
				}
			}
			var out admin.PathRule
			if err := c.call(cmd.Context(), http.MethodPut, "/path-rules", nil, in, &out); err != nil {
				return fmt.Errorf("set the rule of %s: %w", args[0], err)
			}
			if c.json() {
				return printJSON(s.Out, out)
			}
			return showRules(s, out)
		},
	}
}

func setIn(r *admin.PathRule, key, value string) (err error) {
	switch key {
	case ruleWriteType:
		r.WriteType = value
	case ruleReadType:
		r.ReadType = value
	case ruleReplicas:
		if r.Replicas, err = strconv.Atoi(value); err != nil || r.Replicas < 1 {
			return usageError{fmt.Errorf("%s: %q is not a number of workers", key, value)}
		}
	case rulePersistDelay:
		r.PersistDelay = value
	case ruleRenameThrough:
		r.RenameThrough = value
	case ruleSyncInterval:
		r.SyncInterval = value
	case ruleLoadType:
		r.LoadType = value
	case ruleCopiesMin:
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return usageError{fmt.Errorf("%s: %q is not a number of workers", key, value)}
		}
		r.CopiesMin = &n
	case ruleCopiesMax:
		if r.CopiesMax, err = strconv.Atoi(value); err != nil || r.CopiesMax < -1 || r.CopiesMax == 0 {
			return usageError{fmt.Errorf("%s: %q is not a number of workers, nor -1 for all", key, value)}
		}
	default:
		return usageError{fmt.Errorf("there is nothing of the name %q to set; a rule sets %s", key, strings.Join(ruleKeys, ", "))}
	}
	return nil
}

// showRules prints a line for everything that rules set.
func showRules(s Streams, rules ...admin.PathRule) error {
	w := newTable(s.Out)
	fmt.Fprintln(w, "PATH\tSETTING\tVALUE")
	for _, r := range rules {
		replicas, low, high := "", "", ""
		if r.CopiesMin != nil {
			low = strconv.Itoa(*r.CopiesMin)
		}
		if r.CopiesMax != 0 {
			high = strconv.Itoa(r.CopiesMax)
		}
		if r.Replicas > 0 {
			replicas = strconv.Itoa(r.Replicas)
		}
		for _, x := range []struct {
			key, value string
		}{{ruleWriteType, r.WriteType}, {ruleReadType, r.ReadType}, {ruleReplicas, replicas}, {rulePersistDelay, r.PersistDelay}, {ruleCopiesMin, low}, {ruleCopiesMax, high}, {ruleRenameThrough, r.RenameThrough}, {ruleSyncInterval, r.SyncInterval}, {ruleLoadType, r.LoadType}} {
			if x.value != "" {
				fmt.Fprintf(w, "%s\t%s\t%s\n", r.Path, x.key, x.value)
			}
		}
	}
	return w.Flush()
}

func ruleList(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "ls [PATH]", Short: "List the rules or, with a path, what applies to it and where that comes from",
		Aliases: []string{"list"}, Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return c.showPolicies(cmd, s, args[0])
			}
			if err := c.check(); err != nil {
				return err
			}
			var list admin.List[admin.PathRule]
			if err := c.call(cmd.Context(), http.MethodGet, "/path-rules", nil, nil, &list); err != nil {
				return fmt.Errorf("list the path rules: %w", err)
			}
			if c.json() {
				return printJSON(s.Out, list)
			}
			return showRules(s, list.Items...)
		},
	}
}

func (c *client) showPolicies(cmd *cobra.Command, s Streams, path string) error {
	return showList(cmd, c, s, "/path-rules/effective", query{"path": path}, "look up what applies to "+path, "SETTING\tVALUE\tORIGIN", func(w io.Writer, p *admin.Policy) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", p.Setting, p.Value, strings.TrimRight(p.Origin+" "+p.Path, " "))
	})
}

func ruleRemove(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "rm PATH [KEY...]", Short: "Take back what is set for a path, or only some of it", Aliases: []string{"remove"}, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			q := query{"path": args[0]}
			if len(args) > 1 {
				q["setting"] = strings.Join(args[1:], ",")
			}
			if err := c.call(cmd.Context(), http.MethodDelete, "/path-rules", q, nil, nil); err != nil {
				return fmt.Errorf("remove the rule of %s: %w", args[0], err)
			}
			return nil
		},
	}
}
