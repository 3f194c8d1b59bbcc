package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// The whole program: a call over its socket shows in its metrics, its health is served, and its end ends both.
func TestMetricsAndHealthAreServed(t *testing.T) {
	dir, err := os.MkdirTemp("", "kd") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log, logged := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, flags(dir, "--http-endpoint", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"), io.Discard, logged)
		logged.Close()
	}()
	lines := bufio.NewScanner(log)
	address, request := "", map[string]any{}
	for address == "" && lines.Scan() {
		var line struct{ HTTP string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		address = line.HTTP
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
			_ = json.Unmarshal(lines.Bytes(), &request)
		}
	}()

	conn, err := grpc.NewClient("unix://"+filepath.Join(dir, "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := csi.NewNodeClient(conn).NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := csi.NewControllerClient(conn).DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: ".."}); err == nil {
		t.Fatal("a bad id was taken")
	}
	for path, want := range map[string]string{
		"/healthz": "ok\n", "/readyz": "ok\n",
		"/metrics/machines": "", "/volumes": `"volumes":[]`,
		"/metrics": `katadirect_csi_calls_total{code="InvalidArgument",method="DeleteVolume"} 1` + "\n",
	} {
		response, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %v, and no %q in\n%s", path, response.StatusCode, err, want, body)
		}
		if path == "/metrics" && !strings.Contains(string(body), "katadirect_csi_state_readable 1\n") {
			t.Errorf("the state is not readable:\n%s", body)
		}
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d", code)
	}
	<-drained
	if request["request"] == nil {
		t.Errorf("a call's line has no number: %v", request)
	}
	if _, err := http.Get("http://" + address + "/healthz"); err == nil {
		t.Error("health is still served")
	}
}
