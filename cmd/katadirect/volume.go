package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/internal/inventory"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

func newVolume(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "What direct volumes this node has, and how they are",
		Example: `  katadirect volume list
  katadirect volume inspect /var/lib/kubelet/pods/UID/volumes/kubernetes.io~csi/PV/mount`,
	}
	cmd.AddCommand(newVolumeList(h), newVolumeInspect(h), newVolumeStats(h), newVolumeFreeze(h), newVolumeThaw(h))
	return cmd
}

func (h host) node() inventory.Node {
	return inventory.Node{Store: h.store(), Sandboxes: h.sandboxes()}
}

func newVolumeList(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List all records of this node",
		Long: `Lists all records of this node, with the sandbox that has the volume and what its guest says. The states are
idle (recorded only), normal and abnormal (the guest says so), silent (the guest does not answer) and bad (the record or
its device cannot be used). With --sandbox it lists the volumes of one sandbox as its shim and guest see them.`,
		Example: `  katadirect volume list
  katadirect volume list --sandbox 3f2a --output json`,
	}
	output := outputFlag(cmd, formatText)
	prefix := cmd.Flags().String("sandbox", "", "id of a sandbox, or its beginning")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *prefix != "" {
			return h.listSandbox(cmd, *prefix, *output)
		}
		volumes, err := h.node().Volumes(cmd.Context())
		if err != nil {
			return err
		}
		if *output == formatJSON {
			if volumes == nil {
				volumes = []inventory.Volume{}
			}
			return printJSON(cmd.OutOrStdout(), volumes)
		}
		return printVolumes(cmd.OutOrStdout(), volumes)
	}
	return cmd
}

// listSandbox lists what one sandbox has.
func (h *host) listSandbox(cmd *cobra.Command, prefix string, output format) error {
	id, err := h.sandboxes().Find(prefix)
	if err != nil {
		return err
	}
	volumes, err := h.client(id).Volumes(cmd.Context())
	if err != nil {
		return err
	}
	if output == formatJSON {
		return printJSON(cmd.OutOrStdout(), volumes)
	}
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "GUEST\tSIZE\tFS\tMODE\tFROZEN\tCONTAINERS\tDEVICE\tGUEST PATH")
	for _, v := range volumes {
		mode, frozen := "rw", "-"
		if v.ReadOnly {
			mode = "ro"
		}
		if v.Frozen != nil {
			frozen = fmt.Sprintf("%d ms left", v.Frozen.RemainingMilliseconds)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", orNone(v.GuestDevice), humanBytes(v.SizeBytes),
			orNone(v.FSType), mode, frozen, shortIDs(v.Containers), printable(v.Device), printable(v.GuestPath))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, v := range volumes {
		if v.Problem != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", printable(v.Device), printable(v.Problem))
		}
	}
	return nil
}

func printVolumes(out io.Writer, volumes []inventory.Volume) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "STATE\tSIZE\tUSED\tFS\tSANDBOX\tDEVICE\tPATH")
	for _, v := range volumes {
		record := directvolume.Record{FSType: "-", Device: "-"}
		if v.Record != nil {
			record = *v.Record
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			v.State, humanBytes(v.SizeBytes), used(v), record.FSType, shortIDs(v.Sandboxes), printable(record.Device), printable(v.VolumePath))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, v := range volumes {
		if v.Problem != "" {
			fmt.Fprintf(out, "%s: %s\n", printable(v.VolumePath), printable(v.Problem))
		}
	}
	return nil
}

func newVolumeInspect(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect PATH|VOLUME-ID",
		Short:   "Show everything about one volume",
		Long:    "Shows the record, the device and what the guest says, of the volume that is published at a path or has a CSI\nvolume id. With a record or device that cannot be used it shows what there is, and fails.",
		Example: `  katadirect volume inspect /mnt/vol --output json`,
	}
	oneVolume(cmd)
	output := outputFlag(cmd, formatText)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		volumes, err := h.node().Find(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		for _, v := range volumes {
			if *output == formatText {
				err = printVolume(cmd.OutOrStdout(), v)
			}
			if err == nil && v.State == inventory.StateBad {
				err = fmt.Errorf("%s: %w: %s", printable(v.VolumePath), directvolume.ErrInvalid, printable(v.Problem))
			}
		}
		if *output == formatJSON {
			if printErr := printJSON(cmd.OutOrStdout(), volumes); printErr != nil {
				return printErr
			}
		}
		return err
	}
	return cmd
}

func printVolume(out io.Writer, v inventory.Volume) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	line("path", "%s", v.VolumePath)
	line("state", "%s", v.State)
	if v.Problem != "" {
		line("problem", "%s", v.Problem)
	}
	if v.VolumeID != "" {
		line("volume id", "%s", v.VolumeID)
	}
	if r := v.Record; r != nil {
		line("device", "%s", r.Device)
		line("type", "%s", r.VolumeType)
		line("file system", "%s", r.FSType)
		line("options", "%s", orNone(strings.Join(r.Options, ",")))
		for _, key := range sortedKeys(r.Metadata) {
			line("metadata "+printable(key), "%s", r.Metadata[key])
		}
	}
	if v.Backing != "" {
		line("backing", "%s", v.Backing)
		line("size", "%d bytes (%s)", v.SizeBytes, humanBytes(v.SizeBytes))
	}
	if v.Backing == directvolume.BackingFile {
		line("allocated", "%d bytes", v.AllocatedBytes)
	}
	line("sandboxes", "%s", orNone(strings.Join(v.Sandboxes, " ")))
	if len(v.StaleClaims) > 0 {
		line("claims of dead sandboxes", "%s", strings.Join(v.StaleClaims, " "))
	}
	if v.Stats != nil {
		for _, usage := range v.Stats.Usage {
			line("guest "+usage.Unit.String(), "%d total, %d used, %d available", usage.Total, usage.Used, usage.Available)
		}
		line("guest says", "%s", v.Stats.Condition.Message)
	}
	fmt.Fprintln(table)
	return table.Flush()
}
