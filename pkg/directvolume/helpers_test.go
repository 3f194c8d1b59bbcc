package directvolume

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// childMode, set in the environment, makes the test binary act as another process of the host: see TestMain.
const childMode = "DIRECTVOLUME_TEST_CHILD"

func TestMain(m *testing.M) {
	if mode := os.Getenv(childMode); mode != "" {
		if err := runChild(mode, os.Args[1:]); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runChild does one of the things that other processes do to a store, says so on stdout, and goes on until it is
// killed or its stdin ends.
func runChild(mode string, args []string) error {
	h := host{dir: args[0]}
	switch mode {
	case "add": // add records until killed
		return h.addForever(args[1], args[2:])
	case "add-remove":
		return h.addAndRemoveForever(args[1], args[2:], h.store)
	case "add-remove-background":
		store := h.storeWithBackground()
		return h.addAndRemoveForever(args[1], args[2:], func() *Store { return store })
	case "claim":
		return h.claimAndWait(args[1], args[2])
	}
	return errors.New("unknown mode " + mode)
}

func (h host) addForever(volumePath string, devices []string) error {
	fmt.Println("ready")
	for i := 0; ; i++ {
		// A new Store each time, so that the sweep is part of what gets killed.
		if err := h.store().Add(context.Background(), volumePath, h.record(devices[i%len(devices)])); err != nil {
			return err
		}
	}
}

func (h host) addAndRemoveForever(volumePath string, devices []string, store func() *Store) error {
	fmt.Println("ready")
	for i := 0; ; i++ {
		if err := store().Add(context.Background(), volumePath, h.record(devices[i%len(devices)])); err != nil {
			return err
		}
		if err := store().Remove(context.Background(), volumePath); err != nil {
			return err
		}
	}
}

func (h host) claimAndWait(volumePath, sandbox string) error {
	lease, err := h.sandboxes().AcquireLease(sandbox)
	if err != nil {
		return err
	}
	defer lease.Close()
	_, err = h.store().Claim(context.Background(), volumePath, sandbox)
	switch {
	case errors.Is(err, ErrClaimed):
		fmt.Println("refused")
	case err != nil:
		return err
	default:
		fmt.Println("claimed")
	}
	_, err = bufio.NewReader(os.Stdin).ReadString('\n') // until the parent is done
	_ = err
	return nil
}

// host is a host of a test's own: its records, its sandboxes, its kubelet folder and its devices.
type host struct{ dir string }

func newHost(t *testing.T) host {
	t.Helper()
	h := host{dir: t.TempDir()}
	for _, dir := range []string{h.proc(), h.kubelet()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h host) root() string    { return filepath.Join(h.dir, "records") }
func (h host) proc() string    { return filepath.Join(h.dir, "proc") }
func (h host) kubelet() string { return filepath.Join(h.dir, "kubelet") }

func (h host) sandboxes() Sandboxes {
	return Sandboxes{GoDir: filepath.Join(h.dir, "sbs"), RustDir: filepath.Join(h.dir, "rs"), ProcDir: h.proc()}
}

func (h host) store() *Store { return NewStore(h.root(), WithSandboxes(h.sandboxes())) }

// storeWithBackground is to be closed.
func (h host) storeWithBackground() *Store {
	return NewStore(h.root(), WithSandboxes(h.sandboxes()), WithBackground())
}

func (h host) record(device string) Record {
	return Record{VolumeType: VolumeTypeDirect, Device: device, FSType: "ext4"}
}

// folder is where the record of a path stands.
func (h host) folder(volumePath string) string { return filepath.Join(h.root(), EncodeKey(volumePath)) }

// device makes a disk that can be claimed.
func (h host) device(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// alive makes a sandbox that lives until the test ends, or until the returned file is closed.
func (h host) alive(t *testing.T, id string) *os.File {
	t.Helper()
	lease, err := h.sandboxes().AcquireLease(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lease.Close() })
	return lease
}

// added records a device under a path and returns the path.
func (h host) added(t *testing.T, volumePath, device string) string {
	t.Helper()
	if err := h.store().Add(t.Context(), volumePath, h.record(device)); err != nil {
		t.Fatal(err)
	}
	return volumePath
}

// rootNames lists what stands in the record root, temporary things included.
func (h host) rootNames(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(h.root())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// child starts another process. line reads what it says next; kill ends it as kill -9 does and waits for it.
type child struct {
	cmd  *exec.Cmd
	line func() string
	kill func()
}

func startChild(t *testing.T, mode string, args ...string) child {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), childMode+"="+mode)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	ended := false
	kill := func() {
		if !ended {
			ended = true
			cmd.Process.Kill()
			cmd.Wait()
			stdin.Close()
		}
	}
	t.Cleanup(kill)
	return child{cmd: cmd, kill: kill, line: func() string {
		t.Helper()
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the child said %q and ended: %v", line, err)
		}
		return strings.TrimSpace(line)
	}}
}
