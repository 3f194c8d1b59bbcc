package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

// measureMemory looks at the shim's resident memory while its pod runs one container.
func measureMemory(ctx context.Context, e *env, runs int) (_ []Figure, err error) {
	node, err := kubelet.Open(ctx, kubelet.Options{BinDir: e.binDir, Image: e.image})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeNode(ctx, node)) }()
	var one, four samples
	for i := range runs {
		value, valueFour, err := shimMemory(ctx, node, i)
		if err != nil {
			return nil, err
		}
		floor, err := bareMemory(ctx, e)
		if err != nil {
			return nil, err
		}
		one.add(value, floor)
		four.add(valueFour, floor)
	}
	const floor = "; floor: a Go program that serves ttrpc and does nothing"
	return []Figure{
		one.figure("memory", "resident memory of the shim with one container"+floor, "MB", valueAtMost(20), "none"),
		four.figure("memory-4", "resident memory of the shim with four containers"+floor, "MB", valueAtMost(25), "none"),
	}, nil
}

// shimMemory is a shim's with one container and with four.
func shimMemory(ctx context.Context, node *kubelet.Node, i int) (one, four float64, err error) {
	pod, err := node.Lab.RunPod(ctx, lab.PodSpec{Name: fmt.Sprintf("memory%d", i), Handler: kubelet.Handler})
	if err != nil {
		return 0, 0, err
	}
	pid, err := shimOf(pod.ID)
	if err != nil {
		return 0, 0, err
	}
	for c := range 4 {
		_, err := pod.Run(ctx, lab.ContainerSpec{Name: fmt.Sprintf("app%d", c), Command: []string{"sleep", "1000"}})
		if err != nil {
			return 0, 0, err
		}
		if four, err = residentMB(pid); err != nil {
			return 0, 0, err
		}
		if c == 0 {
			one = four
		}
	}
	return one, four, pod.Remove(ctx)
}

// shimOf finds the shim of a sandbox by its command line: it is told the sandbox's id.
func shimOf(sandboxID string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		words := strings.Split(string(ignoreError(os.ReadFile(file))), "\x00")
		if strings.HasPrefix(filepath.Base(words[0]), "containerd-shim-katadirect") && slices.Contains(words, sandboxID) {
			return strconv.Atoi(filepath.Base(filepath.Dir(file)))
		}
	}
	return 0, fmt.Errorf("no shim of sandbox %s runs", sandboxID)
}

// ignoreError is for processes that end while they are looked at.
func ignoreError(data []byte, _ error) []byte { return data }

// residentMB is the process's resident memory in units of 1,000,000 bytes.
func residentMB(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kib * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("process %d has no memory", pid)
}

func bareMemory(ctx context.Context, e *env) (mb float64, err error) {
	socket := filepath.Join(e.dir, "ttrpc.sock")
	cmd := exec.CommandContext(ctx, e.bareTTRPC, socket)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed, and says so
		_ = os.Remove(socket)
	}()
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			defer c.Close()
			return residentMB(cmd.Process.Pid)
		}
		select {
		case <-ctx.Done():
			return 0, errors.Join(err, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}
