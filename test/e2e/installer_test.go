package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/cluster"
	"github.com/katadirect/katadirect/test/artifacts"
)

// installed is the handler that is installed here: the cluster has one of the usual name from its beginning.
const installed = "installed"

var installedPod = `
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: installed}
handler: installed
scheduling: {nodeSelector: {katadirect.io/runtime: "true"}}
---` + plainPod("machine", installed)

// installerOnANode puts a handler on the node as the DaemonSet of deploy/ does it, and takes it off again under a pod.
func installerOnANode(t *testing.T, k *kube) {
	systemd := newSystemd(t, k)
	config := filepath.Join(k.Dir(), "containerd.toml")
	before := readFile(t, config)
	k.kubectl("label", "node", "node", "katadirect.io/runtime-")
	defer k.kubectl("label", "node", "node", "katadirect.io/runtime=true", "--overwrite")

	k.step("a pod of a RuntimeClass whose runtime is on no node waits")
	k.apply(installedPod)
	k.event("pod/machine", "affinity/selector")

	k.step("the installer's DaemonSet is ready")
	folder := k.installerOverlay("installer")
	defer func() {
		k.kubectl("delete", "-n", driverNamespace, "-k", folder, "--ignore-not-found", "--wait")
		k.kubectl("delete", "runtimeclass", installed, "--ignore-not-found")
	}()
	k.kubectl("apply", "-n", driverNamespace, "-k", folder)
	k.installerRolledOut()
	if restarts := systemd.restarted(); !slices.Equal(restarts, []string{"containerd.service"}) {
		t.Errorf("systemd was asked to restart %q", restarts)
	}
	k.untilField("node/node", `{.metadata.labels.katadirect\.io/runtime}`, "true")
	k.untilField("node/node", `{.status.conditions[?(@.type=="KatadirectRuntimeReady")].status}`, "True")

	k.step("the pod runs in a machine of that version")
	k.ready("machine")
	if got := k.exec("machine", "uname -r"); got != artifacts.Image.Manifest.Kernel {
		t.Errorf("the pod runs on kernel %q", got)
	}
	if machines := k.machinesOfTheInstalled(); machines != 1 {
		t.Errorf("there are %d machines of that version", machines)
	}

	k.step("an installer may change no node but its own")
	_, err := k.tryKubectl("annotate", "node", "node", "x=y", "--as=system:serviceaccount:katadirect:katadirect-installer")
	if err == nil || !strings.Contains(err.Error(), "may change the node that it runs on") {
		t.Errorf("somebody else with its account: %v", err)
	}

	k.step("the uninstaller waits for the pod")
	folder = k.installerOverlay("uninstaller")
	k.kubectl("apply", "-n", driverNamespace, "-k", folder)
	k.untilField("node/node", `{.metadata.labels.katadirect\.io/runtime}`, "")
	k.untilField("node/node", `{.status.conditions[?(@.type=="KatadirectRuntimeReady")].reason}`, "RuntimeUninstallWaits")
	k.exec("machine", "true")

	k.step("the pod has ended, and nothing is left on the node")
	k.remove("pod/machine")
	k.installerRolledOut()
	if now := readFile(t, config); now != before {
		t.Errorf("containerd's configuration is now\n%s", now)
	}
	if _, err := os.Stat(k.onNode("opt")); !os.IsNotExist(err) {
		t.Errorf("the versions are still there: %v", err)
	}
	if left := k.field("node/node", `{.status.conditions[?(@.type=="KatadirectRuntimeReady")].status}`); left != "" {
		t.Errorf("the condition is still %q", left)
	}
}

func readFile(t *testing.T, place string) string {
	t.Helper()
	text, err := os.ReadFile(place)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// onNode is a path for what is installed: the node's root is the host's, which is to stay as it is.
func (k *kube) onNode(name string) string { return filepath.Join(k.Dir(), "installed", name) }

func (k *kube) installerRolledOut() {
	k.t.Helper()
	_, err := k.tryKubectl("-n", "katadirect", "rollout", "status", "daemonset/katadirect-installer", "--timeout="+patience.String())
	if err != nil {
		logs, _ := k.tryKubectl("-n", "katadirect", "logs", "daemonset/katadirect-installer")
		pods, _ := k.tryKubectl("-n", "katadirect", "describe", "pods", "-l", "app.kubernetes.io/component=installer")
		k.t.Fatalf("%v\n%s\n%s", err, logs, pods)
	}
}

// installerOverlay is a component of deploy/ with what differs here: paths, and the handler's name.
func (k *kube) installerOverlay(component string) string {
	k.t.Helper()
	patch := `    - {op: add, path: /spec/template/spec/runtimeClassName, value: runc}` + "\n"
	add := func(path, flag string) {
		patch += fmt.Sprintf("    - {op: add, path: /spec/template/spec/containers/0/%s/-, value: %q}\n", path, flag)
	}
	for _, flag := range append(k.installerFlags(), "--handler="+installed) {
		add("args", flag)
		add("readinessProbe/exec/command", flag)
	}
	add("args", "--interval=30s")
	folder := filepath.Join(k.Dir(), "deploy", component)
	text := fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
components:
- ../kustomize/components/%s
patches:
- target: {kind: DaemonSet, name: katadirect-installer}
  patch: |
%s`, component, patch)
	err := os.MkdirAll(folder, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text), 0o644)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return folder
}

// installerFlags say where things are here. The guest is the image's own.
func (k *kube) installerFlags() []string {
	k.t.Helper()
	settings := k.onNode("settings")
	err := os.MkdirAll(settings, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(settings, "10-small.toml"), []byte("[hypervisor.qemu]\ndefault_memory = 256\n"), 0o644)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	return []string{
		"--runtime=containerd", "--tool-link=none", "--prefix=" + k.onNode("opt"), "--settings=" + settings,
		"--runtime-config=" + filepath.Join(k.Dir(), "containerd.toml"), "--runtime-drop-in=" + filepath.Join(k.Dir(), "conf.d", "50-katadirect.toml"),
		"--runtime-socket=" + filepath.Join(k.Dir(), "containerd.sock"), "--containerd-program=" + k.Process(cluster.Containerd).Command.Path,
	}
}

// machinesOfTheInstalled are how many machines run what is installed on the node now.
func (k *kube) machinesOfTheInstalled() int {
	k.t.Helper()
	version := k.field("node/node", `{.metadata.annotations.katadirect\.io/runtime-version}`)
	machines, err := k.Find("qemu-system", "/opt/versions/"+version+"/guest/vmlinux")
	if err != nil {
		k.t.Fatal(err)
	}
	return len(machines)
}

// busPatience bounds the start of a bus.
const busPatience = 30 * time.Second
