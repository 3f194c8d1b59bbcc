package deploy

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// What clusters go by, and what nothing that runs would miss on a cluster of one quiet node. The chart's objects are the
// same: TestHelmAndKustomizeGiveTheSameObjects.
func TestClustersAreToldWhatTheyGoBy(t *testing.T) {
	all := kustomize(t, base)
	for _, test := range []struct{ object, want string }{
		{"Namespace/katadirect", `
metadata:
  labels: {pod-security.kubernetes.io/enforce: privileged, pod-security.kubernetes.io/audit: privileged, pod-security.kubernetes.io/warn: privileged}`},
		{"PodDisruptionBudget/katadirect-controller", `
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {app.kubernetes.io/name: katadirect, app.kubernetes.io/component: controller}`},
		{"RuntimeClass/kata", `
handler: katadirect
overhead: {podFixed: {cpu: 100m, memory: 256Mi}}
scheduling: {nodeSelector: {katadirect.io/runtime: "true"}}`},
		{"CSIDriver/csi.katadirect.io", `
spec: {attachRequired: false, podInfoOnMount: true, fsGroupPolicy: File, storageCapacity: true, requiresRepublish: false, tokenRequests: null, volumeLifecycleModes: [Persistent, Ephemeral]}`},
	} {
		object := all[test.object]
		if object == nil {
			t.Errorf("%s is missing", test.object)
			continue
		}
		is, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			t.Fatal(err)
		}
		var want map[string]any
		if err := yaml.Unmarshal([]byte(test.want), &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, only(want, is)); diff != "" {
			t.Errorf("%s (-wanted +is):\n%s", test.object, diff)
		}
	}
}

func TestWhatRunsTwiceIsNotDrainedAtOnce(t *testing.T) {
	for how, all := range renderings(t) {
		for key, deployment := range of[*appsv1.Deployment](all) {
			kept := false
			for _, budget := range of[*policyv1.PodDisruptionBudget](all) {
				kept = kept || maps.Equal(budget.Spec.Selector.MatchLabels, deployment.Spec.Selector.MatchLabels)
			}
			if *deployment.Spec.Replicas > 1 && !kept {
				t.Errorf("%s: %s has no PodDisruptionBudget", how, key)
			}
		}
	}
}

// only is what there is in the places that are named.
func only(named, is map[string]any) map[string]any {
	found := map[string]any{}
	for key, below := range named {
		value := is[key]
		if below, isMap := below.(map[string]any); isMap {
			if inside, isMap := value.(map[string]any); isMap {
				value = only(below, inside)
			}
		}
		found[key] = value
	}
	return found
}
