package cli

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway"
	"github.com/sluicefs/sluice/gateway/admin"
	"github.com/sluicefs/sluice/gateway/config"
	"github.com/sluicefs/sluice/gateway/telemetry"
)

func backupCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Save a verified snapshot of the journal",
		Long: `Save a verified snapshot of the journal, which any process of the cluster can be asked for, in FILE; - is standard output.
FILE appears once it is whole, verified and on the disk.

A snapshot holds the names and what is known of them, mounts and uploads, and no bytes of files: those are in the stores. The
secrets of mounts are in it as they are in the journal, encrypted with secret_key_file, which is to be kept as well. It is in
etcd's own format. "sluice restore" makes a journal of it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.check(); err != nil {
				return err
			}
			resp, err := c.send(cmd.Context(), http.MethodGet, "/backup", nil, "", nil, 0)
			if err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			defer resp.Body.Close()
			if args[0] == "-" {
				sum := &trailer{sum: sha256.New()}
				if _, err := io.Copy(io.MultiWriter(s.Out, sum), resp.Body); err != nil {
					return fmt.Errorf("backup: %w; what was written is not whole", err)
				}
				return sum.check()
			}
			return c.saveBackup(s, args[0], resp.Body)
		},
	}
	c.addFlags(cmd.Flags())
	return cmd
}

// trailer sums all but the last 32 bytes, which are to be the sum.
type trailer struct {
	sum  hash.Hash
	last []byte
}

// Write implements io.Writer.
func (t *trailer) Write(p []byte) (int, error) {
	t.last = append(t.last, p...)
	if more := len(t.last) - sha256.Size; more > 0 {
		t.sum.Write(t.last[:more]) // never fails
		t.last = append(t.last[:0], t.last[more:]...)
	}
	return len(p), nil
}

func (t *trailer) check() error {
	if string(t.sum.Sum(nil)) != string(t.last) {
		return errors.New("backup: the snapshot was damaged on its way: its checksum does not match; take another")
	}
	return nil
}

// saveBackup writes a snapshot to the file name, which it replaces once the snapshot is verified and durable.
func (c *client) saveBackup(s Streams, name string, from io.Reader) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".sluice-backup-*")
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = io.Copy(f, from)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	info, err := gateway.VerifyBackup(f.Name())
	if err != nil {
		return fmt.Errorf("backup: what came cannot be restored: %w", err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	dir, err := os.Open(filepath.Dir(name))
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		return fmt.Errorf("backup: %s is there, and may not outlive a power failure: %w", name, err)
	}
	if c.json() {
		return printJSON(s.Out, map[string]any{"file": name, "bytes": info.Bytes, "keys": info.Keys, "revision": info.Revision})
	}
	_, err = fmt.Fprintf(s.Out, "%s: %d keys, %d bytes, verified\n", name, info.Keys, info.Bytes)
	return err
}

func restoreCommand(s Streams) *cobra.Command {
	var data, name, token string
	var join config.Peers
	var peers string
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the journal of a new data directory out of a snapshot",
		Long: `Make the journal of a new data directory out of a snapshot, which "sluice backup", a master by itself (backup.dir) or
"etcdctl snapshot save" has taken. Nothing may run on the directory, and it may have no journal yet.

The journal begins another life. It is held: reads are answered by what the stores have, nothing is changed until
"sluice release" has compared the journal with the stores. So what has happened since the snapshot is neither lost in the
stores nor done again.

Not in the snapshot, and needed beside it: the store behind "/" (DATA/root of a single process: move it into the new DATA, or
name it with root_store), secret_key_file (DATA/secret-key), and the root key pair (DATA/root-credentials.json).

Of several masters each is restored from the same FILE, with its own --name and --data, the same --join and the same --token,
which must be one that was never used. A journal in an etcd of somebody else (etcd.endpoints) is restored there, with
"etcdctl snapshot restore" and a new --initial-cluster-token; Sluice notices and is held likewise.`,
		Example: `  sluice restore sluice.snapshot --data /var/lib/sluice2
  sluice restore sluice.snapshot --data /var/lib/sluice2 --name m1 --join m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,m3=http://10.0.0.3:2380 --token after-the-fire`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if data == "" {
				return usageError{errors.New("--data names the new data directory")}
			}
			if err := join.UnmarshalText([]byte(peers)); err != nil {
				return usageError{fmt.Errorf("--join: %w", err)}
			}
			if _, ok := join[name]; len(join) > 0 && !ok {
				return usageError{fmt.Errorf("--name %q is not among the names of --join", name)}
			}
			log := telemetry.NewLogger(s.Err, "warn", "auto")
			if err := gateway.Restore(cmd.Context(), gateway.RestoreOptions{File: args[0], Data: data, Name: name, Join: join, Token: token, Log: log}); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
			_, err := fmt.Fprintf(s.Out, `%s has the journal of %s.
Put beside it what the snapshot does not hold: root/ (or root_store), secret-key and root-credentials.json of the old directory.
Then start it with: sluice serve --data %s
It only reads until: sluice release
`, data, args[0], data)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&data, "data", "", "the new data directory")
	f.StringVar(&name, "name", "", "of several masters: this one's name")
	f.StringVar(&peers, "join", "", "of several masters: peer URL of every one by its name: m1=URL,m2=URL,m3=URL")
	f.StringVar(&token, "token", "", "of several masters: a word that was never used, the same for all")
	return cmd
}

func releaseCommand(s Streams) *cobra.Command {
	c := &client{}
	var in admin.ReleaseRequest
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Accept changes again after a restore",
		Long: `Compare a restored journal with the stores, make it say what they say, and accept changes again. Files that the stores have in
another version are taken from there, those that are gone leave the journal, changes that were under way are not carried on;
each is reported. No store is changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var r admin.Release
			if err := c.call(cmd.Context(), http.MethodPost, "/release", nil, in, &r); err != nil {
				return fmt.Errorf("release: %w", err)
			}
			if c.json() {
				return printJSON(s.Out, r)
			}
			if err := printFindings(s.Out, r.Items); err != nil {
				return err
			}
			state := "released: changes are accepted"
			if !r.Released {
				state = "not released: only looked"
			}
			_, err := fmt.Fprintf(s.Out, "%s; %d files and %d directories as the journal has them, %d differences\n", state, r.Proved, r.Directories, len(r.Items))
			return err
		},
	}
	c.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&in.DryRun, "dry-run", false, "only compare and report")
	cmd.Flags().BoolVar(&in.AcceptMissing, "accept-missing", false, "a store that holds none of the files that the journal has there is the right one")
	return cmd
}

func printFindings(w io.Writer, all []admin.Finding) error {
	if len(all) == 0 {
		return nil
	}
	t := newTable(w)
	for _, f := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Kind, f.Name, f.Why)
	}
	return t.Flush()
}

func fsckCommand(s Streams) *cobra.Command {
	c := &client{}
	var stores bool
	var file, prefix string
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Check the journal, changing nothing",
		Long: `Check the journal of a running process or cluster: the records' and pages' checksums and their chain, that every name can be
reached, that no number can be used twice, that uploads, unfinished changes and mounts can be read. With --stores, also that
every file whose facts the journal keeps is in its store in the version that it has there. With --file, check a snapshot, or the
data directory of a process that does not run. Findings are printed one a line, and make the exit status 1.

A check reads the journal into memory of its own, as a master that starts would.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			var r admin.Check
			switch {
			case prefix != "" && file == "":
				return usageError{errors.New("--etcd-prefix tells what is in a --file")}
			case file != "" && stores:
				return usageError{errors.New("--stores needs a running process: leave out --file")}
			case file != "":
				found, err := gateway.CheckFile(cmd.Context(), file, prefix)
				if err != nil {
					return fmt.Errorf("fsck: %w", err)
				}
				r = admin.CheckOf(found)
			default:
				if err := c.call(cmd.Context(), http.MethodGet, "/fsck", query{"stores": fmt.Sprint(stores)}, nil, &r); err != nil {
					return fmt.Errorf("fsck: %w", err)
				}
			}
			return c.showCheck(s, r, cmp.Or(file, "the journal"))
		},
	}
	c.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&stores, "stores", false, "ask the stores about every file of the overlay")
	cmd.Flags().StringVar(&file, "file", "", "a snapshot file, or the data directory of a process that does not run")
	cmd.Flags().StringVar(&prefix, "etcd-prefix", "", "with --file, of an etcd that others run: what the keys start with, if etcd.prefix was set")
	return cmd
}

func (c *client) showCheck(s Streams, r admin.Check, what string) error {
	var err error
	if c.json() {
		err = printJSON(s.Out, r)
	} else if err = printFindings(s.Out, r.Items); err == nil {
		_, err = fmt.Fprintf(s.Out, "%d entries, %d pages, %d records up to %d; %d files proved; %d findings\n",
			r.Entries, r.Pages, r.Records, r.Seq, r.Proved, len(r.Items))
	}
	if err == nil && len(r.Items) > 0 {
		err = fmt.Errorf("fsck: %s has %d flaws", what, len(r.Items))
	}
	return err
}
