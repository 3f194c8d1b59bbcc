package main

import (
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/internal/demo"
	"github.com/katadirect/katadirect/internal/guestimage"
	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

func newDemo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a volume's life, in a real machine",
		Long: `Takes one volume from claim to guest and back, as kubelet would: it is made, recorded, plugged into a running
machine, written, grown while the container runs, measured, and read again by the next pod. It runs a containerd of
its own in its own folders, changes nothing else on this host, and takes everything away again, also when it is
interrupted. It needs root.`,
		Example: `  katadirect demo
  katadirect demo --containerd 2 --report /tmp/demo.json`,
	}
	flavour := cmd.Flags().String("containerd", string(lab.Debian), "which containerd to run: debian (1.6, unpacked from Debian's package) or 2 (built from its module)")
	imageDir := cmd.Flags().String("guest", "", "folder of the guest image (default where guest build puts it)")
	binDir := cmd.Flags().String("bin", "", "folder of csi-node and the shim (default that of this program)")
	report := cmd.Flags().String("report", filepath.Join("out", "demo.json"), "file for the report")
	output := outputFlag(cmd, formatText)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		image, err := guestimage.Open(*imageDir)
		if err != nil {
			return err
		}
		if *binDir == "" {
			if *binDir, err = programDir(); err != nil {
				return err
			}
		}
		steps := cmd.OutOrStdout()
		if *output == formatJSON {
			steps = cmd.ErrOrStderr()
		}
		seen, err := demo.Run(cmd.Context(), demo.Options{
			Node: kubelet.Options{Containerd: lab.Flavour(*flavour), BinDir: *binDir, Image: image},
			Out:  steps,
		})
		err = errors.Join(err, seen.Write(*report))
		if *output == formatJSON {
			return errors.Join(err, printJSON(cmd.OutOrStdout(), seen))
		}
		seen.Table(steps)
		return err
	}
	return cmd
}
