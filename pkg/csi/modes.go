package csi

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/mode"
	"github.com/katadirect/katadirect/pkg/csi/pool"
)

// contextPodUID is the pod's uid in the volume context, beside its name.
const contextPodUID = "csi.storage.k8s.io/pod.uid"

// pvNameKey is the PersistentVolume's name, where external-provisioner was told to add it.
const pvNameKey = "csi.storage.k8s.io/pv/name"

// lookups are what Kubernetes is asked.
type lookups interface {
	Pod(ctx context.Context, name kube.PodName) (kube.Pod, error)
	Runtime(ctx context.Context, className string) (mode.Runtime, error)
	ModeOfClaim(ctx context.Context, id kube.VolumeID, names ...string) (mode.Mode, error)
}

// modes find out how a pod gets a volume. What cannot be found out is an error: a pod that is given the wrong kind of
// volume writes to the node's own disk, or opens what a hostile guest has made.
type modes struct {
	cluster        lookups // nil without Kubernetes
	machines       mode.Machines
	defaultHandler string // of pods without a RuntimeClass
}

// newModes takes what the configuration says.
func newModes(c Config) modes {
	m := modes{cluster: c.lookups, machines: c.Machines, defaultHandler: c.DefaultHandler}
	if c.Cluster != nil {
		m.cluster = c.Cluster
	}
	return m
}

// warn says once what the driver cannot find out.
func (m modes) warn(ctx context.Context, log *slog.Logger) {
	if m.cluster == nil {
		log.WarnContext(ctx, "Kubernetes is not asked (--kubernetes=off), so nobody checks whether a pod that gets a direct volume "+
			"runs in a virtual machine: one that does not writes into an empty folder of the node")
	}
}

func readMode(p *parameters, value string) (err error) {
	p.mode, err = mode.Parse(value)
	return err
}

// accept refuses a StorageClass whose mode this driver could never find out.
func (m modes) accept(class mode.Mode) error {
	if err := m.canFindOut(class); err != nil {
		return failf(ErrInvalidArgument, "parameter %w", err)
	}
	return nil
}

func (m modes) canFindOut(class mode.Mode) error {
	if class != mode.Auto || m.cluster != nil {
		return nil
	}
	return fmt.Errorf("%s: %s needs Kubernetes, to look up a pod's RuntimeClass; start the driver with --kubernetes, or use %s or %s",
		mode.Key, class, mode.Direct, mode.Host)
}

// of answers Direct or Host for a volume and the pod that a publication's volume context names.
func (m modes) of(ctx context.Context, v pool.Volume, volumeContext map[string]string) (mode.Mode, error) {
	class, err := classMode(v)
	if err != nil {
		return "", err
	}
	if m.cluster == nil {
		if err := m.canFindOut(class); err != nil {
			return "", failf(ErrState, "volume %s: %w", v.ID, err)
		}
		return class, nil
	}
	wanted, err := m.wanted(ctx, v, class, volumeContext)
	if err != nil {
		return "", err
	}
	if wanted == mode.Host {
		return mode.Host, nil
	}
	pod, named := podOf(volumeContext)
	if !named {
		return "", failf(ErrState, "volume %s: kubelet does not say which pod the volume is for, and how the pod runs has to be "+
			"looked up; the CSIDriver object needs podInfoOnMount: true", v.ID)
	}
	runtime, err := m.runtime(ctx, pod)
	if err != nil {
		return "", fmt.Errorf("find out how pod %s gets volume %s: %w", pod, v.ID, err)
	}
	decided, err := m.machines.Decide(wanted, runtime)
	if err != nil {
		return "", fmt.Errorf("volume %s is for virtual machines only (mode %s), and cannot be given to pod %s: %w", v.ID, wanted, pod, err)
	}
	return decided, nil
}

// classMode is the StorageClass's mode, as the pool has kept it.
func classMode(v pool.Volume) (mode.Mode, error) {
	text, found := v.Parameters[parameterMode]
	if !found {
		return mode.Direct, nil
	}
	m, err := mode.Parse(text)
	if err != nil {
		return "", fmt.Errorf("volume %s was made with %s: %w", v.ID, parameterMode, err)
	}
	return m, nil
}

// wanted asks the volume's claim. An inline volume has none.
func (m modes) wanted(ctx context.Context, v pool.Volume, class mode.Mode, volumeContext map[string]string) (mode.Mode, error) {
	if volumeContext[ephemeralKey] == "true" {
		return class, nil
	}
	var names []string
	if name := volumeContext[pvNameKey]; name != "" {
		names = append(names, name)
	}
	if v.Name != "" && v.Name != volumeContext[pvNameKey] {
		names = append(names, v.Name) // external-provisioner gives both one name
	}
	claim, err := m.cluster.ModeOfClaim(ctx, kube.VolumeID{Driver: DriverName, Handle: v.ID}, names...)
	if err != nil {
		return "", fmt.Errorf("find out how volume %s is to be mounted: %w", v.ID, err)
	}
	return mode.Wanted(claim, class), nil
}

func (m modes) runtime(ctx context.Context, name kube.PodName) (mode.Runtime, error) {
	pod, err := m.cluster.Pod(ctx, name)
	if err != nil {
		return mode.Runtime{}, err
	}
	if pod.RuntimeClass == "" {
		return mode.Runtime{Handler: m.defaultHandler}, nil
	}
	return m.cluster.Runtime(ctx, pod.RuntimeClass)
}
