package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/internal/version"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// host says where things are on the node. Only tests and people with unusual hosts set it.
type host struct {
	records string // the record root
	run     string // stands for /run, where sandboxes are
}

func (h host) sandboxes() directvolume.Sandboxes {
	if h.run == "" {
		return directvolume.Sandboxes{}
	}
	return directvolume.Sandboxes{GoDir: filepath.Join(h.run, "vc/sbs"), RustDir: filepath.Join(h.run, "kata")}
}

func (h host) store() *directvolume.Store {
	return directvolume.NewStore(h.records, directvolume.WithSandboxes(h.sandboxes()))
}

func (h host) client(sandbox string) *directvolume.Client {
	return directvolume.NewClient(sandbox, directvolume.WithClientSandboxes(h.sandboxes()))
}

func newRoot() *cobra.Command {
	h := &host{}
	root := &cobra.Command{
		Use:   "katadirect",
		Short: "Volumes that a pod's virtual machine mounts itself",
		Long:  "katadirect manages the direct volumes of this node: block volumes that are plugged into a pod's virtual\nmachine and mounted there, never on the host.\n\n" + exitHelp,
		Example: `  katadirect check
  katadirect volume list
  katadirect direct-volume stats --volume-path /var/lib/kubelet/pods/UID/volumes/kubernetes.io~csi/PV/mount`,
		Version:       strings.TrimPrefix(version.String("katadirect"), "katadirect "),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&h.records, "root", directvolume.DefaultRoot, "folder of the records")
	flags.StringVar(&h.run, "run", "", "folder that stands for /run, where sandboxes are")
	must(flags.MarkHidden("root"), flags.MarkHidden("run"))
	root.AddCommand(newDirectVolume(h), newVolume(h), newExec(h), newCheck(h), newGuest(), newNodeCommand(), newDemo())
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	strictArgs(root)
	return root
}

// strictArgs makes every mistyped argument or sub-command a usage error. cobra would show the help and succeed.
func strictArgs(cmd *cobra.Command) {
	check := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if check == nil {
			check = cobra.NoArgs
		}
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
		}
		return nil
	}
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			return usageError{fmt.Errorf("%s needs one of its commands; see %s --help", cmd.Name(), cmd.CommandPath())}
		}
	}
	for _, sub := range cmd.Commands() {
		strictArgs(sub)
	}
}

// format is the value of --output.
type format string

const (
	formatText format = "text"
	formatJSON format = "json"
)

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "text|json" }
func (f *format) Set(value string) error {
	if value != string(formatText) && value != string(formatJSON) {
		return fmt.Errorf("must be text or json")
	}
	*f = format(value)
	return nil
}

// outputFlag gives a command --output.
func outputFlag(cmd *cobra.Command, initial format) *format {
	f := initial
	cmd.Flags().VarP(&f, "output", "o", "how to print the answer")
	return &f
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// must is for errors that only a mistake in this program can cause.
func must(errs ...error) {
	for _, err := range errs {
		if err != nil {
			panic(err)
		}
	}
}
