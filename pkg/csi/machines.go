package csi

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/katadirect/katadirect/pkg/csi/telemetry"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// Machines are the living machines that have direct volumes on this host (telemetry.MachineSource), in the order of their
// sandboxes' ids.
func (d *Driver) Machines(ctx context.Context) ([]telemetry.Machine, error) {
	entries, err := d.observer.records.store.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var all []telemetry.Machine
	for _, e := range entries {
		namespace, pod, _ := strings.Cut(e.Record.Metadata[directvolume.MetadataPod], "/")
		for _, sandbox := range e.Sandboxes {
			all = append(all, telemetry.Machine{
				Sandbox: sandbox, Namespace: namespace, Pod: pod, Metrics: d.checkup.guests.client(sandbox).Metrics,
			})
		}
	}
	slices.SortFunc(all, func(a, b telemetry.Machine) int { return strings.Compare(a.Sandbox, b.Sandbox) })
	return slices.CompactFunc(all, func(a, b telemetry.Machine) bool { return a.Sandbox == b.Sandbox }), nil
}
