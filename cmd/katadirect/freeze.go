package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/pkg/directvolume"
)

// errNotFrozen is returned by thaw when the volume did not stand still until then: a copy made meanwhile is no good.
var errNotFrozen = errors.New("the volume was not frozen any more")

// oneVolume gives a command its argument.
func oneVolume(cmd *cobra.Command) {
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%s needs one path or volume id, and got %d", cmd.Name(), len(args))
		}
		return nil
	}
}

func newVolumeFreeze(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "freeze PATH|VOLUME-ID",
		Short: "Make a volume stand still for a copy, while its pod runs",
		Long: fmt.Sprintf(`Has the guest write everything out and stop all changes to the volume's file system: what writes, waits. The guest lets
it go on by itself after the limit, of at most %s, and before a container that uses it is ended. Freezing a frozen volume
extends its time. Prints the id of the freeze, for thaw.`, directvolume.MaxFreeze),
		Example: `  id=$(katadirect volume freeze /mnt/vol --limit 20s) && cp --reflink=auto disk.img copy.img; katadirect volume thaw /mnt/vol --id "$id"`,
	}
	oneVolume(cmd)
	output := outputFlag(cmd, formatText)
	limit := cmd.Flags().Duration("limit", directvolume.DefaultFreeze, "how long the volume stands still at most")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *limit < time.Millisecond || *limit > directvolume.MaxFreeze {
			return usageError{fmt.Errorf("--limit is %s, and must be from 1ms to %s", *limit, directvolume.MaxFreeze)}
		}
		client, device, err := h.live(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		// The guest may take as long to write everything out as the limit allows.
		ctx, cancel := context.WithTimeout(cmd.Context(), *limit+directvolume.MaxFreeze)
		defer cancel()
		frozen, err := client.Freeze(ctx, device, *limit)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return printJSON(cmd.OutOrStdout(), frozen)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), frozen.ID)
		return err
	}
	return cmd
}

func newVolumeThaw(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "thaw PATH|VOLUME-ID",
		Short: "Let a frozen volume go on, and say whether it stood still until now",
		Long: `Lets the volume go on. It fails with status 7 when the volume did not stand still until now, because its time was
over or its container ended: what was copied meanwhile is not consistent then.`,
		Example: `  katadirect volume thaw /mnt/vol --id 3`,
	}
	oneVolume(cmd)
	output := outputFlag(cmd, formatText)
	id := cmd.Flags().Uint64("id", 0, "the freeze to end; 0 is whichever there is")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, device, err := h.live(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		thawed, err := client.Thaw(cmd.Context(), device, *id)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			if err := printJSON(cmd.OutOrStdout(), thawed); err != nil {
				return err
			}
		}
		if !thawed.WasFrozen {
			return fmt.Errorf("%s: %w: %s", printable(args[0]), errNotFrozen, printable(thawed.Ended))
		}
		return nil
	}
	return cmd
}

func newVolumeStats(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "stats PATH|VOLUME-ID",
		Short:   "Ask the guest how full and how healthy a volume is",
		Long:    "Asks the guest that has the volume mounted.",
		Example: `  katadirect volume stats /mnt/vol --output json`,
	}
	oneVolume(cmd)
	output := outputFlag(cmd, formatText)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, device, err := h.live(cmd.Context(), args[0])
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
		return printJSON(cmd.OutOrStdout(), stats)
	}
	return cmd
}

// live returns the client of the sandbox that has the volume, by its path or volume id, and the device it knows the
// volume by.
func (h *host) live(ctx context.Context, name string) (*directvolume.Client, string, error) {
	volumes, err := h.node().Find(ctx, name)
	if err != nil {
		return nil, "", err
	}
	path := volumes[0].VolumePath
	for _, v := range volumes { // one volume may be published at several paths
		if len(v.Sandboxes) > 0 {
			path = v.VolumePath
		}
	}
	return h.find(ctx, path)
}
