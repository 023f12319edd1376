package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func fsCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:   "fs",
		Short: "Look at and change files in the namespace, as the superuser",
		Long: `Look at and change files in the namespace, as the superuser.

A path in the namespace starts with a slash: /lake/part-0. cp also takes local files: a path that does not start with a
slash (./part-0, part-0), one with file: before it (file:/tmp/part-0), and - for standard input or output.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return usageError{fmt.Errorf("a subcommand is needed")} },
	}
	c.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(fsList(c, s), fsStat(c, s), fsCat(c, s), fsCopy(c, s), fsMove(c, s), fsRemove(c, s), fsUsage(c, s), fsMkdir(c, s))
	return cmd
}

// listing runs f for every entry of a directory, page by page; it stops at f's first error.
func (c *client) listing(ctx context.Context, dir string, recursive bool, f func(admin.Entry) error) error {
	q := query{"path": strings.TrimSuffix(dir, "/") + "/", "recursive": fmt.Sprint(recursive)}
	for {
		var page admin.List[admin.Entry]
		if err := c.call(ctx, http.MethodGet, "/fs/entries", q, nil, &page); err != nil {
			return err
		}
		for _, e := range page.Items {
			if err := f(e); err != nil {
				return err
			}
		}
		if page.Next == "" {
			return nil
		}
		q["after"] = page.Next
	}
}

func (c *client) stat(ctx context.Context, path string) (e admin.Entry, err error) {
	err = c.call(ctx, http.MethodGet, "/fs/entry", query{"path": path}, nil, &e)
	return e, err
}

func fsList(c *client, s Streams) *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "ls PATH", Short: "List a directory, or show a file", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			entries, err := c.ls(cmd.Context(), args[0], recursive)
			if err != nil {
				return fmt.Errorf("list %s: %w", args[0], err)
			}
			if c.json() {
				return printJSON(s.Out, admin.List[admin.Entry]{Items: entries})
			}
			return printEntries(s.Out, entries)
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "list every file at any depth")
	return cmd
}

// ls returns the entries of a directory, or the one of a file.
func (c *client) ls(ctx context.Context, path string, recursive bool) ([]admin.Entry, error) {
	e, err := c.stat(ctx, path)
	if err != nil {
		return nil, err
	}
	if e.Type == "file" {
		return []admin.Entry{e}, nil
	}
	entries := []admin.Entry{}
	err = c.listing(ctx, path, recursive, func(e admin.Entry) error { entries = append(entries, e); return nil })
	return entries, err
}

func printEntries(out io.Writer, entries []admin.Entry) error {
	w := newTable(out)
	for _, e := range entries {
		name := e.Name
		if name == "" {
			name = e.Path
		}
		size := "-"
		if e.Type == "file" {
			size = fmt.Sprint(e.Size)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Mode, e.Owner, e.Group, size, e.Modified.Local().Format(time.DateTime), name)
	}
	return w.Flush()
}

func fsStat(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "stat PATH...", Short: "Show all that is known of files or directories", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				e, err := c.stat(cmd.Context(), path)
				if err != nil {
					return fmt.Errorf("stat %s: %w", path, err)
				}
				if c.json() {
					return printJSON(s.Out, e)
				}
				return printEntry(s.Out, e)
			})
		},
	}
}

func printEntry(out io.Writer, e admin.Entry) error {
	w := newTable(out)
	row := func(name string, value any) {
		if value != "" {
			fmt.Fprintf(w, "%s:\t%v\n", name, value)
		}
	}
	row("Path", e.Path)
	row("Type", e.Type)
	if e.Type == "file" {
		row("Size", fmt.Sprintf("%d (%s)", e.Size, humanize.IBytes(uint64(e.Size))))
		row("ETag", e.ETag)
	}
	row("Modified", e.Modified.Local().Format(time.RFC3339))
	row("Owner", e.Owner)
	row("Group", e.Group)
	row("Mode", e.Mode)
	row("Mount", e.Mount)
	row("Cache", e.Cache)
	for name, value := range e.Headers {
		row(name, value)
	}
	for name, value := range e.User {
		row("x-amz-meta-"+name, value)
	}
	return w.Flush()
}

func fsCat(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "cat PATH...", Short: "Write files to standard output", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(s, args, func(path string) error {
				if err := c.read(cmd.Context(), path, s.Out); err != nil {
					return fmt.Errorf("read %s: %w", path, err)
				}
				return nil
			})
		},
	}
}

// read writes the bytes of a file to w. A response that ends early is an error.
func (c *client) read(ctx context.Context, path string, w io.Writer) error {
	resp, err := c.send(ctx, http.MethodGet, "/fs/content", query{"path": path}, "", nil, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(w, resp.Body)
	return err
}

func fsMove(c *client, s Streams) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "mv SOURCE TARGET", Short: "Move a file or directory in one step; into TARGET if that is a directory", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, arg := range args {
				if !parseLocation(arg).remote {
					return usageError{fmt.Errorf("%s is a local file; mv works inside the namespace, use cp", arg)}
				}
			}
			src, dst := parseLocation(args[0]).path, parseLocation(args[1]).path
			into, err := c.isDir(cmd.Context(), dst)
			if err != nil {
				return fmt.Errorf("move %s: %w", src, err)
			}
			if into {
				dst = join(dst, baseName(src))
			}
			in := admin.Transfer{From: src, To: dst, Overwrite: force}
			if err := c.call(cmd.Context(), http.MethodPost, "/fs/move", nil, in, nil); err != nil {
				return fmt.Errorf("move %s to %s: %w", src, dst, err)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "replace a file that is there")
	return cmd
}

func fsRemove(c *client, s Streams) *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "rm PATH...", Short: "Remove files or directories", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(s, args, func(path string) error {
				q := query{"path": path, "recursive": fmt.Sprint(recursive)}
				if err := c.call(cmd.Context(), http.MethodDelete, "/fs/entry", q, nil, nil); err != nil {
					return fmt.Errorf("remove %s: %w", path, err)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "remove a directory with everything below it, in one step")
	return cmd
}

func fsUsage(c *client, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "du PATH...", Short: "Count the bytes, files and directories below paths", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return each(s, args, func(path string) error {
				var sum admin.Summary
				if err := c.call(cmd.Context(), http.MethodGet, "/fs/summary", query{"path": path}, nil, &sum); err != nil {
					return fmt.Errorf("count %s: %w", path, err)
				}
				if c.json() {
					return printJSON(s.Out, struct {
						Path string `json:"path"`
						admin.Summary
					}{path, sum})
				}
				_, err := fmt.Fprintf(s.Out, "%s\t%d bytes, %d files, %d directories\t%s\n", humanize.IBytes(uint64(sum.Bytes)), sum.Bytes, sum.Files, sum.Directories, path)
				return err
			})
		},
	}
}

func fsMkdir(c *client, s Streams) *cobra.Command {
	var parents bool
	cmd := &cobra.Command{
		Use: "mkdir PATH...", Short: "Make directories", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(s, args, func(path string) error {
				in := admin.NewDirectory{Path: path, Parents: parents}
				if err := c.call(cmd.Context(), http.MethodPost, "/fs/mkdir", nil, in, nil); err != nil {
					return fmt.Errorf("make %s: %w", path, err)
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVarP(&parents, "parents", "p", false, "make missing parents too, and accept that it exists")
	return cmd
}
