package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/katadirect/katadirect/internal/claims"
	"github.com/katadirect/katadirect/pkg/csi/facts"
)

// leastInterval keeps --watch from being a flood of questions to guests.
const leastInterval = time.Second

func newTop(c *cluster) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show how full the volumes are, the fullest first",
		Long: "Shows how full the file systems of the volumes in use are, as those say who have mounted them. Volumes of which nobody\n" +
			"ever said so are left out: raw block volumes, and those that no pod uses.",
		Example: "  kubectl katadirect top\n  kubectl katadirect top -A --sort-by inodes\n  kubectl katadirect top -n shop --watch --interval 10s",
		Args:    usageArgs(cobra.NoArgs),
	}
	o := outputFlag(cmd, asTable, asJSON, asYAML)
	order := cmd.Flags().String("sort-by", "use", "Which are first: use, used, size, inodes or name")
	watch := cmd.Flags().BoolP("watch", "w", false, "Show it again and again")
	interval := cmd.Flags().Duration("interval", 5*time.Second, "How long after each other with --watch")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		compare, known := orders[*order]
		switch err := o.check(); {
		case err != nil:
			return err
		case !known:
			return usageError{fmt.Errorf("--sort-by %q is not one of use, used, size, inodes, name", *order)}
		case *interval < leastInterval:
			return usageError{fmt.Errorf("--interval %s is less than %s", *interval, leastInterval)}
		}
		reader, namespace, err := c.open(progress(cmd))
		if err != nil {
			return err
		}
		for {
			view, err := reader.View(cmd.Context(), namespace)
			if err != nil {
				return err
			}
			if err := printTop(cmd, o, view, compare, namespace, *watch); err != nil || !*watch {
				return err
			}
			select {
			case <-time.After(*interval):
			case <-cmd.Context().Done():
				return nil
			}
		}
	}
	return cmd
}

// orders are how volumes with figures can be sorted.
var orders = map[string]func(a, b *facts.Usage) int{
	"use": func(a, b *facts.Usage) int {
		return cmp.Compare(part(b.UsedBytes, b.TotalBytes), part(a.UsedBytes, a.TotalBytes))
	},
	"used": func(a, b *facts.Usage) int { return cmp.Compare(b.UsedBytes, a.UsedBytes) },
	"size": func(a, b *facts.Usage) int { return cmp.Compare(b.TotalBytes, a.TotalBytes) },
	"inodes": func(a, b *facts.Usage) int {
		return cmp.Compare(part(b.InodesUsed, b.Inodes), part(a.InodesUsed, a.Inodes))
	},
	"name": func(_, _ *facts.Usage) int { return 0 },
}

func part(some, all int64) float64 { return float64(some) / float64(max(all, 1)) }

func printTop(cmd *cobra.Command, o *output, view *claims.View, compare func(a, b *facts.Usage) int, namespace string, watch bool) error {
	view.Volumes = slices.DeleteFunc(view.Volumes, func(v claims.Volume) bool { return v.Facts == nil || v.Facts.Usage == nil })
	slices.SortStableFunc(view.Volumes, func(a, b claims.Volume) int { return compare(a.Facts.Usage, b.Facts.Usage) })
	out := cmd.OutOrStdout()
	if done, err := o.document(out, view); done {
		return err
	}
	if watch {
		begin(out)
	}
	defer notes(cmd, view)
	if len(view.Volumes) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "No volumes with figures found; kubectl katadirect volumes lists all.")
		return nil
	}
	return printFigures(out, view.Volumes, namespace == "", time.Now())
}

// begin clears a terminal's screen; anywhere else one table follows the other.
func begin(out io.Writer) {
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		fmt.Fprint(out, "\x1b[H\x1b[2J")
	}
}

func printFigures(out io.Writer, volumes []claims.Volume, withNamespace bool, now time.Time) error {
	heads := []string{"CLAIM", "POD", "NODE", "USED", "AVAILABLE", "SIZE", "USE%", "INODES%", "CONDITION", "AS-OF"}
	if withNamespace {
		heads = append([]string{"NAMESPACE"}, heads...)
	}
	t := newTable(out, heads...)
	for _, v := range volumes {
		u := v.Facts.Usage
		cells := []string{
			claimOf(v), pods(v), orNone(v.Node), bytesOf(u.UsedBytes), bytesOf(u.AvailableBytes), bytesOf(u.TotalBytes),
			percent(u.UsedBytes, u.TotalBytes), percent(u.InodesUsed, u.Inodes), printable(v.Condition), age(u.At, now),
		}
		if withNamespace {
			cells = append([]string{v.Namespace}, cells...)
		}
		t.row(cells...)
	}
	return t.Flush()
}
