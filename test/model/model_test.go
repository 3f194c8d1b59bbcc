package model

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/internal/ownmounts"
	"github.com/katadirect/katadirect/pkg/csi/loop"
	"github.com/katadirect/katadirect/test/csinode"
)

var (
	duration = flag.Duration("model", 0, "how long more sequences are tried with a driver that is killed, after those that are always tried")
	seed     = flag.Uint64("seed", 0, "try this seed alone, again and again")
)

// How many sequences are tried. They are counted, not timed: a slow machine tries as many as a quick one.
const (
	sequencesHere   = 2400 // short ones mostly, with the driver in the test's process
	sequencesKilled = 100  // long ones, with the driver in one of its own, which is killed now and then
	// What docs/testing.md says, at the least.
	promised      = 2000
	promisedKills = 90
)

// keptSeeds has one seed that has failed in each line, and what failed behind it.
const keptSeeds = "testdata/seeds"

const (
	worlds   = 4   // that are worked on at once
	tmpfsMiB = 200 // less than all volumes may come to
	xfsMiB   = 320 // not much more than an xfs has to have
)

type tests struct{ *testing.M }

func (m tests) Run() int { return ownmounts.Main(m.M) }

func TestMain(m *testing.M) { os.Exit(csinode.Main(tests{m})) }

func TestTheDriverDoesWhatTheModelSaysInThousandsOfSequences(t *testing.T) {
	if tried, _ := tryAll(t, here, sequencesHere, 0); !t.Failed() && tried < promised {
		t.Errorf("%d sequences were tried, and %d are promised", tried, promised)
	}
}

func TestTheDriverDoesWhatTheModelSaysThoughItIsKilled(t *testing.T) {
	if _, kills := tryAll(t, ownProcess, sequencesKilled, *duration); !t.Failed() && kills < promisedKills {
		t.Errorf("the driver was killed %d times, and %d are promised", kills, promisedKills)
	}
}

// tryAll tries the seeds that have failed before, then so many new ones, and then more for so long. It returns how many
// new ones that were, and how often the driver was killed in them.
func tryAll(t *testing.T, how process, sequences int64, more time.Duration) (sequencesTried, kills int64) {
	for _, kept := range readSeeds(t) {
		for _, reflinks := range []bool{false, true} {
			for _, long := range []bool{false, true} {
				if !t.Failed() {
					try(t, newWorldOf(t, how, reflinks), kept, long)
				}
			}
		}
	}
	var begun, tried, steps, killed atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for i := range worlds {
		w := newWorldOf(t, how, i%2 == 1)
		group.Go(func() {
			for !t.Failed() {
				n := begun.Add(1)
				if n > sequences && time.Since(began) >= more {
					break
				}
				s := *seed
				switch {
				case s != 0:
				case n <= sequences:
					s = uint64(n) // the same in every run: what fails is somebody's change, or how calls fell together
				default:
					s = rand.Uint64()
				}
				steps.Add(int64(try(t, w, s, how == ownProcess || n%8 == 0)))
				tried.Add(1)
			}
			killed.Add(int64(w.kills))
		})
	}
	group.Wait()
	t.Logf("%d sequences with %d steps and %d kills in %v", tried.Load(), steps.Load(), killed.Load(), time.Since(began).Round(time.Millisecond))
	return tried.Load(), killed.Load()
}

// newWorldOf is a world in memory, whose pool is small, so that it is full now and then: a tmpfs, or an xfs with reflinks.
func newWorldOf(t *testing.T, how process, reflinks bool) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "kdm") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	mount(t, "none", dir, "tmpfs", "mode=0700")
	if reflinks {
		mountXFS(t, dir, filepath.Join(dir, "pool"))
	} else {
		mount(t, "none", filepath.Join(dir, "pool"), "tmpfs", fmt.Sprintf("mode=0700,size=%dm", tmpfsMiB))
	}
	w := newWorld(t, dir, how)
	w.reflinks = reflinks
	t.Cleanup(func() { // of a sequence that has failed
		for n := range targets {
			_ = unix.Unmount(w.target(n), unix.MNT_DETACH)
		}
		_ = loop.New(w.Pool(), nil).Sweep(context.Background(), func(string) bool { return false })
	})
	return w
}

// mountXFS mounts an xfs whose image is in a folder.
func mountXFS(t *testing.T, dir, at string) {
	t.Helper()
	image := filepath.Join(dir, "xfs", "disk.img")
	err := errors.Join(os.MkdirAll(filepath.Dir(image), 0o700), os.WriteFile(image, nil, 0o600), os.Truncate(image, xfsMiB<<20))
	if err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command("mkfs.xfs", "-q", "-m", "reflink=1", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.xfs: %v: %s", err, said)
	}
	devices := loop.New(dir, nil)
	device, err := devices.Attach(t.Context(), image, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = devices.Detach(context.Background(), image) })
	mount(t, device.Path, at, "xfs", "")
	if err := os.Chmod(at, 0o700); err != nil {
		t.Fatal(err)
	}
}

func mount(t *testing.T, source, at, fsType, options string) {
	t.Helper()
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, at, fsType, 0, options); err != nil {
		t.Fatalf("mount %s (root is needed): %v", fsType, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}

// try carries out what a seed says, and returns how many steps that were.
func try(t *testing.T, w *world, seed uint64, long bool) (steps int) {
	var trace []string
	err := w.sequence(rounds(seed, long), func(r round, outcomes []outcome) {
		steps += len(outcomes)
		line := r.String()
		for _, o := range outcomes {
			said := o.answer.code.String()
			if o.answer.code != codes.OK {
				said += ": " + o.answer.text
			}
			if o.answer.unknown {
				said = "no answer"
			}
			line += fmt.Sprintf("\n    %v: %s", o.step, said)
		}
		trace = append(trace, line)
	})
	if err == nil {
		return steps
	}
	const shown = 25
	t.Errorf("seed %d, round %d: %v\nRepeat it: go test ./test/model -run %s -seed %d\nThe last rounds:\n  %s",
		seed, len(trace), err, t.Name(), seed, strings.Join(trace[max(0, len(trace)-shown):], "\n  "))
	keep(t, seed, err)
	return steps
}

// sequence carries rounds out and then takes everything away.
func (w *world) sequence(all []round, note func(round, []outcome)) error {
	may := []state{{reflinks: w.reflinks}} // more than one while answers fit in several orders
	for _, r := range all {
		outcomes := w.round(r, may[0])
		note(r, outcomes)
		var after []state
		for _, s := range may {
			after = append(after, orders(s, outcomes, w.poolBytes)...)
		}
		if len(after) == 0 {
			return fmt.Errorf("the model allows these answers in no order; before, there was\n  %s", describeStates(may))
		}
		if r.kill && !w.CanBeKilled() {
			r.kill, r.restart = false, true
		}
		if r.kill || r.restart {
			if err := w.again(r, outcomes, &after, note); err != nil {
				return err
			}
		}
		if may = after; len(may) > 1 || r.audit || r.kill || r.restart {
			if err := w.settle(&may); err != nil {
				return err
			}
		}
	}
	if err := w.settle(&may); err != nil {
		return err
	}
	return w.takeAway(may[0])
}

// round carries out one round's steps, and kills the driver if it says so.
func (w *world) round(r round, before state) []outcome {
	outcomes := make([]outcome, len(r.steps))
	var answered atomic.Int64
	var killed atomic.Bool
	kill := sync.OnceFunc(func() {
		if !w.CanBeKilled() {
			return
		}
		killed.Store(true)
		w.kills++
		w.Kill()
	})
	var group sync.WaitGroup
	for i, s := range r.steps {
		group.Go(func() {
			got := w.do(s, before)
			got.unknown = s.isCall() && killed.Load() && (got.code == codes.Unavailable || got.code == codes.Canceled)
			outcomes[i] = outcome{step: s, answer: got}
			if r.kill && answered.Add(1) >= int64(r.killAfter) && r.killAfter > 0 {
				kill()
			}
		})
	}
	if r.kill && r.killAfter == 0 && w.CanBeKilled() {
		time.Sleep(r.killDelay)
		kill()
	}
	group.Wait()
	if r.kill {
		kill() // all were answered before their number was reached
	}
	return outcomes
}

// again starts the driver and repeats what it has not answered.
func (w *world) again(r round, outcomes []outcome, may *[]state, note func(round, []outcome)) error {
	if r.restart {
		if err := w.Stop(); err != nil {
			return err
		}
	}
	if err := w.Start(); err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	for _, o := range outcomes {
		if !o.answer.unknown {
			continue
		}
		o.answer = w.do(o.step, (*may)[0])
		note(round{steps: []step{o.step}}, []outcome{o})
		var after []state
		for _, s := range *may {
			if next, allowed := s.apply(o.step, o.answer, w.poolBytes); allowed {
				after = append(after, next)
			}
		}
		if len(after) == 0 {
			return fmt.Errorf("the driver was killed, and %v, repeated, was answered %v; before, there may have been\n  %s",
				o.step, o.answer.code, describeStates(*may))
		}
		*may = after
	}
	return nil
}

// settle finds the state that the disk agrees with.
func (w *world) settle(may *[]state) error {
	var errs []error
	for _, s := range *may {
		err := w.audit(s)
		if err == nil {
			*may = []state{s}
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("the disk is not as the model says: %w", errors.Join(errs...))
}

// takeAway ends every pod and deletes every volume as kubelet and the provisioner do, and looks for what is left.
func (w *world) takeAway(s state) error {
	for n := 1; n <= sandboxes; n++ {
		w.end(n)
	}
	for _, last := range s.ends() {
		if got := w.do(last, s); got.code != codes.OK {
			return fmt.Errorf("at the end %v was answered %v: %s", last, got.code, got.text)
		}
	}
	return w.auditEmpty()
}

// ends are the calls that end all there is.
func (s *state) ends() []step {
	var all, halfMade []step
	for i, v := range s.volumes {
		switch {
		case v.published:
			all = append(all, step{kind: unpublish, volume: i, target: v.target})
		case isInline(i) && v.exists:
			// Its target may have been given to another since, which ends there first.
			halfMade = append(halfMade, step{kind: unpublish, volume: i, target: v.madeFor})
		}
		if v.staged {
			all = append(all, step{kind: unstage, volume: i, staging: v.stagedAt})
		}
		if v.attached {
			all = append(all, step{kind: detach, volume: i})
		}
		if v.exists && !isInline(i) {
			all = append(all, step{kind: remove, volume: i})
		}
	}
	for i, one := range s.snapshots {
		if one.exists && i < snapshotNames {
			all = append(all, step{kind: dropSnap, snapshot: i})
		}
	}
	for i, exists := range s.groups {
		if exists {
			all = append(all, step{kind: dropGroup, group: i})
		}
	}
	return append(all, halfMade...)
}

func describeStates(all []state) string {
	var text []string
	for _, s := range all {
		var one []string
		for i, v := range s.volumes {
			if v.exists {
				one = append(one, fmt.Sprintf("%d: %dM raw:%t source:%d attached:%t staged:%t@%d ro:%t published:%t@%d ro:%t sandbox:%d limits:%q",
					i, v.sizeBytes/mib, v.raw, v.source, v.attached, v.staged, v.stagedAt, v.stagedToRead, v.published, v.target, v.publishedToRead, v.sandbox, v.limits))
			}
		}
		for i, exists := range s.groups {
			if exists {
				one = append(one, fmt.Sprintf("group %d: %v", i, s.membersOf(i)))
			}
		}
		for i, v := range s.snapshots {
			if v.exists {
				one = append(one, fmt.Sprintf("snapshot %d: %dM raw:%t of %d", i, v.sizeBytes/mib, v.raw, v.source))
			}
		}
		text = append(text, strings.Join(one, "; "))
	}
	return strings.Join(text, "\n  or ")
}

// page is one page of a list.
type page struct {
	ids  []string
	next string
}

func (w *world) page(ctx context.Context, token string) (page, error) {
	r, err := w.ListVolumes(ctx, &csi.ListVolumesRequest{StartingToken: token, MaxEntries: 2})
	p := page{next: r.GetNextToken()}
	for _, e := range r.GetEntries() {
		p.ids = append(p.ids, e.GetVolume().GetVolumeId())
	}
	return p, err
}

// readSeeds returns the seeds that have failed before.
func readSeeds(t *testing.T) []uint64 {
	t.Helper()
	f, err := os.Open(keptSeeds)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []uint64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		first, _, _ := strings.Cut(lines.Text(), " ")
		if first == "" || first == "#" {
			continue
		}
		n, err := strconv.ParseUint(first, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

// keep adds a seed to those that are tried first from now on.
func keep(t *testing.T, seed uint64, why error) {
	first, _, _ := strings.Cut(why.Error(), "\n")
	f, err := os.OpenFile(keptSeeds, os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d %s\n", seed, first)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Logf("keep the seed: %v", err)
	}
}
