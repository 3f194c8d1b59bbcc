package claims

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
)

const snapshotGroup = "/apis/snapshot.storage.k8s.io/v1"

// snapshotList is as much of a VolumeSnapshotList as is needed; the client of that API is a module of its own.
type snapshotList struct {
	Metadata struct {
		Continue string `json:"continue"`
	} `json:"metadata"`
	Items []struct {
		Metadata struct {
			Name      string    `json:"name"`
			Namespace string    `json:"namespace"`
			Created   time.Time `json:"creationTimestamp"`
		} `json:"metadata"`
		Spec struct {
			Source struct {
				Claim string `json:"persistentVolumeClaimName"`
			} `json:"source"`
		} `json:"spec"`
		Status struct {
			Ready   bool      `json:"readyToUse"`
			Created time.Time `json:"creationTime"`
			Size    string    `json:"restoreSize"`
			Error   struct {
				Message string `json:"message"`
			} `json:"error"`
		} `json:"status"`
	} `json:"items"`
}

// readSnapshots reads all snapshots. A cluster need not have that API.
func (r Reader) readSnapshots(ctx context.Context, namespace string, j *joiner) error {
	path := snapshotGroup + "/volumesnapshots"
	if namespace != "" {
		path = snapshotGroup + "/namespaces/" + namespace + "/volumesnapshots"
	}
	snapshots := map[claimKey][]Snapshot{}
	next := ""
	for {
		request := r.Client.CoreV1().RESTClient().Get().AbsPath(path).Param("limit", fmt.Sprint(pageSize))
		if next != "" {
			request.Param("continue", next)
		}
		raw, err := request.Do(ctx).Raw()
		if apierrors.IsNotFound(err) {
			return nil // no snapshots in this cluster
		}
		var page snapshotList
		if err == nil {
			err = json.Unmarshal(raw, &page)
		}
		if err != nil {
			return j.optional(err, "snapshots", "which claims have some is unknown")
		}
		page.addTo(snapshots)
		if next = page.Metadata.Continue; next == "" {
			break
		}
	}
	for _, all := range snapshots {
		slices.SortFunc(all, func(a, b Snapshot) int { return a.Created.Compare(b.Created) })
	}
	j.snapshots = snapshots
	return nil
}

func (l snapshotList) addTo(snapshots map[claimKey][]Snapshot) {
	for _, s := range l.Items {
		one := Snapshot{Name: s.Metadata.Name, Ready: s.Status.Ready, Created: s.Status.Created, Error: s.Status.Error.Message}
		if one.Created.IsZero() {
			one.Created = s.Metadata.Created
		}
		if size, err := resource.ParseQuantity(s.Status.Size); err == nil {
			one.SizeBytes = size.Value()
		}
		key := claimKey{s.Metadata.Namespace, s.Spec.Source.Claim}
		snapshots[key] = append(snapshots[key], one)
	}
}
