package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func secretCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "secret", Short: "Manage named secrets, which mounts take their credentials from", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("a subcommand is needed")} },
	}
	c.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(secretSet(c, s), secretList(c, s), secretRemove(c, s))
	return cmd
}

func secretSet(c *client, s Streams) *cobra.Command {
	var options []string
	var dry, force bool
	cmd := &cobra.Command{
		Use: "set NAME", Short: "Make a secret, or give it other values, which the mounts that use it have at once", Args: cobra.ExactArgs(1),
		Example: `  sluice secret set lake-keys --option access_key=AKIA... --option secret_key=@secret.txt
  sluice mount add /lake s3://bucket/prefix --option region=eu-west-1 --option secret=lake-keys`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			parsed, err := parseOptions(options)
			if err != nil {
				return err
			}
			if len(parsed) == 0 {
				return usageError{errors.New("a secret holds at least one --option")}
			}
			var out admin.Secret
			if err := c.call(cmd.Context(), http.MethodPut, "/secrets/"+url.PathEscape(args[0]), asked(dry, force, nil), admin.NewSecret{Options: parsed}, &out); err != nil {
				return fmt.Errorf("set the secret %s: %w", args[0], err)
			}
			if c.json() {
				return printJSON(s.Out, out)
			}
			return sayDid(s, dry, []string{fmt.Sprintf("%s holds %s; %d mounts use it", out.Name, strings.Join(out.Options, ", "), len(out.UsedBy))})
		},
	}
	addOptions(cmd, &options)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "probe the stores of the mounts that use it with the new values, and change nothing")
	cmd.Flags().BoolVar(&force, "force", false, "do not probe the stores of the mounts that use it")
	return cmd
}

func secretList(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the secrets, without their values", Aliases: []string{"list"}, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showList(cmd, c, s, "/secrets", nil, "list the secrets", "NAME\tOPTIONS\tCHANGED\tBY\tUSED BY", func(w io.Writer, x *admin.Secret) {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", x.Name, strings.Join(x.Options, " "), x.Changed.Format(time.RFC3339), x.By, strings.Join(x.UsedBy, " "))
			})
		},
	}
}

func secretRemove(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME...", Short: "Forget secrets that no mount uses", Aliases: []string{"remove"}, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(name string) error {
				if err := c.call(cmd.Context(), http.MethodDelete, "/secrets/"+url.PathEscape(name), nil, nil, nil); err != nil {
					return fmt.Errorf("remove the secret %s: %w", name, err)
				}
				return nil
			})
		},
	}
}
