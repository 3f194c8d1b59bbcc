package storage

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/katadirect/katadirect/internal/filesystem"
	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestALabelIsForGuestsThatHaveSELinux(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	was := selinuxState
	t.Cleanup(func() { selinuxState = was })
	selinuxState = filepath.Join(t.TempDir(), "enforce")
	given := filesystem.MountOptions{Data: "commit=30"}
	if got := labelled(given, label); got != given {
		t.Errorf("without SELinux: %+v", got)
	}
	if err := os.WriteFile(selinuxState, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := labelled(given, label).Data; got != `commit=30,context="`+label+`"` {
		t.Errorf("with SELinux: %s", got)
	}
	if got := labelled(filesystem.MountOptions{}, label).Data; got != `context="`+label+`"` {
		t.Errorf("without other options: %s", got)
	}
	if got := labelled(given, ""); got != given {
		t.Errorf("without a label: %+v", got)
	}
	for value, good := range map[string]bool{label: true, `a",errors=panic,x="`: false, "": false} {
		_, err := parse(&agentproto.Storage{Driver: "blk", Source: "01", Fstype: "ext4", MountPoint: "/run/kata-containers/x",
			DriverOptions: []string{OptionSELinuxLabel + "=" + value}})
		if (err == nil) != good {
			t.Errorf("%q: %v", value, err)
		}
	}
}
