package deploy

import (
	"os/exec"
	"strings"
	"testing"
)

func TestTheChartPassesHelmsOwnCheck(t *testing.T) {
	said, err := exec.CommandContext(t.Context(), program(t, "helm/v*/helm", "helm"), "lint", "--strict", "--kube-version", "v1.34.0", chart).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}

func TestAClusterThatIsTooOldIsRefused(t *testing.T) {
	said, err := exec.CommandContext(t.Context(), program(t, "helm/v*/helm", "helm"), "template", "release", chart, "--kube-version", "v1.28.0").CombinedOutput()
	if err == nil || !strings.Contains(string(said), "1.29") {
		t.Errorf("%v: %s", err, said)
	}
}
