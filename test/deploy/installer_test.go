package deploy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
)

const installer = "DaemonSet/katadirect-installer"

func TestTheInstallerMayDoWhatItDoes(t *testing.T) {
	all := kustomize(t, overlays+"/installer")
	// get: the runtime's name, and the condition as it was; patch: label, annotation, condition; events: what failed.
	want := []string{"events create", "nodes get patch", "nodes/status patch"}
	if diff := cmp.Diff(want, rulesOf(get[*rbacv1.ClusterRole](t, all, "ClusterRole/katadirect-installer").Rules)); diff != "" {
		t.Errorf("(-needed +allowed):\n%s", diff)
	}
	policy := get[*admissionv1.ValidatingAdmissionPolicy](t, all, "ValidatingAdmissionPolicy/katadirect-installer")
	account := get[*appsv1.DaemonSet](t, all, installer).Spec.Template.Spec.ServiceAccountName
	if !strings.Contains(policy.Spec.MatchConditions[0].Expression, `"system:serviceaccount:`+namespace+":"+account+`"`) {
		t.Errorf("the policy is for somebody else: %s", policy.Spec.MatchConditions[0].Expression)
	}
}

func TestTheInstallerIsNotPrivileged(t *testing.T) {
	for how, all := range map[string]objects{
		"kustomize": kustomize(t, overlays+"/installer"), "helm": helm(t, "installer: {enabled: true}"),
		"uninstaller": kustomize(t, overlays+"/uninstaller"),
	} {
		spec := get[*appsv1.DaemonSet](t, all, installer).Spec.Template.Spec
		if spec.HostPID || spec.HostNetwork || spec.HostIPC {
			t.Errorf("%s: it is in a namespace of the host", how)
		}
		if spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: it has no seccomp profile", how)
		}
		s := spec.Containers[0].SecurityContext
		if s.Privileged != nil || !*s.ReadOnlyRootFilesystem || *s.AllowPrivilegeEscalation || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("%s: %+v", how, s)
		}
		if slices.Contains(s.Capabilities.Add, "SYS_ADMIN") {
			t.Errorf("%s: %v", how, s.Capabilities.Add)
		}
	}
}

func TestTheUninstallerDoesTheOpposite(t *testing.T) {
	spec := get[*appsv1.DaemonSet](t, kustomize(t, overlays+"/uninstaller"), installer).Spec.Template.Spec.Containers[0]
	if spec.Args[1] != "uninstall" || !slices.Contains(spec.Args, "--leave-in-use") || !slices.Contains(spec.ReadinessProbe.Exec.Command, "--expect=absent") {
		t.Errorf("%q, ready by %q", spec.Args, spec.ReadinessProbe.Exec.Command)
	}
}

func TestTheInstallerIsThereOnlyWhenWanted(t *testing.T) {
	for how, all := range map[string]objects{"kustomize": kustomize(t, base), "helm": helm(t, "")} {
		for key := range all {
			if strings.Contains(key, "installer") {
				t.Errorf("%s: %s is there", how, key)
			}
		}
	}
	all := helm(t, "installer: {enabled: true, admissionPolicy: false, extraArgs: [--runtime=k3s], maxUnavailable: 3}\nruntimeClass: {handler: kata}")
	spec := get[*appsv1.DaemonSet](t, all, installer).Spec.Template.Spec.Containers[0]
	for _, args := range [][]string{spec.Args, spec.ReadinessProbe.Exec.Command} {
		if !slices.Contains(args, "--handler=kata") || !slices.Contains(args, "--runtime=k3s") {
			t.Errorf("arguments %q", args)
		}
	}
	if all["ValidatingAdmissionPolicy/katadirect-installer"] != nil {
		t.Error("the policy is there")
	}
}
