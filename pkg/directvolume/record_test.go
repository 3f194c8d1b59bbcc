package directvolume

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestRecordHasTheBytesOfKatasWriter(t *testing.T) {
	tests := map[string]struct {
		record Record
		want   string
	}{
		"least": {
			Record{VolumeType: "directvol", Device: "/dev/sdf", FSType: "ext4"},
			`{"volume-type":"directvol","device":"/dev/sdf","fstype":"ext4"}`,
		},
		"type is filled in": {
			Record{Device: "/dev/sdf", FSType: "xfs"},
			`{"volume-type":"directvol","device":"/dev/sdf","fstype":"xfs"}`,
		},
		"another runtime's type is kept": {
			Record{VolumeType: "block", Device: "/dev/sdf", FSType: "ext4"},
			`{"volume-type":"block","device":"/dev/sdf","fstype":"ext4"}`,
		},
		"everything": {
			Record{VolumeType: "directvol", Device: "/a<b>&c", FSType: "ext4",
				Metadata: map[string]string{"fsGroup": "2000", MetadataSizeBytes: "1"}, Options: []string{"ro", "noatime"}},
			`{"volume-type":"directvol","device":"/a\u003cb\u003e\u0026c","fstype":"ext4",` +
				`"metadata":{"fsGroup":"2000","katadirect.io/size-bytes":"1"},"options":["ro","noatime"]}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := test.record.marshal()
			if err != nil || string(got) != test.want {
				t.Fatalf("got  %s, %v\nwant %s", got, err, test.want)
			}
		})
	}
}

func TestParseRecordTakesWhatKatasToolsWrite(t *testing.T) {
	tests := map[string]struct {
		text string
		want Record
	}{
		"Kata's document": {
			`{"volume-type":"block","device":"/dev/sdf","fstype":"ext4","metadata":{"fsGroup":"3000","fsGroupChangePolicy":"OnRootMismatch"},"options":["ro"]}`,
			Record{VolumeType: "block", Device: "/dev/sdf", FSType: "ext4", Options: []string{"ro"},
				Metadata: map[string]string{"fsGroup": "3000", "fsGroupChangePolicy": "OnRootMismatch"}},
		},
		"serde's order and white space": {
			"{\n \"device\": \"/dev/sdf\", \"fstype\": \"xfs\", \"volume-type\": \"directvol\", \"metadata\": {}, \"options\": []\n}\n",
			Record{VolumeType: "directvol", Device: "/dev/sdf", FSType: "xfs", Metadata: map[string]string{}, Options: []string{}},
		},
		"keys of another case, as Go reads them": {
			`{"volume-type":"block","Device":"/dev/sdf","fstype":"ext4"}`,
			Record{VolumeType: "block", Device: "/dev/sdf", FSType: "ext4"},
		},
		"no type, unknown keys": {
			`{"device":"/dev/sdf","fstype":"ext4","later":{"a":[1,2]}}`,
			Record{Device: "/dev/sdf", FSType: "ext4"},
		},
		"a device with spaces and umlauts": {
			`{"device":"/mnt/große disks/a","fstype":"ext4"}`,
			Record{Device: "/mnt/große disks/a", FSType: "ext4"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseRecord([]byte(test.text))
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Fatalf("got  %+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
}

// hostileRecords are contents of mountInfo.json that no container may start with.
var hostileRecords = map[string]string{
	"empty":                    "",
	"white space":              "  \n",
	"torn":                     `{"volume-type":"directvol","device":"/dev/s`,
	"NUL bytes":                "\x00\x00\x00\x00",
	"null":                     "null",
	"array":                    `[{"device":"/dev/sdf","fstype":"ext4"}]`,
	"two objects":              `{"device":"/dev/sdf","fstype":"ext4"}{"device":"/dev/sdg","fstype":"ext4"}`,
	"trailing text":            `{"device":"/dev/sdf","fstype":"ext4"} x`,
	"huge":                     `{"device":"/dev/sdf","fstype":"ext4","metadata":{"a":"` + strings.Repeat("x", maxRecordBytes) + `"}}`,
	"many keys":                `{"device":"/dev/sdf","fstype":"ext4",` + strings.Repeat(`"k":1,`, 100) + `"z":1}`,
	"deep":                     `{"device":"/dev/sdf","fstype":"ext4","a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
	"not UTF-8":                "{\"device\":\"/dev/\xff\",\"fstype\":\"ext4\"}",
	"device twice":             `{"device":"/dev/sdf","device":"/dev/sdg","fstype":"ext4"}`,
	"device in two cases":      `{"device":"/dev/sdf","Device":"/dev/sdg","fstype":"ext4"}`,
	"device with a long s":     `{"device":"/dev/sdf","fstype":"ext4","fſtype":"xfs"}`,
	"no device":                `{"fstype":"ext4"}`,
	"device empty":             `{"device":"","fstype":"ext4"}`,
	"device relative":          `{"device":"dev/sdf","fstype":"ext4"}`,
	"device a dot path":        `{"device":"../dev/sdf","fstype":"ext4"}`,
	"device a URL":             `{"device":"https://disk","fstype":"ext4"}`,
	"device with NUL":          `{"device":"/dev/sdf\u0000/../sdg","fstype":"ext4"}`,
	"device with a line end":   `{"device":"/dev/sdf\n","fstype":"ext4"}`,
	"device too long":          `{"device":"/` + strings.Repeat("d", maxDeviceBytes) + `","fstype":"ext4"}`,
	"device a number":          `{"device":5,"fstype":"ext4"}`,
	"no fstype":                `{"device":"/dev/sdf"}`,
	"fstype empty":             `{"device":"/dev/sdf","fstype":""}`,
	"fstype a path":            `{"device":"/dev/sdf","fstype":"../ext4"}`,
	"fstype a bind":            `{"device":"/dev/sdf","fstype":"bind"}`,
	"fstype with an option":    `{"device":"/dev/sdf","fstype":"ext4,ro"}`,
	"fstype too long":          `{"device":"/dev/sdf","fstype":"` + strings.Repeat("e", 65) + `"}`,
	"option bind":              `{"device":"/dev/sdf","fstype":"ext4","options":["bind"]}`,
	"option rbind":             `{"device":"/dev/sdf","fstype":"ext4","options":["ro","rbind"]}`,
	"option bind behind comma": `{"device":"/dev/sdf","fstype":"ext4","options":["noatime,bind"]}`,
	"option bind after space":  `{"device":"/dev/sdf","fstype":"ext4","options":["noatime, bind"]}`,
	"option loop":              `{"device":"/dev/sdf","fstype":"ext4","options":["loop"]}`,
	"option loop device":       `{"device":"/dev/sdf","fstype":"ext4","options":["loop=/dev/loop3"]}`,
	"option remount":           `{"device":"/dev/sdf","fstype":"ext4","options":["remount"]}`,
	"option with NUL":          `{"device":"/dev/sdf","fstype":"ext4","options":["ro\u0000"]}`,
	"options a string":         `{"device":"/dev/sdf","fstype":"ext4","options":"ro"}`,
	"metadata a string":        `{"device":"/dev/sdf","fstype":"ext4","metadata":"{}"}`,
	"metadata of numbers":      `{"device":"/dev/sdf","fstype":"ext4","metadata":{"fsGroup":5}}`,
	"group zero":               `{"device":"/dev/sdf","fstype":"ext4","metadata":{"fsGroup":"0"}}`,
	"group negative":           `{"device":"/dev/sdf","fstype":"ext4","metadata":{"fsGroup":"-1"}}`,
	"group too large":          `{"device":"/dev/sdf","fstype":"ext4","metadata":{"fsGroup":"4294967296"}}`,
	"format always":            `{"device":"/dev/sdf","fstype":"ext4","metadata":{"katadirect.io/format":"always"}}`,
	"type of another handler":  `{"volume-type":"vfiovol","device":"/dev/sdf","fstype":"ext4"}`,
	"type a number":            `{"volume-type":1,"device":"/dev/sdf","fstype":"ext4"}`,
}

func TestParseRecordRefusesHostileText(t *testing.T) {
	for name, text := range hostileRecords {
		t.Run(name, func(t *testing.T) {
			got, err := ParseRecord([]byte(text))
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %+v, %v; want ErrInvalid", got, err)
			}
		})
	}
}

func TestReadOnlyIsWhatTheLastOptionSays(t *testing.T) {
	tests := []struct {
		options []string
		want    bool
	}{
		{nil, false},
		{[]string{"ro"}, true},
		{[]string{"noatime,ro"}, true},
		{[]string{"errors=remount-ro"}, false},
		{[]string{"ro", "rw"}, false},
		{[]string{"rw,ro"}, true},
	}
	for _, test := range tests {
		if got := (Record{Options: test.options}).ReadOnly(); got != test.want {
			t.Errorf("%q: got %v", test.options, got)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	for _, text := range hostileRecords {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"volume-type":"directvol","device":"/dev/sdf","fstype":"ext4","metadata":{"fsGroup":"1"},"options":["ro"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		record, err := ParseRecord(data)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("an error that is not ErrInvalid: %v", err)
			}
			return
		}
		if !strings.HasPrefix(record.Device, "/") || record.FSType == "" {
			t.Fatalf("accepted %+v", record)
		}
		// What was accepted can be written, and reads as the same.
		written, err := record.marshal()
		if err != nil {
			if len(data) > maxRecordBytes/6 { // escapes make it longer
				return
			}
			t.Fatalf("cannot write %+v: %v", record, err)
		}
		again, err := ParseRecord(written)
		if err != nil || again.Device != record.Device || again.FSType != record.FSType ||
			len(again.Options) != len(record.Options) || len(again.Metadata) != len(record.Metadata) {
			t.Fatalf("wrote %+v, read %+v, %v", record, again, err)
		}
	})
}

func TestOnlyARawBlockVolumeHasNoFileSystem(t *testing.T) {
	for volumeType, valid := range map[string]bool{VolumeTypeBlock: true, VolumeTypeDirect: false, VolumeTypeEphemeral: false, "": false} {
		r := Record{VolumeType: volumeType, Device: "/dev/sdf"}
		if err := r.Validate(); (err == nil) != valid {
			t.Errorf("volume-type %q without a file system: %v", volumeType, err)
		}
	}
	if err := (Record{VolumeType: VolumeTypeBlock, Device: "/dev/sdf", FSType: "bind"}).Validate(); err == nil {
		t.Error("a file system that is none")
	}
}
