package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/katadirect/katadirect/internal/lab"
)

// startControlPlane starts etcd, the API server, the controllers and the scheduler, and returns when the API is ready.
func (c *Cluster) startControlPlane(ctx context.Context) (err error) {
	if c.pki, err = newPKI(c.path("pki")); err != nil {
		return err
	}
	// The programs of a module are named after their folders: etcd's is "server".
	etcd, err := c.lab.Start(lab.Command{Name: "etcd", Path: c.Program("server"), Args: []string{
		"--data-dir", c.path("etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380",
		"--initial-cluster", "default=http://127.0.0.1:2380",
	}})
	if err != nil {
		return err
	}
	flags, err := c.controlFlags()
	if err != nil {
		return err
	}
	server, err := c.lab.Start(lab.Command{Name: "kube-apiserver", Path: c.Program("kube-apiserver"), Args: append(flags,
		"--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0", "--advertise-address="+nodeIP,
		"--secure-port=6443", "--tls-cert-file="+c.pki.path(serverCert), "--tls-private-key-file="+c.pki.path(serverKey),
		"--client-ca-file="+c.pki.path(caCert), "--token-auth-file="+c.pki.path(tokenFile),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
		"--kubelet-client-certificate="+c.pki.path(kubeletClient), "--kubelet-client-key="+c.pki.path(kubeletKey),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+c.pki.path(accountPublic),
		"--service-account-signing-key-file="+c.pki.path(accountKey), "--service-cluster-ip-range="+serviceCIDR,
		"--runtime-config=storage.k8s.io/v1beta1=true", // in which these sidecars know VolumeAttributesClasses
		"--profiling=false",
	)})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := server.WaitFor(ctx, c.apiReady()); err != nil {
		return fmt.Errorf("%w\netcd: %s", err, etcd.LastWords())
	}
	for _, command := range []lab.Command{
		{Name: "kube-controller-manager", Args: []string{
			"--kubeconfig=" + c.pki.kubeconfig("controller-manager"), "--root-ca-file=" + c.pki.path(caCert),
			"--service-account-private-key-file=" + c.pki.path(accountKey), "--use-service-account-credentials=true",
			"--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false",
		}},
		{Name: "kube-scheduler", Args: []string{
			"--kubeconfig=" + c.pki.kubeconfig("scheduler"), "--leader-elect=false", "--bind-address=127.0.0.1",
			"--profiling=false",
		}},
	} {
		command.Path = c.Program(command.Name)
		if _, err := c.lab.Start(command); err != nil {
			return err
		}
	}
	return nil
}

// killControlPlane ends it at once: it has nothing to save, and the API server waits for clients that are gone already.
func (c *Cluster) killControlPlane() {
	for _, name := range controlPlane {
		if p := c.lab.Process(name); p != nil {
			p.Kill()
		}
	}
}

// apiReady asks the API server, from outside of its network.
func (c *Cluster) apiReady() func(context.Context) error {
	roots := x509.NewCertPool()
	roots.AddCert(c.pki.ca)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext:       c.lab.Dial,
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		DisableKeepAlives: true,
	}}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+apiAddress+"/readyz", nil)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+c.pki.tokens["admin"])
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			said, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
			return fmt.Errorf("%s: %s", answer.Status, said)
		}
		return nil
	}
}

// forwardAPI listens on a port of the host's loopback and passes what comes to the API server.
func (c *Cluster) forwardAPI(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c.forward = listener
	c.serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go c.pass(conn)
		}
	})
	return c.pki.writeKubeconfig(c.Kubeconfig(), listener.Addr().String(), "admin")
}

func (c *Cluster) pass(conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	server, err := c.lab.Dial(ctx, "tcp", apiAddress)
	if err != nil {
		return // the client sees the connection end, as with a server that is down
	}
	defer server.Close()
	ended := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{conn, server}, {server, conn}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1])
			if half, ok := pair[0].(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
			ended <- struct{}{}
		}()
	}
	<-ended
	<-ended
}

// Kubeconfig is the path of the administrator's kubeconfig, for programs outside of the cluster's network.
func (c *Cluster) Kubeconfig() string { return c.path("kubeconfig") }

// Kubectl runs kubectl, outside of the cluster's network, and returns what it wrote.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlWith(ctx, "", args...)
}

// KubectlWith is Kubectl with something to read at its standard input.
func (c *Cluster) KubectlWith(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.Program("kubectl"), append([]string{"--kubeconfig=" + c.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

func writeTemplate(path, text string, values map[string]any) error {
	t, err := template.New(path).Parse(text)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, values); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

const tailBytes = 8000

// Tails are the last lines of the logs of some of the processes, and of containers of that name.
func (c *Cluster) Tails(names ...string) string {
	var out strings.Builder
	for _, name := range names {
		fmt.Fprintf(&out, "--- the end of %s's log\n%s\n", name, c.lab.LastWords(name))
		logs, _ := filepath.Glob(c.path("logs", "pods", "*", name, "*.log"))
		for _, log := range logs {
			said, _ := os.ReadFile(log)
			fmt.Fprintf(&out, "--- the end of %s\n%s\n", log, said[max(0, len(said)-tailBytes):])
		}
	}
	return out.String()
}
