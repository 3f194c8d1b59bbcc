package sanity

import (
	"bufio"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// minimumSpecs is how many of csi-sanity's specs, and ours among them, must have run, of each kind of volume. A driver that advertises
// nothing skips everything and looks healthy, so dropping a capability has to fail here. It only ever goes up.
const minimumSpecs = 104

// skipped are the specs that do not run, and why. One that is not here must run, and one that is here must not.
var skipped = map[string]string{
	"Controller Service [Controller Server] / ListVolumes / pagination should detect volumes added between pages and " +
		"accept tokens when the last volume from a page is deleted": "pending in csi-sanity itself; ours is in specs_test.go",
}

func TestSanityMount(t *testing.T) { testSanity(t, "mount") }

func TestSanityBlock(t *testing.T) { testSanity(t, "block") }

func testSanity(t *testing.T, access string) {
	d := startDriver(t, "--log-level", "debug", "--max-volumes", "4") // csi-sanity fills the node
	dir := d.Dir
	report := suite{
		Endpoint: d.Endpoint, Dir: dir, Access: access,
		JUnit: reportPath(t, "sanity-"+access+".xml"), JSON: filepath.Join(dir, "report.json"),
	}.run(t)
	ran, failed, left := specs(report)
	t.Logf("%d specs ran, %d of them failed, %d did not run", len(ran), len(failed), len(left))
	for _, name := range failed {
		t.Errorf("failed: %s", name)
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		if _, known := skipped[name]; !known {
			t.Errorf("did not run: %s (%s)", name, left[name])
		}
	}
	for name, why := range skipped {
		if _, is := left[name]; !is {
			t.Errorf("ran, and is on the list of those that do not because it is %s: %s", why, name)
		}
	}
	if len(ran) < minimumSpecs {
		t.Errorf("only %d specs ran, want at least %d", len(ran), minimumSpecs)
	}
	checkNothingLeft(t, dir)
	checkLog(t, dir)
}

// checkLog checks that the driver has met nothing that it did not foresee: no panic, no INTERNAL.
func checkLog(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "csi-node.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct{ Level string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Level == "ERROR" {
			t.Errorf("in the log (%v): %s", err, lines.Text())
		}
	}
}

// checkNothingLeft checks that no volume, record or staged state is left of a driver's work. What it does with its records
// beside the calls takes a moment.
func checkNothingLeft(t *testing.T, dir string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if left, err := os.ReadDir(filepath.Join(dir, "records")); err != nil || len(left) == 0 {
			break
		}
	}
	for _, folder := range []string{"pool", "records", "state/staged"} {
		if left, err := os.ReadDir(filepath.Join(dir, folder)); err != nil || len(withoutLock(left)) > 0 {
			t.Errorf("left in %s: %v, %v", folder, withoutLock(left), err)
		}
	}
}

// reportPath is out/NAME in the repository.
func reportPath(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "out", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// withoutLock leaves out the file by which a pool is locked.
func withoutLock(entries []os.DirEntry) []string {
	var names []string
	for _, e := range entries {
		if e.Name() != ".lock" {
			names = append(names, e.Name())
		}
	}
	return names
}
