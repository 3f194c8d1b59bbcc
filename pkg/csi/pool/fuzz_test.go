package pool

import (
	"path/filepath"
	"testing"
)

func FuzzNames(f *testing.F) {
	for _, name := range []string{"pvc-1", "", "../..", "a\x00b", "日本"} {
		f.Add(name, "node-1")
	}
	f.Fuzz(func(t *testing.T, name, node string) {
		id := makeID(node, name)
		if !IsPoolID(id) || ValidateID(id) != nil || filepath.Base(id) != id || !idIsOf(id, node) || !idNames(id, name) {
			t.Errorf("%q on %q has the id %q", name, node, id)
		}
		if idIsOf(id, node+"x") || idNames(id, name+"x") || makeID(node, name) != id {
			t.Errorf("%q on %q has an id that is not its own: %q", name, node, id)
		}
		for _, of := range []string{withPrefix(snapshotPrefix, id), withPrefix(groupPrefix, id)} {
			if IsPoolID(of) || ValidateID(of) != nil || IsSnapshotID(of) == IsGroupID(of) {
				t.Errorf("%q is taken for what it is not", of)
			}
		}
	})
}

func FuzzSnapshotMeta(f *testing.F) {
	id := withPrefix(snapshotPrefix, makeID(testNode, "snap"))
	f.Add([]byte(`{"version":1,"name":"snap","source":"` + makeID(testNode, "pvc") + `","fstype":"ext4","created":"2026-01-02T03:04:05Z"}` + "\n"))
	f.Add([]byte(`{"version":1,"name":"snap","source":"../victim"}`))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseSnapshotMeta(id, data)
		if err == nil && (!idNames(id, m.Name) || m.Version != metaVersion || !IsPoolID(m.Source) || m.Group != "" && !IsGroupID(m.Group)) {
			t.Errorf("%q was read as %+v", data, m)
		}
	})
}

func FuzzGroupMeta(f *testing.F) {
	id := withPrefix(groupPrefix, makeID(testNode, "group"))
	f.Add([]byte(`{"version":1,"name":"group","members":["` + withPrefix(snapshotPrefix, makeID(testNode, "snap")) + `"]}` + "\n"))
	f.Add([]byte(`{"version":1,"name":"group","members":["../victim"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseGroupMeta(id, data)
		if err != nil {
			return
		}
		for _, member := range m.Members {
			if !IsSnapshotID(member) {
				t.Errorf("%q was read with the member %q", data, member)
			}
		}
		if !idNames(id, m.Name) || m.Version != metaVersion {
			t.Errorf("%q was read as %+v", data, m)
		}
	})
}
