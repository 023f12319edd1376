// Package cli is the sluice command: serve runs a process, the other commands are a client of the admin API of one that
// runs. It holds no logic of either: it parses arguments, calls, and prints.
//
// Results go to standard output and nothing else does: errors and progress go to standard error. The exit status is 0 if
// all went well, 1 if it failed, 2 for a mistake in the arguments or the configuration, and 3 if some of several things
// failed.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway"
	"github.com/sluicefs/sluice/gateway/config"
	"github.com/sluicefs/sluice/gateway/telemetry"
)

// The exit statuses.
const (
	ExitOK      = 0
	ExitFailed  = 1
	ExitUsage   = 2
	ExitPartial = 3
)

// Streams are the standard streams of a command.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// partialError says that some of several things failed. Each has been reported.
type partialError struct{ failed, total int }

func (e partialError) Error() string { return fmt.Sprintf("%d of %d failed", e.failed, e.total) }

// Main runs the command that args name, without the program's own name, and returns the exit status. version is the
// program's.
func Main(ctx context.Context, args []string, version string, s Streams) int {
	started := false
	root := newRoot(version, s)
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintln(s.Err, "sluice: "+line)
	}
	if partial, ok := errors.AsType[partialError](err); ok && partial.failed < partial.total {
		return ExitPartial
	}
	if _, usage := errors.AsType[usageError](err); usage || !started {
		fmt.Fprintf(s.Err, "Run '%s --help' for how it is used.\n", cmd.CommandPath())
		return ExitUsage
	}
	return ExitFailed
}

func newRoot(version string, s Streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "sluice",
		Short: "One namespace over many stores, served over S3 and WebHDFS from a cache",
		Long: `Sluice puts one namespace over many stores and serves it over S3 REST and WebHDFS, the hot bytes from a cache.

  sluice serve                                run it, with everything under ./sluice-data
  sluice mount add /lake s3://bucket/prefix   put a store into the namespace
  sluice fs ls /lake                          look at files`,
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.AddCommand(serveCommand(version, s), mountCommand(s), secretCommand(s), ruleCommand(s), bucketCommand(s), fsCommand(s), nodeCommand(s), masterCommand(s), defragCommand(s),
		cacheCommand(s), jobCommand(s), persistCommand(s), durabilityCommand(s), explainCommand(s), renamesCommand(s), syncCommand(s), invalidateCommand(s), backupCommand(s), restoreCommand(s), releaseCommand(s), fsckCommand(s), versionCommand(version, s))
	return root
}

func versionCommand(version string, s Streams) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(s.Out, "sluice %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

func serveCommand(version string, s Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run Sluice: S3, WebHDFS and the admin API",
		Long: `Run Sluice: S3, WebHDFS and the admin API in one process, with everything it keeps under --data; with --roles, one of the
processes of a cluster.

Every flag is also an environment variable (--s3-listen is SLUICE_S3_LISTEN) and a key of the configuration file
(s3.listen); a flag wins over the environment, the environment over the file. configs/sluice.yaml documents all keys.
The first SIGTERM or SIGINT lets requests in progress finish, the second ends the process at once. SIGHUP reads the TLS
certificate again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(cmd.Flags())
			if err != nil {
				return usageError{err}
			}
			lines := telemetry.NewLines(s.Err)
			defer lines.Close()
			log := telemetry.NewLogger(lines, c.Log.Level, c.Log.Format)
			for _, name := range config.UnknownEnv(os.Environ(), adminURLVariable) {
				log.Warn("unknown environment variable; it has no effect", "name", name)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop) // from then on a signal does what it does by default
			return gateway.Run(ctx, c, gateway.Options{Version: version, Logger: log, Banner: s.Out})
		},
	}
	config.AddFlags(cmd.Flags())
	return cmd
}

// each does f for every arg. Failures are reported as they come; the result says how many there were.
func each(s Streams, args []string, f func(arg string) error) error {
	if len(args) == 1 {
		return f(args[0])
	}
	failed := 0
	for _, arg := range args {
		if err := f(arg); err != nil {
			fmt.Fprintf(s.Err, "sluice: %v\n", err)
			failed++
		}
	}
	if failed > 0 {
		return partialError{failed, len(args)}
	}
	return nil
}
