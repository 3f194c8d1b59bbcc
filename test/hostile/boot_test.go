package hostile

import (
	"strings"
	"testing"
	"time"
)

// A guest that is hostile from its first moment costs its pod, with the reason in the error that reaches the pod's
// events, and nobody else anything.
func TestAGuestThatIsHostileAtBootCostsOnlyItsPod(t *testing.T) {
	h := newHost(t)
	for _, tc := range []struct {
		evil string
		// reason is one of these.
		reason []string
	}{
		{"garbage", []string{"agent"}},
		{"frame", []string{"larger than any of an agent's"}},
		{"hang-up", []string{"did not answer", "dial_timeout"}},
		// It never answers either.
		{"console", []string{"did not answer", "dial_timeout"}},
		{"error", []string{"the guest's own words"}},
		{"panic", []string{"panic"}},
		{"power-off", []string{"power", "shut"}},
	} {
		t.Run(tc.evil, func(t *testing.T) {
			peak := h.watchShims()
			began := time.Now()
			pod, err := h.runPod(t.Context(), tc.evil)
			took := time.Since(began)
			checkPeak(t, peak())
			if err == nil {
				remove(t, pod)
				t.Fatal("the pod runs")
			}
			t.Logf("after %s: %.600s", took.Round(time.Millisecond), err)
			if limit := dialTimeoutSeconds*time.Second + noticeLimit; took > limit {
				t.Errorf("it took %s to fail, may take %s", took, limit)
			}
			checkText(t, err.Error())
			found := false
			for _, reason := range tc.reason {
				found = found || strings.Contains(strings.ToLower(err.Error()), reason)
			}
			if !found {
				t.Errorf("the error does not say any of %q: %v", tc.reason, err)
			}
			pids, err := h.Find("containerd-shim-katadirect-v2")
			for deadline := time.Now().Add(noticeLimit); len(pids) > 0 && err == nil && time.Now().Before(deadline); {
				time.Sleep(50 * time.Millisecond)
				pids, err = h.Find("containerd-shim-katadirect-v2")
			}
			if err != nil || len(pids) > 0 {
				t.Errorf("shims are left: %v, %v", pids, err)
			}
		})
	}
}
