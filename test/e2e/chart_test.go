package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/internal/driverimage"
	"github.com/katadirect/katadirect/internal/lab"
)

// release is the chart's, in the driver's namespace.
const release = "katadirect"

// chartValues are what the cluster's own overlay changes of what deploy/ installs.
var chartValues = []string{
	"image.repository=" + driverimage.Name, "image.tag=" + driverimage.DefaultTag,
	"volumeAttributesClass.enabled=true", "resizer.replicas=1", "provisioner.extraArgs={--capacity-poll-interval=5s}",
}

// helm runs the real one, as people do from where they are.
func (k *kube) helm(args ...string) string {
	k.t.Helper()
	found, _ := filepath.Glob(filepath.Join(lab.DefaultCache(), "helm", "v*", "helm"))
	if len(found) == 0 {
		k.t.Fatal(`helm is not in the cache: run "make helm" first`)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.t.Context()), 2*patience)
	defer cancel()
	home := k.t.TempDir()
	cmd := exec.CommandContext(ctx, found[len(found)-1], append(args, "--kubeconfig="+k.Kubeconfig(), "--namespace="+driverNamespace)...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	said, err := cmd.CombinedOutput()
	if err != nil {
		logs, _ := k.tryKubectl("describe", "pods", "-n", driverNamespace)
		k.t.Fatalf("helm %s: %v\n%s\n%s", strings.Join(args, " "), err, said, logs)
	}
	return string(said)
}

// change is helm install or helm upgrade, which return when the driver runs.
func (k *kube) change(how string, args ...string) {
	k.t.Helper()
	k.helm(append([]string{how, release, module + "/deploy/helm/katadirect", "--wait", "--timeout=" + patience.String()}, args...)...)
	k.driverReady()
}

// chartInPlaceOfKustomize has the driver installed by Helm: over what kustomize has installed, and anew.
func chartInPlaceOfKustomize(t *testing.T, k *kube) {
	values := []string{"--set=" + strings.Join(chartValues, ",")}
	k.step("a pod that writes all the time, with the driver that kustomize has installed")
	k.apply(claim("steady", "64Mi", "ReadWriteOncePod") + countingPod)
	k.ready("steady")
	container := k.containerOf("steady")
	goesOn := func(size string, kib int) {
		t.Helper()
		before := k.lines()
		k.growsOnline("steady", "steady", size, kib)
		if now, lines := k.containerOf("steady"), k.lines(); now != container || lines <= before {
			t.Errorf("the container was %s and is %s, and has %d lines after %d", container, now, lines, before)
		}
	}

	k.step("helm install --take-ownership: the driver is the chart's")
	k.change("install", append(values, "--take-ownership")...)
	if owner := k.kubectl("get", "daemonset/katadirect-node", "-n", driverNamespace, "-o", `jsonpath={.metadata.annotations.meta\.helm\.sh/release-name}`); owner != release {
		t.Errorf("the DaemonSet is of the release %q", owner)
	}
	goesOn("80Mi", 70_000)

	k.step("helm upgrade")
	k.pushNextDriver()
	k.change("upgrade", "--reuse-values", "--set=image.tag=next")
	if got := k.driverVersion(); got != nextVersion {
		t.Errorf("the driver that runs is %q", got)
	}
	goesOn("96Mi", 85_000)

	k.step("helm rollback")
	k.helm("rollback", release, "--wait", "--timeout="+patience.String())
	k.driverReady()
	if got := k.driverVersion(); got == nextVersion {
		t.Error("the driver that runs is still the next one")
	}
	goesOn("112Mi", 100_000)

	k.step("the pod goes, the claim stays, and helm uninstall leaves nothing of the release")
	lines := k.lines()
	k.remove("pod/steady")
	volume := k.handle("steady")
	k.helm("uninstall", release, "--wait", "--timeout="+patience.String())
	k.nothingOfTheRelease()
	if _, err := os.Stat(filepath.Join(k.Pool(), volume)); err != nil {
		t.Errorf("the volume of a claim that there still is: %v", err)
	}

	k.step("helm install with the README's values, where there is neither driver nor runtime: it finds the volume, and makes another")
	newSystemd(t, k)
	k.kubectl("label", "node", "node", "katadirect.io/runtime-")
	defer k.kubectl("label", "node", "node", "katadirect.io/runtime=true", "--overwrite")
	if said, err := k.tryKubectl("run", "privileged", "--image=busybox:1", "--privileged", "--dry-run=server"); err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("a namespace that says nothing admits a privileged pod: %s, %v", said, err)
	}
	k.kubectl("label", "namespace", driverNamespace, "pod-security.kubernetes.io/enforce-")
	k.kubectl("apply", "-f", module+"/deploy/kustomize/base/namespace.yaml")
	k.change("install", append(values, "--set=installer.enabled=true,snapshotter.enabled=false", "--values="+k.installerValues())...)
	k.installerRolledOut()
	k.kubectl("rollout", "status", "-n", driverNamespace, "daemonset/katadirect-installer", "daemonset/katadirect-node") // the README's
	k.apply(machinePod("reader", "steady") + claim("new", "64Mi", "ReadWriteOncePod") + machinePod("new", "new"))
	k.ready("reader", "new")
	if got, err := strconv.Atoi(k.exec("reader", "wc -l < /data/lines")); err != nil || got < lines {
		t.Errorf("%d lines are left of %d: %v", got, lines, err)
	}
	k.direct("new")
	if machines := k.machinesOfTheInstalled(); machines != 2 {
		t.Errorf("there are %d machines of the runtime that was installed", machines)
	}
	k.growsOnline("new", "new", "80Mi", 70_000)

	k.step("helm upgrade with snapshots")
	k.change("upgrade", "--reuse-values", "--set=snapshotter.enabled=true")
	k.apply(snapshotOf("new", "new"))
	k.untilField("volumesnapshot/new", "{.status.readyToUse}", "true")
	k.remove("volumesnapshot/new", "pod/reader", "pod/new", "pvc/steady", "pvc/new")
	k.until("an empty pool", func() (string, bool) {
		left, err := k.inThePool()
		return left, err == nil && !strings.Contains(left, volume)
	})

	k.step("the installer turned round takes the runtime off; helm uninstall, and kustomize's driver is back")
	k.change("upgrade", "--reuse-values", "--set=installer.uninstall=true")
	k.installerRolledOut()
	if _, err := os.Stat(k.onNode("opt")); !os.IsNotExist(err) {
		t.Errorf("the versions are still there: %v", err)
	}
	k.helm("uninstall", release, "--wait", "--timeout="+patience.String())
	k.nothingOfTheRelease()
	k.again()
	k.driverReady()
}

// installerValues are a file with what differs here for the chart's installer: paths, and the handler's name, because the
// cluster has one of the usual name from its beginning.
func (k *kube) installerValues() string {
	k.t.Helper()
	text, err := json.Marshal(map[string]any{
		"installer": map[string]any{"extraArgs": k.installerFlags()}, "runtimeClass": map[string]any{"handler": "katadirect-chart"},
	})
	file := filepath.Join(k.t.TempDir(), "values.yaml")
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return file
}

// nothingOfTheRelease looks for what has the release's label, of every kind that the chart makes.
func (k *kube) nothingOfTheRelease() {
	k.t.Helper()
	left := k.kubectl("get", "daemonsets,deployments,poddisruptionbudgets,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,csidrivers,"+
		"storageclasses,volumesnapshotclasses,runtimeclasses,validatingadmissionpolicies,validatingadmissionpolicybindings", "-A", "-l", "app.kubernetes.io/instance="+release, "-o", "name")
	if left != "" {
		k.t.Errorf("of the release there is left:\n%s", left)
	}
}
