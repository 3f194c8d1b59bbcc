package soak

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

const gibibyte = 1 << 30

// pod is the one that is worked on.
type pod struct {
	node    *kubelet.Node
	pod     *lab.Pod
	volumes []*volume
	config  *configMap
	members []*member
}

// member is one container of the pod, through all its restarts.
type member struct {
	pod     *pod
	name    string
	volumes []*volume

	// now is replaced at a restart, by the only worker of this container.
	now   *lab.Container
	files int // written so far: names never come again
}

// volume is one of the pod's, with what has been written to it.
type volume struct {
	*kubelet.Volume
	path string // in containers

	// files holds the SHA-256 of each by its name. Who removes one holds mu for writing, so that nobody looks for it.
	mu    sync.RWMutex
	files map[string]string
}

// newPod makes two volumes, a configMap and a pod with four containers: of the volumes each is in two of them, one
// container has both and one none.
func newPod(t *testing.T, n *kubelet.Node) *pod {
	t.Helper()
	p := &pod{node: n, config: newConfigMap(t, n.Lab.Dir)}
	uid := uuid.NewString()
	for _, fsType := range []string{"ext4", "xfs"} {
		v := &volume{Volume: n.Volume("pvc-soak-"+fsType, gibibyte, fsType), path: "/" + fsType, files: map[string]string{}}
		must(t, v.Create(t.Context()))
		must(t, v.Stage(t.Context()))
		must(t, v.Publish(t.Context(), uid))
		p.volumes = append(p.volumes, v)
	}
	p.start(t, uid)
	for i, volumes := range [][]*volume{p.volumes[:1], p.volumes, p.volumes[1:], nil} {
		m := &member{pod: p, name: fmt.Sprintf("app%d", i), volumes: volumes}
		must(t, m.run(t.Context()))
		p.members = append(p.members, m)
	}
	return p
}

func (p *pod) start(t *testing.T, uid string) {
	t.Helper()
	var err error
	p.pod, err = p.node.Lab.RunPod(t.Context(), lab.PodSpec{Name: "soak", Handler: kubelet.Handler, UID: uid})
	must(t, err)
}

// workers are one for each container, and one for what is the pod's.
func (p *pod) workers(seed uint64) []*worker {
	var all []*worker
	for i, m := range p.members {
		all = append(all, &worker{name: m.name, random: rand.New(rand.NewPCG(seed, uint64(i))), actions: m.actions()})
	}
	return append(all, &worker{name: "the pod", random: rand.New(rand.NewPCG(seed, 100)), actions: p.actions()})
}

// checkLogs looks whether each container's log holds every line that it has written: numbers that go up by one, and
// begin again at one with each restart.
func (p *pod) checkLogs(t *testing.T) {
	t.Helper()
	for _, m := range p.members {
		log, err := m.now.Logs("stdout")
		must(t, err)
		last, lines := 0, 0
		for line := range strings.Lines(log) {
			var n int
			if _, err := fmt.Sscanf(line, "tick %d\n", &n); err != nil {
				t.Errorf("the log of %s has a line %q", m.name, line)
				break
			}
			if n != last+1 && n != 1 {
				t.Errorf("the log of %s goes from tick %d to %d", m.name, last, n)
				break
			}
			last = n
			lines++
		}
		if lines == 0 {
			t.Errorf("the log of %s is empty", m.name)
		}
	}
}

// finish ends the pod and looks for all that was written with the eyes of another one, then deletes everything. That
// nothing is left over the node sees to.
func (p *pod) finish(t *testing.T) {
	t.Helper()
	must(t, p.pod.Remove(t.Context()))
	for _, v := range p.volumes {
		must(t, v.Unpublish(t.Context(), p.pod.UID))
	}
	uid := uuid.NewString()
	for _, v := range p.volumes {
		must(t, v.Publish(t.Context(), uid))
	}
	p.start(t, uid)
	reader := &member{pod: p, name: "reader", volumes: p.volumes}
	must(t, reader.run(t.Context()))
	for _, v := range p.volumes {
		must(t, reader.verifyAll(t.Context(), v))
	}
	must(t, p.pod.Remove(t.Context()))
	for _, v := range p.volumes {
		must(t, v.Unpublish(t.Context(), uid))
		must(t, v.Unstage(t.Context()))
		must(t, v.Delete(t.Context()))
	}
}

// configMap is a folder as kubelet makes it: a new version is written beside the old one, and a link renamed.
type configMap struct {
	dir     string
	version atomic.Int64
}

func newConfigMap(t *testing.T, parent string) *configMap {
	t.Helper()
	c := &configMap{dir: filepath.Join(parent, "kubelet", "config")}
	must(t, os.MkdirAll(c.dir, 0o755))
	must(t, c.update())
	must(t, os.Symlink("..data/version", filepath.Join(c.dir, "version")))
	// It belongs to kubelet, which is not tried here: what is watched for leftovers must not hold it.
	t.Cleanup(func() { _ = os.RemoveAll(c.dir) })
	return c
}

// update writes the next version and removes the last, as kubelet does.
func (c *configMap) update() error {
	next := c.version.Load() + 1
	name := fmt.Sprintf("..version-%d", next)
	if err := os.Mkdir(filepath.Join(c.dir, name), 0o755); err != nil {
		return err
	}
	content := fmt.Appendf(nil, "%d\n", next)
	if err := os.WriteFile(filepath.Join(c.dir, name, "version"), content, 0o644); err != nil {
		return err
	}
	link, data := filepath.Join(c.dir, "..data_tmp"), filepath.Join(c.dir, "..data")
	if err := errors.Join(os.Symlink(name, link), os.Rename(link, data)); err != nil {
		return err
	}
	c.version.Store(next)
	return os.RemoveAll(filepath.Join(c.dir, fmt.Sprintf("..version-%d", next-1)))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
