package claims

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/katadirect/katadirect/pkg/csi/facts"
)

// PortName is the name of the driver's port for metrics, health and facts in its pod's spec.
const PortName = "http"

const (
	driversAtOnce = 16
	maxPages      = 200
	maxPageBytes  = 16 << 20
	// slowAfter is when it is said which nodes are being waited for.
	slowAfter = 2 * time.Second
)

// askDrivers asks the drivers of the nodes that the volumes are on, and all of them when a volume's node is not known.
// The facts are by handle and by name.
func (r Reader) askDrivers(ctx context.Context, volumes []Volume, j *joiner) ([]Node, map[string]*facts.Volume) {
	wanted, all := wantedNodes(volumes)
	if len(wanted) == 0 && !all {
		return nil, nil
	}
	pods, err := r.driverPods(ctx)
	if err != nil {
		j.note("%s", driversUnknown(err, r.DriverNamespace))
		return nil, nil
	}
	if len(pods) == 0 {
		j.note("no pod of the driver was found (%s in %s), so figures of nodes are unknown; --driver-namespace and "+
			"--driver-selector say where else to look", r.DriverSelector, orAnywhere(r.DriverNamespace))
		return nil, nil
	}
	if all {
		for node := range pods {
			wanted[node] = true
		}
	}
	names := slices.Sorted(maps.Keys(wanted))
	nodes := make([]Node, len(names))
	answers := make([][]facts.Volume, len(names))
	waiting := r.watchSlow(names)
	slots := make(chan struct{}, driversAtOnce)
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			nodes[i], answers[i] = r.askNode(ctx, name, pods[name])
			waiting.answered(name)
		})
	}
	asking.Wait()
	waiting.end()
	found := map[string]*facts.Volume{}
	for i := range answers {
		if nodes[i].Problem != "" {
			j.note("node %s: %s", nodes[i].Name, nodes[i].Problem)
		}
		for k := range answers[i] {
			v := &answers[i][k]
			found[v.ID] = v
			if v.Name != "" {
				found[v.Name] = v
			}
		}
	}
	return nodes, found
}

// wantedNodes are the nodes of the volumes; all says that there is a volume whose node is not known.
func wantedNodes(volumes []Volume) (wanted map[string]bool, all bool) {
	wanted = map[string]bool{}
	for _, v := range volumes {
		switch {
		case v.Node != "":
			wanted[v.Node] = true
		case v.PersistentVolume != "":
			all = true
		}
	}
	return wanted, all
}

// driverPods are the drivers' pods by node; of two on one node, as during an update, the one that is ready.
func (r Reader) driverPods(ctx context.Context) (map[string]corev1.Pod, error) {
	all, err := list(ctx, func(o metav1.ListOptions) ([]corev1.Pod, string, error) {
		o.LabelSelector = r.DriverSelector
		l, err := r.Client.CoreV1().Pods(r.DriverNamespace).List(ctx, o)
		return l.Items, l.Continue, err
	})
	if err != nil {
		return nil, err
	}
	pods := map[string]corev1.Pod{}
	for _, pod := range all {
		if other, there := pods[pod.Spec.NodeName]; there && ready(other) && !ready(pod) {
			continue
		}
		pods[pod.Spec.NodeName] = pod
	}
	return pods, nil
}

func ready(pod corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// askNode asks one driver for all of its pages.
func (r Reader) askNode(ctx context.Context, name string, pod corev1.Pod) (Node, []facts.Volume) {
	n := Node{Name: name, Pod: pod.Name}
	if pod.Name == "" {
		n.Problem = fmt.Sprintf("no driver runs there; kubectl get pods -A -o wide -l %s shows where it does", r.DriverSelector)
		return n, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.NodeTimeout)
	defer cancel()
	var volumes []facts.Volume
	after := ""
	for range maxPages {
		page, err := r.askPage(ctx, pod, after)
		if err != nil {
			n.Problem = r.explain(ctx, err, pod)
			return n, volumes
		}
		n.Version, n.Pool = page.Version, &page.Pool
		volumes = append(volumes, page.Volumes...)
		if after = page.Next; after == "" {
			break
		}
	}
	return n, volumes
}

var errNoPort = errors.New("no port")

func (r Reader) askPage(ctx context.Context, pod corev1.Pod, after string) (page facts.Node, err error) {
	port := ""
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.Name == PortName {
				port = fmt.Sprint(p.ContainerPort)
			}
		}
	}
	if port == "" {
		return page, errNoPort
	}
	query := map[string]string{}
	if after != "" {
		query[facts.QueryAfter] = after
	}
	body, err := r.Client.CoreV1().Pods(pod.Namespace).ProxyGet("", pod.Name, port, facts.Path, query).Stream(ctx)
	if err != nil {
		return page, err
	}
	defer body.Close()
	return page, json.NewDecoder(io.LimitReader(body, maxPageBytes)).Decode(&page)
}

// explain says why a driver could not be asked, and what to do.
func (r Reader) explain(ctx context.Context, err error, pod corev1.Pod) string {
	name := pod.Namespace + "/" + pod.Name
	switch {
	case errors.Is(err, errNoPort):
		return fmt.Sprintf("the driver's pod %s has no port named %s; it has to be started with --http-endpoint", name, PortName)
	case apierrors.IsForbidden(err):
		return fmt.Sprintf("you may not ask the driver's pod %s; ask your administrator for the Role katadirect-view in namespace %s "+
			"(get on pods/proxy)", name, pod.Namespace)
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("the driver's pod %s is gone, or is of a version that cannot be asked; try again, or update it", name)
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Sprintf("the driver's pod %s (%s) has not answered within %s; kubectl -n %s logs %s may say why, --node-timeout waits longer",
			name, pod.Status.Phase, r.NodeTimeout, pod.Namespace, pod.Name)
	}
	return fmt.Sprintf("the driver's pod %s (%s) could not be asked: %v", name, pod.Status.Phase, err)
}

func driversUnknown(err error, namespace string) string {
	if apierrors.IsForbidden(err) {
		return fmt.Sprintf("you may not list the driver's pods in %s, so figures of nodes are unknown; ask your administrator for the "+
			"Role katadirect-view, or name their namespace with --driver-namespace", orAnywhere(namespace))
	}
	return fmt.Sprintf("the driver's pods could not be listed, so figures of nodes are unknown: %v", err)
}

func orAnywhere(namespace string) string {
	if namespace == "" {
		return "all namespaces"
	}
	return "namespace " + namespace
}

// slow says which nodes are being waited for, if that takes long.
type slow struct {
	mu      sync.Mutex
	waiting []string // guarded by mu
	timer   *time.Timer
}

func (r Reader) watchSlow(names []string) *slow {
	s := &slow{waiting: slices.Clone(names)}
	if r.Progress == nil {
		return s
	}
	s.timer = time.AfterFunc(slowAfter, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.waiting) > 0 {
			shown := strings.Join(s.waiting[:min(len(s.waiting), 5)], ", ")
			r.Progress(fmt.Sprintf("waiting for %d of %d nodes, for %s each at the most: %s", len(s.waiting), len(names),
				cmp.Or(r.NodeTimeout, slowAfter), shown))
		}
	})
	return s
}

func (s *slow) answered(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, func(n string) bool { return n == name })
}

func (s *slow) end() {
	if s.timer != nil {
		s.timer.Stop()
	}
}
