package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

// location is what an argument of cp names: a path in the namespace, a local file, or a standard stream.
type location struct {
	path   string
	remote bool
	stream bool
}

func parseLocation(arg string) location {
	if arg == "-" {
		return location{path: arg, stream: true}
	}
	if local, ok := strings.CutPrefix(arg, "file:"); ok {
		return location{path: local}
	}
	return location{path: arg, remote: strings.HasPrefix(arg, "/")}
}

// baseName is the last segment of a path, without slashes.
func baseName(p string) string { return path.Base(strings.TrimSuffix(filepath.ToSlash(p), "/")) }

// join appends name to the directory dir, byte for byte.
func join(dir, name string) string { return strings.TrimSuffix(dir, "/") + "/" + name }

// copier copies from one location to another.
type copier struct {
	*client
	Streams
	recursive, force bool
}

func fsCopy(c *client, s Streams) *cobra.Command {
	k := &copier{client: c, Streams: s}
	cmd := &cobra.Command{
		Use:   "cp SOURCE... TARGET",
		Short: "Copy files within the namespace, into it or out of it",
		Example: `  sluice fs cp ./part-0 /lake/               a local file into the directory /lake
  sluice fs cp /lake/part-0 -                to standard output
  sluice fs cp -r /lake/2026 file:/backup    a directory to a local one
  sluice fs cp /lake/a /nfs/a                between stores`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			sources, target := args[:len(args)-1], parseLocation(args[len(args)-1])
			into, err := k.isDirectory(cmd.Context(), target)
			if err != nil {
				return fmt.Errorf("copy to %s: %w", target.path, err)
			}
			if len(sources) > 1 && !into {
				return usageError{fmt.Errorf("several sources need a directory to go to, which %s is not", target.path)}
			}
			return each(s, sources, func(arg string) error {
				src, dst := parseLocation(arg), target
				if into && !src.stream {
					dst.path = join(dst.path, baseName(src.path))
				}
				return k.copy(cmd.Context(), src, dst)
			})
		},
	}
	cmd.Flags().BoolVarP(&k.recursive, "recursive", "r", false, "copy directories with every file below them")
	cmd.Flags().BoolVarP(&k.force, "force", "f", false, "replace files that are there")
	return cmd
}

// isDir reports whether p is a directory of the namespace. A trailing slash says that it is meant as one.
func (c *client) isDir(ctx context.Context, p string) (bool, error) {
	if strings.HasSuffix(p, "/") {
		return true, nil
	}
	e, err := c.stat(ctx, p)
	if isStatus(err, http.StatusNotFound) {
		return false, nil
	}
	return e.Type == "directory", err
}

func (k *copier) isDirectory(ctx context.Context, l location) (bool, error) {
	switch {
	case l.stream:
		return false, nil
	case l.remote:
		return k.isDir(ctx, l.path)
	case strings.HasSuffix(l.path, "/"):
		return true, nil
	}
	info, err := os.Stat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.IsDir(), err
}

// copy copies one file, or a directory if the user asked for those.
func (k *copier) copy(ctx context.Context, src, dst location) error {
	dir, err := k.isDirectory(ctx, src)
	if err != nil {
		return fmt.Errorf("copy %s: %w", src.path, err)
	}
	if !dir {
		return k.copyFile(ctx, src, dst)
	}
	if !k.recursive {
		return fmt.Errorf("copy %s: it is a directory; use -r to copy what is in it", src.path)
	}
	if dst.stream {
		return usageError{fmt.Errorf("a directory cannot be copied to standard output")}
	}
	copied, failed := 0, 0
	err = k.walk(ctx, src, func(name string) error {
		copied++
		from, to := src, dst
		from.path, to.path = join(src.path, name), join(dst.path, name)
		if !to.remote && !filepath.IsLocal(filepath.FromSlash(name)) {
			fmt.Fprintf(k.Err, "sluice: copy %s: %q is not a name for a local file\n", from.path, name)
			failed++
			return nil
		}
		if err := k.copyFile(ctx, from, to); err != nil {
			fmt.Fprintf(k.Err, "sluice: %v\n", err)
			failed++
		}
		return ctx.Err()
	})
	if err != nil {
		return fmt.Errorf("copy %s: %w", src.path, err)
	}
	if failed > 0 {
		return partialError{failed, copied}
	}
	return nil
}

// walk runs f for the name, relative to dir and with slashes, of every file below it.
func (k *copier) walk(ctx context.Context, dir location, f func(name string) error) error {
	if dir.remote {
		return k.listing(ctx, dir.path, true, func(e admin.Entry) error {
			if e.Type == "directory" {
				return nil
			}
			return f(e.Name)
		})
	}
	return filepath.WalkDir(dir.path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir.path, p)
		if err != nil {
			return err
		}
		return f(filepath.ToSlash(name))
	})
}

func (k *copier) copyFile(ctx context.Context, src, dst location) (err error) {
	switch {
	case src.remote && dst.remote:
		in := admin.Transfer{From: src.path, To: dst.path, Overwrite: k.force}
		err = k.call(ctx, http.MethodPost, "/fs/copy", nil, in, nil)
	case src.remote && dst.stream:
		err = k.read(ctx, src.path, k.Out)
	case src.remote:
		err = k.download(ctx, src.path, dst.path)
	case dst.remote:
		err = k.upload(ctx, src, dst.path)
	default:
		return usageError{fmt.Errorf("%s and %s are both local; a path in the namespace starts with a slash", src.path, dst.path)}
	}
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", src.path, dst.path, err)
	}
	return nil
}

func (k *copier) upload(ctx context.Context, src location, dst string) error {
	body, size := k.In, int64(-1)
	if !src.stream {
		f, err := os.Open(src.path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		body, size = f, info.Size()
	}
	if size == 0 {
		body = http.NoBody // a length of 0 with a body would mean an unknown length
	}
	q := query{"path": dst, "overwrite": fmt.Sprint(k.force)}
	resp, err := k.send(ctx, http.MethodPut, "/fs/content", q, "application/octet-stream", body, size)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// download makes the local file dst, which appears whole or not at all.
func (k *copier) download(ctx context.Context, src, dst string) error {
	if !k.force {
		if _, err := os.Lstat(dst); err == nil {
			return fmt.Errorf("%s exists; use -f to replace it", dst)
		}
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o777); err != nil {
		return err
	}
	// Not os.CreateTemp: the file gets the mode that the user's umask gives any other.
	part := filepath.Join(filepath.Dir(dst), ".sluice-"+rand.Text())
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	if err := errors.Join(k.read(ctx, src, f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, dst)
}
