package demo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

const (
	sizeBytes     = 1 << 30
	expandedBytes = 2 << 30
	fsType        = "ext4"
	dataDir       = "/data"
)

// Names of the steps, as the report and the tests know them.
const (
	StepStart        = "start containerd and the CSI driver"
	StepCreate       = "create a volume of 1 GiB"
	StepStage        = "stage it"
	StepPublish      = "publish it to a pod"
	StepRunPod       = "run the pod: boot a machine"
	StepRunContainer = "run a container: plug and mount the volume, write a marker"
	StepLookBefore   = "look into the container"
	StepStats        = "measure the volume"
	StepExpand       = "expand the volume to 2 GiB, the container running"
	StepLookAfter    = "look into the container again"
	StepDeletePod    = "delete the pod"
	StepUnpublish    = "unpublish and unstage the volume"
	StepSecondPod    = "run a second pod with the volume"
	StepReadMarker   = "read the marker there"
	StepDelete       = "delete the second pod and the volume"
)

// Steps are all of them, in order.
var Steps = []string{
	StepStart, StepCreate, StepStage, StepPublish, StepRunPod, StepRunContainer, StepLookBefore, StepStats, StepExpand,
	StepLookAfter, StepDeletePod, StepUnpublish, StepSecondPod, StepReadMarker, StepDelete,
}

// session is one run of the demo.
type session struct {
	opts     Options
	progress *progress
	report   *Report

	node      *kubelet.Node
	volume    *kubelet.Volume
	pod       *lab.Pod
	container *lab.Container
	marker    string
	// published are the pods that the volume may be published to.
	published []string
}

type step struct {
	name string
	do   func(context.Context) error
}

func (s *session) steps() []step {
	s.marker = rand.Text()
	first, second := uuid.NewString(), uuid.NewString()
	return []step{
		{StepStart, s.start},
		{StepCreate, s.create},
		{StepStage, s.stage},
		{StepPublish, func(ctx context.Context) error { return s.publish(ctx, first) }},
		{StepRunPod, func(ctx context.Context) error { return s.runPod(ctx, "first", first) }},
		{StepRunContainer, s.write},
		{StepLookBefore, s.lookBefore},
		{StepStats, s.stats},
		{StepExpand, s.expand},
		{StepLookAfter, s.lookAfter},
		{StepDeletePod, s.deletePod},
		{StepUnpublish, s.unpublish},
		{StepSecondPod, func(ctx context.Context) error { return s.runSecond(ctx, second) }},
		{StepReadMarker, s.readMarker},
		{StepDelete, s.deleteAll},
	}
}

func (s *session) start(ctx context.Context) (err error) {
	s.node, err = kubelet.Open(ctx, s.opts.Node)
	return err
}

func (s *session) create(ctx context.Context) error {
	s.volume = s.node.Volume("pvc-"+uuid.NewString(), sizeBytes, fsType)
	return s.volume.Create(ctx)
}

func (s *session) stage(ctx context.Context) error { return s.volume.Stage(ctx) }

func (s *session) publish(ctx context.Context, podUID string) error {
	s.published = append(s.published, podUID)
	if err := s.volume.Publish(ctx, podUID); err != nil {
		return err
	}
	return s.countHostMounts(ctx)
}

func (s *session) runPod(ctx context.Context, name, uid string) (err error) {
	s.pod, err = s.node.Lab.RunPod(ctx, lab.PodSpec{Name: name, Handler: kubelet.Handler, UID: uid})
	return err
}

// runContainer runs a shell script in the pod with the volume at dataDir.
func (s *session) runContainer(ctx context.Context, script string) (err error) {
	s.container, err = s.pod.Run(ctx, lab.ContainerSpec{
		Name:    "app",
		Command: []string{"sh", "-c", script},
		Env:     map[string]string{"MARKER": s.marker},
		Mounts:  []lab.Mount{{HostPath: s.volume.TargetPath(s.pod.UID), ContainerPath: dataDir}},
	})
	return err
}

// idle keeps a container running until it is asked to end.
const idle = `trap "exit 0" TERM; while :; do sleep 1 & wait; done`

func (s *session) write(ctx context.Context) error {
	err := s.runContainer(ctx, `echo "$MARKER" >`+dataDir+`/marker && sync && echo written; `+idle)
	if err != nil {
		return err
	}
	if err := waitForLog(ctx, s.container, "written\n"); err != nil {
		return err
	}
	s.report.MarkerSHA256Written = fmt.Sprintf("%x", sha256.Sum256([]byte(s.marker+"\n")))
	return nil
}

// waitForLog waits until the container has written text to its standard output.
func waitForLog(ctx context.Context, c *lab.Container, text string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := c.Logs("stdout")
		if err == nil && strings.Contains(out, text) {
			return nil
		}
		status, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if status.GetFinishedAt() != 0 {
			stderr, _ := c.Logs("stderr")
			return fmt.Errorf("the container has ended with code %d: %s", status.GetExitCode(), stderr)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the container has not written %q: %w", text, ctx.Err())
		}
	}
}

func (s *session) lookBefore(ctx context.Context) error {
	v, err := look(ctx, s.container)
	if err != nil {
		return err
	}
	s.report.Guest, s.report.BytesBefore = v.guest, v.sizeBytes
	s.report.GuestBootIDBefore, s.report.InitStartTicksBefore = v.bootID, v.startTicks
	s.progress.say("%s\n%s", v.guest.MountLine, v.df)
	if s.report.BootMS, s.report.HotplugMS, err = s.shimFigures(ctx); err != nil {
		return err
	}
	if s.report.Accel, err = s.machinesRunBy(); err != nil {
		return err
	}
	s.progress.say("the machine runs by %s", accelName(s.report.Accel))
	return s.countHostMounts(ctx)
}

func (s *session) stats(ctx context.Context) error {
	u, err := s.volume.Stats(ctx, s.pod.UID)
	if err != nil {
		return err
	}
	s.progress.say("%s in all, %s available, says NodeGetVolumeStats", mebibytes(u.Total), mebibytes(u.Available))
	if u.Total != s.report.BytesBefore {
		return fmt.Errorf("NodeGetVolumeStats says %d bytes, df in the container %d", u.Total, s.report.BytesBefore)
	}
	return nil
}

func (s *session) expand(ctx context.Context) error {
	start := time.Now()
	err := s.volume.Expand(ctx, s.pod.UID, expandedBytes)
	s.report.ResizeMS = milliseconds(time.Since(start))
	return err
}

func (s *session) lookAfter(ctx context.Context) error {
	v, err := look(ctx, s.container)
	if err != nil {
		return err
	}
	s.report.BytesAfter = v.sizeBytes
	s.report.GuestBootIDAfter, s.report.InitStartTicksAfter = v.bootID, v.startTicks
	s.progress.say("%s\n%s", v.guest.MountLine, v.df)
	return s.countHostMounts(ctx)
}

func (s *session) deletePod(ctx context.Context) error { return s.pod.Remove(ctx) }

func (s *session) unpublish(ctx context.Context) error {
	if err := s.volume.Unpublish(ctx, s.pod.UID); err != nil {
		return err
	}
	return s.volume.Unstage(ctx)
}

func (s *session) runSecond(ctx context.Context, uid string) error {
	if err := s.volume.Stage(ctx); err != nil {
		return err
	}
	if err := s.publish(ctx, uid); err != nil {
		return err
	}
	if err := s.runPod(ctx, "second", uid); err != nil {
		return err
	}
	return s.runContainer(ctx, idle)
}

func (s *session) readMarker(ctx context.Context) error {
	out, err := s.container.Exec(ctx, "sha256sum", dataDir+"/marker")
	if err != nil {
		return err
	}
	s.report.MarkerSHA256Read, _, _ = strings.Cut(out, " ")
	return s.countHostMounts(ctx)
}

func (s *session) deleteAll(ctx context.Context) error {
	if err := s.deletePod(ctx); err != nil {
		return err
	}
	if err := s.unpublish(ctx); err != nil {
		return err
	}
	return s.volume.Delete(ctx)
}

// countHostMounts looks for mounts of the volume on the host, of its backing file and of the folders where an
// ordinary volume would be mounted.
func (s *session) countHostMounts(ctx context.Context) error {
	podUID := s.published[len(s.published)-1]
	record, err := s.node.Records().Get(ctx, s.volume.TargetPath(podUID))
	if err != nil {
		return err
	}
	mounts, err := s.node.Lab.MountsOf(record.Device, s.volume.TargetPath(podUID), s.volume.StagingPath())
	if err != nil {
		return err
	}
	for _, m := range mounts {
		s.progress.say("mounted on the host: %s", m)
	}
	s.report.HostMountsOfVolume = max(s.report.HostMountsOfVolume, len(mounts))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
