package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/internal/claims"
)

func newVolumes(c *cluster) *cobra.Command {
	cmd := &cobra.Command{
		Use: "volumes", Aliases: []string{"volume", "vol", "list", "ls"},
		Short: "List claims, and who uses them where",
		Long: "Lists the claims of a namespace whose volumes katadirect has, and inline volumes of its pods. Sandbox is the virtual\n" +
			"machine that has the volume, guest device what it is in there. Used is what its file system says, of the volume's\n" +
			"size. A line below the table says what is wrong with a volume, if something is.",
		Example: "  kubectl katadirect volumes\n  kubectl katadirect volumes -A -o wide\n" +
			"  kubectl katadirect volumes -o json | jq -r '.volumes[] | select(.condition != \"Healthy\") | .claim'",
		Args: usageArgs(cobra.NoArgs),
	}
	o := outputFlag(cmd, asTable, asWide, asJSON, asYAML)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		reader, namespace, err := c.open(progress(cmd))
		if err != nil {
			return err
		}
		view, err := reader.View(cmd.Context(), namespace)
		if err != nil {
			return err
		}
		if done, err := o.document(cmd.OutOrStdout(), view); done {
			return err
		}
		defer notes(cmd, view)
		if len(view.Volumes) == 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), nothingFound(namespace))
			return nil
		}
		return printVolumes(cmd.OutOrStdout(), view.Volumes, namespace == "", o.format == asWide, time.Now())
	}
	return cmd
}

func nothingFound(namespace string) string {
	if namespace == "" {
		return "No volumes of katadirect found."
	}
	return fmt.Sprintf("No volumes of katadirect found in namespace %s.", namespace)
}

// printVolumes prints the table, and below it what is wrong.
func printVolumes(out io.Writer, volumes []claims.Volume, withNamespace, wide bool, now time.Time) error {
	heads := []string{"CLAIM", "POD", "NODE", "SANDBOX", "GUEST-DEVICE", "FS", "USED/SIZE", "CONDITION", "SNAPSHOTS", "AGE"}
	if withNamespace {
		heads = append([]string{"NAMESPACE"}, heads...)
	}
	if wide {
		heads = append(heads, "CLASS", "MODES", "VOLUME", "HANDLE", "GUEST-PATH", "LIMITS")
	}
	t := newTable(out, heads...)
	for _, v := range volumes {
		cells := []string{
			claimOf(v), pods(v), orNone(v.Node), sandbox(v.Facts), guestDevice(v.Facts), fileSystem(v.Facts), usedOfSize(v),
			printable(v.Condition), snapshots(v), age(v.Created, now),
		}
		if withNamespace {
			cells = append([]string{v.Namespace}, cells...)
		}
		if wide {
			path, limits := unknown, unknown
			if v.Facts != nil {
				path, limits = none, orNone(v.Facts.Limits)
				if v.Facts.Machine != nil {
					path = orNone(v.Facts.Machine.GuestPath)
				}
			}
			cells = append(cells, orNone(v.StorageClass), orNone(shortModes(v.AccessModes)), orNone(v.PersistentVolume), orNone(v.Handle), path, limits)
		}
		t.row(cells...)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	printLast(out, volumes, withNamespace, now)
	return nil
}

// printLast says of every volume that is not well what is wrong with it, or else what went wrong last.
func printLast(out io.Writer, volumes []claims.Volume, withNamespace bool, now time.Time) {
	first := true
	for _, v := range volumes {
		words := lastWords(v, now)
		if words == "" {
			continue
		}
		if first {
			fmt.Fprintln(out)
			first = false
		}
		name := claimOf(v)
		if withNamespace {
			name = v.Namespace + "/" + name
		}
		fmt.Fprintf(out, "%s: %s\n", name, printable(words))
	}
}

// lastWords is one sentence: what is wrong now, what failed last and has not gone well since, or why nothing is known.
func lastWords(v claims.Volume, now time.Time) string {
	if v.Condition == claims.Healthy {
		return ""
	}
	if v.Facts != nil && len(v.Facts.Problems) > 0 {
		p := v.Facts.Problems[0]
		return p.Reason + ": " + p.Message
	}
	for _, w := range v.Wrong {
		if w.Over == nil {
			return sentence(w, now)
		}
	}
	switch {
	case v.Condition == claims.MachineGone:
		return fmt.Sprintf("its machine %s has ended without giving it back; the next pod that uses it takes it over", short(v.Facts.DeadSandboxes))
	case v.Phase == "Pending" && len(v.Pods) == 0:
		return "no pod uses it yet, if its class waits for one"
	}
	return ""
}

// sentence says when what went wrong with what, and whether that is over.
func sentence(w claims.Wrong, now time.Time) string {
	when := age(w.Time, now) + " ago"
	if w.Times > 1 {
		when += fmt.Sprintf(" (%d times)", w.Times)
	}
	over := ""
	if w.Over != nil {
		over = fmt.Sprintf(" (gone well %s ago)", age(*w.Over, now))
	}
	about := ""
	if w.About != "volume" {
		about = w.About + ": "
	}
	return when + ", " + about + w.Words + over
}

func claimOf(v claims.Volume) string {
	if v.Claim == "" {
		return printable(v.Inline) + " (inline)"
	}
	return printable(v.Claim)
}

func short(ids []string) string {
	var all []string
	for _, id := range ids {
		all = append(all, id[:min(len(id), 13)])
	}
	return strings.Join(all, ",")
}

// shortModes are access modes as kubectl shortens them.
func shortModes(modes []string) string {
	names := map[string]string{
		"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP",
	}
	var all []string
	for _, mode := range modes {
		if s := names[mode]; s != "" {
			mode = s
		}
		all = append(all, mode)
	}
	return strings.Join(all, ",")
}
