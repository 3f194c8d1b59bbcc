package pool

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

func TestCreateMakesASparseImageOfTheSize(t *testing.T) {
	p := open(t, t.TempDir())
	v := create(t, p, "pvc-1", gib)
	info, err := os.Stat(v.ImagePath)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != gib || v.SizeBytes != gib {
		t.Errorf("image has %d bytes, volume says %d, want %d", info.Size(), v.SizeBytes, gib)
	}
	if info.Mode() != 0o600 {
		t.Errorf("image has mode %v, want 0600", info.Mode())
	}
	if used, err := p.Usage(t.Context(), v.ID); used != 0 || err != nil {
		t.Errorf("a new volume uses %d bytes, %v; want none", used, err)
	}
}

func TestCreateAgainReturnsTheSameVolumeWithItsData(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	first := create(t, p, "pvc-1", gib)
	writeImage(t, first, "marker")
	second := create(t, p, "pvc-1", gib)
	if second.ID != first.ID || second.SizeBytes != first.SizeBytes || second.ImagePath != first.ImagePath {
		t.Errorf("second create returned %+v, first %+v", second, first)
	}
	if got := readImage(t, second, 6); got != "marker" {
		t.Errorf("volume holds %q after a second create", got)
	}
	if len(entries(t, dir)) != 1 {
		t.Errorf("pool holds %v", entries(t, dir))
	}
}

func TestCreateOfAnExistingNameComparesWhatIsAskedFor(t *testing.T) {
	p := open(t, t.TempDir())
	if _, err := p.Create(t.Context(), Spec{
		Name: "pvc-1", FSType: "ext4", Parameters: map[string]string{"mode": "direct"}, Size: SizeRange{RequiredBytes: gib},
	}); err != nil {
		t.Fatal(err)
	}
	direct := map[string]string{"mode": "direct"}
	tests := map[string]struct {
		spec Spec
		want error
	}{
		"same":                   {Spec{FSType: "ext4", Parameters: direct, Size: SizeRange{RequiredBytes: gib}}, nil},
		"less, no limit":         {Spec{FSType: "ext4", Parameters: direct, Size: SizeRange{RequiredBytes: mib}}, nil},
		"no size":                {Spec{FSType: "ext4", Parameters: direct}, nil},
		"more":                   {Spec{FSType: "ext4", Parameters: direct, Size: SizeRange{RequiredBytes: gib + 1}}, ErrIncompatible},
		"limit below":            {Spec{FSType: "ext4", Parameters: direct, Size: SizeRange{LimitBytes: gib - alignBytes}}, ErrIncompatible},
		"other file system":      {Spec{FSType: "xfs", Parameters: direct, Size: SizeRange{RequiredBytes: gib}}, ErrIncompatible},
		"other parameter":        {Spec{FSType: "ext4", Parameters: map[string]string{"mode": "auto"}, Size: SizeRange{RequiredBytes: gib}}, ErrIncompatible},
		"no parameters":          {Spec{FSType: "ext4", Size: SizeRange{RequiredBytes: gib}}, ErrIncompatible},
		"more than any can have": {Spec{FSType: "ext4", Parameters: direct, Size: SizeRange{RequiredBytes: math.MaxInt64}}, ErrOutOfRange},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.spec.Name = "pvc-1"
			if _, err := p.Create(t.Context(), test.spec); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestCreateRefusesWhatCannotBeAVolume(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	tests := map[string]struct {
		spec Spec
		want error
	}{
		"no name":             {Spec{FSType: "ext4"}, ErrInvalidSpec},
		"name too long":       {Spec{Name: strings.Repeat("n", 129), FSType: "ext4"}, ErrInvalidSpec},
		"unknown file system": {Spec{Name: "v", FSType: "ntfs"}, ErrInvalidSpec},
		"no file system":      {Spec{Name: "v"}, ErrInvalidSpec},
		"negative size":       {Spec{Name: "v", FSType: "ext4", Size: SizeRange{RequiredBytes: -1}}, ErrInvalidSpec},
		"limit too small":     {Spec{Name: "v", FSType: "ext4", Size: SizeRange{LimitBytes: mib}}, ErrOutOfRange},
		"limit below size":    {Spec{Name: "v", FSType: "ext4", Size: SizeRange{RequiredBytes: gib, LimitBytes: gib - 1}}, ErrOutOfRange},
		"more than the pool":  {Spec{Name: "v", FSType: "ext4", Size: SizeRange{RequiredBytes: 16 * tib}}, ErrNoSpace},
		"more than ext4":      {Spec{Name: "v", FSType: "ext4", Size: SizeRange{RequiredBytes: 16*tib + 1}}, ErrOutOfRange},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := p.Create(t.Context(), test.spec); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	if left := entries(t, dir); len(left) != 0 {
		t.Errorf("refused creates left %v", left)
	}
	if promised := p.space.booked(); promised != 0 {
		t.Errorf("refused creates left %d bytes promised", promised)
	}
}

func TestAnyNameMakesAVolumeOfItsOwn(t *testing.T) {
	p := open(t, t.TempDir())
	names := []string{"../../etc/passwd", "/", ".", "..", "a\nb", "a\x00b", "日本", strings.Repeat("n", 128), "A", "a", " "}
	seen := map[string]string{}
	for _, name := range names {
		v := create(t, p, name, 16*mib)
		if other, found := seen[v.ID]; found {
			t.Errorf("%q and %q have the id %s", name, other, v.ID)
		}
		seen[v.ID] = name
		if err := ValidateID(v.ID); err != nil || !IsPoolID(v.ID) || !p.Local(v.ID) {
			t.Errorf("%q has the id %q, which is not a good one: %v", name, v.ID, err)
		}
		if v.Name != name {
			t.Errorf("volume is called %q, want %q", v.Name, name)
		}
	}
}

func TestTwoNodesMakeDifferentIDsForOneName(t *testing.T) {
	a, b := makeID("node-a", "pvc"), makeID("node-b", "pvc")
	if a == b || idIsOf(a, "node-b") || !idIsOf(a, "node-a") {
		t.Errorf("ids %s and %s do not tell the nodes apart", a, b)
	}
}

// What the folder held before Create must not be destroyed by Create's undoing.
func TestCreateLeavesAFolderThatItDidNotMake(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	path := dir + "/" + p.ID("restored") + "/disk.img"
	write(t, path, "precious")
	if _, err := p.Create(t.Context(), ext4Spec("restored", gib)); err == nil {
		t.Error("create succeeded over a folder that was there")
	}
	if data, err := os.ReadFile(path); string(data) != "precious" || err != nil {
		t.Errorf("folder holds %q, %v", data, err)
	}
	if promised := p.space.booked(); promised != 0 {
		t.Errorf("%d bytes stay promised", promised)
	}
}

func TestCreatesOfManyVolumesAtOnceAllLast(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	const clients, each = 16, 20
	var group sync.WaitGroup
	for client := range clients {
		group.Go(func() {
			for i := range each {
				name := fmt.Sprintf("v-%d-%d", client, i)
				if _, err := p.Create(t.Context(), ext4Spec(name, 16*mib)); err != nil {
					t.Error(err)
				}
				if i%4 == 3 {
					if err := p.Delete(t.Context(), p.ID(name)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	group.Wait()
	want := clients * each * 3 / 4
	closePool(t, p)
	again := open(t, dir)
	if got := len(again.List(t.Context())); got != want {
		t.Errorf("%d volumes after a restart, want %d", got, want)
	}
	if got, want := again.space.booked(), int64(want)*costBytes(16*mib); got != want {
		t.Errorf("%d bytes promised after a restart, want %d", got, want)
	}
	if p.space.booked() != again.space.booked() {
		t.Errorf("the pool had %d bytes promised before the restart, %d after", p.space.booked(), again.space.booked())
	}
}

func TestChooseSize(t *testing.T) {
	tests := map[string]struct {
		fsType string
		size   SizeRange
		want   int64
		err    error
	}{
		"nothing said":                {"ext4", SizeRange{}, gib, nil},
		"as required":                 {"ext4", SizeRange{RequiredBytes: 3 * gib}, 3 * gib, nil},
		"rounded up":                  {"ext4", SizeRange{RequiredBytes: gib + 1}, gib + 4096, nil},
		"limit met exactly":           {"ext4", SizeRange{RequiredBytes: gib, LimitBytes: gib}, gib, nil},
		"limit only":                  {"ext4", SizeRange{LimitBytes: 100*mib + 1}, 100 * mib, nil},
		"large limit only":            {"ext4", SizeRange{LimitBytes: 5 * gib}, gib, nil},
		"rounding beyond the limit":   {"ext4", SizeRange{RequiredBytes: gib + 1, LimitBytes: gib + 2}, 0, ErrOutOfRange},
		"small ext4 grows to least":   {"ext4", SizeRange{RequiredBytes: 1}, 16 * mib, nil},
		"small xfs grows to least":    {"xfs", SizeRange{RequiredBytes: 16 * mib}, 300 * mib, nil},
		"small btrfs grows to least":  {"btrfs", SizeRange{RequiredBytes: 16 * mib}, 256 * mib, nil},
		"least beyond the limit":      {"xfs", SizeRange{RequiredBytes: 16 * mib, LimitBytes: 299 * mib}, 0, ErrOutOfRange},
		"tiny limit":                  {"ext4", SizeRange{LimitBytes: 1}, 0, ErrOutOfRange},
		"limit below required":        {"ext4", SizeRange{RequiredBytes: 2 * gib, LimitBytes: gib}, 0, ErrOutOfRange},
		"negative":                    {"ext4", SizeRange{LimitBytes: -1}, 0, ErrInvalidSpec},
		"the largest number":          {"ext4", SizeRange{RequiredBytes: math.MaxInt64}, 0, ErrOutOfRange},
		"largest xfs":                 {"xfs", SizeRange{RequiredBytes: 500 * tib}, 500 * tib, nil},
		"beyond the largest xfs":      {"xfs", SizeRange{RequiredBytes: 500*tib + 1}, 0, ErrOutOfRange},
		"file system nobody can make": {"vfat", SizeRange{RequiredBytes: gib}, 0, ErrInvalidSpec},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := test.size.choose(test.fsType)
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("got %d, %v; want %d, %v", got, err, test.want, test.err)
			}
		})
	}
}

func FuzzChooseSize(f *testing.F) {
	f.Add(int64(0), int64(0), int64(0))
	f.Add(int64(math.MaxInt64), int64(math.MaxInt64), gib)
	f.Add(gib+1, gib+2, gib)
	f.Fuzz(func(t *testing.T, required, limit, present int64) {
		size := SizeRange{RequiredBytes: required, LimitBytes: limit}
		for _, fsType := range FileSystems() {
			fs := fileSystems[fsType]
			if got, err := size.choose(fsType); err == nil {
				if got < fs.minBytes || got > fs.maxBytes || got%alignBytes != 0 || !size.holds(got) {
					t.Errorf("%+v for %s gives %d", size, fsType, got)
				}
			}
			if present < fs.minBytes || present > fs.maxBytes {
				continue
			}
			if got, err := size.chooseGrown(fsType, present); err == nil && (got < present || !size.holds(got)) {
				t.Errorf("%+v makes a volume of %d bytes one of %d", size, present, got)
			}
		}
	})
}
