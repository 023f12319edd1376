package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func bucketCommand(s Streams) *cobra.Command {
	c := &client{}
	alias := &cobra.Command{
		Use: "alias", Short: "Have bucket names stand for directories", Args: cobra.NoArgs,
		Long: `Have bucket names stand for directories anywhere in the tree. A directory at the root is a bucket by itself; a name that one of them
has cannot be an alias, and one that is made later under the name of an alias is not seen over S3. Rights are those of the directory and
its files. An alias names a path: it does not follow a directory that is renamed. Over S3, an alias is neither made nor removed.`,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("a subcommand is needed")} },
	}
	alias.AddCommand(aliasSet(c, s), aliasList(c, s), aliasRemove(c))
	cmd := &cobra.Command{
		Use: "bucket", Short: "Manage what the buckets of the S3 front-end are", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return usageError{errors.New("a subcommand is needed")} },
	}
	c.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(alias)
	return cmd
}

func aliasSet(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "set NAME PATH", Short: "Have the bucket NAME stand for the directory PATH", Args: cobra.ExactArgs(2),
		Example: "  sluice bucket alias set warehouse /lake/prod/warehouse",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			in := struct {
				Path string `json:"path"`
			}{args[1]}
			var out admin.Bucket
			if err := c.call(cmd.Context(), http.MethodPut, "/buckets/"+url.PathEscape(args[0]), nil, in, &out); err != nil {
				return fmt.Errorf("have bucket %s stand for %s: %w", args[0], args[1], err)
			}
			if c.json() {
				return printJSON(s.Out, out)
			}
			_, err := fmt.Fprintf(s.Out, "s3://%s is %s\n", out.Name, out.Path)
			return err
		},
	}
}

func aliasList(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the buckets that stand for directories", Aliases: []string{"list"}, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showList(cmd, c, s, "/buckets", nil, "list the bucket aliases", "NAME\tPATH\tORIGIN", func(w io.Writer, b *admin.Bucket) {
				fmt.Fprintf(w, "%s\t%s\t%s\n", b.Name, b.Path, b.Origin)
			})
		},
	}
}

func aliasRemove(c *client) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME...", Short: "Take aliases back; the directories stay", Aliases: []string{"remove"}, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			for _, name := range args {
				if err := c.call(cmd.Context(), http.MethodDelete, "/buckets/"+url.PathEscape(name), nil, nil, nil); err != nil {
					return fmt.Errorf("take back the alias %s: %w", name, err)
				}
			}
			return nil
		},
	}
}
