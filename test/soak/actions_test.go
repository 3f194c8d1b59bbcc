package soak

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katadirect/katadirect/internal/lab"
)

// script is what every container runs: it writes a line a second, ends in order when asked, and with crashCode when
// told to crash.
const script = `trap 'exit 0' TERM; trap 'exit 42' USR1; touch /tmp/ready; i=0
while :; do i=$((i+1)); echo "tick $i"; sleep 1 & wait $!; done`

const (
	crashCode  = 42
	killedCode = 137
	// maxFiles bounds what a volume holds, and so how long the last look at all of it takes.
	maxFiles = 40
	// staleLimit is how long a container may see an old version of a configMap: the guest caches names for a second,
	// and a loaded machine is slow.
	staleLimit = time.Minute
)

func (m *member) run(ctx context.Context) (err error) {
	mounts := []lab.Mount{{HostPath: m.pod.config.dir, ContainerPath: "/config", ReadOnly: true}}
	for _, v := range m.volumes {
		mounts = append(mounts, lab.Mount{HostPath: v.TargetPath(m.pod.pod.UID), ContainerPath: v.path})
	}
	m.now, err = m.pod.pod.Run(ctx, lab.ContainerSpec{Name: m.name, Command: []string{"sh", "-c", script}, Mounts: mounts})
	return err
}

func (m *member) actions() []action {
	all := []action{
		{"exec", 10, m.exec},
		{"failing exec", 4, m.failingExec},
		{"output", 4, m.output},
		{"config read", 3, m.readConfig},
		{"restart", 2, m.restart},
		{"crash", 2, m.crash},
		{"kill", 2, m.kill},
	}
	if len(m.volumes) > 0 {
		all = append(all, action{"write", 8, m.write}, action{"verify", 6, m.verify})
	}
	return all
}

func (m *member) exec(ctx context.Context, r *rand.Rand) error {
	word := strconv.FormatUint(r.Uint64(), 36)
	said, err := m.now.Exec(ctx, "echo", word)
	if err == nil && said != word+"\n" {
		err = fmt.Errorf("echo %s said %q", word, said)
	}
	return err
}

func (m *member) failingExec(ctx context.Context, r *rand.Rand) error {
	code := 1 + r.IntN(200)
	_, err := m.now.Exec(ctx, "sh", "-c", fmt.Sprintf("exit %d", code))
	return wantCode(err, code)
}

func wantCode(err error, code int) error {
	var ended *lab.ExitError
	if !errors.As(err, &ended) || ended.Code != code {
		return fmt.Errorf("ended with %v, want the code %d", err, code)
	}
	return nil
}

// output has the container write more than any buffer on the way holds.
func (m *member) output(ctx context.Context, r *rand.Rand) error {
	first, last := numbers(r)
	said, err := m.now.Exec(ctx, "seq", first, last)
	if err == nil && said != sequence(first, last) {
		err = fmt.Errorf("seq %s %s wrote %d bytes, want %d", first, last, len(said), len(sequence(first, last)))
	}
	return err
}

// numbers are the ends of a row of which the host knows what seq makes of it.
func numbers(r *rand.Rand) (first, last string) {
	n := r.IntN(1_000_000)
	return strconv.Itoa(n), strconv.Itoa(n + r.IntN(40_000))
}

func sequence(first, last string) string {
	from, _ := strconv.Atoi(first)
	to, _ := strconv.Atoi(last)
	var b strings.Builder
	for n := from; n <= to; n++ {
		b.WriteString(strconv.Itoa(n))
		b.WriteByte('\n')
	}
	return b.String()
}

// write makes a file whose checksum is known on the host, and syncs it.
func (m *member) write(ctx context.Context, r *rand.Rand) error {
	v := m.volumes[r.IntN(len(m.volumes))]
	if err := m.makeRoom(ctx, v); err != nil {
		return err
	}
	first, last := numbers(r)
	m.files++
	name := fmt.Sprintf("%s-%d", m.name, m.files)
	path := v.path + "/" + name
	_, err := m.now.Exec(ctx, "sh", "-c", fmt.Sprintf("seq %s %s >%s && sync", first, last, path))
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.files[name] = fmt.Sprintf("%x", sha256.Sum256([]byte(sequence(first, last))))
	return nil
}

// makeRoom removes a file of a volume that has many.
func (m *member) makeRoom(ctx context.Context, v *volume) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.files) < maxFiles {
		return nil
	}
	name := slices.Min(slices.Collect(maps.Keys(v.files)))
	_, err := m.now.Exec(ctx, "rm", v.path+"/"+name)
	if err == nil {
		delete(v.files, name)
	}
	return err
}

// verify reads a file that some container has written, perhaps another one, perhaps before a restart.
func (m *member) verify(ctx context.Context, r *rand.Rand) error {
	v := m.volumes[r.IntN(len(m.volumes))]
	v.mu.RLock()
	defer v.mu.RUnlock()
	if len(v.files) == 0 {
		return errNotNow
	}
	names := slices.Sorted(maps.Keys(v.files))
	name := names[r.IntN(len(names))]
	return m.check(ctx, v, map[string]string{name: v.files[name]})
}

func (m *member) verifyAll(ctx context.Context, v *volume) error {
	return m.check(ctx, v, v.files)
}

func (m *member) check(ctx context.Context, v *volume, files map[string]string) error {
	for name, want := range files {
		said, err := m.now.Exec(ctx, "sha256sum", v.path+"/"+name)
		if err != nil {
			return err
		}
		if got, _, _ := strings.Cut(said, " "); got != want {
			return fmt.Errorf("DATA LOST: %s of %s has the checksum %s, was written with %s", name, v.Name, got, want)
		}
	}
	return nil
}

// readConfig waits until the container sees the version that there is now, and no other than later ones.
func (m *member) readConfig(ctx context.Context, _ *rand.Rand) error {
	want := m.pod.config.version.Load()
	for deadline := time.Now().Add(staleLimit); ; {
		said, err := m.now.Exec(ctx, "cat", "/config/version")
		// Between a look at the link and the opening of the file the old version can go, on any node.
		if ended := (*lab.ExitError)(nil); err != nil && !errors.As(err, &ended) {
			return err
		}
		if got, _ := strconv.ParseInt(strings.TrimSpace(said), 10, 64); err == nil && got >= want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s the configMap still has %q (%v), want version %d", staleLimit, said, err, want)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// ready waits until the first process has its traps: a signal that comes before kills it.
func (m *member) ready(ctx context.Context) error {
	for {
		_, err := m.now.Exec(ctx, "test", "-e", "/tmp/ready")
		if ended := (*lab.ExitError)(nil); err == nil || !errors.As(err, &ended) {
			return err
		}
	}
}

func (m *member) restart(ctx context.Context, _ *rand.Rand) error {
	if err := m.ready(ctx); err != nil {
		return err
	}
	if err := m.now.Stop(ctx, 60); err != nil {
		return err
	}
	return m.again(ctx, 0)
}

// crash has the first process end by itself, while an exec is running.
func (m *member) crash(ctx context.Context, _ *rand.Rand) error {
	if err := m.ready(ctx); err != nil {
		return err
	}
	return m.withExec(ctx, func() error {
		if _, err := m.now.Exec(ctx, "kill", "-USR1", "1"); err != nil {
			// It may be faster than its own answer.
			if ended := (*lab.ExitError)(nil); !errors.As(err, &ended) || ended.Code != killedCode {
				return err
			}
		}
		return m.again(ctx, crashCode)
	})
}

func (m *member) kill(ctx context.Context, _ *rand.Rand) error {
	return m.withExec(ctx, func() error {
		if err := m.now.Stop(ctx, 0); err != nil {
			return err
		}
		return m.again(ctx, killedCode)
	})
}

// withExec runs do while a process runs in the container that must end with it.
func (m *member) withExec(ctx context.Context, do func() error) error {
	ended := make(chan error, 1)
	container := m.now
	go func() {
		_, err := container.Exec(ctx, "sleep", "1000")
		ended <- err
	}()
	time.Sleep(200 * time.Millisecond) // long enough for it to run as a rule; it need not
	err := do()
	select {
	case <-ended: // with 137, or "not running" when it came too late
		return err
	case <-ctx.Done():
		return errors.Join(err, errors.New("the exec has not ended with its container"))
	}
}

// again waits for the container's end, removes it and runs it anew.
func (m *member) again(ctx context.Context, want int) error {
	code, err := m.now.Wait(ctx)
	if err == nil && code != want {
		err = fmt.Errorf("%s ended with %d, want %d", m.name, code, want)
	}
	if err == nil {
		err = m.now.Remove(ctx)
	}
	if err == nil {
		err = m.run(ctx)
	}
	return err
}
