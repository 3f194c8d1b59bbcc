package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/katadirect/katadirect/internal/check"
)

func newCheck(h *host) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether this host can run direct volumes, and what to do if not",
		Long: `Looks at everything that a pod with a direct volume needs: containerd's or CRI-O's settings and the shim, Kata's
configuration with its drop-ins, the kernel, cgroups, QEMU, virtiofsd, the guest image, whether KVM can really run a
machine (tried once per boot of the host), the network model, and the folder of the records. Nothing is changed. It fails
if there is an error among the findings.`,
		Example: `  katadirect check
  katadirect check --config /etc/kata-containers/configuration.toml --output json`,
	}
	options := check.Options{}
	flags := cmd.Flags()
	flags.StringVar(&options.ConfigPath, "config", "", "Kata's configuration.toml (default the one that containerd names, then Kata's places)")
	flags.StringVar(&options.ContainerdConfig, "containerd-config", "/etc/containerd/config.toml", "containerd's configuration")
	output := outputFlag(cmd, formatText)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		options.RecordRoot = h.records
		options.Agent, _ = findAgent() // none here: then it is not compared
		fmt.Fprintln(cmd.ErrOrStderr(), "looking at this host; a first trial of KVM can take some seconds")
		report, err := check.Run(cmd.Context(), options)
		if err != nil {
			return err
		}
		if *output == formatJSON {
			err = printJSON(cmd.OutOrStdout(), report)
		} else {
			err = printReport(cmd.OutOrStdout(), report)
		}
		if err == nil && !report.Usable {
			return errSilent
		}
		return err
	}
	return cmd
}

func printReport(out io.Writer, report check.Report) error {
	errors, warnings := 0, 0
	for _, f := range report.Findings {
		switch f.Severity {
		case check.Error:
			errors++
		case check.Warning:
			warnings++
		}
		fmt.Fprintf(out, "%-8s %-14s %s\n", f.Severity, f.Check, f.Message)
		for line := range strings.Lines(f.Advice) {
			fmt.Fprintf(out, "%23s  %s\n", "", strings.TrimRight(line, "\n"))
		}
	}
	verdict := "This host can run direct volumes."
	if !report.Usable {
		verdict = "This host cannot run direct volumes yet."
	}
	_, err := fmt.Fprintf(out, "\n%s Errors: %d, warnings: %d.\n", verdict, errors, warnings)
	return err
}
