package cri

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

// ctr drives containerd without a pod around the container: streams, terminals and states that the CRI keeps to itself.
type ctr struct {
	*testing.T
	node *kubelet.Node
	path string
}

func newCtr(t *testing.T, n *kubelet.Node) ctr {
	t.Helper()
	containerd, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", n.Lab.Containerd().PID()))
	if err != nil {
		t.Fatal(err)
	}
	return ctr{t, n, filepath.Join(filepath.Dir(containerd), "ctr")}
}

// shell runs a script in which $CTR is ctr, and $RUN is "ctr run" with our runtime, and returns what it printed.
func (c ctr) shell(script string) (string, error) {
	c.Helper()
	dir := c.node.Lab.Dir
	call := fmt.Sprintf("%s -a %s/containerd.sock -n k8s.io", c.path, dir)
	run := fmt.Sprintf("%s run --runtime io.containerd.katadirect.v2 --runtime-config-path %s/%s.toml",
		call, dir, kubelet.Handler)
	return c.node.Lab.Run(c.Context(), lab.Command{
		Name: "sh", Path: "/bin/sh", Args: []string{"-c", script},
		Env: []string{"CTR=" + call, "RUN=" + run, "IMAGE=" + lab.ShellImage},
	})
}

// want runs a script that must print exactly that, last.
func (c ctr) want(script, out string) {
	c.Helper()
	if got, err := c.shell(script); err != nil || !strings.HasSuffix(got, out) {
		c.Errorf("%s\nprinted %q, %v, want %q", script, got, err, out)
	}
}

// sized sets $SIZED to what prints the terminal's size, in the end that one: ctr passes its own on when the process has
// started, and a shell may be faster.
func sized(size string) string {
	return `export SIZED='for i in $(seq 300); do [ "$(stty size)" != "` + size + `" ] || break; sleep 0.1; done; stty size'; `
}

func TestAContainerAloneHasAMachineAndItsStreams(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		c := newCtr(t, n)
		c.want(`$RUN --rm $IMAGE exits sh -c 'echo hello; exit 9'; echo code $?`, "hello\ncode 9\n")
		// The input has ended before the machine is up.
		c.want(`echo hello | $RUN --rm $IMAGE early cat`, "hello\n")
		c.want(sized("30 100")+`script -qec 'stty rows 30 cols 100; $RUN --rm -t $IMAGE terminal sh -c "$SIZED"' /dev/null | tr -d '\r'`,
			"30 100\n")

		noise, in, out := make([]byte, 4<<20), filepath.Join(n.Lab.Dir, "in"), filepath.Join(n.Lab.Dir, "out")
		_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
		if err := os.WriteFile(in, noise, 0o600); err != nil {
			t.Fatal(err)
		}
		c.want(fmt.Sprintf(`$RUN --rm $IMAGE both cat <%s >%s`, in, out), "")
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, noise) {
			t.Errorf("of %d bytes through stdin and stdout %d came back, not the same, %v", len(noise), len(got), err)
		}

		taker, file := filepath.Join(n.Lab.Dir, "taker"), filepath.Join(n.Lab.Dir, "logged")
		script := "#!/bin/sh\nexec 5>&-; echo \"$CONTAINER_ID in $CONTAINER_NAMESPACE: $(cat <&3)\" >$2\n"
		if err := os.WriteFile(taker, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		for uri, want := range map[string]string{"file://" + file: "hello\n", "binary://" + taker + "?to=" + file: "logged in k8s.io: hello\n"} {
			c.want(fmt.Sprintf(`rm -f %[1]s; $RUN --rm --log-uri '%[2]s' $IMAGE logged echo hello; cat %[1]s`, file, uri), want)
		}

		for script, want := range map[string]string{
			`$RUN --rm $IMAGE missing /no/such/program`:                     "/no/such/program",
			`$RUN --rm --runtime-config-path /no/such/file $IMAGE config :`: "/no/such/file",
		} {
			if got, err := c.shell(script); err == nil || !strings.Contains(got, want) {
				t.Errorf("%s\nprinted %q, %v, want an error that says %s", script, got, err, want)
			}
		}
	})
}

func TestATaskThroughItsStates(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		c := newCtr(t, n)
		status := `$CTR task ls | awk '$1 == "task" { print $3 }'`
		c.want(`$RUN -d $IMAGE task sh -c 'trap "exit 5" TERM; while :; do sleep 0.2; done'; `+status, "RUNNING\n")
		c.want(`$CTR task exec --exec-id e1 task sh -c 'echo hello; exit 4'; echo code $?`, "hello\ncode 4\n")
		c.want(`echo hello | $CTR task exec --exec-id e2 task cat`, "hello\n")
		if got, err := c.shell(`$CTR task checkpoint task`); err == nil || !strings.Contains(got, "not implemented") {
			t.Errorf("a checkpoint printed %q, %v", got, err)
		}
		shims, err := n.Lab.Find("containerd-shim-katadirect-v2")
		if err != nil || len(shims) != 1 {
			t.Fatalf("shims %v, %v", shims, err)
		}
		if err := syscall.Kill(shims[0], syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		eventually(t, func(context.Context) string {
			if !strings.Contains(n.Lab.Containerd().Said(), "goroutine 1 [") {
				return "containerd's log does not say what the shim's goroutines do"
			}
			return ""
		})
		c.want(`$CTR task pause task; `+status, "PAUSED\n")

		// A restarted containerd finds the task as it left it.
		if err := n.Lab.Containerd().Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.Lab.StartContainerd(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.want(status, "PAUSED\n")
		c.want(`$CTR task resume task; `+status, "RUNNING\n")
		c.want(`$CTR task exec --exec-id e3 task echo hello`, "hello\n")
		c.want(`($CTR task kill task; while $CTR task ls | grep -q RUNNING; do sleep 0.1; done); `+status, "STOPPED\n")
		c.want(`$CTR task rm task; $CTR container rm task; $CTR task ls -q; echo none`, "none\n")
	})
}
