package management

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/volume"
)

func TestThrottleThroughTheClient(t *testing.T) {
	b := &sandbox{device: "/dev/vol 1"}
	_, sandboxes := serve(t, b)
	c := directvolume.NewClient("s1", directvolume.WithClientSandboxes(sandboxes))
	limits := directvolume.Limits{IOPS: 200, BurstIOPS: 300, BytesPerSecond: 1 << 20}
	if err := c.Throttle(t.Context(), b.device, limits); err != nil || b.limits != limits {
		t.Errorf("%+v, %v", b.limits, err)
	}
}

func TestThrottleTellsWhatCannotBeDoneApart(t *testing.T) {
	b := &sandbox{device: "/dev/v"}
	client, _ := serve(t, b)
	for name, tc := range map[string]struct {
		body   string
		fail   error
		status int
		says   string
	}{
		"done":             {`{"VolumePath":"/dev/v","Limits":{"iops":100}}`, nil, 200, "{}"},
		"none":             {`{"VolumePath":"/dev/v"}`, nil, 200, "{}"},
		"no device":        {`{"Limits":{"iops":100}}`, nil, 400, "VolumePath"},
		"negative":         {`{"VolumePath":"/dev/v","Limits":{"iops":-1}}`, nil, 400, "iops"},
		"no sense":         {`{"VolumePath":"/dev/v"}`, volume.ErrLimits, 400, "invalid limits"},
		"another's volume": {`{"VolumePath":"/dev/w"}`, nil, 409, "not found in sandbox"},
		"anything else":    {`{"VolumePath":"/dev/v"}`, errors.New("trouble"), 500, "trouble"},
	} {
		b.fail = tc.fail
		status, body := ask(t, client, http.MethodPost, directvolume.PathThrottle, tc.body)
		if status != tc.status || !strings.Contains(body, tc.says) {
			t.Errorf("%s: %d: %s", name, status, body)
		}
	}
}

func TestStatsSayWhenTheVolumeIsNotAtFault(t *testing.T) {
	b := &sandbox{device: "/dev/v"}
	client, _ := serve(t, b)
	for err, want := range map[error]int{volume.ErrNotMounted: 409, volume.ErrStanding: 503, errors.New("trouble"): 500} {
		b.fail = err
		status, _ := ask(t, client, http.MethodGet, directvolume.PathStats+"?path=/dev/v", "")
		if status != want {
			t.Errorf("%v: %d, want %d", err, status, want)
		}
	}
}
