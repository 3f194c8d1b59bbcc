package cluster

import (
	"testing"
	"time"
)

func TestWhatAnAccountHasAskedIsRead(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, one := range map[string]struct {
		line string
		want Asked
	}{
		"a subresource of a group": {
			`{"verb":"patch","userAgent":"csi-snapshotter/v8 (linux/amd64) kubernetes/x","user":{"username":"system:serviceaccount:katadirect:katadirect-node"},
			  "objectRef":{"resource":"volumesnapshotcontents","subresource":"status","apiGroup":"snapshot.storage.k8s.io","name":"one"},
			  "annotations":{"authorization.k8s.io/decision":"allow"},"stageTimestamp":"2026-01-02T03:04:05Z"}`,
			Asked{Account: "katadirect-node", Program: "csi-snapshotter", Verb: "patch", Resource: "volumesnapshotcontents/status.snapshot.storage.k8s.io", Name: "one", Allowed: true, At: at},
		},
		"what was refused": {
			`{"verb":"get","userAgent":"katadirect-csi-node/v1","user":{"username":"system:serviceaccount:katadirect:katadirect-node"},
			  "objectRef":{"resource":"secrets","namespace":"default","name":"one"},"annotations":{"authorization.k8s.io/decision":"forbid"},"stageTimestamp":"2026-01-02T03:04:05Z"}`,
			Asked{Account: "katadirect-node", Program: "katadirect-csi-node", Verb: "get", Resource: "secrets", Namespace: "default", Name: "one", At: at},
		},
		"no object": {
			`{"verb":"get","userAgent":"x","user":{"username":"y"},"annotations":{"authorization.k8s.io/decision":"allow"},"stageTimestamp":"2026-01-02T03:04:05Z"}`,
			Asked{Account: "y", Program: "x", Verb: "get", Allowed: true, At: at},
		},
	} {
		if got, err := readAudit([]byte(one.line)); err != nil || got != one.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := readAudit([]byte("{")); err == nil {
		t.Error("half a line is read")
	}
}
