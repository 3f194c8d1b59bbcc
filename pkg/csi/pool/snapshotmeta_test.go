package pool

import "testing"

// Whatever is in the files, what is read from them names only folders of the pool.
func FuzzParseSnapshotAndGroupMeta(f *testing.F) {
	id := "-12345678-" + hexHash("n", nameDigits)
	for _, seed := range []string{
		`{"version":1,"name":"n","source":"kd` + id + `","created":"2026-01-02T03:04:05Z"}`,
		`{"version":1,"name":"n","source":"../x"}`, `{"version":1,"name":"n","source":"kd` + id + `","group":"kg/.."}`,
		`{"version":1,"name":"n","members":["ks` + id + `"]}`, `{"version":1,"name":"n","members":[".."]}`, `{"version":2}`, "", "{", "null",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseSnapshotMeta("ks"+id, data); err == nil && (!IsPoolID(m.Source) || m.Group != "" && !IsGroupID(m.Group)) {
			t.Errorf("%+v", m)
		}
		m, err := parseGroupMeta("kg"+id, data)
		for _, member := range m.Members {
			if err == nil && !IsSnapshotID(member) {
				t.Errorf("%+v", m)
			}
		}
	})
}
