package deploy

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

// allowed is what each role may do, and what it does with that in the versions that deploy/ names. A right that is added
// to deploy/ has to be argued for here.
var allowed = map[string]map[string]string{
	"ClusterRole/katadirect-driver": {
		"pods get list watch": "who is published for", "runtimeclasses.node.k8s.io get list watch": "what runs a pod",
		"persistentvolumes get list watch": "whose claim a volume is, and its VolumeAttributesClass", "persistentvolumeclaims get": "the claim's annotation",
		"volumeattributesclasses.storage.k8s.io get": "limits of a volume of this node", "events create": "limits that could not be set",
	},
	"ClusterRole/katadirect-provisioner": {
		"persistentvolumes create delete get list patch watch": "volumes; get: a clone's source; patch: finalizers",
		"persistentvolumeclaims list update watch":             "update: a claim that is bound at once, and a clone's source",
		"storageclasses.storage.k8s.io list watch":             "classes",
		"volumeattachments.storage.k8s.io list watch":          "the driver advertises PUBLISH_UNPUBLISH_VOLUME",
		"volumesnapshots.snapshot.storage.k8s.io get":          "restores", "volumesnapshotcontents.snapshot.storage.k8s.io get": "restores",
		"events create patch": "what came of a claim",
	},
	"ClusterRole/katadirect-snapshotter": {
		"volumesnapshotclasses.snapshot.storage.k8s.io list watch":            "parameters",
		"volumesnapshotcontents.snapshot.storage.k8s.io get list patch watch": "snapshots; get: before a status is written",
		"volumesnapshotcontents/status.snapshot.storage.k8s.io patch update":  "what came of it",
		"events create patch": "what came of it",
	},
	"ClusterRole/katadirect-resizer": {
		"persistentvolumes list patch watch": "patch: the new size", "persistentvolumeclaims list watch": "what is wanted",
		"persistentvolumeclaims/status patch": "what there is", "events create patch": "what came of it",
	},
	"Role/katadirect-capacity": {
		"csistoragecapacities.storage.k8s.io create delete list update watch": "room of each node", "pods get": "whose pod this is",
	},
	"Role/katadirect-leader": {"leases.coordination.k8s.io create get update": "which resizer works"},
}

func rulesOf(rules []rbacv1.PolicyRule) []string {
	var all []string
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				if group != "" {
					resource += "." + group
				}
				all = append(all, resource+" "+strings.Join(slices.Sorted(slices.Values(rule.Verbs)), " "))
			}
		}
	}
	slices.Sort(all)
	return all
}

// rolesOf are the rules of all roles, of a namespace's and of the cluster's.
func rolesOf(all objects) map[string][]rbacv1.PolicyRule {
	roles := map[string][]rbacv1.PolicyRule{}
	for key, role := range of[*rbacv1.ClusterRole](all) {
		roles[key] = role.Rules
	}
	for key, role := range of[*rbacv1.Role](all) {
		roles[key] = role.Rules
	}
	return roles
}

func TestNothingMayBeDoneThatIsNotNeeded(t *testing.T) {
	roles := rolesOf(kustomize(t, base))
	for key, rules := range roles {
		var want []string
		for rule := range allowed[key] {
			want = append(want, rule)
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, rulesOf(rules)); diff != "" {
			t.Errorf("%s (-needed +allowed):\n%s", key, diff)
		}
	}
	if len(roles) != len(allowed) {
		t.Errorf("there are %d roles, want %d", len(roles), len(allowed))
	}
}

// Whoever runs the driver by hand takes its role from the page.
func TestTheDriversRoleIsTheOneOfTheDocuments(t *testing.T) {
	page, err := os.ReadFile("../../docs/modes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\napiVersion: rbac")
	text, _, found := strings.Cut("apiVersion: rbac"+rest, "```")
	if !found {
		t.Fatal("docs/modes.md has no ClusterRole")
	}
	written := get[*rbacv1.ClusterRole](t, decode(t, text), "ClusterRole/katadirect-csi-node")
	is := get[*rbacv1.ClusterRole](t, kustomize(t, base), "ClusterRole/katadirect-driver")
	if diff := cmp.Diff(rulesOf(written.Rules), rulesOf(is.Rules)); diff != "" {
		t.Errorf("(-docs +deploy):\n%s", diff)
	}
}

func TestEveryRoleIsBoundToAnAccountThatRuns(t *testing.T) {
	for name, all := range map[string]objects{"base": kustomize(t, base), "snapshot-controller": kustomize(t, overlays+"/snapshot-controller"), "installer": kustomize(t, overlays+"/installer")} {
		used := map[string]bool{}
		for key, spec := range podSpecs(all) {
			used[spec.ServiceAccountName] = true
			if all["ServiceAccount/"+spec.ServiceAccountName] == nil {
				t.Errorf("%s: %s runs as %q, which is not there", name, key, spec.ServiceAccountName)
			}
		}
		bound := map[string]bool{}
		check := func(key string, role rbacv1.RoleRef, subjects []rbacv1.Subject) {
			bound[role.Kind+"/"+role.Name] = true
			for _, s := range subjects {
				if s.Kind != rbacv1.ServiceAccountKind || !used[s.Name] || s.Namespace != namespace {
					t.Errorf("%s: %s binds %v, as which nothing runs", name, key, s)
				}
			}
		}
		for key, b := range of[*rbacv1.ClusterRoleBinding](all) {
			check(key, b.RoleRef, b.Subjects)
		}
		for key, b := range of[*rbacv1.RoleBinding](all) {
			check(key, b.RoleRef, b.Subjects)
		}
		for key := range of[*rbacv1.ClusterRole](all) {
			if !bound[key] {
				t.Errorf("%s: %s is bound to nobody", name, key)
			}
		}
		for key := range of[*rbacv1.Role](all) {
			if !bound[key] {
				t.Errorf("%s: %s is bound to nobody", name, key)
			}
		}
	}
}

func TestOnlyTheDriverIsPrivileged(t *testing.T) {
	for _, overlay := range []string{base, overlays + "/kubelet-sidecars", overlays + "/snapshot-controller"} {
		for key, spec := range podSpecs(kustomize(t, overlay)) {
			if spec.SecurityContext == nil || spec.SecurityContext.SeccompProfile == nil || spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%s: %s has no seccomp profile", overlay, key)
			}
			if spec.HostNetwork || spec.HostPID || spec.HostIPC {
				t.Errorf("%s: %s is in a namespace of the host", overlay, key)
			}
			for _, c := range spec.Containers {
				checkContainer(t, key+" "+c.Name, c)
			}
		}
	}
}

func checkContainer(t *testing.T, who string, c corev1.Container) {
	t.Helper()
	s := c.SecurityContext
	if s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
		t.Errorf("%s can write its root file system", who)
	}
	if len(c.Resources.Requests) == 0 {
		t.Errorf("%s asks for nothing", who)
	}
	if privileged := s.Privileged != nil && *s.Privileged; privileged != (c.Name == "csi-node") {
		t.Errorf("%s: privileged is %v", who, privileged)
	} else if privileged {
		return
	}
	if s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
		t.Errorf("%s keeps capabilities", who)
	}
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		t.Errorf("%s can gain privileges", who)
	}
	for _, m := range c.VolumeMounts {
		if m.MountPropagation != nil {
			t.Errorf("%s passes mounts on", who)
		}
	}
}
