package crash

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katadirect/katadirect/internal/lab"
)

// noticeLimit is how long the end of a part of a pod may take to be seen. It takes a second as a rule; the rest is for
// a machine that has other things to do.
const noticeLimit = 45 * time.Second

// victim is a part of a pod that dies.
type victim struct {
	name string
	kill func(context.Context, *scene) error
	// reason is in the error of what was under way, or in containerd's log: one of several, separated by "|".
	reason string
	// arm, if not nil, is called before the moment, where there is a machine by then, and kill is nil: it gets ready what
	// needs time. atBoot are the pod's annotations that have it die while the machine boots.
	arm    func(*testing.T, *scene) (kill func() error)
	atBoot map[string]string
	// patience is how long its end may take to be seen; noticeLimit if 0.
	patience time.Duration
	// survived says that the pod does not die of it.
	survived bool
}

var (
	theMachine = victim{name: "the machine", kill: killAll("qemu-system-x86_64"), reason: "virtual machine is gone|QEMU was killed"}
	theShim    = victim{name: "the shim", kill: killAll("containerd-shim-katadirect-v2"), reason: "shim disconnected"}
	// It ends the machine, and reports every exit, before it goes.
	theShimInOrder = victim{name: "the shim by SIGTERM", reason: "told to by a signal", kill: func(_ context.Context, s *scene) error {
		return signal(s.node, syscall.SIGTERM, "containerd-shim-katadirect-v2")
	}}
	containerd = victim{name: "containerd", survived: true, kill: func(_ context.Context, s *scene) error {
		s.node.Lab.Containerd().Kill()
		return nil
	}}
)

var victims = []victim{
	theMachine,
	{name: "the file share", kill: killAll("virtiofsd"), reason: "the file share is gone"},
	theShim, theShimInOrder, containerd,
}

// killAll ends every process of that name as a crash does.
func killAll(name string) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		return poll(ctx, func() (bool, error) { return signal(s.node, syscall.SIGKILL, name) == nil, nil })
	}
}

// moment is what is under way when the victim dies.
type moment struct {
	name string
	// container says that the pod has one already.
	container bool
	do        func(*scene, context.Context) error
	// until returns when do has come so far.
	until func(*scene, context.Context) error
}

var duringExec = moment{name: "an exec", container: true, do: (*scene).exec, until: (*scene).untilExec}

var moments = []moment{
	{name: "boot", do: (*scene).boot, until: (*scene).untilMachine},
	{name: "the creation of a container with a volume", do: (*scene).create, until: (*scene).untilClaim},
	duringExec,
	{name: "a resize", container: true, do: (*scene).resize, until: after(3 * time.Millisecond)},
	{name: "the deletion", container: true, do: (*scene).remove, until: after(60 * time.Millisecond)},
}

func after(d time.Duration) func(*scene, context.Context) error {
	return func(*scene, context.Context) error { time.Sleep(d); return nil }
}

// Whatever dies, and whatever is under way: what is under way ends, the pod is reported failed with the reason, or goes
// on if it was only containerd; deleting it leaves nothing; and the next pod has the volume with its data.
func TestAnythingMayDieAtAnyMoment(t *testing.T) {
	for flavour, dying := range map[lab.Flavour]func(moment) []victim{
		lab.Debian: func(moment) []victim { return victims },
		lab.V2:     dyingUnderV2,
	} {
		t.Run("containerd "+string(flavour), func(t *testing.T) {
			s := newScene(t, flavour)
			for _, m := range moments {
				for _, v := range dying(m) {
					t.Run(v.name+" dies in "+m.name, func(t *testing.T) { s.play(t, m, v) })
				}
			}
			s.checkNoticed(t)
			s.close(t)
		})
	}
}

// What the other parts are made of is the same under each containerd. What this one makes of their end is seen once.
func dyingUnderV2(m moment) []victim {
	if m.name == duringExec.name {
		return []victim{theMachine, theShim, containerd}
	}
	return []victim{containerd}
}

func TestAGuestMayEndItself(t *testing.T) {
	s := newScene(t, lab.Debian)
	for _, v := range guestVictims {
		t.Run(v.name, func(t *testing.T) { s.play(t, duringExec, v) })
	}
	s.close(t)
}

// guestVictims die by their own hand.
var guestVictims = []victim{
	{name: "the guest's kernel panics", kill: sysrq("c"), reason: "panic"},
	{name: "the guest powers itself off", kill: sysrq("o"), reason: "powered itself off"},
	{name: "the guest reboots", kill: sysrq("b"), reason: "virtual machine is gone"},
}

// sysrq has the guest's kernel end itself.
func sysrq(key string) func(context.Context, *scene) error {
	return func(ctx context.Context, s *scene) error {
		_, _ = s.container.Exec(ctx, "sh", "-c", "echo "+key+" >/proc/sysrq-trigger; sleep 1000")
		return nil
	}
}

// play has the victim die at the moment, and looks what comes of it. A deletion may be over, or need the victim no longer,
// before that has died: then another pod is deleted.
func (s *scene) play(t *testing.T, m moment, v victim) {
	tries := 1
	if m.name == "the deletion" {
		tries = 3
	}
	for !s.tryPlay(t, m, v, tries == 1) {
		tries--
		t.Logf("%s died too late for %s", v.name, m.name)
	}
}

// tryPlay says whether the victim died in time, which it must in the last try.
func (s *scene) tryPlay(t *testing.T, m moment, v victim, last bool) (inTime bool) {
	defer func() {
		if t.Failed() { // the next one is to begin with nothing all the same
			ctx := context.WithoutCancel(t.Context())
			_ = s.node.RemovePods(ctx)
			_ = s.volume.Unpublish(ctx, s.uid)
		}
	}()
	s.uid, s.pod, s.container, s.annotations = uuid.NewString(), nil, nil, nil
	if m.name == moments[0].name {
		s.annotations = v.atBoot
	}
	patience := max(v.patience, noticeLimit)
	must(t, s.volume.Publish(t.Context(), s.uid))
	if m.name != moments[0].name {
		must(t, s.boot(t.Context()))
	}
	if m.container {
		must(t, s.create(t.Context()))
	}
	kill := func() error { return nil } // it comes to its end by itself
	switch {
	case v.arm == nil:
		kill = func() error { return v.kill(t.Context(), s) }
	case s.pod != nil:
		kill = v.arm(t, s)
	}
	logged := len(s.node.Lab.Containerd().Said())

	under := make(chan error, 1)
	go func() { under <- m.do(s, t.Context()) }()
	must(t, m.until(s, t.Context()))
	killErr := kill()
	if last {
		must(t, killErr)
	}
	began := time.Now()
	var err error
	select {
	case err = <-under:
		t.Logf("%s ended after %s: %.300v", m.name, time.Since(began).Round(time.Millisecond), err)
	case <-time.After(patience):
		t.Fatalf("%s has not ended %s after the death of %s", m.name, patience, v.name)
	}
	switch inTime = killErr == nil; {
	case !inTime:
		must(t, err) // of nothing that has died
	case v.survived:
		must(t, s.node.Lab.StartContainerd(t.Context()))
		s.checkAlive(t, m)
	default:
		s.checkFailed(t, m, patience)
		s.notice(t, m, time.Since(began))
		if said, found := s.reason(v, err, logged); !found && !last && err == nil {
			inTime = false
		} else if !found {
			t.Errorf("neither the error nor containerd's log says %q:\n%s", v.reason, said)
		}
	}
	must(t, s.node.RemovePods(t.Context()))
	must(t, s.volume.Unpublish(t.Context(), s.uid))
	s.checkNothingLeft(t)
	return inTime
}

// notice notes how long it took until the pod's end was seen. A deletion takes its time anyway.
func (s *scene) notice(t *testing.T, m moment, took time.Duration) {
	t.Helper()
	t.Logf("seen after %s", took.Round(time.Millisecond))
	if m.name != "the deletion" {
		s.noticed = append(s.noticed, took)
	}
}

// checkNoticed holds how fast ends are seen to how fast machines boot here, which the host's load slows down as well.
// noticeLimit is for the single one that has come at a bad moment.
func (s *scene) checkNoticed(t *testing.T) {
	t.Helper()
	if len(s.noticed) < 5 {
		return // one that has come at a bad moment could be the median
	}
	noticed, booted := median(s.noticed), median(s.booted)
	t.Logf("of %d ends the median was seen after %s; of %d machines it ran after %s", len(s.noticed), noticed, len(s.booted), booted)
	if noticed > booted {
		t.Errorf("the end of a pod is seen after %s as a rule, when another would have been running after %s", noticed, booted)
	}
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// reason looks for the victim's reason in the error and in what containerd has said since, and returns that. It waits for
// it: the error may be there before containerd has logged anything.
func (s *scene) reason(v victim, err error, since int) (said string, found bool) {
	for deadline := time.Now().Add(noticeLimit); ; time.Sleep(20 * time.Millisecond) {
		said = s.node.Lab.Containerd().Said()[since:]
		if found = saysOneOf(said+fmt.Sprint(err), v.reason); found || time.Now().After(deadline) {
			return said, found
		}
	}
}

func saysOneOf(text, reasons string) bool {
	return slices.ContainsFunc(strings.Split(reasons, "|"), func(r string) bool { return strings.Contains(text, r) })
}

// checkFailed waits until the pod, if there is one still, is reported failed.
func (s *scene) checkFailed(t *testing.T, m moment, patience time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for s.pod != nil && m.name != "the deletion" {
		status, err := s.node.Lab.CRI().PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: s.pod.ID})
		must(t, err)
		if status.GetStatus().GetState() == cri.PodSandboxState_SANDBOX_NOTREADY {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if !m.container || m.name == "the deletion" {
		return
	}
	if code, err := s.container.Wait(ctx); err != nil || code == 0 {
		t.Errorf("the container ended with %d, %v", code, err)
	}
	if _, err := s.container.Exec(ctx, "true"); err == nil {
		t.Error("an exec succeeds")
	}
}

// checkAlive looks whether the pod has noticed nothing of containerd's restart.
func (s *scene) checkAlive(t *testing.T, m moment) {
	t.Helper()
	if !m.container || m.name == "the deletion" {
		return // containerd had not yet told of it, or has no longer
	}
	status, err := s.container.Status(t.Context())
	must(t, err)
	if status.GetState() != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %s", status.GetState())
	}
	lines, err := s.container.Exec(t.Context(), "sh", "-c", "echo alive; cat /data/marker")
	if err != nil || lines != "alive\nkept\n" {
		t.Errorf("an exec says %q, %v", lines, err)
	}
	s.checkLog(t)
}

// checkLog waits for output from after the restart, and looks whether any is missing.
func (s *scene) checkLog(t *testing.T) {
	t.Helper()
	before, _ := s.container.Logs("stdout")
	for deadline := time.Now().Add(noticeLimit); ; time.Sleep(20 * time.Millisecond) {
		log, err := s.container.Logs("stdout")
		must(t, err)
		if len(log) > len(before) {
			var want strings.Builder
			for i := 1; want.Len() < len(log); i++ {
				fmt.Fprintln(&want, "tick", i)
			}
			if log != want.String()[:len(log)] {
				t.Errorf("the log has a gap: %q", log)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("no output since containerd's restart; before it %q", before)
			return
		}
	}
}

// checkNothingLeft looks whether the pod has left anything on the node. A process that was killed takes a moment.
func (s *scene) checkNothingLeft(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(noticeLimit / 3); ; time.Sleep(50 * time.Millisecond) {
		now, err := s.node.Lab.Survey()
		must(t, err)
		left := slices.DeleteFunc(now, func(line string) bool { return slices.Contains(s.before, line) })
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left over:\n%s", strings.Join(left, "\n"))
			return
		}
	}
}

// checkData reads, in a pod of its own, what the volume must hold, and writes what later ones must find.
func (s *scene) checkData(t *testing.T, want string) {
	s.uid = uuid.NewString()
	must(t, s.volume.Publish(t.Context(), s.uid))
	must(t, s.boot(t.Context()))
	must(t, s.create(t.Context()))
	got, err := s.container.Exec(t.Context(), "sh", "-c", "cat /data/marker 2>/dev/null; echo kept >/data/marker; sync")
	if err != nil || got != want {
		t.Errorf("the volume holds %q, %v, want %q", got, err, want)
	}
	must(t, s.remove(t.Context()))
	must(t, s.volume.Unpublish(t.Context(), s.uid))
}
