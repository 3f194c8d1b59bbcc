package stage

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// IDs returns the ids of all volumes that are staged, as the keys of a map. It opens none of their files: the folder's
// names say it, because Open has removed those of earlier boots.
func (s *Store) IDs(context.Context) (map[string]struct{}, error) {
	dir, err := os.Open(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list staged volumes: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list staged volumes: %w", err)
	}
	ids := make(map[string]struct{}, len(names))
	for _, name := range names {
		if id, isState := strings.CutSuffix(name, suffix); isState {
			ids[id] = struct{}{}
		}
	}
	return ids, nil
}
