package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// Report is what the demo has seen. Its JSON is read by programs: fields are added, never renamed.
type Report struct {
	Steps []Step `json:"steps"`
	Guest Guest  `json:"guest"`
	// BytesBefore and BytesAfter are the file system's size as df in the container has it, around the expansion.
	BytesBefore int64 `json:"bytes_before"`
	BytesAfter  int64 `json:"bytes_after"`
	// The boot id and the start time of the container's first process (/proc/1/stat, field 22) stay the same when
	// neither the machine nor the container was started anew.
	GuestBootIDBefore    string `json:"guest_boot_id_before"`
	GuestBootIDAfter     string `json:"guest_boot_id_after"`
	InitStartTicksBefore uint64 `json:"init_start_ticks_before"`
	InitStartTicksAfter  uint64 `json:"init_start_ticks_after"`
	// What the first pod wrote, and what the second one read.
	MarkerSHA256Written string `json:"marker_sha256_written"`
	MarkerSHA256Read    string `json:"marker_sha256_read"`
	// HostMountsOfVolume is the largest number of mounts of the volume seen at once in all mount namespaces.
	HostMountsOfVolume int `json:"host_mounts_of_volume"`
	// Leftovers is everything of the run that was still there at the end, one line each.
	Leftovers []string `json:"leftovers"`
	// ResizeMS is the NodeExpandVolume call; HotplugMS, from the request to the disk in the machine, and BootMS, from
	// QEMU's start to the agent's answer, are the shim's own figures.
	ResizeMS  float64 `json:"resize_ms"`
	HotplugMS float64 `json:"hotplug_ms"`
	BootMS    float64 `json:"boot_ms"`
	// Accel is what the machines run by: "kvm", or "tcg" where there is no KVM that works.
	Accel string `json:"accel"`
}

// Step is one step and how long it took.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Guest is the volume as the container sees it.
type Guest struct {
	Device    string `json:"device"`
	FSType    string `json:"fstype"`
	MountLine string `json:"mount_line"`
	Kernel    string `json:"kernel"`
}

// Check returns everything that is not as it must be.
func (r *Report) Check() error {
	var wrong []error
	must := func(holds bool, format string, args ...any) {
		if !holds {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	must(r.Guest.Device != "" && r.Guest.FSType == fsType, "the container sees %q at %s, no %s of its own",
		r.Guest.MountLine, dataDir, fsType)
	must(r.BytesBefore > 0 && r.BytesBefore <= sizeBytes, "df says %d bytes for a volume of %d", r.BytesBefore, sizeBytes)
	must(r.BytesAfter > sizeBytes && r.BytesAfter <= expandedBytes, "df says %d bytes after the expansion to %d",
		r.BytesAfter, expandedBytes)
	must(r.GuestBootIDBefore != "" && r.GuestBootIDBefore == r.GuestBootIDAfter, "the machine was booted anew: %q, then %q",
		r.GuestBootIDBefore, r.GuestBootIDAfter)
	must(r.InitStartTicksBefore != 0 && r.InitStartTicksBefore == r.InitStartTicksAfter,
		"the container was started anew: at %d, then at %d", r.InitStartTicksBefore, r.InitStartTicksAfter)
	must(r.MarkerSHA256Written != "" && r.MarkerSHA256Written == r.MarkerSHA256Read,
		"the second pod has read other data than the first has written")
	must(r.HostMountsOfVolume == 0, "the host has mounted the volume %d times", r.HostMountsOfVolume)
	must(len(r.Leftovers) == 0, "%d things are left over", len(r.Leftovers))
	return errors.Join(wrong...)
}

// Write writes the report as JSON to path.
func (r *Report) Write(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data, err := r.JSON()
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

// JSON is the report for programs.
func (r *Report) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	return append(data, '\n'), err
}

// Table writes the report for a person.
func (r *Report) Table(out io.Writer) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nstep\tseconds\n")
	var total float64
	for _, s := range r.Steps {
		fmt.Fprintf(t, "%s\t%7.2f\n", s.Name, s.Seconds)
		total += s.Seconds
	}
	fmt.Fprintf(t, "all of it\t%7.2f\n", total)
	if r.BytesAfter != 0 { // else it ended too early for more
		r.facts(t)
	}
	_ = t.Flush()
	fmt.Fprintf(out, "\n%d things are left over\n", len(r.Leftovers))
	for _, line := range r.Leftovers {
		fmt.Fprintf(out, "  %s\n", line)
	}
}

// facts are the rows about the guest.
func (r *Report) facts(t io.Writer) {
	fmt.Fprintf(t, "\nseen\tbefore\tafter\n")
	fmt.Fprintf(t, "size in the container (df)\t%s\t%s\n", mebibytes(r.BytesBefore), mebibytes(r.BytesAfter))
	fmt.Fprintf(t, "machine (boot id)\t%.8s\t%.8s\n", r.GuestBootIDBefore, r.GuestBootIDAfter)
	fmt.Fprintf(t, "container (start of its first process)\t%d\t%d\n", r.InitStartTicksBefore, r.InitStartTicksAfter)
	fmt.Fprintf(t, "data (SHA-256), first and second pod\t%.8s\t%.8s\n", r.MarkerSHA256Written, r.MarkerSHA256Read)
	fmt.Fprintf(t, "\nmachines run by\t%s\n", accelName(r.Accel))
	fmt.Fprintf(t, "boot to agent\t%.0f ms\n", r.BootMS)
	fmt.Fprintf(t, "hot-plug\t%.0f ms\n", r.HotplugMS)
	fmt.Fprintf(t, "resize, online\t%.0f ms\n", r.ResizeMS)
	fmt.Fprintf(t, "mounts of the volume on the host\t%d\n", r.HostMountsOfVolume)
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
