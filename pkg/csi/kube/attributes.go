package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// AttributedVolume is a PersistentVolume with a VolumeAttributesClass.
type AttributedVolume struct {
	// Name is the PersistentVolume's, Handle the CSI driver's id of the volume.
	Name, Handle string
	// Class is the VolumeAttributesClass. external-resizer writes it when the driver has said yes to it.
	Class string
	// Claim is the claim that the volume is bound to; its fields are empty if there is none.
	Claim corev1.ObjectReference
}

// WatchAttributes calls seen for each PersistentVolume of the driver that has a VolumeAttributesClass and a handle that is
// ours: for those that there are, and then for each change, until ctx ends. seen must return soon.
//
// The API selects PersistentVolumes by no field but their name, so all of them come by; those that are others', or have no
// class, are kept as names only.
func (c *Cluster) WatchAttributes(ctx context.Context, driver string, ours func(handle string) bool, seen func(AttributedVolume)) error {
	trim := func(object any) (any, error) { return trimVolume(object, driver, ours), nil }
	w, err := watch(c.core, "persistentvolumes", fields.Everything(), &corev1.PersistentVolume{}, c.log, trim)
	if err != nil {
		return err
	}
	tell := func(object any) {
		if v, attributed := attributedVolume(object); attributed {
			seen(v)
		}
	}
	_, err = w.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: tell, UpdateFunc: func(_, object any) { tell(object) },
	})
	if err != nil {
		return fmt.Errorf("watch persistentvolumes: %w", err)
	}
	w.RunWithContext(ctx)
	return nil
}

func trimVolume(object any, driver string, ours func(string) bool) any {
	volume, isVolume := object.(*corev1.PersistentVolume)
	if !isVolume {
		return object
	}
	source, class := volume.Spec.CSI, volume.Spec.VolumeAttributesClassName
	if source == nil || source.Driver != driver || class == nil || !ours(source.VolumeHandle) {
		// Less than half of an empty PersistentVolume, and a cluster can have tens of thousands of them.
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: volume.Name, ResourceVersion: volume.ResourceVersion}}
	}
	trimmed := &corev1.PersistentVolume{ObjectMeta: names(volume.ObjectMeta)}
	trimmed.Spec.CSI = &corev1.CSIPersistentVolumeSource{VolumeHandle: source.VolumeHandle}
	trimmed.Spec.VolumeAttributesClassName, trimmed.Spec.ClaimRef = class, volume.Spec.ClaimRef
	return trimmed
}

func attributedVolume(object any) (AttributedVolume, bool) {
	volume, isVolume := object.(*corev1.PersistentVolume)
	if !isVolume || volume.Spec.CSI == nil || volume.Spec.VolumeAttributesClassName == nil || *volume.Spec.VolumeAttributesClassName == "" {
		return AttributedVolume{}, false
	}
	v := AttributedVolume{Name: volume.Name, Handle: volume.Spec.CSI.VolumeHandle, Class: *volume.Spec.VolumeAttributesClassName}
	if volume.Spec.ClaimRef != nil {
		v.Claim = *volume.Spec.ClaimRef
	}
	return v, true
}

// attributesClass is a VolumeAttributesClass as all its versions write it.
type attributesClass struct {
	DriverName string            `json:"driverName"`
	Parameters map[string]string `json:"parameters"`
}

// attributesVersions are those in which API servers may have it: v1 since Kubernetes 1.34.
var attributesVersions = []string{"v1", "v1beta1"}

// AttributesClass returns the parameters of a VolumeAttributesClass. It is ErrNotFound when there is none of that name for
// the driver.
func (c *Cluster) AttributesClass(ctx context.Context, name, driver string) (map[string]string, error) {
	class, err := c.attributesClass(ctx, name)
	if err == nil && class.DriverName != driver {
		err = fmt.Errorf("%w: it is for the driver %q", ErrNotFound, class.DriverName)
	}
	if err != nil {
		return nil, fmt.Errorf("look up VolumeAttributesClass %q: %w", name, err)
	}
	return class.Parameters, nil
}

func (c *Cluster) attributesClass(ctx context.Context, name string) (class attributesClass, err error) {
	if wrong := rest.IsValidPathSegmentName(name); name == "" || len(wrong) > 0 {
		return class, fmt.Errorf("%w: %q is no name", ErrNotFound, name)
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, version := range attributesVersions {
		var text []byte
		text, err = c.core.Get().AbsPath("/apis/storage.k8s.io", version, "volumeattributesclasses", name).
			SetHeader("Accept", "application/json").Do(ctx).Raw()
		if err = explain(err); err == nil {
			return class, json.Unmarshal(text, &class)
		}
		if !errors.Is(err, ErrNotFound) {
			break
		}
	}
	return class, err
}

// component is who events come from.
const component = "katadirect-csi-node"

// Warn adds an event to the volume's claim, or to the PersistentVolume if it has none, for `kubectl describe`.
func (c *Cluster) Warn(ctx context.Context, v AttributedVolume, reason, message string) error {
	about := v.Claim
	about.Kind, about.APIVersion = "PersistentVolumeClaim", "v1"
	namespace := about.Namespace
	if about.Name == "" {
		about = corev1.ObjectReference{Kind: "PersistentVolume", APIVersion: "v1", Name: v.Name}
		namespace = metav1.NamespaceDefault // as Kubernetes itself does with what has none
	}
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", about.Name, time.Now().UnixNano())},
		InvolvedObject: about,
		Type:           corev1.EventTypeWarning, Reason: reason, Message: message,
		Source:              corev1.EventSource{Component: component, Host: c.hostName},
		ReportingController: component, ReportingInstance: c.hostName, Action: "ModifyVolume",
		FirstTimestamp: now, LastTimestamp: now, EventTime: metav1.NewMicroTime(now.Time), Count: 1,
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := explain(c.core.Post().Namespace(namespace).Resource("events").Body(event).Do(ctx).Error()); err != nil {
		return fmt.Errorf("write an event about %s: %w", about.Name, err)
	}
	return nil
}
