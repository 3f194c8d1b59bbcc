package claims

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// maxWrong bounds what is said of one volume, and maxWords how long each is.
const (
	maxWrong = 10
	maxWords = 1000
)

// doing says what a call of the driver's does.
var doing = map[string]string{
	"CreateVolume":              "making the volume",
	"DeleteVolume":              "deleting the volume",
	"ControllerPublishVolume":   "attaching the volume",
	"ControllerUnpublishVolume": "detaching the volume",
	"ControllerExpandVolume":    "growing the volume",
	"ControllerModifyVolume":    "changing the volume's I/O limits",
	"CreateSnapshot":            "taking a snapshot",
	"NodeStageVolume":           "making the volume ready on its node",
	"NodeUnstageVolume":         "putting the volume away on its node",
	"NodePublishVolume":         "giving the volume to its pod",
	"NodeUnpublishVolume":       "taking the volume from its pod",
	"NodeExpandVolume":          "growing the volume in its pod",
}

// wrong is what went wrong with a volume, the latest first: calls of the driver that failed, what the claim's conditions
// say, and the warnings about the claim and its pods. What is wrong now (facts.Problems) is not repeated.
func (j *joiner) wrong(v Volume) []Wrong {
	var all []Wrong
	if v.Facts != nil {
		for _, t := range v.Facts.Troubles {
			what, known := doing[t.Call]
			if !known {
				what = t.Call
			}
			all = append(all, Wrong{Time: t.Last, Times: t.Times, About: "volume", Over: t.Over,
				Words: clip(fmt.Sprintf("%s failed: %s", what, t.Message))})
		}
	}
	for _, c := range v.conditions {
		if strings.HasSuffix(c.kind, "Error") {
			all = append(all, Wrong{Time: c.since, Times: 1, About: "claim", Words: clip(c.kind + ": " + c.message)})
		}
	}
	for _, e := range j.events {
		about, concerned := v.concerns(e)
		if !concerned || told(v, e.Message) {
			continue
		}
		all = append(all, Wrong{Time: timeOf(e), Times: timesOf(e), About: about, Words: clip(e.Reason + ": " + e.Message)})
	}
	slices.SortStableFunc(all, func(a, b Wrong) int { return b.Time.Compare(a.Time) })
	return all[:min(len(all), maxWrong)]
}

// concerns says which of the volume's objects the event is about. Of a pod's many events those count that speak of
// volumes, or of the machine.
func (v Volume) concerns(e corev1.Event) (about string, concerned bool) {
	o := e.InvolvedObject
	switch {
	case o.Namespace != v.Namespace:
	case o.Kind == "PersistentVolumeClaim" && v.Claim != "" && o.Name == v.Claim && sameObject(string(o.UID), v.uid):
		return "claim", true
	case o.Kind == "Pod":
		for _, p := range v.Pods {
			if o.Name == p.Name && sameObject(string(o.UID), p.uid) {
				return "pod " + p.Name, true
			}
		}
	case o.Kind == "VolumeSnapshot":
		for _, s := range v.Snapshots {
			if o.Name == s.Name {
				return "snapshot " + s.Name, true
			}
		}
	}
	return "", false
}

// sameObject tells an object from an earlier one of the same name.
func sameObject(a, b string) bool { return a == "" || b == "" || a == b }

// told reports whether the driver has told itself what an event repeats.
func told(v Volume, message string) bool {
	if v.Facts == nil {
		return false
	}
	for _, t := range v.Facts.Troubles {
		if t.Message != "" && strings.Contains(message, t.Message) {
			return true
		}
	}
	return false
}

func timeOf(e corev1.Event) time.Time {
	latest := e.EventTime.Time
	if e.Series != nil && e.Series.LastObservedTime.After(latest) {
		latest = e.Series.LastObservedTime.Time
	}
	if e.LastTimestamp.After(latest) {
		latest = e.LastTimestamp.Time
	}
	if latest.IsZero() {
		latest = e.CreationTimestamp.Time
	}
	return latest
}

func timesOf(e corev1.Event) int {
	if e.Series != nil {
		return int(e.Series.Count)
	}
	return max(1, int(e.Count))
}

func clip(words string) string {
	words = strings.ToValidUTF8(words[:min(len(words), maxWords)], "")
	return strings.Join(strings.Fields(words), " ")
}
