package management

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

func TestACopyIsBegunAskedAfterAndCancelledThroughTheClient(t *testing.T) {
	b := &sandbox{device: "/dev/vol 1"}
	_, sandboxes := serve(t, b)
	c := directvolume.NewClient("s1", directvolume.WithClientSandboxes(sandboxes))
	copying, err := c.StartCopy(t.Context(), b.device, "/pool/copy")
	if err != nil || b.copyTarget != "/pool/copy" {
		t.Fatal(err, b.copyTarget)
	}
	if err := copying.Wait(t.Context()); err != nil {
		t.Errorf("a copy that is whole: %v", err)
	}
	if err := copying.Cancel(t.Context()); err != nil {
		t.Error(err)
	}
	if err := copying.Wait(t.Context()); !errors.Is(err, directvolume.ErrCopy) || !strings.Contains(err.Error(), "cancelled") {
		t.Errorf("a cancelled copy: %v", err)
	}
}

func TestCopyRequestsThatCannotBeDoneAreToldApart(t *testing.T) {
	b := &sandbox{device: "/dev/v"}
	client, _ := serve(t, b)
	for name, tc := range map[string]struct {
		path, body string
		status     int
		says       string
	}{
		"no JSON":          {directvolume.PathCopy, "{", 400, "read the request"},
		"no target":        {directvolume.PathCopy, `{"VolumePath":"/dev/v"}`, 400, "TargetPath"},
		"no device":        {directvolume.PathCopy, `{"TargetPath":"/x"}`, 400, "VolumePath"},
		"no id":            {directvolume.PathCopyState, `{"VolumePath":"/dev/v"}`, 400, "ID"},
		"cancel, no id":    {directvolume.PathCopyCancel, `{"VolumePath":"/dev/v"}`, 400, "ID"},
		"another's":        {directvolume.PathCopy, `{"VolumePath":"/dev/w","TargetPath":"/x"}`, 409, "not found"},
		"no such copy":     {directvolume.PathCopyState, `{"VolumePath":"/dev/v","ID":4}`, 409, volume.ErrNoCopy.Error()},
		"cancel of none":   {directvolume.PathCopyCancel, `{"VolumePath":"/dev/v","ID":4}`, 409, volume.ErrNoCopy.Error()},
		"of the right one": {directvolume.PathCopyState, `{"VolumePath":"/dev/v","ID":5}`, 200, `"done":true`},
	} {
		t.Run(name, func(t *testing.T) {
			status, body := ask(t, client, http.MethodPost, tc.path, tc.body)
			if status != tc.status || !strings.Contains(body, tc.says) {
				t.Errorf("%d: %s", status, body)
			}
		})
	}
}
