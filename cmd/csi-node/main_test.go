package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// flags are those that put all state below dir, and then what the test adds.
func flags(dir string, more ...string) []string {
	return append([]string{
		"--endpoint", "unix://" + filepath.Join(dir, "csi.sock"), "--node-id", "node-1", "--pool", filepath.Join(dir, "pool"),
		"--record-root", filepath.Join(dir, "records"), "--state-dir", filepath.Join(dir, "state"),
	}, more...)
}

func TestVersionIsOneLine(t *testing.T) {
	var out bytes.Buffer
	if code := run(t.Context(), []string{"--version"}, &out, io.Discard); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.HasPrefix(out.String(), "csi-node ") || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("printed %q", out.String())
	}
}

func TestBadFlagsAreExplained(t *testing.T) {
	tests := map[string]struct {
		args []string
		code int
		word string
	}{
		"unknown flag":     {[]string{"--colour"}, exitUsage, "colour"},
		"an argument":      {[]string{"start"}, exitUsage, "start"},
		"log format":       {[]string{"--log-format", "xml"}, exitUsage, "xml"},
		"log level":        {[]string{"--log-level", "loud"}, exitUsage, "loud"},
		"node id":          {[]string{"--node-id", "a/b"}, exitFailed, "a/b"},
		"endpoint":         {[]string{"--endpoint", "tcp://:1"}, exitFailed, "tcp://:1"},
		"relative pool":    {[]string{"--pool", "pool"}, exitUsage, "--pool \"pool\" is not an absolute path"},
		"metrics volumes":  {[]string{"--metrics-volumes", "-1"}, exitUsage, "--metrics-volumes"},
		"http endpoint":    {[]string{"--http-endpoint", "nowhere"}, exitFailed, "--http-endpoint"},
		"relative state":   {[]string{"--state-dir", "./state"}, exitUsage, "--state-dir"},
		"relative plugins": {[]string{"--plugin-registration-path", "plugins"}, exitUsage, "--plugin-registration-path"},
		"no plugins":       {[]string{"--plugin-registration-path", "/dev/null/plugins"}, exitFailed, "/dev/null/plugins"},
		"pool is a file":   {[]string{"--pool", "/dev/null"}, exitFailed, "/dev/null"},
		"state is no path": {[]string{"--state-dir", "/dev/null/state"}, exitFailed, "/dev/null"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			code := run(t.Context(), flags(t.TempDir(), test.args...), io.Discard, &out)
			if code != test.code || !strings.Contains(out.String(), test.word) {
				t.Errorf("exit code %d, want %d; printed %q", code, test.code, out.String())
			}
		})
	}
}

func TestItServesUntilItIsTold(t *testing.T) {
	dir, err := os.MkdirTemp("", "kd") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log bytes.Buffer
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, flags(dir, "--log-format", "json"), io.Discard, &log) }()
	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := csi.NewIdentityClient(conn).Probe(t.Context(), &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	var second bytes.Buffer
	if code := run(t.Context(), flags(dir), io.Discard, &second); code != exitFailed || !strings.Contains(second.String(), "in use") {
		t.Errorf("a second driver on the pool: exit code %d, %q", code, second.String())
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
	for line := range strings.Lines(log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line of the log is not JSON: %q", line)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "csi.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}
