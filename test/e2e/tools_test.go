package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// talkingPod serves /data by HTTP and answers each line of its standard input.
var talkingPod = strings.Replace(machinePod("talking", "talking"), `command: [sleep, "100000"]`, `stdin: true
    command: [sh, -c, "httpd -p 8080 -h /data; echo it listens; while read line; do echo heard $line; done; sleep 100000"]`, 1)

func kubectlsTools(t *testing.T, k *kube) {
	k.step("a pod that listens")
	k.apply(claim("talking", "64Mi", "ReadWriteOncePod") + talkingPod)
	k.ready("talking")

	k.step("kubectl exec, with input, output and exit status")
	k.exec("talking", "echo content > /data/file")
	if got, err := k.KubectlWith(t.Context(), "typed", "-n", k.ns, "exec", "-i", "talking", "--", "cat"); err != nil || got != "typed" {
		t.Errorf("cat says %q, %v", got, err)
	}
	if _, err := k.tryKubectl("exec", "talking", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit code 7") {
		t.Errorf("a command that fails with 7: %v", err)
	}

	k.step("kubectl logs")
	if got := k.kubectl("logs", "talking"); got != "it listens\n" {
		t.Errorf("the log is %q", got)
	}

	k.step("kubectl attach")
	attach := k.start("attach", "-i", "talking")
	if _, err := io.WriteString(attach.in, "good morning\n"); err != nil {
		t.Error(err)
	}
	attach.until("heard good morning")
	attach.end()
	if got := k.kubectl("logs", "talking"); got != "it listens\nheard good morning\n" {
		t.Errorf("the log is %q", got)
	}

	k.step("kubectl port-forward")
	forward := k.start("port-forward", "pod/talking", ":8080")
	at := forward.until(`Forwarding from (127\.0\.0\.1:\d+) -> 8080`)[1]
	if got := body(t, "http://"+at+"/file"); got != "content\n" {
		t.Errorf("the forwarded port gives %q", got)
	}
	forward.end()

	k.step("kubectl cp, both ways")
	there, back := filepath.Join(t.TempDir(), "there"), filepath.Join(t.TempDir(), "back")
	want := strings.Repeat("a line of the file\n", 50_000)
	if err := os.WriteFile(there, []byte(want), 0o600); err != nil {
		t.Fatal(err)
	}
	k.kubectl("cp", there, "talking:/data/copied")
	k.kubectl("cp", "talking:/data/copied", back)
	if got, err := os.ReadFile(back); err != nil || string(got) != want {
		t.Errorf("%d bytes came back of %d: %v", len(got), len(want), err)
	}
}

// talk is a kubectl that goes on until it is told to end.
type talk struct {
	k    *kube
	in   io.WriteCloser
	said *bufio.Scanner
	end  func()
}

func (k *kube) start(args ...string) *talk {
	k.t.Helper()
	// It talks while other things are waited for, each with patience of its own.
	const limit = 4 * patience
	ctx, cancel := context.WithTimeout(k.t.Context(), limit)
	cmd := exec.CommandContext(ctx, k.Program("kubectl"), append([]string{"--kubeconfig=" + k.Kubeconfig(), "-n", k.ns}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	end := func() {
		cancel()
		_ = cmd.Wait() // it was killed
	}
	k.t.Cleanup(end)
	return &talk{k, in, bufio.NewScanner(out), end}
}

// until waits for a line of the output and returns what matched.
func (c *talk) until(pattern string) []string {
	c.k.t.Helper()
	var all []string
	for c.said.Scan() {
		if found := regexp.MustCompile(pattern).FindStringSubmatch(c.said.Text()); found != nil {
			return found
		}
		all = append(all, c.said.Text())
	}
	c.k.t.Fatalf("kubectl did not say %q, but\n%s\n%v", pattern, strings.Join(all, "\n"), c.said.Err())
	return nil
}

func body(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: time.Minute}
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return fmt.Sprint(answer.Status, err)
	}
	return string(said)
}
