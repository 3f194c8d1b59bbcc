package cri

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/katadirect/katadirect/internal/kubelet"
	"github.com/katadirect/katadirect/internal/lab"
)

// forwarded is one connection through containerd's streaming server, as kubectl has it by way of the API server and
// kubelet. Of the protocols that kubelet's code speaks there, this is the one with WebSockets: each message begins with
// the number of its channel, the first on each channel is the port.
type forwarded struct {
	conn *websocket.Conn
	left []byte // of the last message, not read yet
}

// The channels of a connection with one port.
const (
	dataChannel = iota
	errorChannel
)

func portForward(ctx context.Context, n *kubelet.Node, pod *lab.Pod, port int) (_ *forwarded, err error) {
	answer, err := n.Lab.CRI().PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: pod.ID, Port: []int32{int32(port)}})
	if err != nil {
		return nil, err
	}
	target, err := url.Parse(answer.GetUrl())
	if err != nil {
		return nil, err
	}
	query := target.Query()
	query.Set("port", strconv.Itoa(port))
	target.Scheme, target.RawQuery = "ws", query.Encode()
	conn, err := n.Lab.Dial(ctx, "tcp", target.Host)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	config, err := websocket.NewConfig(target.String(), "http://localhost/")
	if err != nil {
		return nil, err
	}
	config.Protocol = []string{"v4.channel.k8s.io"}
	f := &forwarded{}
	if f.conn, err = websocket.NewClient(config, conn); err != nil {
		return nil, err
	}
	f.conn.PayloadType = websocket.BinaryFrame
	want := binary.LittleEndian.AppendUint16(nil, uint16(port))
	for range 2 {
		var message []byte
		if err := websocket.Message.Receive(f.conn, &message); err != nil {
			return nil, err
		}
		if len(message) == 0 || !bytes.Equal(message[1:], want) {
			return nil, fmt.Errorf("the connection begins with %q", message)
		}
	}
	return f, nil
}

// complaint is what containerd says of the connection, beside its data.
type complaint string

func (c complaint) Error() string { return "containerd says: " + string(c) }

// Read reads what the server sends.
func (f *forwarded) Read(data []byte) (int, error) {
	for len(f.left) == 0 {
		var message []byte
		if err := websocket.Message.Receive(f.conn, &message); err != nil {
			return 0, err
		}
		switch {
		case len(message) == 0:
		case message[0] == errorChannel:
			return 0, complaint(message[1:])
		default:
			f.left = message[1:]
		}
	}
	n := copy(data, f.left)
	f.left = f.left[n:]
	return n, nil
}

func (f *forwarded) send(data []byte) error {
	const piece = 16 << 10
	for len(data) > 0 {
		part := data[:min(len(data), piece)]
		if err := websocket.Message.Send(f.conn, append([]byte{dataChannel}, part...)); err != nil {
			return err
		}
		data = data[len(part):]
	}
	return nil
}

// echoed sends data and returns what comes back of it.
func (f *forwarded) echoed(data []byte) ([]byte, error) {
	defer f.conn.Close()
	sent := make(chan error, 1)
	go func() { sent <- f.send(data) }()
	back := make([]byte, len(data))
	n, err := io.ReadFull(f, back)
	if err != nil {
		return back[:n], err
	}
	return back, <-sent
}

func TestPortForwardReachesServersInTheGuest(t *testing.T) {
	eachContainerd(t, func(t *testing.T, n *kubelet.Node) {
		pod := runPod(t, n, "pod")
		c := run(t, pod, "app", "exec probe echo 127.0.0.1:7001 0.0.0.0:7002 [::1]:7003", newPodDir(t, n).probe())
		eventually(t, func(context.Context) string {
			if out, err := c.Logs("stdout"); err != nil || out != "ready\n" {
				return fmt.Sprintf("the server says %q, %v", out, err)
			}
			return ""
		})
		data := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{}).Read(data)
		for name, port := range map[string]int{"on its loopback": 7001, "on all addresses": 7002, "on IPv6 only": 7003} {
			t.Run(name, func(t *testing.T) {
				f, err := portForward(t.Context(), n, pod, port)
				if err != nil {
					t.Fatal(err)
				}
				if back, err := f.echoed(data); err != nil || !bytes.Equal(back, data) {
					t.Errorf("%d of %d bytes came back, %v", len(back), len(data), err)
				}
			})
		}
		t.Run("where nobody listens", func(t *testing.T) {
			f, err := portForward(t.Context(), n, pod, 7004)
			if err != nil {
				t.Fatal(err)
			}
			var said complaint
			if back, err := f.echoed([]byte("anybody?")); !errors.As(err, &said) {
				t.Errorf("%q came back, %v", back, err)
			}
		})
		removePod(t, pod)
	})
}
