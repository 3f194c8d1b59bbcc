package cluster

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/katadirect/katadirect/internal/lab"
)

// Names of what can be disturbed.
const (
	APIServer  = "kube-apiserver"
	Kubelet    = "kubelet"
	Containerd = "containerd"
)

// Kill ends a part of the cluster as a crash would.
func (c *Cluster) Kill(name string) error {
	p := c.lab.Process(name)
	if p == nil {
		return fmt.Errorf("no %s was started", name)
	}
	p.Kill()
	return nil
}

// Stop ends a part of the cluster as its service manager would.
func (c *Cluster) Stop(ctx context.Context, name string) error { return c.lab.StopProcess(ctx, name) }

// Again starts a part of the cluster that has ended, and returns when it does its work. path, if not empty, is a program
// to be started in place of what was started before.
func (c *Cluster) Again(ctx context.Context, name, path string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if name == Containerd {
		return c.lab.StartContainerd(ctx)
	}
	last := c.lab.Process(name)
	if last == nil {
		return fmt.Errorf("no %s was started", name)
	}
	command := last.Command
	if path != "" {
		command.Path = path
	}
	p, err := c.lab.Start(command)
	if err != nil {
		return err
	}
	ready := map[string]func(context.Context) error{
		APIServer: c.apiReady(), Kubelet: c.kubeletHealthy,
	}[name]
	if ready == nil {
		return nil
	}
	return p.WaitFor(ctx, ready)
}

// kubeletHealthy asks kubelet whether it works.
func (c *Cluster) kubeletHealthy(ctx context.Context) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: c.lab.Dial, DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10248/healthz", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("kubelet: %s", answer.Status)
	}
	return nil
}

// Process is a part of the cluster that was started, or nil.
func (c *Cluster) Process(name string) *lab.Process { return c.lab.Process(name) }
