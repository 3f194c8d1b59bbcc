package csi

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katadirect/katadirect/pkg/csi/mode"
)

// Random calls for volumes of all modes, one after the other, with restarts of the driver, against a plain model of what
// must be true: never in a machine and on the host at once, never on the host after a machine, and no byte, size, limit or
// mark lost. (test/model has calls at once and kills, for direct and raw volumes, where no pod has to be looked up.)

// How many sequences are tried, and how long they are. The seeds are the same in every run.
const (
	modeSequences = 24
	modeSteps     = 60
	modeTargets   = 3
	modeSnapshots = 2
)

const nowhere = -1

// moded is one volume in the model.
type moded struct {
	mode    mode.Mode
	exists  bool
	staged  bool
	machine int          // the target at which it is recorded, or nowhere
	onlyRO  bool         // the record's
	host    map[int]bool // the targets at which the host has it, and whether read-only

	formatted bool // by the host
	trusted   bool // no machine has had it since
	content   string

	sizeBytes int64
	fsBytes   int64 // of the file system that the host has made, which may lag behind
	iops      uint64
}

// modesWorld is the model, and the host that it is of.
type modesWorld struct {
	h       *host
	random  *rand.Rand
	volumes []*moded
	// snapshots are by their number; growsExt4 says that this process may grow an ext4 in use.
	snapshots [modeSnapshots]*modedSnapshot
	growsExt4 bool
}

// modedSnapshot is one snapshot in the model.
type modedSnapshot struct {
	source    int
	sizeBytes int64
	content   string
	trusted   bool
}

func (w *modesWorld) volume(i int) volume {
	name := fmt.Sprint("volume-", w.volumes[i].mode)
	return volume{h: w.h, id: w.h.driver.pool.ID(name), context: inMode(string(w.volumes[i].mode)),
		cap: capability(withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))}
}

// takenBy returns the other volume that is at a target, and whether a machine has it there.
func (w *modesWorld) takenBy(target, but int) (taken, byMachine bool) {
	for i, v := range w.volumes {
		if _, onHost := v.host[target]; i != but && (onHost || v.machine == target) {
			return true, v.machine == target
		}
	}
	return false, false
}

func TestVolumesOfAllModesDoWhatTheModelSays(t *testing.T) {
	for seed := range uint64(modeSequences) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			h, _ := newModesHost(t)
			w := &modesWorld{h: h, random: rand.New(rand.NewPCG(seed, 0)), growsExt4: maySetResources(t)}
			for _, m := range []mode.Mode{mode.Direct, mode.Host, mode.Auto} {
				w.volumes = append(w.volumes, &moded{mode: m, machine: nowhere})
			}
			for i, m := range w.volumes { // else most of what is drawn would be refused
				must(t, w.create(i))
				must(t, w.volume(i).stage())
				m.exists, m.staged, m.sizeBytes = true, true, modeSizes[0]
			}
			for n := range modeSteps {
				said, want, got := w.step()
				if t.Logf("%d: %s: %v", n, said, status.Code(got)); status.Code(got) != want {
					t.Fatalf("answered %v, and the model says %v", got, want)
				}
				w.audit(t)
			}
			w.takeAway(t)
		})
	}
}

// step does one thing, and says what, what the model says, and what came of it.
func (w *modesWorld) step() (said string, want codes.Code, got error) {
	i, target := w.random.IntN(len(w.volumes)), w.random.IntN(modeTargets)
	path, v, m := w.h.target(fmt.Sprint(target)), w.volume(i), w.volumes[i]
	switch n := w.random.IntN(124); {
	case n < 6:
		if !m.exists {
			m.exists, m.sizeBytes = true, modeSizes[0]
		}
		return "create " + string(m.mode), codes.OK, w.create(i)
	case n < 15:
		return "stage " + string(m.mode), m.stage(), v.stage()
	case n < 60:
		pod, readOnly := "plain", w.random.IntN(5) == 0
		if w.random.IntN(2) == 0 {
			pod = "machine"
		}
		got = v.publishFor(pod, path, func(r *csi.NodePublishVolumeRequest) { r.Readonly = readOnly })
		return fmt.Sprintf("publish %s at %d for %s, read-only %t", m.mode, target, pod, readOnly), w.publish(i, target, pod, readOnly), got
	case n < 86:
		return fmt.Sprintf("unpublish %s at %d", m.mode, target), w.unpublish(i, target), v.unpublish(path)
	case n < 90:
		return "unstage " + string(m.mode), m.unstage(), v.unstage()
	case n < 92:
		return "delete " + string(m.mode), m.delete(), v.delete()
	case n < 96:
		w.h.restart()
		return "restart", codes.OK, nil
	case n < 104:
		size := modeSizes[w.random.IntN(len(modeSizes))]
		_, got = v.expand(w.h.t.Context(), path, size)
		return fmt.Sprintf("expand %s at %d to %d", m.mode, target, size), w.expand(m, target, size), got
	case n < 111:
		name := w.random.IntN(modeSnapshots)
		return fmt.Sprintf("snapshot %d of %s", name, m.mode), w.snapshot(name, i), w.takeSnapshot(name, v)
	case n < 114:
		name := w.random.IntN(modeSnapshots)
		w.snapshots[name] = nil
		return fmt.Sprintf("delete snapshot %d", name), codes.OK, w.dropSnapshot(name)
	case n < 120:
		iops := []uint64{0, 500, 1000}[w.random.IntN(3)]
		return fmt.Sprintf("modify %s to %d", m.mode, iops), m.modify(iops), v.modify(map[string]string{"katadirect.io/iops": fmt.Sprint(iops)})
	}
	if readOnly, onHost := m.host[target]; !onHost || readOnly {
		return "nothing", codes.OK, nil
	}
	m.content = fmt.Sprint("content ", w.random.Uint64())
	return fmt.Sprintf("write to %s at %d", m.mode, target), codes.OK, os.WriteFile(filepath.Join(path, "file"), []byte(m.content), 0o600)
}

func (w *modesWorld) create(i int) error {
	m := w.volumes[i].mode
	r := createRequest(fmt.Sprint("volume-", m), modeSizes[0], withMode(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	r.Parameters = inMode(string(m))
	_, err := w.h.CreateVolume(w.h.t.Context(), r)
	return err
}

func (m *moded) stage() codes.Code {
	if !m.exists {
		return codes.NotFound
	}
	m.staged = true
	return codes.OK
}

func (m *moded) unstage() codes.Code {
	if m.machine != nowhere || len(m.host) > 0 {
		return codes.FailedPrecondition
	}
	m.staged = false
	return codes.OK
}

func (m *moded) delete() codes.Code {
	if m.staged {
		return codes.FailedPrecondition
	}
	*m = moded{mode: m.mode, machine: nowhere}
	return codes.OK
}

func (w *modesWorld) unpublish(i, target int) codes.Code {
	m := w.volumes[i]
	if _, onHost := m.host[target]; onHost {
		delete(m.host, target)
		return codes.OK
	}
	if m.machine == target {
		m.machine = nowhere
		return codes.OK
	}
	if taken, _ := w.takenBy(target, i); taken {
		return codes.FailedPrecondition
	}
	return codes.OK
}

func (w *modesWorld) publish(i, target int, pod string, readOnly bool) codes.Code {
	m := w.volumes[i]
	_, onHost := m.host[target]
	toHost := onHost || m.machine != target && (m.mode == mode.Host || m.mode == mode.Auto && pod == "plain")
	switch {
	case !m.exists:
		return codes.NotFound
	case !m.staged, m.mode == mode.Direct && m.machine != target && pod == "plain":
		return codes.FailedPrecondition
	case toHost:
		return w.publishOnHost(i, target, readOnly)
	case len(m.host) > 0:
		return codes.FailedPrecondition
	}
	m.trusted = false
	taken, _ := w.takenBy(target, i)
	switch {
	case m.machine == target && m.onlyRO == readOnly:
		return codes.OK
	case m.machine == target:
		return codes.AlreadyExists
	case m.machine != nowhere, taken:
		return codes.FailedPrecondition
	}
	m.machine, m.onlyRO = target, readOnly
	return codes.OK
}

func (w *modesWorld) publishOnHost(i, target int, readOnly bool) codes.Code {
	m := w.volumes[i]
	taken, byMachine := w.takenBy(target, i)
	was, there := m.host[target]
	switch {
	case m.machine != nowhere:
		return codes.FailedPrecondition
	case there && was != readOnly:
		return codes.AlreadyExists
	case there:
		return codes.OK
	case byMachine, m.formatted && !m.trusted:
		return codes.FailedPrecondition
	}
	if !m.formatted || len(m.host) == 0 && w.growsExt4 { // it is mounted only now
		m.fsBytes = m.sizeBytes
	}
	m.formatted, m.trusted = true, true
	if taken { // which is seen when the volume is to be bound there
		return codes.FailedPrecondition
	}
	if m.host == nil {
		m.host = map[int]bool{}
	}
	m.host[target] = readOnly
	return codes.OK
}

// audit looks whether everything is where the model says, and nothing else is anywhere.
func (w *modesWorld) audit(t *testing.T) {
	t.Helper()
	devices := 0
	for i, m := range w.volumes {
		if len(m.host) > 0 {
			devices++
		}
		w.auditKept(t, i)
		for target := range modeTargets {
			path := w.h.target(fmt.Sprint(target))
			recorded := false
			if r, err := w.h.store().Get(t.Context(), path); err == nil {
				recorded = r.Device == w.volume(i).image()
			}
			if recorded != (m.machine == target) {
				t.Fatalf("%s is recorded at %d: %t", m.mode, target, recorded)
			}
			_, onHost := m.host[target]
			if taken, _ := w.takenBy(target, i); !taken && isMounted(path) != onHost {
				t.Fatalf("%s is mounted at %d: %t", m.mode, target, !onHost)
			}
			if !onHost || m.content == "" {
				continue
			}
			if data, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(data) != m.content {
				t.Fatalf("%s holds %q, %v, and %q was written", m.mode, data, err, m.content)
			}
		}
	}
	if found := w.h.loopDevices(); len(found) != devices {
		t.Fatalf("there are the loop devices %v, for %d volumes that the host has mounted", found, devices)
	}
}

func (w *modesWorld) takeAway(t *testing.T) {
	t.Helper()
	for i, m := range w.volumes {
		v := w.volume(i)
		for target := range modeTargets {
			if _, onHost := m.host[target]; onHost || m.machine == target {
				must(t, v.unpublish(w.h.target(fmt.Sprint(target))))
				w.unpublish(i, target)
			}
		}
		must(t, v.unstage())
		must(t, v.delete())
	}
	for name := range w.snapshots {
		must(t, w.dropSnapshot(name))
	}
	if names := w.h.poolEntries(); len(names) > 0 {
		t.Errorf("the pool holds %v", names)
	}
	w.h.nothingLeft()
}
