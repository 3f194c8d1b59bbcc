package sanity

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// A driver that formats volumes on the host is killed in the middle of it, again and again. What is there after each
// start has a whole file system in it; what is not can be made; and no mkfs has outlived the driver.
func TestAFormattedVolumeIsWholeWheneverTheDriverIsKilled(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	d := startDriver(t)
	request := func(name string) *csi.CreateVolumeRequest {
		r := createRequest(name)
		r.Parameters = map[string]string{"katadirect.io/format": "host", "katadirect.io/mkfsOptions": "-L " + name}
		return r
	}
	controller := csi.NewControllerClient(d.Conn)
	names := map[string]bool{} // whether it was answered
	for round := range 5 {
		var mu sync.Mutex
		var clients sync.WaitGroup
		for client := range 4 {
			clients.Go(func() {
				for i := 0; ; i++ {
					name := fmt.Sprintf("r%dc%d-%d", round, client, i)
					_, err := controller.CreateVolume(t.Context(), request(name))
					mu.Lock()
					names[name] = err == nil
					mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(20+random.IntN(300)) * time.Millisecond)
		d.Kill()
		clients.Wait()
		checkNoMkfs(t, d.Pool())
		if err := d.Start(); err != nil {
			t.Fatal(err)
		}
		checkFileSystems(t, d.Pool())
		for name, answered := range names {
			made, err := controller.CreateVolume(t.Context(), request(name))
			if err != nil {
				t.Fatalf("%s (answered before: %t): %v", name, answered, err)
			}
			if _, err := os.Stat(filepath.Join(d.Pool(), made.GetVolume().GetVolumeId(), "disk.img")); err != nil {
				t.Error(err)
			}
		}
		checkFileSystems(t, d.Pool())
	}
	t.Logf("%d volumes", len(names))
	entries, err := os.ReadDir(d.Pool())
	if left := withoutLock(entries); err != nil || len(left) != len(names) {
		t.Errorf("%d volumes were made; the pool holds %v, %v", len(names), left, err)
	}
}

// checkFileSystems checks that everything in the pool is a volume with a clean ext4 in it.
func checkFileSystems(t *testing.T, pool string) {
	t.Helper()
	entries, err := os.ReadDir(pool)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range withoutLock(entries) {
		if strings.HasPrefix(name, ".") {
			t.Errorf("left of a crash: %s", name)
		}
		if out, err := exec.Command("e2fsck", "-f", "-n", filepath.Join(pool, name, "disk.img")).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// checkNoMkfs checks that no program works on the pool's images any more, but for one that is being killed: it may be in
// fsync, or wait for a processor.
func checkNoMkfs(t *testing.T, pool string) {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range commands {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			line, _ := os.ReadFile(command) // it may have ended
			words := strings.ReplaceAll(string(line), "\x00", " ")
			if !strings.HasPrefix(words, "mkfs.") || !strings.Contains(words, pool) {
				break
			}
			if status, err := os.ReadFile(filepath.Join(filepath.Dir(command), "status")); err == nil && (!killed(status) || time.Now().After(deadline)) {
				t.Errorf("a dead driver's program still runs: %s\n%s", words, status)
				break
			}
		}
	}
}

// killed says of a process's status that SIGKILL is on its way.
func killed(status []byte) bool {
	for line := range strings.Lines(string(status)) {
		if name, mask, _ := strings.Cut(line, ":"); name == "SigPnd" || name == "ShdPnd" {
			signals, _ := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			if signals&(1<<(syscall.SIGKILL-1)) != 0 {
				return true
			}
		}
	}
	return false
}
