package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/internal/claims"
	"github.com/katadirect/katadirect/pkg/csi/facts"
)

func newDescribe(c *cluster) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe CLAIM",
		Short: "Show everything about one claim, and what went wrong last",
		Long: "Shows the claim, its volume, the pods and the machine that use it, what its guest says of it, its snapshots, and what\n" +
			"went wrong, the latest first: calls of the driver that failed, and the warnings about the claim and its pods.",
		Example: "  kubectl katadirect describe data\n  kubectl katadirect describe data-postgres-0 -n shop -o json",
		Args:    usageArgs(cobra.ExactArgs(1)),
	}
	o := outputFlag(cmd, asTable, asJSON, asYAML)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		if c.allNamespaces {
			return usageError{fmt.Errorf("describe shows one claim; say where it is with --namespace instead of --all-namespaces")}
		}
		reader, namespace, err := c.open(progress(cmd))
		if err != nil {
			return err
		}
		view, err := reader.Claim(cmd.Context(), namespace, strings.TrimPrefix(args[0], "pvc/"))
		if err != nil {
			return err
		}
		if done, err := o.document(cmd.OutOrStdout(), view); done {
			return err
		}
		defer notes(cmd, view)
		return printDescription(cmd.OutOrStdout(), view, time.Now())
	}
	return cmd
}

// printDescription prints the first volume of the view.
func printDescription(out io.Writer, view *claims.View, now time.Time) error {
	v := view.Volumes[0]
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s:\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("Claim", "%s", v.Claim)
	line("Namespace", "%s", v.Namespace)
	line("Condition", "%s", v.Condition)
	line("Phase", "%s, %s old", v.Phase, age(v.Created, now))
	line("Class", "%s", strings.TrimSuffix(orNone(v.StorageClass)+", attributes of "+v.AttributesClass, ", attributes of "))
	line("Access", "%s", strings.Join(v.AccessModes, ", "))
	line("Size", "%s", size(v))
	line("Volume", "%s", strings.TrimSuffix(orNone(v.PersistentVolume)+", handle "+v.Handle, ", handle "))
	line("Node", "%s", orNone(v.Node))
	for _, p := range v.Pods {
		class := ""
		if p.RuntimeClass != "" {
			class = ", RuntimeClass " + p.RuntimeClass
		}
		line("Pod", "%s (%s%s)", p.Name, p.Phase, class)
	}
	if len(v.Pods) == 0 {
		line("Pod", none)
	}
	switch {
	case v.Facts != nil:
		describeFacts(line, *v.Facts, now)
	case v.PersistentVolume == "":
		line("Machine", "%s: %s", none, v.Missing)
	default:
		line("Machine", "%s: %s", unknown, v.Missing)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	describeSnapshots(out, v, now)
	describeProblems(out, v)
	fmt.Fprintln(out, "What went wrong last:")
	if len(v.Wrong) == 0 {
		fmt.Fprintln(out, "  nothing that is known")
	}
	for _, w := range v.Wrong {
		fmt.Fprintf(out, "  %s\n", printable(sentence(w, now)))
	}
	return nil
}

func size(v claims.Volume) string {
	s := sizeOf(v)
	if v.CapacityBytes > 0 && v.RequestedBytes > v.CapacityBytes {
		s = fmt.Sprintf("%s, and %s are asked for", bytesOf(v.CapacityBytes), bytesOf(v.RequestedBytes))
	}
	return s
}

func describeFacts(line func(name, format string, args ...any), f facts.Volume, now time.Time) {
	mode := ""
	if f.ReadOnly {
		mode = ", read-only"
	}
	switch {
	case f.Machine != nil:
		line("Machine", "sandbox %s", f.Machine.Sandbox)
		line("In the guest", "%s", inGuest(*f.Machine)+mode)
		if f.Machine.FrozenSince != nil {
			line("Frozen", "for %s", age(*f.Machine.FrozenSince, now))
		}
	case f.HeldBy == facts.HeldByHost:
		line("Machine", "none: the host has mounted it for ordinary pods%s", mode)
	case len(f.DeadSandboxes) > 0:
		line("Machine", "none; %s had it and has ended", short(f.DeadSandboxes))
	default:
		line("Machine", none)
	}
	line("File system", "%s", fileSystem(&f))
	if u := f.Usage; u != nil {
		line("Used", "%s of %s (%s), %s available", bytesOf(u.UsedBytes), bytesOf(u.TotalBytes), percent(u.UsedBytes, u.TotalBytes), bytesOf(u.AvailableBytes))
		if u.Inodes > 0 {
			line("Inodes", "%d of %d (%s)", u.InodesUsed, u.Inodes, percent(u.InodesUsed, u.Inodes))
		}
		line("As of", "%s ago", age(u.At, now))
	}
	line("On the disk", "%s of the node's pool", bytesOf(f.AllocatedBytes))
	line("I/O limits", "%s", orNone(f.Limits))
}

func inGuest(m facts.Machine) string {
	if m.GuestDevice == "" && m.GuestPath == "" {
		return unknown + ": " + m.Unknown
	}
	where := orNone(m.GuestDevice)
	if m.GuestPath != "" {
		where += " at " + m.GuestPath
	}
	return where
}

func describeSnapshots(out io.Writer, v claims.Volume, now time.Time) {
	if len(v.Snapshots) == 0 {
		return
	}
	fmt.Fprintln(out, "Snapshots:")
	t := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, s := range v.Snapshots {
		state := "not ready"
		switch {
		case s.Error != "":
			state = "failed: " + s.Error
		case s.Ready:
			state = "ready"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s old\t%s\n", printable(s.Name), bytesOf(s.SizeBytes), age(s.Created, now), printable(state))
	}
	_ = t.Flush() // to a writer that the caller sees fail next
}

func describeProblems(out io.Writer, v claims.Volume) {
	if v.Facts == nil || len(v.Facts.Problems) == 0 {
		return
	}
	fmt.Fprintln(out, "What is wrong:")
	for _, p := range v.Facts.Problems {
		fmt.Fprintf(out, "  %s (%s): %s\n", printable(p.Reason), printable(p.Severity), printable(p.Message))
	}
}
