package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/internal/guestimage"
)

func newGuest() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "guest",
		Short:   "The image that machines boot from",
		Example: `  katadirect guest build`,
	}
	cmd.AddCommand(newGuestBuild())
	return cmd
}

func newGuestBuild() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Make the guest's kernel and initrd from Debian packages",
		Long: `Makes vmlinux, initrd and image.json from Debian's cloud kernel, crun and file system tools, and from the guest
agent. The packages are downloaded with apt-get and unpacked, never installed; root is not needed. The same packages
and agent give the same bytes, and an image that is up to date is left as it is.`,
		Example: `  katadirect guest build
  katadirect guest build --dir /usr/share/katadirect/guest --btrfs --debug`,
	}
	var options guestimage.Options
	flags := cmd.Flags()
	flags.StringVar(&options.Output, "dir", "", "folder for the image (default guest in the cache)")
	flags.StringVar(&options.AgentPath, "agent", "", "the agent's program (default beside this one, then /usr/libexec/katadirect/agent)")
	flags.StringVar(&options.KernelPackage, "kernel", guestimage.DefaultKernelPackage, "Debian package of the kernel")
	flags.StringVar(&options.CacheDir, "cache", "", "folder that keeps packages between builds (default $XDG_CACHE_HOME/katadirect)")
	flags.BoolVar(&options.Btrfs, "btrfs", false, "add the btrfs program, for a person who looks into a machine")
	flags.BoolVar(&options.Debug, "debug", false, "add a shell; never for production")
	output := outputFlag(cmd, formatText)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		options.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
		if options.AgentPath == "" {
			if options.AgentPath, err = findAgent(); err != nil {
				return err
			}
		}
		image, err := guestimage.Build(cmd.Context(), options)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			return printJSON(cmd.OutOrStdout(), image)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "kernel  %s (%s)\ninitrd  %s\n", image.Kernel, image.Manifest.Kernel, image.Initrd)
		return err
	}
	return cmd
}

// findAgent looks where make and packages put it.
func findAgent() (string, error) {
	places := []string{"/usr/libexec/katadirect/agent"}
	if dir, err := programDir(); err == nil {
		places = append([]string{filepath.Join(dir, "agent")}, places...)
	}
	for _, place := range places {
		if info, err := os.Stat(place); err == nil && info.Mode().IsRegular() {
			return place, nil
		}
	}
	return "", usageError{fmt.Errorf("the guest agent is not at %q: name it with --agent", places)}
}

// programDir is the folder that this program is in.
func programDir() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	program, err = filepath.EvalSymlinks(program)
	return filepath.Dir(program), err
}
