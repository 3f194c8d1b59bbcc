package directvolume

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestLimitsAreReadAsTheyWereWritten(t *testing.T) {
	for _, l := range []Limits{
		{}, {IOPS: 200}, {ReadIOPS: 10, WriteIOPS: 20, BytesPerSecond: 1 << 20},
		{IOPS: 100, BurstIOPS: 300, BurstSeconds: 5, BytesPerSecond: 1 << 20, BurstBytesPerSecond: 2 << 20},
	} {
		got, err := ParseLimits(l.String())
		if err != nil || got != l {
			t.Errorf("%+v became %q and then %+v, %v", l, l.String(), got, err)
		}
	}
	if got := (Limits{IOPS: 200, BytesPerSecond: 1 << 20}).String(); got != "iops=200,bytesPerSecond=1048576" {
		t.Error(got)
	}
}

func TestEachLimitHasItsNameInJSONAndInText(t *testing.T) {
	typ := reflect.TypeFor[Limits]()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if !slices.Contains(LimitNames(), name) {
			t.Errorf("%s has no name", typ.Field(i).Name)
			continue
		}
		var l Limits
		if err := l.Set(name, "100000"); name != "burstSeconds" && err != nil {
			t.Error(err)
		} else if err == nil && reflect.ValueOf(l).Field(i).Uint() != 100000 {
			t.Errorf("%s sets another one: %+v", name, l)
		}
	}
}

func TestLimitsThatCannotBeAreRefusedByName(t *testing.T) {
	for text, says := range map[string]string{
		"iops":                      "whole number",
		"iops=":                     "whole number",
		"iops=-1":                   "whole number",
		"iops=NaN":                  "whole number",
		"iops=1e3":                  "whole number",
		"iops=9":                    "10 to",
		"iops=18446744073709551615": "10 to",
		"iops=18446744073709551616": "whole number",
		"bytesPerSecond=1000":       "65536 to",
		"iops=20,iops=20":           "twice",
		"speed=1":                   "speed",
		"iops=20,readIops=20":       "set one side to 0",
		"bytesPerSecond=65536,writeBytesPerSecond=65536": "set one side to 0",
		"burstIops=100":                                  "needs iops",
		"iops=100,burstIops=50":                          "less than",
		"readIops=100,burstIops=500":                     "needs iops",
		"bytesPerSecond=99999,burstBytesPerSecond=70000": "less than",
		"iops=100,burstSeconds=5":                        "needs burstIops",
		"iops=100,burstIops=500,burstSeconds=3601":       "1 to 3600",
	} {
		if l, err := ParseLimits(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %+v, %v, want %q", text, l, err, says)
		}
	}
	if err := (Limits{IOPS: math.MaxUint64, ReadIOPS: 1}).Validate(); err == nil {
		t.Error("a limit larger than QEMU's was accepted")
	}
}

func TestARecordWithBadLimitsIsInvalid(t *testing.T) {
	r := Record{VolumeType: VolumeTypeDirect, Device: "/dev/x", FSType: "ext4", Metadata: map[string]string{MetadataLimits: "iops=1"}}
	if err := r.Validate(); err == nil || !strings.Contains(err.Error(), MetadataLimits) {
		t.Error(err)
	}
	r.Metadata[MetadataLimits] = "iops=100"
	if err := r.Validate(); err != nil {
		t.Error(err)
	}
	if l, err := r.Limits(); err != nil || l.IOPS != 100 {
		t.Errorf("%+v, %v", l, err)
	}
}

func FuzzParseLimits(f *testing.F) {
	for _, seed := range []string{"", "iops=100", "iops=100,burstIops=200,burstSeconds=3", ",", "=", "iops=0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLimits(text)
		if err != nil {
			return
		}
		if again, err := ParseLimits(l.String()); err != nil || again != l {
			t.Errorf("%q became %+v and then %+v, %v", text, l, again, err)
		}
	})
}
