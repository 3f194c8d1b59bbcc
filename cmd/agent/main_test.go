package main

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func build(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// On a host it must not touch anything: no mounts, no reboot.
func TestItRunsNowhereButAsTheFirstProcess(t *testing.T) {
	agent := build(t)
	out, err := exec.Command(agent).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "first process of a guest machine") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = exec.Command(agent, "--version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "agent ") {
		t.Errorf("%v: %s", err, out)
	}
}
