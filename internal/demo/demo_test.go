package demo

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

const seen = `/dev/vda on /data type ext4 (rw,relatime)
Filesystem           1024-blocks    Used Available Capacity Mounted on
/dev/vda                 1013336      28    996924   0% /data
2f7c1bd2-5f0a-4be3-8a31-54f6d5f4a8b2
1 (sh (1) x) S 0 1 1 0 -1 4194560 196 0 0 0 0 1 0 0 20 0 1 0 217 2265088 160 18446744073709551615 1 1 0 0 0 0
6.1.0-56-cloud-amd64
`

func TestAViewIsReadFromWhatTheContainerPrints(t *testing.T) {
	v, err := parseView(seen)
	if err != nil {
		t.Fatal(err)
	}
	want := Guest{
		Device: "/dev/vda", FSType: "ext4", Kernel: "6.1.0-56-cloud-amd64",
		MountLine: "/dev/vda on /data type ext4 (rw,relatime)",
	}
	if v.guest != want {
		t.Errorf("guest is %+v, want %+v", v.guest, want)
	}
	if v.sizeBytes != 1013336*1024 || v.startTicks != 217 || v.bootID != "2f7c1bd2-5f0a-4be3-8a31-54f6d5f4a8b2" {
		t.Errorf("read %+v", v)
	}
}

func TestAnythingElseIsAnErrorAndNoView(t *testing.T) {
	for name, out := range map[string]string{
		"nothing":          "",
		"a line less":      seen[strings.Index(seen, "\n")+1:],
		"no number in df":  strings.Replace(seen, "1013336", "many", 1),
		"a short stat":     strings.Replace(seen, " 217 2265088 160 18446744073709551615 1 1 0 0 0 0", "", 1),
		"no stat":          strings.Replace(seen, "1 (sh (1) x) S", "S", 1),
		"a word too early": strings.Replace(seen, " 217 ", " soon ", 1),
	} {
		if v, err := parseView(out); err == nil {
			t.Errorf("%s: read %+v", name, v)
		}
	}
}

func TestMetricsAreFoundByNameWhateverTheirLabels(t *testing.T) {
	text := []byte("# HELP katadirect_boot_seconds x\nother_katadirect_boot_seconds 9\n" +
		"katadirect_boot_seconds{accel=\"tcg\"} 1.75\nkatadirect_hotplug_seconds 0.06\n")
	for name, want := range map[string]float64{metricBoot: 1.75, metricHotplug: 0.06} {
		if got, err := metric(text, name); err != nil || got != want {
			t.Errorf("%s is %v, %v, want %v", name, got, err, want)
		}
	}
	if _, err := metric(text, "katadirect_boot"); err == nil {
		t.Error("a part of a name was found")
	}
}

// good is the report of a demo that went well.
func good() *Report {
	return &Report{
		Guest:       Guest{Device: "/dev/vda", FSType: "ext4", MountLine: "/dev/vda on /data type ext4 (rw)"},
		BytesBefore: 1000 << 20, BytesAfter: 2000 << 20,
		GuestBootIDBefore: "a", GuestBootIDAfter: "a", InitStartTicksBefore: 7, InitStartTicksAfter: 7,
		MarkerSHA256Written: "m", MarkerSHA256Read: "m", Steps: []Step{}, Leftovers: []string{},
	}
}

func TestTheCheckFindsEachWayToBeWrong(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatalf("a good report is called wrong: %v", err)
	}
	for name, spoil := range map[string]func(*Report){
		"volume shared, not plugged": func(r *Report) { r.Guest.FSType = "virtiofs" },
		"not grown":                  func(r *Report) { r.BytesAfter = r.BytesBefore },
		"larger than the volume":     func(r *Report) { r.BytesBefore = 3 << 30 },
		"machine booted anew":        func(r *Report) { r.GuestBootIDAfter = "b" },
		"container started anew":     func(r *Report) { r.InitStartTicksAfter = 8 },
		"data lost":                  func(r *Report) { r.MarkerSHA256Read = "x" },
		"nothing written":            func(r *Report) { r.MarkerSHA256Written, r.MarkerSHA256Read = "", "" },
		"mounted on the host":        func(r *Report) { r.HostMountsOfVolume = 1 },
		"something left over":        func(r *Report) { r.Leftovers = []string{"process 1"} },
	} {
		r := good()
		spoil(r)
		if r.Check() == nil {
			t.Errorf("%s: the check has not found it", name)
		}
	}
}

func TestTheReportHasTheFieldsThatProgramsRead(t *testing.T) {
	data, err := good().JSON()
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"steps", "guest", "bytes_before", "bytes_after", "guest_boot_id_before", "guest_boot_id_after",
		"init_start_ticks_before", "init_start_ticks_after", "marker_sha256_written", "marker_sha256_read",
		"host_mounts_of_volume", "leftovers", "resize_ms", "hotplug_ms", "boot_ms",
	} {
		if value, ok := fields[name]; !ok || value == nil {
			t.Errorf("%s is %v", name, value)
		}
	}
	guest, _ := fields["guest"].(map[string]any)
	for _, name := range []string{"device", "fstype", "mount_line", "kernel"} {
		if _, ok := guest[name]; !ok {
			t.Errorf("guest.%s is missing", name)
		}
	}
}

func TestAPipeGetsWholeLines(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	p.begin("stage it")
	p.say("one\ntwo\n")
	p.end("stage it", 1500*time.Millisecond, nil)
	p.end("publish it", 0, errors.New("no"))
	want := []string{"stage it ...", "      one", "      two", "stage it: done in 1.50 s", "publish it: failed in 0.00 s", ""}
	if got := strings.Split(out.String(), "\n"); !slices.Equal(got, want) {
		t.Errorf("wrote %q, want %q", got, want)
	}
}
