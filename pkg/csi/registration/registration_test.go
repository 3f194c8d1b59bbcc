package registration

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/katadirect/katadirect/pkg/csi"
)

const patience = time.Minute

// keeping runs Keep in a folder of its own until the test ends.
type keeping struct {
	dir    string
	socket string
	stop   context.CancelFunc
	ended  chan error
}

func keep(t *testing.T) *keeping {
	t.Helper()
	dir, err := os.MkdirTemp("", "kd") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, stop := context.WithCancel(t.Context())
	k := &keeping{dir, filepath.Join(dir, csi.DriverName+"-reg.sock"), stop, make(chan error, 1)}
	go func() {
		k.ended <- Keep(ctx, Config{Dir: dir, Endpoint: "/plugins/csi.sock", Log: slog.New(slog.DiscardHandler),
			times: times{look: 10 * time.Millisecond, retryFirst: time.Millisecond, retryMost: 2 * time.Millisecond}})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-k.ended; err != nil {
			t.Error(err)
		}
	})
	k.waitFor(t, nil)
	return k
}

// waitFor returns the socket's identity when it is another one than before.
func (k *keeping) waitFor(t *testing.T, before os.FileInfo) os.FileInfo {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		is, err := os.Lstat(k.socket)
		// A new socket may have its predecessor's inode, but not its time.
		if err == nil && (before == nil || !is.ModTime().Equal(before.ModTime())) {
			return is
		}
	}
	t.Fatal("there is no new socket")
	return nil
}

// aged returns the socket's identity once its time is long past: times step by milliseconds, and a new socket may follow
// within the same one.
func (k *keeping) aged(t *testing.T) os.FileInfo {
	t.Helper()
	hourAgo := time.Now().Add(-time.Hour)
	if err := os.Chtimes(k.socket, hourAgo, hourAgo); err != nil {
		t.Fatal(err)
	}
	return k.waitFor(t, nil)
}

// kubelet is a client as kubelet is one.
func (k *keeping) kubelet(t *testing.T) registration.RegistrationClient {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+k.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return registration.NewRegistrationClient(conn)
}

func TestKubeletHearsWhoIsThere(t *testing.T) {
	k := keep(t)
	info, err := k.kubelet(t).GetInfo(t.Context(), &registration.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if info.Type != registration.CSIPlugin || info.Name != csi.DriverName || info.Endpoint != "/plugins/csi.sock" {
		t.Errorf("kubelet hears %v", info)
	}
}

func TestARefusedDriverRegistersAgain(t *testing.T) {
	k := keep(t)
	for range 3 { // each time kubelet sees a new socket, which is the only thing that it asks again for
		before := k.aged(t)
		_, err := k.kubelet(t).NotifyRegistrationStatus(t.Context(),
			&registration.RegistrationStatus{Error: "the API server is away"}, grpc.WaitForReady(true))
		if err != nil {
			t.Errorf("kubelet's call was cut off: %v", err)
		}
		k.waitFor(t, before)
	}
	before := k.aged(t)
	_, err := k.kubelet(t).NotifyRegistrationStatus(t.Context(), &registration.RegistrationStatus{PluginRegistered: true}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	if is := k.waitFor(t, nil); !os.SameFile(is, before) || !is.ModTime().Equal(before.ModTime()) {
		t.Error("a registered driver registers again")
	}
}

func TestARemovedSocketIsMadeAgain(t *testing.T) {
	k := keep(t)
	// One who answers has done with making the socket, which must not go meanwhile.
	if _, err := k.kubelet(t).GetInfo(t.Context(), &registration.InfoRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	before := k.aged(t)
	if err := os.Remove(k.socket); err != nil {
		t.Fatal(err)
	}
	k.waitFor(t, before)
	if _, err := k.kubelet(t).GetInfo(t.Context(), &registration.InfoRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Error(err)
	}
}

func TestTheSocketGoesWithTheDriver(t *testing.T) {
	k := keep(t)
	k.stop()
	k.ended <- <-k.ended
	if _, err := os.Lstat(k.socket); !os.IsNotExist(err) {
		t.Errorf("kubelet is not told that the driver has gone: %v", err)
	}
}

func TestADeadDriversSocketIsReplaced(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, csi.DriverName+"-reg.sock")
	dead, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	dead.(*net.UnixListener).SetUnlinkOnClose(false)
	dead.Close()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Keep(ctx, Config{Dir: dir, Endpoint: "/csi.sock", Log: slog.New(slog.DiscardHandler)})
	}()
	k := &keeping{dir: dir, socket: socket}
	if _, err := k.kubelet(t).GetInfo(t.Context(), &registration.InfoRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Error(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestWithoutKubeletsFolderNothingIsMade(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "plugins_registry")
	err := Keep(t.Context(), Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, ErrNoFolder) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("the folder was made, and no kubelet looks there")
	}
}
