// Package kubenode tells Kubernetes how the runtime is on a node: a label that RuntimeClasses select nodes by, a
// condition and an annotation that a person reads, and an event when something has failed.
package kubenode

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/katadirect/katadirect/internal/version"
)

const (
	// Label is "true" on nodes whose container runtime has the handler.
	Label = "katadirect.io/runtime"
	// VersionAnnotation is the version that new pods get.
	VersionAnnotation = "katadirect.io/runtime-version"
	// Condition is the node's condition that says whether the installer has done its work, and why not.
	Condition corev1.NodeConditionType = "KatadirectRuntimeReady"
)

// Reasons of the condition and of events.
const (
	Installed   = "RuntimeInstalled"
	Failed      = "RuntimeInstallFailed"
	Refused     = "RuntimeInstallRefused"
	TakenBack   = "RuntimeChangeTakenBack"
	Waiting     = "RuntimeUninstallWaits"
	Uninstalled = "RuntimeUninstalled"
)

const (
	askTimeout = 30 * time.Second
	component  = "katadirect-installer"
	// maxMessage is what the API takes of an event's message.
	maxMessage = 1000
)

// scheme has the one API group that is spoken of. A client with all fifty would double the program.
var scheme = runtime.NewScheme()

func init() {
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	utilruntime.Must(corev1.AddToScheme(scheme))
}

// Node is one node, as Kubernetes knows it.
type Node struct {
	Name   string
	client rest.Interface
}

// Open connects with a kubeconfig, or with a pod's own account if it is "".
func Open(name, kubeconfig string) (*Node, error) {
	config, err := settings(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	return New(name, config)
}

// New is Open with the settings of a client.
func New(name string, config *rest.Config) (*Node, error) {
	config = rest.CopyConfig(config)
	config.UserAgent, config.Timeout = component+"/"+version.Version, askTimeout
	config.APIPath, config.GroupVersion = "/api", &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connect to Kubernetes: %w", err)
	}
	return &Node{name, client}, nil
}

func settings(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// Runtime is the name and version that kubelet has found, "containerd://1.7.29".
func (n *Node) Runtime(ctx context.Context) (string, error) {
	node, err := n.get(ctx)
	if err != nil {
		return "", err
	}
	return node.Status.NodeInfo.ContainerRuntimeVersion, nil
}

// Says is what Kubernetes has been told of the node.
type Says struct {
	Labelled bool
	Version  string
	// Condition is nil if there is none.
	Condition *corev1.NodeCondition
}

// Ready reports whether it was told that this version is installed.
func (s Says) Ready(runtimeVersion string) bool {
	return s.Labelled && s.Version == runtimeVersion && s.Condition != nil && s.Condition.Status == corev1.ConditionTrue
}

// Says asks what Kubernetes has been told.
func (n *Node) Says(ctx context.Context) (Says, error) {
	node, err := n.get(ctx)
	if err != nil {
		return Says{}, err
	}
	says := Says{Labelled: node.Labels[Label] == "true", Version: node.Annotations[VersionAnnotation]}
	for _, c := range node.Status.Conditions {
		if c.Type == Condition {
			says.Condition = &c
		}
	}
	return says, nil
}

func (n *Node) get(ctx context.Context) (*corev1.Node, error) {
	node := &corev1.Node{}
	if err := n.client.Get().Resource("nodes").Name(n.Name).Do(ctx).Into(node); err != nil {
		return nil, fmt.Errorf("ask Kubernetes for node %s: %w", n.Name, err)
	}
	return node, nil
}

// SetReady labels the node: pods of the RuntimeClass may come.
func (n *Node) SetReady(ctx context.Context, runtimeVersion string) error {
	if err := n.label(ctx, "true", runtimeVersion); err != nil {
		return err
	}
	return n.condition(ctx, corev1.ConditionTrue, Installed, "katadirect "+runtimeVersion+" is installed")
}

// SetFailed says what is wrong. A node that had the runtime keeps the label if it still has it. The same failure again
// makes no event.
func (n *Node) SetFailed(ctx context.Context, reason, message string, hasRuntime bool) error {
	if !hasRuntime {
		if err := n.label(ctx, nil, nil); err != nil {
			return err
		}
	}
	before, err := n.Says(ctx)
	if err != nil {
		return err
	}
	if err := n.condition(ctx, corev1.ConditionFalse, reason, message); err != nil {
		return err
	}
	if c := before.Condition; c != nil && c.Status == corev1.ConditionFalse && c.Reason == reason && c.Message == cut(message) {
		return nil
	}
	return n.event(ctx, corev1.EventTypeWarning, reason, message)
}

// Leave takes the label away, so that no pods of the RuntimeClass come any more. It is the first step of an uninstall.
func (n *Node) Leave(ctx context.Context) error { return n.label(ctx, nil, nil) }

// SetGone takes the condition away.
func (n *Node) SetGone(ctx context.Context) error {
	patch := map[string]any{"status": map[string]any{"conditions": []any{
		map[string]any{"$patch": "delete", "type": Condition},
	}}}
	if err := n.patch(ctx, types.StrategicMergePatchType, patch, "status"); err != nil {
		return err
	}
	return n.event(ctx, corev1.EventTypeNormal, Uninstalled, "katadirect is no longer installed")
}

// label sets label and annotation; nil takes them away.
func (n *Node) label(ctx context.Context, label, runtimeVersion any) error {
	return n.patch(ctx, types.MergePatchType, map[string]any{"metadata": map[string]any{
		"labels":      map[string]any{Label: label},
		"annotations": map[string]any{VersionAnnotation: runtimeVersion},
	}})
}

func (n *Node) condition(ctx context.Context, status corev1.ConditionStatus, reason, message string) error {
	before, err := n.Says(ctx)
	if err != nil {
		return err
	}
	now := metav1.Now()
	condition := corev1.NodeCondition{
		Type: Condition, Status: status, Reason: reason, Message: cut(message),
		LastHeartbeatTime: now, LastTransitionTime: now,
	}
	if old := before.Condition; old != nil && old.Status == status {
		condition.LastTransitionTime = old.LastTransitionTime
	}
	// Merged by the type: kubelet's own conditions stay.
	patch := map[string]any{"status": map[string]any{"conditions": []any{condition}}}
	return n.patch(ctx, types.StrategicMergePatchType, patch, "status")
}

func (n *Node) patch(ctx context.Context, kind types.PatchType, patch any, subresources ...string) error {
	data, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	err = n.client.Patch(kind).Resource("nodes").Name(n.Name).SubResource(subresources...).
		Param("fieldManager", component).Body(data).Do(ctx).Error()
	if err != nil {
		return fmt.Errorf("change node %s in Kubernetes: %w", n.Name, err)
	}
	return nil
}

func (n *Node) event(ctx context.Context, kind, reason, message string) error {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: n.Name + ".", Namespace: metav1.NamespaceDefault},
		// kubectl describe node looks for events whose UID is the node's name.
		InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: n.Name, UID: types.UID(n.Name)},
		Type:           kind, Reason: reason, Message: cut(message),
		Source:         corev1.EventSource{Component: component, Host: n.Name},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	if err := n.client.Post().Namespace(event.Namespace).Resource("events").Body(event).Do(ctx).Error(); err != nil {
		return fmt.Errorf("write an event for node %s: %w", n.Name, err)
	}
	return nil
}

func cut(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return message[:maxMessage-3] + "..."
}
