// Package kube looks up what Kubernetes knows of a pod, its RuntimeClass, and the claim of a volume.
//
//	cluster, err := kube.Open("in-cluster", nodeName, log)
//	go cluster.Run(ctx)            // until the program ends
//	pod, err := cluster.Pod(ctx, name)
//
// The pods of this node and all RuntimeClasses are watched, because every publication asks for them; what is kept of
// each is its names and what is looked up. Anything that is not in that memory, or not as the caller knows it, is asked
// of the API server before it counts as missing. Claims and their volumes are asked for each time: there are more of
// them than a node ever needs.
//
// Package csi is the caller. Nothing here changes anything in Kubernetes, and nothing decides: that is for package mode.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/katadirect/katadirect/internal/version"
)

// Values of Open's source, beside the absolute path of a kubeconfig.
const (
	Off       = "off"
	InCluster = "in-cluster"
)

const (
	// askTimeout bounds one question to the API server. kubelet waits for two minutes, and calls again.
	askTimeout = 10 * time.Second
	// A node that starts asks for all of its pods' volumes at once.
	questionsPerSecond, questionsAtOnce = 50, 200
)

var (
	// ErrUnavailable says that Kubernetes could not be asked. Trying again may help.
	ErrUnavailable = errors.New("kubernetes could not be asked")
	// ErrNotFound says that Kubernetes has been asked and does not know it, or knows another one of that name.
	ErrNotFound = errors.New("kubernetes does not know it")
	// ErrSource says that a source is none.
	ErrSource = errors.New(`want "off", "in-cluster" or the absolute path of a kubeconfig`)
)

// scheme has the two API groups that are looked into, and not the other fifty, whose types would be kept in memory.
var (
	scheme     = runtime.NewScheme()
	parameters = runtime.NewParameterCodec(scheme)
)

func init() {
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	utilruntime.Must(corev1.AddToScheme(scheme))
	utilruntime.Must(nodev1.AddToScheme(scheme))
}

// Cluster is a way to a Kubernetes API server.
type Cluster struct {
	core    rest.Interface
	node    rest.Interface
	pods    watched
	classes watched
	log     *slog.Logger
	// hostName is the node's, for events.
	hostName string
}

// Open makes the way and asks nothing yet: a driver starts, too, while the API server is away. A source of Off, or "",
// gives nil. node is the node's name in Kubernetes.
func Open(source, node string, log *slog.Logger) (*Cluster, error) {
	config, err := configOf(source)
	if err != nil || config == nil {
		return nil, err
	}
	c, err := newCluster(config, node, log)
	if err != nil {
		return nil, fmt.Errorf("make a client for Kubernetes (%s): %w", source, err)
	}
	return c, nil
}

func configOf(source string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	switch {
	case source == "" || source == Off:
		return nil, nil
	case source == InCluster:
		config, err = rest.InClusterConfig()
	case filepath.IsAbs(source):
		config, err = clientcmd.BuildConfigFromFlags("", source)
	default:
		return nil, fmt.Errorf("%w, not %q", ErrSource, source)
	}
	if err != nil {
		return nil, fmt.Errorf("find the way to Kubernetes (%s): %w", source, err)
	}
	return config, nil
}

func newCluster(config *rest.Config, node string, log *slog.Logger) (*Cluster, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "katadirect-csi-node/" + version.Version
	config.QPS, config.Burst = questionsPerSecond, questionsAtOnce
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Cluster{log: log, hostName: node}
	var err error
	if c.core, err = clientFor(config, "/api", corev1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	if c.node, err = clientFor(config, "/apis", nodev1.SchemeGroupVersion); err != nil {
		return nil, err
	}
	if c.pods, err = watchPods(c.core, node, log); err != nil {
		return nil, err
	}
	c.classes, err = watchClasses(c.node, log)
	return c, err
}

func clientFor(config *rest.Config, path string, group schema.GroupVersion) (rest.Interface, error) {
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = path, &group
	return rest.RESTClientFor(config)
}

// Run watches until ctx ends. Without it every look-up asks the API server.
func (c *Cluster) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, w := range []watched{c.pods, c.classes} {
		all.Go(func() { w.RunWithContext(ctx) })
	}
}
