package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

// What a shim wrote and did not finish, or somebody else has changed, must not stop the cleaning up.
func FuzzReadRemains(f *testing.F) {
	for _, text := range []string{
		"", "null", "{", "[]", `{"bundle":"/b","virtiofsd":{"pid":-1},"rootfs":["/r"]}`, `{"virtiofsd":"x"}`, `{"rootfs":[1]}`, "\x00",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "persist.json")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if left, err := readRemains(file); err != nil && (left.Bundle != "" || len(left.Rootfs) > 0) {
			t.Errorf("%+v with the error %v", left, err)
		}
	})
}
