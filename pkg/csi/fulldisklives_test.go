package csi

import (
	"bytes"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/katadirect/katadirect/pkg/csi/mode"
)

// The lives that TestADiskFullAtAnyStep takes volumes through.

// smallVolume is a volume of a class with those parameters that is still to be made, and the step that makes it.
func (h *host) smallVolume(name string, parameters map[string]string, change ...func(*csi.VolumeCapability)) (volume, fullDiskStep) {
	r := createRequest(name, 16<<20, change...)
	r.Parameters = parameters
	return volume{h: h, id: h.driver.pool.ID(name), cap: r.VolumeCapabilities[0]}, fullDiskStep{"create", func() error {
		_, err := h.CreateVolume(h.t.Context(), r)
		return err
	}}
}

// ends are the calls that end all that a volume can be in.
func (v volume) ends(targetPath string) []fullDiskStep {
	return []fullDiskStep{
		{"unpublish", func() error { return v.unpublish(targetPath) }},
		{"unstage", v.unstage},
		{"detach", func() error { return v.detach("node-1") }},
		{"delete", v.delete},
	}
}

func directLife(h *host, name string) fullDiskLife {
	target := h.target("pod")
	v, create := h.smallVolume(name, nil)
	return fullDiskLife{[]fullDiskStep{
		create,
		{"attach", func() error { return v.attach("node-1", false) }},
		{"stage", v.stage},
		{"publish", func() error { return v.publishFor("machine", target) }},
		{"expand", func() error { _, err := v.expand(h.t.Context(), target, 17<<20); return err }},
	}, v.ends(target)}
}

// copiedLife is of a volume that holds something, and all that is copied from it.
func copiedLife(h *host, name string) fullDiskLife {
	v, create := h.smallVolume(name, nil)
	written := func() error {
		if err := create.do(); err != nil {
			return err
		}
		f, err := os.OpenFile(v.image(), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.Write(bytes.Repeat([]byte("x"), 64<<10))
		return err
	}
	pool := h.driver.pool
	restored, clone := volume{h: h, id: pool.ID(name + "-restored")}, volume{h: h, id: pool.ID(name + "-clone")}
	from := func(name, source string) error { _, _, err := h.from(name, source, 16<<20); return err }
	group := &csi.CreateVolumeGroupSnapshotRequest{Name: name, SourceVolumeIds: []string{v.id}}
	return fullDiskLife{[]fullDiskStep{
		{"create", written},
		{"snapshot", func() error { _, err := v.snapshot(name); return err }},
		{"group snapshot", func() error { _, err := h.CreateVolumeGroupSnapshot(h.t.Context(), group); return err }},
		{"restore", func() error { return from(name+"-restored", pool.SnapshotID(name)) }},
		{"clone", func() error { return from(name+"-clone", v.id) }},
	}, []fullDiskStep{
		{"delete the group", func() error {
			_, err := h.DeleteVolumeGroupSnapshot(h.t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: pool.GroupID(name)})
			return err
		}},
		{"delete the clone", clone.delete},
		{"delete the restored volume", restored.delete},
		{"delete the snapshot", func() error {
			_, err := h.DeleteSnapshot(h.t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: pool.SnapshotID(name)})
			return err
		}},
		{"delete", v.delete},
	}}
}

// groupLife is of a volume and its snapshot in a group, which needs as much room as one by itself.
func groupLife(h *host, name string) fullDiskLife {
	life := copiedLife(h, name)
	life.steps = []fullDiskStep{life.steps[0], life.steps[2]}
	return life
}

func limitedLife(h *host, name string) fullDiskLife {
	target := h.target("pod")
	v, create := h.smallVolume(name, nil)
	return fullDiskLife{[]fullDiskStep{
		create,
		{"stage", v.stage},
		{"publish", func() error { return v.publishFor("machine", target) }},
		{"modify", func() error { return v.modify(map[string]string{"katadirect.io/iops": "500"}) }},
	}, v.ends(target)}
}

func formattedLife(h *host, name string) fullDiskLife {
	v, create := h.smallVolume(name, map[string]string{parameterFormat: formatHost})
	return fullDiskLife{[]fullDiskStep{create}, []fullDiskStep{{"delete", v.delete}}}
}

func hostLife(h *host, name string) fullDiskLife {
	target := h.target("pod")
	v, create := h.smallVolume(name, inMode("host"))
	staging := h.staging(v.id) // the driver makes it only where kubelet has not, and leaves it to kubelet
	return fullDiskLife{[]fullDiskStep{
		{"make the staging path", func() error { return os.MkdirAll(staging, 0o750) }},
		create,
		{"stage", v.stage},
		{"publish", func() error { return v.publishFor("plain", target) }},
	}, append(v.ends(target), fullDiskStep{"remove the staging path", func() error { return os.Remove(staging) }})}
}

func rawLife(h *host, name string) fullDiskLife {
	target := h.target("pod")
	v, create := h.smallVolume(name, nil, asBlock)
	return fullDiskLife{[]fullDiskStep{
		create,
		{"stage", v.stage},
		{"publish", func() error { return v.publishFor("machine", target) }},
	}, v.ends(target)}
}

func inlineLife(h *host, name string) fullDiskLife { return h.inlineLife(name, mode.Direct) }

func inlineHostLife(h *host, name string) fullDiskLife { return h.inlineLife(name, mode.Auto) }

func (h *host) inlineLife(name string, m mode.Mode) fullDiskLife {
	i := h.inline("pod") // one of the same pod always, so that kubelet's folders are
	i.handle = "csi-" + name
	h.cluster.(*fakeCluster).classOf["pod"] = map[mode.Mode]string{mode.Direct: "kata"}[m]
	return fullDiskLife{
		[]fullDiskStep{{"publish", func() error { return i.publish(parameterSize, "16Mi", mode.Key, string(m)) }}},
		[]fullDiskStep{{"unpublish", i.unpublish}},
	}
}
