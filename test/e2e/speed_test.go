package e2e

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/test/bench/figures"
)

// addedByClaim is how much longer a pod may take to run for having a claim.
const addedByClaim = 1500 * time.Millisecond

// startingPods measures from kubectl apply to running: a pod in a machine with a claim, the same without, and that under
// runc. They take turns, there and back, so that all see the same noise. kubelet learns once in a second what runs, and so
// what a single pod takes says nothing: the turns begin at points all over a second.
func startingPods(t *testing.T, k *kube) {
	const turns = 7
	k.step("pods start in turn: with a claim, without, and under runc")
	kinds := []string{withClaim, "kata", "runc"}
	took := map[string][]float64{}
	for turn := 1; turn <= turns; turn++ {
		for _, kind := range kinds {
			took[kind] = append(took[kind], k.starts(kind, turn))
		}
		slices.Reverse(kinds)
		last := func(kind string) float64 { return took[kind][turn-1] }
		k.done(fmt.Sprintf("turn %d: with a claim %.2f s, without %.2f s, under runc %.2f s", turn, last(withClaim), last("kata"), last("runc")))
	}
	// How long something takes is the host's as well: it is reported, and fails nothing.
	k.figures(claimFigure(took), figures.Figure{
		Name: "pod-beside-runc", What: "kubectl apply of a pod in a machine to running, beside the same pod under runc",
		Value: figures.Median(took["kata"]), Unit: "s", Floor: figures.Median(took["runc"]),
		Target: figures.NoTarget, Met: true, Runs: len(took["runc"]),
	})
}

// withClaim is the kind of pod that has a claim, in a machine; the others are named after their RuntimeClasses.
const withClaim = "claim"

// starts is how many seconds a pod takes to run, when the machines of those before it have ended: the API forgets a pod
// sooner, and its machine's end is work.
func (k *kube) starts(kind string, turn int) float64 {
	k.t.Helper()
	manifest, all := plainPod(kind, kind), []string{"pod/" + kind}
	if kind == withClaim {
		manifest, all = claim(kind, "64Mi", "ReadWriteOncePod")+machinePod(kind, kind), append(all, "pvc/"+kind)
	}
	k.until("the end of all machines", func() (string, bool) {
		left, err := k.machines()
		return fmt.Sprint(left, err), left == "" && err == nil
	})
	waitForPoint(turn)
	start := time.Now()
	k.apply(manifest)
	k.running(kind)
	took := time.Since(start).Seconds()
	k.remove(all...)
	return took
}

// waitForPoint waits for the point of a second at which a turn begins. Any number of turns is spread evenly.
func waitForPoint(turn int) {
	const golden = 0.618
	_, point := math.Modf(golden * float64(turn))
	now := time.Now()
	wait := now.Truncate(time.Second).Add(time.Duration(point * float64(time.Second))).Sub(now)
	time.Sleep((wait + time.Second) % time.Second)
}

// claimFigure holds the pods with a claim against those without.
func claimFigure(took map[string][]float64) figures.Figure {
	with, without := figures.Median(took[withClaim]), figures.Median(took["kata"])
	return figures.Figure{
		Name: "pod-with-claim", What: "kubectl apply of claim and pod to running, beside the same pod without the claim",
		Value: with, Unit: "s", Floor: without, Target: fmt.Sprintf("at most %.1f s longer", addedByClaim.Seconds()),
		Met: with <= without+addedByClaim.Seconds(), Runs: len(took[withClaim]),
	}
}

// running waits for the pod's container by a watch: asking all the time takes from what is measured.
func (k *kube) running(pod string) {
	k.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		_, err = k.tryKubectl("wait", "--for=jsonpath={.status.phase}=Running", "--timeout="+time.Until(deadline).String(), "pod/"+pod)
		if err == nil {
			return
		}
	}
	k.t.Fatalf("pod %s does not run: %v: %s", pod, err, k.events("pod/"+pod))
}

// tenAtOnce are ten pods with a claim each.
func tenAtOnce(t *testing.T, k *kube) {
	const pods = 10
	k.step("ten claims and ten pods in machines, at once")
	var all strings.Builder
	var names []string
	for i := range pods {
		name := fmt.Sprintf("many-%d", i)
		names = append(names, name)
		all.WriteString(claim(name, "64Mi", "ReadWriteOncePod") + machinePod(name, name))
	}
	start := time.Now()
	k.apply(all.String())
	k.ready(names...)
	took := time.Since(start).Seconds()

	k.step("how much memory it takes")
	control, driver := k.memoryMiB("kube-apiserver", "kube-controller-manager", "kube-scheduler", "/server --data-dir", "snapshot-controller"), k.memoryMiB("csi-node --endpoint")
	k.step(fmt.Sprintf("ten pods took %.1f s; control plane %.0f MiB, driver %.0f MiB", took, control, driver))
	k.figures(
		figures.Figure{Name: "ten-pods", What: "kubectl apply of ten claims and pods in machines to the last one ready", Value: took, Unit: "s", Target: figures.NoTarget, Met: true, Runs: 1},
		figures.Figure{Name: "ten-pods-control-plane", What: "memory of the control plane with ten pods", Value: control, Unit: "MiB", Target: figures.NoTarget, Met: true, Runs: 1},
		figures.Figure{Name: "ten-pods-driver", What: "memory of the driver with ten volumes in use", Value: driver, Unit: "MiB", Target: figures.NoTarget, Met: true, Runs: 1},
	)
	if driver == 0 || control == 0 {
		t.Error("no memory: the processes were not found")
	}
}

// memoryMiB is the resident memory of the processes whose command lines have one of the words in them.
func (k *kube) memoryMiB(words ...string) float64 {
	k.t.Helper()
	var kib float64
	for _, word := range words {
		pids, err := k.Find(word)
		if err != nil {
			k.t.Fatal(err)
		}
		for _, pid := range pids {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			for line := range strings.Lines(string(status)) {
				var resident float64
				if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &resident); n == 1 {
					kib += resident
				}
			}
		}
	}
	return kib / 1024
}

// figures puts figures among those of the bench, in place of earlier ones of their names, and says of missed targets what
// the bench says.
func (k *kube) figures(all ...figures.Figure) {
	k.t.Helper()
	for i := range all {
		f := &all[i]
		if f.Floor > 0 {
			f.Ratio = f.Value / f.Floor
		}
		f.Accel = k.accel
		if !f.Met {
			k.done(fmt.Sprintf("MISSED: %s (%s, is %.2f %s, its floor %.2f %s)", f.Name, f.Target, f.Value, f.Unit, f.Floor, f.Unit))
		}
	}
	if *bench == "" {
		return
	}
	report, err := figures.Read(*bench)
	if err == nil {
		report.Put(all...)
		err = report.Write(*bench)
	}
	if err != nil {
		k.t.Fatal(err)
	}
}
