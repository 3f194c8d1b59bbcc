package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/internal/nodeinstall"
	"github.com/katadirect/katadirect/internal/nodeinstall/kubenode"
	"github.com/katadirect/katadirect/internal/nodeinstall/restart"
	"github.com/katadirect/katadirect/internal/version"
	"github.com/katadirect/katadirect/pkg/runtime/config"
)

func newNodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Put the runtime on a node, and take it off again",
		Example: `  katadirect node install --host-root / --dry-run
  katadirect node status --host-root /`,
	}
	cmd.AddCommand(newNodeInstall(), newNodeUninstall(), newNodeStatus())
	return cmd
}

// nodeFlags are the flags of all commands of node.
type nodeFlags struct {
	options          nodeinstall.Options
	runtime          string
	restart          string
	node, kubeconfig string
	stay             bool
	interval         time.Duration
	output           *format
}

func (f *nodeFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	o := &f.options
	flags.StringVar(&o.HostRoot, "host-root", "/", "where the host's root is mounted")
	flags.StringVar(&o.Handler, "handler", "katadirect", "name of the runtime handler, as in the RuntimeClass")
	flags.StringVar(&o.Prefix, "prefix", "/opt/katadirect", "folder on the host for the versions")
	flags.StringVar(&o.SettingsDir, "settings", "/etc/katadirect/config.d", "folder on the host with the administrator's settings, *.toml")
	flags.StringVar(&o.ToolLink, "tool-link", "/usr/local/bin/katadirect", `link to the tool on the host, or "none"`)
	flags.StringVar(&f.runtime, "runtime", "auto", "container runtime: auto, containerd, k3s, rke2 or crio")
	flags.StringVar(&o.Config, "runtime-config", "", "its configuration on the host (default its usual place)")
	flags.StringVar(&o.DropIn, "runtime-drop-in", "", "file on the host for a drop-in of its configuration (default its usual place)")
	flags.StringVar(&o.Socket, "runtime-socket", "", "its socket on the host (default its usual place)")
	flags.StringVar(&o.Program, "containerd-program", "", "containerd on the host, which tries out its configuration (default looked for)")
	flags.StringVar(&f.restart, "restart-command", "", "how the runtime is restarted: a program with arguments, run here and without a shell (default systemd, over D-Bus)")
	flags.DurationVar(&o.WaitTimeout, "wait", 2*time.Minute, "how long the runtime may take to answer after a restart")
	flags.StringVar(&f.node, "node", os.Getenv("NODE_NAME"), "the node's name in Kubernetes, which is told how it is (default $NODE_NAME; empty tells nobody)")
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig for that (default the pod's account)")
	// A DaemonSet gives all commands the same flags: those of install alone mean nothing to the others.
	flags.StringVar(&o.QEMU, "qemu", "", "for install: QEMU on the host (default looked for)")
	flags.StringVar(&o.Virtiofsd, "virtiofsd", "", "for install: virtiofsd on the host (default looked for)")
	f.output = outputFlag(cmd, formatText)
}

// addChanges adds the flags of what changes the node.
func (f *nodeFlags) addChanges(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.options.DryRun, "dry-run", false, "say what would change, as a diff, and change nothing")
	flags.BoolVar(&f.stay, "stay", false, "go on when done, look again every --interval, and end with SIGTERM: for a DaemonSet")
	flags.DurationVar(&f.interval, "interval", 10*time.Minute, "how often --stay looks again; after a failure it is a tenth of it")
}

// resolve turns flags into options.
func (f *nodeFlags) resolve() (nodeinstall.Options, error) {
	o := f.options
	if f.runtime != "auto" {
		o.Runtime = nodeinstall.Kind(f.runtime)
	}
	o.Version = version.Version
	o.Log = logTo(os.Stderr)
	if f.restart != "" {
		command, err := restart.ParseCommand(f.restart)
		if err != nil {
			return o, usageError{err}
		}
		o.Restart = command
	}
	if f.stay && (o.DryRun || f.interval <= 0) {
		return o, usageError{errors.New("--stay goes without --dry-run, and with an --interval of more than 0")}
	}
	if f.node == "" {
		return o, nil
	}
	var err error
	o.Node, err = kubenode.Open(f.node, f.kubeconfig)
	return o, err
}

func newNodeInstall() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put shim, guest and tool on a node, and add the handler to its container runtime",
		Long: `Puts the shim, this tool, the guest and a configuration.toml into a folder of their version on the node, and adds a
runtime handler to containerd (a drop-in file for version 3 of its configuration, a marked block with a backup for
version 2), to k3s and RKE2 (drop-in or template) or to CRI-O (drop-in). The new configuration is tried out first, the
runtime is restarted only if something has changed, and gets its old configuration back if it does not come up. With
--node the node is labelled katadirect.io/runtime=true at the end, or told what is wrong.

A new version takes effect for new pods at once, without a restart; pods that run keep theirs. The version before stays
for a way back: install it again. A file that is not understood is never touched (status 8). Doing it again changes
nothing, also after it was killed.`,
		Example: `  katadirect node install --host-root / --dry-run
  katadirect node install --host-root /host --node "$NODE_NAME" --stay
  katadirect node install --host-root / --restart-command "rc-service containerd restart" --output json`,
	}
	var f nodeFlags
	f.add(cmd)
	f.addChanges(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.options.BinDir, "bin", "", "folder with the shim and this tool (default that of this program)")
	flags.StringVar(&f.options.GuestDir, "guest", config.GuestDir, "folder with the guest's vmlinux, initrd and image.json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		o, err := f.resolve()
		if err != nil {
			return err
		}
		if o.BinDir == "" {
			if o.BinDir, err = programDir(); err != nil {
				return err
			}
		}
		return f.run(cmd, func(ctx context.Context) (nodeinstall.Report, error) { return nodeinstall.Install(ctx, o) })
	}
	return cmd
}

func newNodeUninstall() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take everything back that install has done",
		Long: `Takes the label from the node, the handler out of the container runtime's configuration (which is then what it was, to
the byte, but for what somebody else has written into it), and removes the files. Settings in --settings stay. While pods
of the runtime run it refuses and changes nothing (status 4). With --leave-in-use it takes the label away, so that no more
come, and the versions that nobody needs, and says what is left (status 4 too): with --stay the rest goes when they have
ended. Volumes and their data are no business of this command.`,
		Example: `  katadirect node uninstall --host-root / --dry-run
  katadirect node uninstall --host-root /host --node "$NODE_NAME" --leave-in-use --stay`,
	}
	var f nodeFlags
	f.add(cmd)
	f.addChanges(cmd)
	cmd.Flags().BoolVar(&f.options.LeaveInUse, "leave-in-use", false, "begin while pods run, and leave what they need")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o, err := f.resolve()
		if err != nil {
			return err
		}
		return f.run(cmd, func(ctx context.Context) (nodeinstall.Report, error) { return nodeinstall.Uninstall(ctx, o) })
	}
	return cmd
}

func newNodeStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether the runtime is on the node",
		Long: `Says which versions are on the node and who uses them, whether the container runtime's configuration has the handler, and
whether the runtime that runs has it. Nothing is changed. The exit status is 0 if pods can run, 3 if there is nothing of
it on the node, and 1 for anything between. --expect absent turns 0 and 3 around, for probes.`,
		Example: `  katadirect node status --host-root /
  katadirect node status --host-root /host --expect absent --output json`,
	}
	var f nodeFlags
	f.add(cmd)
	expect := cmd.Flags().String("expect", "present", "what is success: present or absent")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *expect != "present" && *expect != "absent" {
			return usageError{fmt.Errorf("--expect %q: want present or absent", *expect)}
		}
		o, err := f.resolve()
		if err != nil {
			return err
		}
		s, err := nodeinstall.Look(cmd.Context(), o)
		if err != nil {
			return err
		}
		if *f.output == formatJSON {
			err = printJSON(cmd.OutOrStdout(), s)
		} else {
			err = printNodeStatus(cmd.OutOrStdout(), s)
		}
		switch {
		case err != nil:
			return err
		case *expect == "present" && s.Ready(), *expect == "absent" && s.Absent():
			return nil
		case s.Ready() || s.Absent():
			return errAbsent
		}
		return errSilent
	}
	return cmd
}

// run does the work once, or again and again.
func (f *nodeFlags) run(cmd *cobra.Command, work func(context.Context) (nodeinstall.Report, error)) error {
	for first := true; ; first = false {
		report, err := work(cmd.Context())
		if first || err != nil || len(report.Changes) > 0 {
			if printErr := f.print(cmd, report); printErr != nil {
				return errors.Join(err, printErr)
			}
		}
		if !f.stay {
			return err
		}
		pause := f.interval
		if err != nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "katadirect: %v\n", err)
			pause /= 10
		}
		select {
		case <-cmd.Context().Done():
			return nil // everything stays as it is: the pod goes, not the runtime
		case <-time.After(pause):
		}
	}
}

func (f *nodeFlags) print(cmd *cobra.Command, report nodeinstall.Report) error {
	if *f.output == formatJSON {
		return printJSON(cmd.OutOrStdout(), report)
	}
	return printNodeReport(cmd.OutOrStdout(), report)
}

func printNodeReport(out io.Writer, r nodeinstall.Report) error {
	var text strings.Builder
	for _, c := range r.Changes {
		fmt.Fprintf(&text, "%-9s %s", c.Action, c.Path)
		if c.Detail != "" {
			fmt.Fprintf(&text, "  (%s)", c.Detail)
		}
		text.WriteString("\n" + c.Diff)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&text, "warning: %s\n", w)
	}
	for _, v := range r.Left {
		fmt.Fprintf(&text, "left: version %s, because of %s\n", v.Key, strings.Join(v.UsedBy, ", "))
	}
	switch {
	case r.Error != "":
		// The error itself is the program's last word.
	case len(r.Changes) == 0:
		fmt.Fprintf(&text, "Nothing to change: handler %s, version %s, %s.\n", r.Handler, orNone(r.Version), orNone(r.Runtime))
	case r.DryRun:
		fmt.Fprintf(&text, "Nothing was changed: this was a dry run (%s).\n", orNone(r.Runtime))
	default:
		fmt.Fprintf(&text, "Done: %s of handler %s, %s.\n", r.Operation, r.Handler, orNone(r.Runtime))
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func printNodeStatus(out io.Writer, s nodeinstall.Status) error {
	var text strings.Builder
	fmt.Fprintf(&text, "runtime          %s\nhandler          %s\ncurrent version  %s\nconfigured       %v\nruntime has it   %v\nrestart pending  %v\n",
		orNone(s.Runtime), s.Handler, orNone(s.Current), s.Configured, s.HasHandler, s.RestartPending)
	for _, v := range s.Versions {
		state := "whole"
		if !v.Whole {
			state = "not whole"
		}
		fmt.Fprintf(&text, "version          %s, %s, used by: %s\n", v.Key, state, orNone(strings.Join(v.UsedBy, ", ")))
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&text, "problem          %s\n", p)
	}
	verdict := "Pods cannot run in machines here yet."
	switch {
	case s.Ready():
		verdict = "Pods can run in machines here."
	case s.Absent():
		verdict = "Nothing of it is on this node."
	}
	fmt.Fprintln(&text, verdict)
	_, err := io.WriteString(out, text.String())
	return err
}
