// Package registration makes kubelet know the driver, as node-driver-registrar does for drivers that cannot do it
// themselves: a socket in kubelet's plugins_registry, on which kubelet asks who is there and tells what came of it.
//
//	err := registration.Keep(ctx, registration.Config{Dir: "/var/lib/kubelet/plugins_registry", Endpoint: "/…/csi.sock"})
//
// kubelet looks through that folder when it starts and watches it from then on, so a kubelet that is restarted finds the
// driver again by itself. It gives up on a driver after one refusal, though, and never looks whether a socket still
// leads anywhere: that is what Keep is for. Command csi-node is the caller; what kubelet then asks is package csi's.
package registration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/katadirect/katadirect/pkg/csi"
)

// apiVersion is the version of CSI that kubelet is told; it knows no other word for 1.x.
const apiVersion = "1.0.0"

// stopTimeout bounds kubelet's last call.
const stopTimeout = 2 * time.Second

// ErrNoFolder says that there is no plugins_registry, so no kubelet would ever see the driver.
var ErrNoFolder = errors.New("kubelet's registration folder is not there")

// Config says where kubelet looks.
type Config struct {
	// Dir is kubelet's plugins_registry. It must be there.
	Dir string
	// Endpoint is the absolute path of the driver's socket as kubelet sees it. The driver must answer there already.
	Endpoint string
	Log      *slog.Logger
	times    times
}

// times are how often is looked and how long is waited; the zero value means those of production.
type times struct{ look, retryFirst, retryMost time.Duration }

// Looking costs one stat. A refusal comes from kubelet's own trouble with the API server, as a rule.
var usual = times{look: 10 * time.Second, retryFirst: time.Second, retryMost: time.Minute}

// Keep keeps the driver registered until ctx ends, and then takes the socket away, by which kubelet sees that the driver
// has gone. It registers again after a refusal, and when somebody has removed the socket. It fails if there is no folder,
// or if somebody else serves there.
func Keep(ctx context.Context, c Config) error {
	if c.times == (times{}) {
		c.times = usual
	}
	if info, err := os.Stat(c.Dir); err != nil || !info.IsDir() {
		return fmt.Errorf("%w: %s is no folder; has kubelet another --root-dir?", ErrNoFolder, c.Dir)
	}
	wait := c.times.retryFirst
	for {
		refused, err := c.once(ctx)
		if err != nil || ctx.Err() != nil {
			return err
		}
		if !refused {
			wait = c.times.retryFirst
			continue
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		wait = min(2*wait, c.times.retryMost)
	}
}

// once serves one socket until ctx ends, kubelet refuses the driver, or the socket has gone.
func (c Config) once(ctx context.Context) (refused bool, err error) {
	path := filepath.Join(c.Dir, csi.DriverName+"-reg.sock")
	listener, err := csi.Listen(ctx, path)
	if err != nil {
		return false, fmt.Errorf("register with kubelet: %w", err)
	}
	is, err := os.Lstat(path)
	if err != nil {
		return false, errors.Join(fmt.Errorf("register with kubelet: %w", err), listener.Close())
	}
	// Closing must not remove what another has put in the socket's place.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	defer func() {
		if stillAt(path, is) {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	answers := &service{endpoint: c.Endpoint, log: c.Log, refused: make(chan struct{}, 1)}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, answers)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	defer func() {
		// kubelet's call, which says the refusal, gets its answer; it is not waited for longer than kubelet waits.
		giveUp := time.AfterFunc(stopTimeout, server.Stop)
		server.GracefulStop()
		giveUp.Stop()
		<-ended
	}()
	look := time.NewTicker(c.times.look)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-answers.refused:
			return true, nil
		case <-look.C:
			if !stillAt(path, is) {
				c.Log.Warn("somebody has removed the socket by which kubelet finds the driver; it is made again", "socket", path)
				return false, nil
			}
		}
	}
}

func stillAt(path string, was fs.FileInfo) bool {
	is, err := os.Lstat(path)
	return err == nil && os.SameFile(is, was)
}

// service answers kubelet.
type service struct {
	registration.UnimplementedRegistrationServer
	endpoint string
	log      *slog.Logger
	refused  chan struct{}
}

// GetInfo says who is there.
func (s *service) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: csi.DriverName, Endpoint: s.endpoint, SupportedVersions: []string{apiVersion},
	}, nil
}

// NotifyRegistrationStatus hears what came of it.
func (s *service) NotifyRegistrationStatus(ctx context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if status.GetPluginRegistered() {
		s.log.InfoContext(ctx, "kubelet has registered the driver", "endpoint", s.endpoint)
		return &registration.RegistrationStatusResponse{}, nil
	}
	s.log.ErrorContext(ctx, "kubelet has not registered the driver; it is asked again", "endpoint", s.endpoint, "error", status.GetError())
	select {
	case s.refused <- struct{}{}:
	default:
	}
	return &registration.RegistrationStatusResponse{}, nil
}
