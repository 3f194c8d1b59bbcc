package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/claims"
)

const (
	module = "../.."
	// driverNamespace is where the drivers' pods are, and theirs are the rights in deploy/kubectl.
	driverNamespace = "katadirect"
)

// driverPod is the driver's pod on the first node.
func (k *kube) driverPod() string {
	k.t.Helper()
	found, err := k.Kubectl(k.t.Context(), "-n", driverNamespace, "get", "pods", "--field-selector=spec.nodeName=node",
		"-l", "app.kubernetes.io/name=katadirect,app.kubernetes.io/component=node", "-o", "jsonpath={.items[*].metadata.name}")
	if err != nil || found == "" {
		k.t.Fatalf("the driver has the pods %q: %v", found, err)
	}
	return found
}

// plugin is kubectl with the plugin in its path.
type plugin struct {
	k   *kube
	dir string
}

func (k *kube) plugin() plugin {
	k.t.Helper()
	dir := k.t.TempDir()
	cmd := exec.Command("go", "build", "-o", dir, "./cmd/kubectl-katadirect")
	cmd.Dir = module
	if said, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("build the plugin: %v\n%s", err, said)
	}
	return plugin{k, dir}
}

// try runs `kubectl katadirect …` in the scenario's namespace.
func (p plugin) try(args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(p.k.t.Context(), patience)
	defer cancel()
	args = append(append([]string{"katadirect"}, args...), "--kubeconfig", p.k.Kubeconfig(), "-n", p.k.ns)
	cmd := exec.CommandContext(ctx, p.k.Program("kubectl"), args...)
	cmd.Env = append(os.Environ(), "PATH="+p.dir+":"+os.Getenv("PATH"))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// run fails the scenario when something could not be found out, too. That the plugin says for what it waits is right: on a
// busy host it has to.
func (p plugin) run(args ...string) string {
	p.k.t.Helper()
	stdout, stderr, err := p.try(args...)
	if err != nil || slices.ContainsFunc(slices.Collect(strings.Lines(stderr)), func(line string) bool { return !strings.HasPrefix(line, "waiting for ") }) {
		p.k.t.Fatalf("kubectl katadirect %v: %v: %s", args, err, stderr)
	}
	return stdout
}

// claim is what the plugin says of one of the scenario's claims.
func (p plugin) claim(name string, args ...string) claims.Volume {
	p.k.t.Helper()
	var view claims.View
	if err := json.Unmarshal([]byte(p.run(append([]string{"describe", name, "-o", "json"}, args...)...)), &view); err != nil {
		p.k.t.Fatal(err)
	}
	return view.Volumes[0]
}

// The plugin of kubectl against the real API server and the real driver, with no more rights than deploy/kubectl gives.
func pluginShowsVolumes(t *testing.T, k *kube) {
	kubectl := k.plugin()
	k.step("a pod with a volume, and a snapshot of it")
	k.apply(claim("seen", "128Mi", "ReadWriteOncePod") + machinePod("user", "seen"))
	k.ready("user")
	k.exec("user", "dd if=/dev/zero of=/data/file bs=1M count=20; sync")
	k.apply(snapshotOf("seen-1", "seen"))
	k.untilField("volumesnapshot/seen-1", "{.status.readyToUse}", "true")

	k.step("what the plugin says of it is what the pod sees")
	v := kubectl.claim("seen")
	device := k.exec("user", `awk '$2=="/data"{print $1}' /proc/mounts`)
	if v.Condition != claims.Healthy || v.Node == "" || len(v.Pods) != 1 || v.Pods[0].Name != "user" || v.Pods[0].RuntimeClass != "kata" || len(v.Snapshots) != 1 {
		t.Errorf("the claim is %+v", v)
	}
	switch f := v.Facts; {
	case f == nil || f.Machine == nil || f.Usage == nil:
		t.Fatalf("nothing is known of the claim's machine: %+v (%s)", f, v.Missing)
	case f.Machine.GuestDevice != device || len(f.Machine.Sandbox) < 32 || f.FileSystem != "ext4" || f.SizeBytes != 128<<20 || f.Pod != k.ns+"/user":
		t.Errorf("the pod sees %s, and the plugin says %+v, in %+v", device, f, f.Machine)
	case f.Usage.UsedBytes < 20<<20 || f.Usage.UsedBytes > 40<<20 || time.Since(f.Usage.At) > time.Minute:
		t.Errorf("with 20 MiB written it says %+v", f.Usage)
	}
	if table := kubectl.run("volumes"); !strings.Contains(table, device) || !strings.Contains(table, "/128Mi") || !strings.Contains(table, "Healthy") {
		t.Errorf("the table is\n%s", table)
	}
	if top := kubectl.run("top"); !strings.Contains(top, "seen") {
		t.Errorf("top says\n%s", top)
	}

	k.step("what went wrong last is said in words")
	k.grow("seen", "100Ti")
	k.until("words about the size that cannot be had", func() (string, bool) {
		said := kubectl.run("describe", "seen")
		return said, strings.Contains(said, "growing the volume failed: ") && strings.Contains(said, "100Ti are asked for")
	})

	k.rightsOfThePlugin(kubectl)
}

// rightsOfThePlugin sees that the roles are enough, and what is said to those who have less.
func (k *kube) rightsOfThePlugin(kubectl plugin) {
	k.step("the rights in deploy/kubectl are enough, and without them it says which are missing")
	for _, args := range [][]string{
		{"apply", "-f", module + "/deploy/kubectl/view.yaml"},
		{"create", "clusterrolebinding", "e2e-view", "--clusterrole=katadirect-view", "--user=watcher"},
		{"-n", driverNamespace, "create", "rolebinding", "e2e-view", "--role=katadirect-view", "--user=watcher"},
		{"-n", k.ns, "create", "role", "e2e-dev", "--verb=get,list", "--resource=persistentvolumeclaims,pods"},
		{"-n", k.ns, "create", "rolebinding", "e2e-dev", "--role=e2e-dev", "--user=developer"},
	} {
		if _, err := k.Kubectl(k.t.Context(), args...); err != nil {
			k.t.Fatal(err)
		}
	}
	k.t.Cleanup(func() {
		_, _ = k.Kubectl(context.WithoutCancel(k.t.Context()), "delete", "clusterrolebinding/e2e-view", "clusterrole/katadirect-view")
		_, _ = k.Kubectl(context.WithoutCancel(k.t.Context()), "-n", driverNamespace, "delete", "rolebinding/e2e-view", "role/katadirect-view")
	})
	if v := kubectl.claim("seen", "--as", "watcher"); v.Facts == nil || v.Facts.Machine == nil || v.Node == "" || len(v.Wrong) == 0 || len(v.Snapshots) != 1 {
		k.t.Errorf("with the roles of deploy/kubectl it sees %+v", v)
	}
	stdout, stderr, err := kubectl.try("volumes", "--as", "developer")
	if err != nil || !strings.Contains(stdout, "seen") || !strings.Contains(stdout, "<unknown>") ||
		!strings.Contains(stderr, "you may not list the driver's pods") || !strings.Contains(stderr, "katadirect-view") {
		k.t.Errorf("a developer sees (%v)\n%s\n%s", err, stdout, stderr)
	}
	_, stderr, err = kubectl.try("volumes", "--as", "nobody")
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 4 {
		k.t.Errorf("without any right it exits with %v: %s", err, stderr)
	}
}
