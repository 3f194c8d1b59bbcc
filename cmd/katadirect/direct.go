package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// newDirectVolume makes the commands of kata-runtime direct-volume, with its flags. What is better: an empty path is
// refused, a refused add leaves nothing behind, and an answer of the shim that is no success is an error.
func newDirectVolume(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "direct-volume",
		Short: "The commands of kata-runtime direct-volume, with the same flags",
		Example: `  katadirect direct-volume add --volume-path /mnt/vol --mount-info '{"device":"/dev/vg/lv","fstype":"ext4"}'
  katadirect direct-volume remove --volume-path /mnt/vol`,
	}
	cmd.AddCommand(newAdd(h), newRemove(h), newStats(h), newResize(h))
	return cmd
}

// volumePathFlag gives a command --volume-path, which no call may leave out: in Kata's tool an empty one stands for
// the folder of all records.
func volumePathFlag(cmd *cobra.Command) *string {
	path := cmd.Flags().String("volume-path", "", "the path that the volume is published at")
	check := func(*cobra.Command, []string) error {
		if *path == "" {
			return usageError{fmt.Errorf("--volume-path is missing or empty; see %s --help", cmd.CommandPath())}
		}
		return nil
	}
	cmd.PreRunE = check
	return path
}

func newAdd(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add --volume-path PATH --mount-info JSON",
		Short: "Record a device for the path that a pod mounts",
		Long: `Records which device stands behind a path. A container that mounts the path gets the device mounted in its
virtual machine. The record is written whole or not at all. A record that is there is replaced, unless a living
sandbox has the volume. An image of the CSI driver's pool counts as written by a guest from then on: the host does not
mount it for ordinary pods any more unless its StorageClass allows that.`,
		Example: `  katadirect direct-volume add --volume-path /mnt/vol \
    --mount-info '{"volume-type":"directvol","device":"/dev/vg/lv","fstype":"ext4","options":["noatime"],"metadata":{"fsGroup":"2000"}}'`,
	}
	path := volumePathFlag(cmd)
	output := outputFlag(cmd, formatText)
	info := cmd.Flags().String("mount-info", "", "the record as JSON: volume-type, device, fstype, options, metadata")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *info == "" {
			return usageError{errors.New("--mount-info is missing or empty; see katadirect direct-volume add --help")}
		}
		record, err := directvolume.ParseRecord([]byte(*info))
		if err != nil {
			return fmt.Errorf("--mount-info: %w", err)
		}
		if err := pool.UnmarkImage(record.Device); err != nil {
			return err
		}
		if err := h.store().Add(cmd.Context(), *path, record); err != nil {
			return err
		}
		return confirm(cmd, *output, result{VolumePath: *path, Record: &record})
	}
	return cmd
}

func newRemove(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove --volume-path PATH",
		Short:   "Remove the record of a path",
		Long:    "Removes the record of a path. The volume's data is not touched. It succeeds when there is no record, and is\nrefused while a living sandbox has the volume.",
		Example: `  katadirect direct-volume remove --volume-path /mnt/vol`,
	}
	path := volumePathFlag(cmd)
	output := outputFlag(cmd, formatText)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := h.store().Remove(cmd.Context(), *path); err != nil {
			return err
		}
		return confirm(cmd, *output, result{VolumePath: *path})
	}
	return cmd
}

func newStats(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stats --volume-path PATH",
		Short:   "Ask the guest how full and how healthy a volume is",
		Long:    "Asks the guest that has the volume mounted. The answer is the JSON of Kata's runtime, or a table with\n--output text.",
		Example: `  katadirect direct-volume stats --volume-path /mnt/vol --output text`,
	}
	path := volumePathFlag(cmd)
	output := outputFlag(cmd, formatJSON) // as kata-runtime prints it
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, device, err := h.find(cmd.Context(), *path)
		if err != nil {
			return err
		}
		stats, err := client.Stats(cmd.Context(), device)
		if err != nil {
			return err
		}
		if *output == formatText {
			return printStats(cmd.OutOrStdout(), stats)
		}
		body, err := json.Marshal(stats) // one line, the bytes of Kata's shim
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", body)
		return err
	}
	return cmd
}

func newResize(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "resize --volume-path PATH --size BYTES",
		Short:   "Grow a volume while a guest has it",
		Long:    "Tells the sandbox that has the volume to grow it to that many bytes, and returns when the guest's file system\nhas grown. The device on the host must have that size before.",
		Example: `  katadirect direct-volume resize --volume-path /mnt/vol --size 2147483648`,
	}
	path := volumePathFlag(cmd)
	output := outputFlag(cmd, formatText)
	size := cmd.Flags().Uint64("size", 0, "the new size in bytes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *size == 0 {
			return usageError{errors.New("--size is missing or 0; see katadirect direct-volume resize --help")}
		}
		client, device, err := h.find(cmd.Context(), *path)
		if err != nil {
			return err
		}
		if err := client.Resize(cmd.Context(), device, *size); err != nil {
			return err
		}
		return confirm(cmd, *output, result{VolumePath: *path, SizeBytes: *size})
	}
	return cmd
}

// result is what a command that has nothing to tell prints for programs. For people it prints nothing, as Kata's tool.
type result struct {
	VolumePath string               `json:"volume_path"`
	Record     *directvolume.Record `json:"record,omitempty"`
	SizeBytes  uint64               `json:"size_bytes,omitempty"`
}

func confirm(cmd *cobra.Command, output format, r result) error {
	if output == formatText {
		return nil
	}
	return printJSON(cmd.OutOrStdout(), r)
}

// find returns the client of the sandbox that has the volume, and the device it knows the volume by.
func (h *host) find(ctx context.Context, path string) (*directvolume.Client, string, error) {
	store := h.store()
	record, err := store.Get(ctx, path)
	if err != nil {
		return nil, "", err
	}
	sandbox, err := store.SandboxFor(ctx, path)
	if err != nil {
		return nil, "", err
	}
	return h.client(sandbox), record.Device, nil
}

func printStats(out io.Writer, stats directvolume.VolumeStats) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tTOTAL\tUSED\tAVAILABLE\t")
	for _, usage := range stats.Usage {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t\n", usage.Unit, usage.Total, usage.Used, usage.Available)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	health := "normal"
	if stats.Condition.Abnormal {
		health = "abnormal"
	}
	if stats.Condition.Message != "" {
		health += ": " + stats.Condition.Message
	}
	_, err := fmt.Fprintf(out, "condition: %s\n", health)
	return err
}
