package csi

import (
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/csi/pool"
	"github.com/katadirect/katadirect/pkg/directvolume"
)

// goodID is the id of some volume.
const goodID = "kd-0123abcd-0123456789abcdef0123456789abcdef"

func FuzzPage(f *testing.F) {
	f.Add("", int32(0))
	f.Add(pageToken(goodID), int32(1))
	f.Add("after:../victim", int32(-1))
	f.Fuzz(func(t *testing.T, token string, most int32) {
		after, err := parsePage(token, most, pool.IsPoolID)
		if err != nil {
			return
		}
		if most < 0 || after != "" && (!pool.IsPoolID(after) || pageToken(after) != token) || after == "" && token != "" {
			t.Errorf("%q, %d begins after %q", token, most, after)
		}
	})
}

// FuzzSELinuxLabel: a label is put into quotes among the options of mount(8), and must be one word of one option there.
func FuzzSELinuxLabel(f *testing.F) {
	for _, flag := range []string{
		`context="system_u:object_r:container_file_t:s0:c15,c25"`, "context=u:r:t", `context="u:r:t",suid`, "noatime", `context="a\"b"`, "context=",
	} {
		f.Add(flag)
	}
	f.Fuzz(func(t *testing.T, flag string) {
		label, others, err := takeSELinuxLabel([]string{flag})
		value, isLabel := strings.CutPrefix(flag, "context=")
		switch {
		case !isLabel:
			if err != nil || label != "" || !slices.Equal(others, []string{flag}) {
				t.Errorf("%q, which is another option, gave %q, %q, %v", flag, label, others, err)
			}
		case err != nil:
		case label == "" || len(others) > 0 || strings.Trim(value, `"`) != label || strconv.Quote(label) != `"`+label+`"` ||
			strings.ContainsAny(label, "\"' \t\n\\=/") || strings.Count(label, ":") < 2:
			t.Errorf("%q gave %q, %q", flag, label, others)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, path := range []string{"/var/lib/kubelet/pods/1/mount", "/a/../b", "//", "/..", "/a\x00b", "a", "/" + strings.Repeat("x", 5000)} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if checkPath("target path", path) != nil {
			return
		}
		if !filepath.IsAbs(path) || filepath.Clean(path) == "/" || len(path) >= unix.PathMax ||
			strings.ContainsRune(path, 0) || slices.Contains(strings.Split(path, "/"), "..") {
			t.Errorf("%q passes", path)
		}
	})
}

func FuzzMountGroup(f *testing.F) {
	for _, group := range []string{"", "0", "1000", "007", "-1", "+1", "4294967296", "staff"} {
		f.Add(group)
	}
	f.Fuzz(func(t *testing.T, group string) {
		n, err := parseMountGroup(group)
		if err != nil || group == "" {
			return
		}
		if digits := strings.TrimLeft(group, "0"); digits != "" && strconv.FormatUint(uint64(n), 10) != digits || digits == "" && n != 0 {
			t.Errorf("%q is the group %d", group, n)
		}
	})
}

func FuzzMutableParameters(f *testing.F) {
	f.Add("katadirect.io/iops", "1000")
	f.Add("iops", "1000")
	f.Add("katadirect.io/bytesPerSecond", "-1")
	f.Add("katadirect.io/burstSeconds", "18446744073709551616")
	f.Fuzz(func(t *testing.T, key, value string) {
		change, err := parseChange(map[string]string{key: value})
		if err != nil {
			return
		}
		if !strings.HasPrefix(key, mutablePrefix) || !slices.Contains(directvolume.LimitNames(), strings.TrimPrefix(key, mutablePrefix)) {
			t.Errorf("%q is taken for a limit", key)
		}
		limits, err := change.of(directvolume.Limits{})
		if err != nil {
			return
		}
		if err := limits.Validate(); err != nil {
			t.Errorf("%q=%q makes the limits %+v: %v", key, value, limits, err)
		}
		if again, err := change.of(limits); err != nil || again != limits {
			t.Errorf("%q=%q twice makes %+v, %v out of %+v", key, value, again, err, limits)
		}
	})
}

func FuzzSnapshotClass(f *testing.F) {
	f.Add(parameterFreezeLimit, "5s")
	f.Add(parameterFreezeLimit, "1h")
	f.Add(parameterFreezeLimit, "-1ns")
	f.Add("csi.storage.k8s.io/volumesnapshot/name", "")
	f.Fuzz(func(t *testing.T, key, value string) {
		limit, err := parseSnapshotClass(map[string]string{key: value}, DefaultFreezeLimit)
		if err != nil {
			return
		}
		if CheckFreezeLimit(limit) != nil || limit <= 0 || limit > time.Minute {
			t.Errorf("%q=%q lets a volume stand still for %v", key, value, limit)
		}
		if key != parameterFreezeLimit && (limit != DefaultFreezeLimit || !slices.Contains(informativeOfSnapshots, key)) {
			t.Errorf("%q means something", key)
		}
	})
}

func FuzzSource(f *testing.F) {
	f.Add(goodID, true)
	f.Add("ks"+goodID[2:], false)
	f.Add("../victim", true)
	f.Fuzz(func(t *testing.T, id string, isVolume bool) {
		source := &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
		if isVolume {
			source = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
				Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
		}
		got, err := parseSource(source)
		if err != nil {
			return
		}
		if got != id || pool.ValidateID(got) != nil || pool.IsSnapshotID(got) == isVolume {
			t.Errorf("%q (a volume: %t) is the source %q", id, isVolume, got)
		}
		if back := contentSource(got); back.GetSnapshot().GetSnapshotId() != source.GetSnapshot().GetSnapshotId() ||
			back.GetVolume().GetVolumeId() != source.GetVolume().GetVolumeId() {
			t.Errorf("%v comes back as %v", source, back)
		}
	})
}

func FuzzQuantity(f *testing.F) {
	for _, text := range []string{"1Gi", "1073741824", "0", "", "9Ei", "9223372036854775807Ki", "-1Mi", "1.5Gi", "1G"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, ok := parseQuantity(text)
		if !ok {
			return
		}
		digits := strings.TrimRight(text, "BEGKMPTikm")
		n, err := strconv.ParseFloat(digits, 64)
		if size < 0 || err != nil || n < 0 || float64(size) < math.Floor(n) {
			t.Errorf("%q are %d bytes", text, size)
		}
	})
}
