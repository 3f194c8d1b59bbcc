package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// programs say, by its role and account in deploy/, who does with a right what it is given for: as it calls itself to the
// API server.
var programs = map[string]string{
	"katadirect-driver to katadirect-node":                             "katadirect-csi-node",
	"katadirect-provisioner to katadirect-node":                        "csi-provisioner",
	"katadirect-capacity to katadirect-node":                           "csi-provisioner",
	"katadirect-snapshotter to katadirect-node":                        "csi-snapshotter",
	"katadirect-resizer to katadirect-controller":                      "csi-resizer",
	"katadirect-leader to katadirect-controller":                       "csi-resizer",
	"katadirect-snapshot-controller to katadirect-snapshot-controller": "snapshot-controller",
	"katadirect-leader to katadirect-snapshot-controller":              "snapshot-controller",
	"katadirect-installer to katadirect-installer":                     "katadirect-installer",
}

// unused are rights that nothing here makes anybody use for sure, and why they are given all the same.
var unused = map[string]string{
	"katadirect-node csi-snapshotter create events":                       onlyOfFailures,
	"katadirect-node csi-snapshotter patch events":                        onlyOfFailures,
	"katadirect-node katadirect-csi-node create events":                   "limits that could not be set: here they can",
	"katadirect-node katadirect-csi-node get runtimeclasses.node.k8s.io":  "one that is newer than what was watched",
	"katadirect-node katadirect-csi-node get pods":                        "one that is newer than what was watched",
	"katadirect-node katadirect-csi-node list persistentvolumes":          listedBefore,
	"katadirect-node katadirect-csi-node list pods":                       listedBefore,
	"katadirect-node katadirect-csi-node list runtimeclasses.node.k8s.io": listedBefore,
	"katadirect-snapshot-controller snapshot-controller patch events":     "an event that comes again within minutes",
}

const (
	onlyOfFailures = "csi-snapshotter tells of snapshots that fail: here none does"
	listedBefore   = "an API server before Kubernetes 1.34 does not begin a watch with what there is: it is listed first"
)

// rbac is what is read of an object of deploy/.
type rbac struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Rules             []rbacv1.PolicyRule `json:"rules"`
	Subjects          []rbacv1.Subject    `json:"subjects"`
	RoleRef           rbacv1.RoleRef      `json:"roleRef"`
}

// granted are the rights that deploy/ gives, each as "account program verb resource".
func (k *kube) granted() (all []string) {
	k.t.Helper()
	roles, given := map[string][]rbacv1.PolicyRule{}, map[string]bool{}
	var bindings []rbac
	for _, folder := range []string{"overlay", "kustomize/overlays/installer"} {
		for doc := range strings.SplitSeq(k.kubectl("kustomize", filepath.Join(k.Dir(), "deploy", folder)), "\n---\n") {
			var object rbac
			if err := yaml.Unmarshal([]byte(doc), &object); err != nil && strings.Contains(doc, rbacv1.GroupName+"/v1\n") {
				k.t.Fatal(err)
			}
			switch object.Kind {
			case "ClusterRole", "Role":
				role := object.Kind + object.Name // the first overlay's has a component's rights besides, which the second has not
				roles[role] = append(roles[role], object.Rules...)
			case "ClusterRoleBinding", "RoleBinding":
				bindings = append(bindings, object)
			}
		}
	}
	for _, b := range bindings {
		for _, subject := range b.Subjects {
			to := b.RoleRef.Name + " to " + subject.Name
			program := programs[to]
			if program == "" {
				k.t.Errorf("nobody is known to need what %s is given", to)
			}
			for _, right := range rightsOf(roles[b.RoleRef.Kind+b.RoleRef.Name]) {
				given[subject.Name+" "+program+" "+right] = true
			}
		}
	}
	for one := range given {
		all = append(all, one)
	}
	slices.Sort(all)
	return all
}

// rightsOf takes rules apart, into "verb resource".
func rightsOf(rules []rbacv1.PolicyRule) (all []string) {
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				if group != "" {
					resource += "." + group
				}
				for _, verb := range rule.Verbs {
					all = append(all, verb+" "+resource)
				}
			}
		}
	}
	return all
}

// rightsAreUsed compares what deploy/ allows with what its programs have asked for in all the scenarios before this one.
func rightsAreUsed(t *testing.T, k *kube) {
	k.step("what the driver's accounts have asked of the API server")
	asked, err := k.Asked()
	if err != nil {
		t.Fatal(err)
	}
	used, refused := map[string]int{}, map[string]int{}
	for _, a := range asked {
		one := fmt.Sprint(a.Account, " ", a.Program, " ", a.Verb, " ", a.Resource)
		if a.Allowed {
			used[one]++
		} else {
			refused[one]++
		}
	}
	k.step(fmt.Sprintf("each right of deploy/ was used, in %d requests, or is listed with why not", len(asked)))
	granted := k.granted()
	for _, right := range granted {
		if used[right] == 0 && unused[right] == "" {
			t.Errorf("nobody has used the right: %s", right)
		}
	}
	for right := range unused {
		if !slices.Contains(granted, right) {
			t.Errorf("deploy/ does not give this right: %s", right)
		}
	}
	for one, times := range refused {
		// What deploy/ does give was refused while a scenario had taken it away.
		if !slices.Contains(granted, one) {
			t.Errorf("this is asked for, %d times, and deploy/ does not give it: %s", times, one)
		}
	}
}
