package directvolume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// defaultTimeout bounds a call whose context has no deadline: a guest may never answer.
	defaultTimeout = 30 * time.Second

	maxStatsBytes   = 64 << 10
	maxMetricsBytes = 8 << 20
	maxErrorBytes   = 4 << 10
)

// Client speaks to the management socket of one sandbox. It is safe for several goroutines and needs no closing.
//
// A call ends when its context does, or after 30 seconds if that has no deadline. Errors: ErrNoSandbox when nobody
// listens, *StatusError when the shim answers anything but 200.
type Client struct {
	sandboxID string
	sandboxes Sandboxes
	guestPath string
}

// ClientOption changes how NewClient makes a Client.
type ClientOption func(*Client)

// WithClientSandboxes makes the Client look for the socket elsewhere.
func WithClientSandboxes(sandboxes Sandboxes) ClientOption {
	return func(c *Client) { c.sandboxes = sandboxes }
}

// WithGuestPath says where the volume is mounted in the guest. Kata's Rust shim takes that path where the others take
// the device, and nobody but the caller knows it.
func WithGuestPath(path string) ClientOption {
	return func(c *Client) { c.guestPath = path }
}

// NewClient returns a client for the sandbox. Nothing is opened yet.
func NewClient(sandboxID string, options ...ClientOption) *Client {
	c := &Client{sandboxID: sandboxID}
	for _, option := range options {
		option(c)
	}
	return c
}

// Stats asks the guest how full and how healthy the volume on the device is. The device is the record's, to the byte.
func (c *Client) Stats(ctx context.Context, device string) (VolumeStats, error) {
	stats, err := c.stats(ctx, device)
	if err != nil {
		return VolumeStats{}, fmt.Errorf("stats of %s in sandbox %s: %w", device, c.sandboxID, err)
	}
	return stats, nil
}

func (c *Client) stats(ctx context.Context, device string) (VolumeStats, error) {
	s, err := c.socket()
	if err != nil {
		return VolumeStats{}, err
	}
	method, query := http.MethodGet, StatsQuery(device)
	if s.rust {
		method, query = http.MethodPost, QueryPath+"="+url.QueryEscape(orDefault(c.guestPath, device))
	}
	body, err := s.do(ctx, method, PathStats+"?"+query, nil, maxStatsBytes)
	if err != nil {
		return VolumeStats{}, err
	}
	return parseStats(body)
}

// Resize tells the shim that the device has grown to sizeBytes, or must, and returns when the guest's file system
// has that size.
func (c *Client) Resize(ctx context.Context, device string, sizeBytes uint64) error {
	if err := c.resize(ctx, device, sizeBytes); err != nil {
		return fmt.Errorf("resize %s to %d bytes in sandbox %s: %w", device, sizeBytes, c.sandboxID, err)
	}
	return nil
}

func (c *Client) resize(ctx context.Context, device string, sizeBytes uint64) error {
	s, err := c.socket()
	if err != nil {
		return err
	}
	var request any = ResizeRequest{VolumePath: device, Size: sizeBytes}
	if s.rust {
		request = rustResizeRequest{GuestPath: orDefault(c.guestPath, device), Size: sizeBytes}
	}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	_, err = s.do(ctx, http.MethodPost, PathResize, body, maxErrorBytes)
	return err
}

// AgentURL returns the address of the agent's channel, e.g. vsock://3:1024.
func (c *Client) AgentURL(ctx context.Context) (string, error) {
	body, err := c.get(ctx, PathAgentURL, maxErrorBytes)
	return strings.TrimSpace(string(body)), err
}

// Metrics returns the sandbox's metrics in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	return c.get(ctx, PathMetrics, maxMetricsBytes)
}

func (c *Client) get(ctx context.Context, path string, maxBytes int64) ([]byte, error) {
	s, err := c.socket()
	if err != nil {
		return nil, fmt.Errorf("get %s of sandbox %s: %w", path, c.sandboxID, err)
	}
	body, err := s.do(ctx, http.MethodGet, path, nil, maxBytes)
	if err != nil {
		return nil, fmt.Errorf("get %s of sandbox %s: %w", path, c.sandboxID, err)
	}
	return body, nil
}

// socket is a management socket, and whose dialect is spoken there.
type socket struct {
	path string
	rust bool
}

// socket looks in both of Kata's places, the Go shim's first, as Kata's own clients do.
func (c *Client) socket() (socket, error) {
	if err := CheckSandboxID(c.sandboxID); err != nil {
		return socket{}, err
	}
	for _, s := range []socket{
		{path: c.sandboxes.SocketPath(c.sandboxID)},
		{path: c.sandboxes.rustSocketPath(c.sandboxID), rust: true},
	} {
		_, err := os.Stat(s.path)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return socket{}, err
		}
	}
	return socket{}, fmt.Errorf("%w: neither %s nor %s is there",
		ErrNoSandbox, c.sandboxes.SocketPath(c.sandboxID), c.sandboxes.rustSocketPath(c.sandboxID))
}

// do sends one request and returns the body of a 200.
func (s socket) do(ctx context.Context, method, target string, body []byte, maxBytes int64) ([]byte, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://shim"+target, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	transport := s.transport()
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, s.explain(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBytes))
		return nil, &StatusError{Code: response.StatusCode, Message: strings.TrimSpace(string(text))}
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxBytes+1))
	if err != nil {
		return nil, err
	}
	if int64(len(answer)) > maxBytes {
		return nil, fmt.Errorf("the shim's answer is larger than %d KiB", maxBytes>>10)
	}
	return answer, nil
}

func (s socket) transport() *http.Transport {
	transport := &http.Transport{
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.path)
		},
	}
	if s.rust {
		// The Rust server parses the request target as an absolute URL, which a client only sends to a proxy.
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: "shim"})
	}
	return transport
}

// explain turns what a closed socket says into what it means.
func (s socket) explain(err error) error {
	if netErr := (*net.OpError)(nil); errors.As(err, &netErr) && netErr.Op == "dial" && !accepts(s.path) {
		return fmt.Errorf("%w: %w", ErrNoSandbox, err)
	}
	if s.rust && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
		return fmt.Errorf("the Rust shim refused without saying why: %w", err)
	}
	return err
}
