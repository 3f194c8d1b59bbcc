package claims

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/katadirect/katadirect/pkg/csi/facts"
)

// provisionerAnnotations name a claim's driver before it has a volume, and to those who may not read volumes.
var provisionerAnnotations = []string{"volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"}

type claimKey struct{ namespace, name string }

// joiner puts together what was read.
type joiner struct {
	now        func() time.Time
	withInline bool
	persistent map[string]corev1.PersistentVolume // by name; empty if they could not be read
	pods       []corev1.Pod
	snapshots  map[claimKey][]Snapshot // nil if there is no such API, or it could not be read
	events     []corev1.Event
	notes      []string
}

// volumes are the driver's claims, and its volumes in pods' own specs.
func (j *joiner) volumes(all []corev1.PersistentVolumeClaim) []Volume {
	volumes := []Volume{}
	byClaim := map[claimKey]int{}
	for _, claim := range all {
		v, ours := j.claim(claim)
		if ours {
			byClaim[claimKey{v.Namespace, v.Claim}] = len(volumes)
			volumes = append(volumes, v)
		}
	}
	for _, pod := range j.pods {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue // it has given its volumes back
		}
		for _, in := range pod.Spec.Volumes {
			switch {
			case in.PersistentVolumeClaim != nil:
				j.use(volumes, byClaim, pod, in.PersistentVolumeClaim.ClaimName)
			case in.Ephemeral != nil:
				j.use(volumes, byClaim, pod, pod.Name+"-"+in.Name)
			case j.withInline && in.CSI != nil && in.CSI.Driver == Driver:
				volumes = append(volumes, inline(pod, in))
			}
		}
	}
	return volumes
}

func (j *joiner) use(volumes []Volume, byClaim map[claimKey]int, pod corev1.Pod, claim string) {
	if i, found := byClaim[claimKey{pod.Namespace, claim}]; found {
		volumes[i].Pods = append(volumes[i].Pods, user(pod))
	}
}

func user(pod corev1.Pod) Pod {
	p := Pod{Name: pod.Name, Phase: string(pod.Status.Phase), Node: pod.Spec.NodeName, uid: string(pod.UID)}
	if pod.Spec.RuntimeClassName != nil {
		p.RuntimeClass = *pod.Spec.RuntimeClassName
	}
	if pod.DeletionTimestamp != nil {
		p.Phase = "Terminating"
	}
	return p
}

// inline is a volume of a pod's own spec. kubelet makes its handle so.
func inline(pod corev1.Pod, in corev1.Volume) Volume {
	handle := fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(pod.UID)+in.Name)))
	return Volume{
		Namespace: pod.Namespace, Inline: in.Name, Created: pod.CreationTimestamp.Time, Phase: "Inline",
		PersistentVolume: handle, Node: pod.Spec.NodeName, Pods: []Pod{user(pod)},
	}
}

// claim describes a claim, and reports whether it is the driver's.
func (j *joiner) claim(c corev1.PersistentVolumeClaim) (Volume, bool) {
	v := Volume{
		Namespace: c.Namespace, Claim: c.Name, Phase: string(c.Status.Phase), Created: c.CreationTimestamp.Time,
		RequestedBytes: c.Spec.Resources.Requests.Storage().Value(), CapacityBytes: c.Status.Capacity.Storage().Value(),
		PersistentVolume: c.Spec.VolumeName, uid: string(c.UID),
	}
	if c.DeletionTimestamp != nil {
		v.Phase = "Terminating"
	}
	if c.Spec.StorageClassName != nil {
		v.StorageClass = *c.Spec.StorageClassName
	}
	if c.Status.CurrentVolumeAttributesClassName != nil {
		v.AttributesClass = *c.Status.CurrentVolumeAttributesClassName
	}
	for _, mode := range c.Spec.AccessModes {
		v.AccessModes = append(v.AccessModes, string(mode))
	}
	for _, condition := range c.Status.Conditions {
		v.conditions = append(v.conditions, claimCondition{string(condition.Type), condition.Message, condition.LastTransitionTime.Time})
	}
	if j.snapshots != nil {
		v.Snapshots = append([]Snapshot{}, j.snapshots[claimKey{c.Namespace, c.Name}]...)
	}
	persistent, known := j.persistent[c.Spec.VolumeName]
	if !known {
		return v, slices.ContainsFunc(provisionerAnnotations, func(key string) bool { return c.Annotations[key] == Driver })
	}
	if persistent.Spec.CSI == nil || persistent.Spec.CSI.Driver != Driver {
		return v, false
	}
	v.Handle, v.Node = persistent.Spec.CSI.VolumeHandle, nodeOf(persistent)
	return v, true
}

// nodeOf is the node that a volume's affinity names.
func nodeOf(v corev1.PersistentVolume) string {
	if v.Spec.NodeAffinity == nil || v.Spec.NodeAffinity.Required == nil {
		return ""
	}
	for _, term := range v.Spec.NodeAffinity.Required.NodeSelectorTerms {
		for _, expression := range term.MatchExpressions {
			if expression.Key == topologyKey && len(expression.Values) == 1 {
				return expression.Values[0]
			}
		}
	}
	return ""
}

// addFacts gives each volume what its node knows of it, and says what could not be found out.
func (j *joiner) addFacts(volumes []Volume, nodes []Node, found map[string]*facts.Volume) {
	problems := map[string]string{}
	for _, n := range nodes {
		problems[n.Name] = n.Problem
	}
	for i := range volumes {
		v := &volumes[i]
		known, asked := false, false
		for _, name := range []string{v.Handle, v.PersistentVolume} {
			if f := found[name]; name != "" && f != nil && !known {
				v.Facts, known = f, true
			}
		}
		if known && v.Handle == "" {
			v.Handle = v.Facts.ID
		}
		problem, asked := problems[v.Node]
		switch {
		case known:
		case v.PersistentVolume == "":
			v.Missing = "it has no volume yet"
		case asked && problem != "":
			v.Missing = problem
		case asked:
			v.Missing = fmt.Sprintf("the driver on node %s does not know it", v.Node)
		default:
			v.Missing = "no driver that could be asked knows it"
		}
		v.Wrong = j.wrong(*v)
		v.Condition = condition(*v, j.now())
	}
}
