package management

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

func TestFreezeThawAndListThroughTheClient(t *testing.T) {
	b := &sandbox{device: "/dev/vol 1"}
	_, sandboxes := serve(t, b)
	c := directvolume.NewClient("s1", directvolume.WithClientSandboxes(sandboxes))
	f, err := c.Freeze(t.Context(), b.device, 1500*time.Millisecond)
	if err != nil || f.ID != 7 || f.RemainingMilliseconds != 1500 {
		t.Errorf("%+v, %v", f, err)
	}
	for id, want := range map[uint64]bool{7: true, 8: false} {
		if thawed, err := c.Thaw(t.Context(), b.device, id); err != nil || thawed.WasFrozen != want {
			t.Errorf("thaw of %d: %+v, %v", id, thawed, err)
		}
	}
	list, err := c.Volumes(t.Context())
	if err != nil || len(list) != 1 || list[0].Device != b.device || list[0].Containers[0] != "c1" {
		t.Errorf("%+v, %v", list, err)
	}
	b.fail = volume.ErrCannotFreeze
	if _, err := c.Freeze(t.Context(), b.device, 0); !errors.Is(err, directvolume.ErrNotOffered) ||
		!strings.Contains(err.Error(), "katadirect's agent") {
		t.Errorf("with an agent that cannot: %v", err)
	}
}

func TestRequestsThatCannotBeDoneAreToldApart(t *testing.T) {
	b := &sandbox{device: "/dev/v"}
	client, _ := serve(t, b)
	good := `{"VolumePath":"/dev/v"}`
	for name, tc := range map[string]struct {
		path, body string
		fail       error
		status     int
		says       string
	}{
		"frozen":              {directvolume.PathFreeze, good, nil, 200, `"id":7`},
		"thawed":              {directvolume.PathThaw, `{"VolumePath":"/dev/v","ID":7}`, nil, 200, `{"was_frozen":true}`},
		"no JSON":             {directvolume.PathFreeze, "{", nil, 400, "read the request"},
		"nothing":             {directvolume.PathThaw, "", nil, 400, "read the request"},
		"no device":           {directvolume.PathFreeze, "{}", nil, 400, "VolumePath"},
		"wrong type":          {directvolume.PathFreeze, `{"VolumePath":"/dev/v","LimitMilliseconds":-1}`, nil, 400, "LimitMilliseconds"},
		"for too long":        {directvolume.PathFreeze, `{"VolumePath":"/dev/v","LimitMilliseconds":60001}`, nil, 400, "1m0s"},
		"longer than time is": {directvolume.PathFreeze, `{"VolumePath":"/dev/v","LimitMilliseconds":18446744073709551615}`, nil, 400, "1m0s"},
		"too large":           {directvolume.PathFreeze, `{"VolumePath":"` + strings.Repeat("x", maxBodyBytes) + `"}`, nil, 400, "too large"},
		"another's volume":    {directvolume.PathFreeze, `{"VolumePath":"/dev/w"}`, nil, 409, "not found in sandbox"},
		"read-only":           {directvolume.PathFreeze, good, volume.ErrReadOnly, 409, "read-only"},
		"raw":                 {directvolume.PathFreeze, good, volume.ErrOtherUse, 409, ""},
		"not mounted":         {directvolume.PathThaw, good, volume.ErrNotMounted, 409, "no container"},
		"Kata's agent":        {directvolume.PathThaw, good, volume.ErrCannotFreeze, 501, "katadirect's agent"},
		"anything else":       {directvolume.PathFreeze, good, errors.New("trouble"), 500, "trouble"},
		// Kata's own paths keep Kata's codes.
		"resize of another's":  {directvolume.PathResize, `{"VolumePath":"/dev/w","Size":1}`, nil, 500, "not found in sandbox"},
		"resize, and no JSON":  {directvolume.PathResize, "{", nil, 500, "read the request"},
		"resize, and ReadOnly": {directvolume.PathResize, `{"VolumePath":"/dev/v","Size":1}`, volume.ErrReadOnly, 500, "read-only"},
	} {
		t.Run(name, func(t *testing.T) {
			b.fail, b.resized = tc.fail, map[string]uint64{}
			status, body := ask(t, client, http.MethodPost, tc.path, tc.body)
			if status != tc.status || !strings.Contains(body, tc.says) {
				t.Errorf("%d: %s", status, body)
			}
		})
	}
}
