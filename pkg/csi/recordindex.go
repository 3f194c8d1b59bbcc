package csi

import (
	"context"
	"fmt"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// publicationsOf returns the publications of a volume, as records.of does.
type publicationsOf func(context.Context, pool.Volume) ([]publication, error)

// index reads all records once, for a caller who asks for many volumes. The answer ages from then on.
func (r records) index(ctx context.Context) (publicationsOf, error) {
	entries, err := r.store.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	byID, byDevice := map[string][]publication{}, map[string][]publication{}
	for _, e := range entries {
		if e.Err != nil {
			continue
		}
		p := publication{path: e.VolumePath, record: e.Record, sandboxes: e.Sandboxes, dead: e.Stale}
		if id := e.Record.Metadata[directvolume.MetadataVolumeID]; id != "" {
			byID[id] = append(byID[id], p)
		}
		byDevice[e.Record.Device] = append(byDevice[e.Record.Device], p)
	}
	return func(_ context.Context, v pool.Volume) ([]publication, error) {
		found := byID[v.ID]
		for _, p := range byDevice[v.ImagePath] {
			if p.record.Metadata[directvolume.MetadataVolumeID] != v.ID {
				found = append(found[:len(found):len(found)], p)
			}
		}
		return found, nil
	}, nil
}
