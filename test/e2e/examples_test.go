package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// examplesRun does with deploy/examples what their first lines say. PostgreSQL's has a scenario of its own.
func examplesRun(t *testing.T, k *kube) {
	k.step("walk-through.yaml, and resize.yaml while its pod writes")
	k.apply(k.example("walk-through.yaml"))
	k.ready("walk-through")
	k.direct("walk-through")
	container := k.containerOf("walk-through")
	k.apply(k.example("resize.yaml"))
	k.untilField("pvc/walk-through", "{.status.capacity.storage}", "2Gi")
	k.until("df to say so", func() (string, bool) {
		kib, _, err := k.tryDf("walk-through")
		return fmt.Sprint(kib, err), kib > 1_900_000
	})
	if now := k.containerOf("walk-through"); now != container {
		t.Errorf("the container was %s and is %s", container, now)
	}

	k.step("snapshot.yaml, and restore.yaml")
	before := k.exec("walk-through", "wc -l < /data/dates")
	k.apply(k.example("snapshot.yaml"))
	k.untilField("volumesnapshot/walk-through", "{.status.readyToUse}", "true")
	k.apply(k.example("restore.yaml"))
	k.ready("restored")
	for _, dates := range []string{"/data/dates", "/clone/dates"} {
		if got := k.exec("restored", "[ $(wc -l < "+dates+") -ge "+before+" ] && echo enough"); got != "enough" {
			t.Errorf("%s has fewer than %s lines", dates, before)
		}
	}
	k.remove("pod/walk-through", "pod/restored")

	k.step("auto.yaml, ephemeral.yaml and raw-block.yaml")
	for _, name := range []string{"auto.yaml", "ephemeral.yaml", "raw-block.yaml"} {
		k.apply(k.example(name))
	}
	k.ready("auto-machine", "auto-ordinary", "ephemeral", "raw-block")
	for _, c := range []struct{ pod, file, want string }{
		{"auto-machine", "/data", "/dev/vd"}, {"auto-ordinary", "/data", "/dev/loop"},
		{"ephemeral", "/generic", "/dev/vd"}, {"ephemeral", "/inline", "/dev/vd"},
	} {
		if got := k.exec(c.pod, "grep ' "+c.file+" ' /proc/mounts"); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s has %q", c.pod, got)
		}
	}
	if got := k.exec("raw-block", "echo hello >/dev/data && head -c 5 /dev/data"); got != "hello" {
		t.Errorf("raw-block reads %q", got)
	}

	k.remove("pod/auto-machine", "pod/auto-ordinary", "pod/ephemeral", "pod/raw-block")

	k.step("volume-attributes-class.yaml")
	k.kubectl("wait", "--for=delete", "volumeattributesclass/silver", "volumeattributesclass/gold", "--timeout="+patience.String()) // another scenario's
	k.apply(k.example("volume-attributes-class.yaml"))
	k.ready("limited")
	k.kubectl("patch", "pvc", "limited", "-p", `{"spec":{"volumeAttributesClassName":"gold"}}`)
	k.untilField("pvc/limited", "{.status.currentVolumeAttributesClassName}", "gold")

	k.step("their classes go")
	k.remove("pod/limited", "pvc/limited", "volumeattributesclass/silver", "volumeattributesclass/gold", "storageclass/walk-through")
}
