// Command sluice puts one namespace over many stores and serves it over S3 REST and WebHDFS. See gateway/cli for its
// commands and core/core.go for its vocabulary.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/sluicefs/sluice/gateway/cli"
)

func main() {
	streams := cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
	os.Exit(cli.Main(context.Background(), os.Args[1:], version(), streams))
}

// version is what the build recorded of itself: a tag, or the commit it was made of.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
