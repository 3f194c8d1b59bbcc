package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/internal/cluster"
)

// suite is what all scenarios share.
type suite struct {
	*cluster.Cluster
	api     *api
	journal *journal
	accel   string // what machines run by: "kvm" or "tcg"
}

// kube is the cluster in the hands of one scenario.
type kube struct {
	*suite
	*story
	t  *testing.T
	ns string
}

// play runs a scenario in its namespace. The namespace is told to go with everything that is in it then; whether it did
// is asked at the end of all.
func (s *suite) play(t *testing.T, one scenario) {
	name := one.namespace
	if name == "" {
		name = t.Name()[strings.LastIndex(t.Name(), "/")+1:]
	}
	k := &kube{suite: s, story: s.journal.begin(name, one.about), t: t, ns: one.namespace}
	t.Cleanup(func() {
		if t.Failed() {
			k.failure = k.whatThereIs()
			t.Logf("%s\n%s", one.about, k.failure)
		}
		k.end(t.Failed())
	})
	if k.ns != "" {
		k.kubectl("create", "namespace", k.ns)
		defer k.kubectl("delete", "namespace", k.ns, "--wait=false")
	}
	one.run(t, k)
}

// whatThereIs is what a person would look at first when a scenario has failed.
func (k *kube) whatThereIs() string {
	if k.ns == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.t.Context()), time.Minute)
	defer cancel()
	var all strings.Builder
	for _, args := range [][]string{
		{"get", "pods,pvc,volumesnapshots", "-o=wide"},
		{"get", "events", "--sort-by=.lastTimestamp"},
	} {
		said, err := k.Kubectl(ctx, append(args, "-n", k.ns)...)
		if err != nil {
			said = err.Error()
		}
		all.WriteString(said)
	}
	return all.String()
}

// kubectl runs kubectl in the scenario's namespace.
func (k *kube) kubectl(args ...string) string {
	k.t.Helper()
	out, err := k.tryKubectl(args...)
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

// tryKubectl is kubectl for what may be refused.
func (k *kube) tryKubectl(args ...string) (string, error) {
	return k.Kubectl(context.WithoutCancel(k.t.Context()), append([]string{"-n", k.ns}, args...)...)
}

// apply makes what a manifest says.
func (k *kube) apply(manifest string) {
	k.t.Helper()
	if _, err := k.tryApply(manifest); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kube) tryApply(manifest string) (string, error) {
	k.t.Helper()
	file := filepath.Join(k.t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return k.tryKubectl("apply", "-f", file)
}

// ready waits until the pods are, and says why they are not.
func (k *kube) ready(pods ...string) {
	k.t.Helper()
	args := []string{"wait", "--for=condition=Ready", "--timeout=" + patience.String()}
	for _, pod := range pods {
		args = append(args, "pod/"+pod)
	}
	if _, err := k.tryKubectl(args...); err != nil {
		said, _ := k.tryKubectl("describe", "pods")
		k.t.Fatalf("%v\n%s", err, said)
	}
}

// exec runs a shell's commands in the pod and returns what they say.
func (k *kube) exec(pod, commands string) string {
	k.t.Helper()
	return strings.TrimSpace(k.kubectl("exec", pod, "--", "sh", "-c", commands))
}

// says is what a shell's commands say in the pod, or why they say nothing: for what is asked again and again.
func (k *kube) says(pod, commands string) string {
	said, err := k.tryKubectl("exec", pod, "--", "sh", "-c", commands)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(said)
}

// remove deletes things and waits until they are gone.
func (k *kube) remove(things ...string) {
	k.t.Helper()
	k.kubectl(append([]string{"delete", "--wait", "--timeout=" + patience.String()}, things...)...)
}

// grow asks for a larger volume, as people do.
func (k *kube) grow(claim, size string) {
	k.t.Helper()
	k.kubectl("patch", "pvc", claim, "-p", `{"spec":{"resources":{"requests":{"storage":"`+size+`"}}}}`)
}

// until asks again and again until the answer is good.
func (k *kube) until(what string, good func() (string, bool)) {
	k.t.Helper()
	said := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		ok := false
		if said, ok = good(); ok {
			return
		}
	}
	k.t.Fatalf("%s: it never came; the last word is\n%s", what, said)
}

// untilField waits until a field of a thing has the value.
func (k *kube) untilField(thing, path, want string) {
	k.t.Helper()
	k.until(fmt.Sprintf("%s of %s to be %q", path, thing, want), func() (string, bool) {
		got := k.field(thing, path)
		return got, got == want
	})
}

// event waits for events of the thing that have all the words.
func (k *kube) event(thing string, words ...string) {
	k.t.Helper()
	k.until(fmt.Sprintf("an event of %s with %q", thing, words), func() (string, bool) {
		said := k.events(thing)
		for _, word := range words {
			if !strings.Contains(said, word) {
				return said, false
			}
		}
		return said, true
	})
}

// again makes everything of the driver's as it was installed.
func (k *kube) again() {
	k.t.Helper()
	if err := k.ApplyDriver(context.WithoutCancel(k.t.Context())); err != nil {
		k.t.Fatal(err)
	}
}
