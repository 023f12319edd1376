package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicefs/sluice/gateway/admin"
)

func renamesCommand(s Streams) *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use: "renames", Short: "List the renames that were answered and that their stores do not have yet", Args: cobra.NoArgs,
		Long: `List the renames of directories that were answered and that their stores do not have yet: since when, how many files are copied and
left, why the last try failed, of the first files that were refused which and why, and when the next one begins. Everything can be read under the new name; nothing below either name is
changed until the rename is through. A store that refuses a file is asked again, at last every minute: let it be copied or, to go on
without it, move it in the store itself to a place outside both names.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return showList(cmd, c, s, "/renames", nil, "list the renames", "ID\tFROM\tTO\tSTATE\tLAST ERROR", func(w io.Writer, r *admin.Rename) {
				why := troubleOf(r)
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.ID, r.From, r.To, progressOf(r), why[0])
				for _, more := range why[1:] {
					fmt.Fprintf(w, "\t\t\t\t%s\n", more)
				}
			})
		},
	}
	c.addFlags(cmd.Flags())
	return cmd
}

// troubleOf says in lines why the last try failed, and why the first files that were refused were, unless that is the same.
func troubleOf(r *admin.Rename) (lines []string) {
	told := false
	for _, f := range r.Refused {
		lines = append(lines, f.Path+": "+f.Why)
		told = told || f.Why == r.Error
	}
	if !told {
		return append([]string{r.Error}, lines...)
	}
	return lines
}

// progressOf says how far a rename is.
func progressOf(r *admin.Rename) string {
	text := "since " + r.Since.Local().Format(time.DateTime)
	switch {
	case r.Phase == "removing":
		text += ", all is copied and the originals are being removed"
	case r.More:
		text += fmt.Sprintf(", %d files copied, %d left and perhaps more", r.Copied, r.Left)
	default:
		text += fmt.Sprintf(", %d files copied, %d left", r.Copied, r.Left)
	}
	if r.Failed > 0 {
		text += fmt.Sprintf("; %d tries failed", r.Failed)
	}
	if r.Next != nil && r.Next.After(time.Now()) {
		text += ", the next is at " + r.Next.Local().Format(time.TimeOnly)
	} else {
		text += ", it is under way"
	}
	return text
}
