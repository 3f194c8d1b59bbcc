package cluster

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// registrar tells kubelet of the driver, in node-driver-registrar's place.
type registrar struct {
	registration.UnimplementedRegistrationServer
	result chan error // of the first registration
}

// GetInfo answers what is to be registered.
func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: driverName, Endpoint: driverSocket, SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus hears how it went.
func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	var err error
	if !s.GetPluginRegistered() {
		err = fmt.Errorf("kubelet does not register %s: %s", driverName, s.GetError())
	}
	select {
	case r.result <- err:
	default: // kubelet registers again after its restart
	}
	return &registration.RegistrationStatusResponse{}, nil
}

// registerDriver returns when kubelet knows the driver.
func (c *Cluster) registerDriver(ctx context.Context) error {
	listener, err := net.Listen("unix", c.path("kubelet", "plugins_registry", driverName+"-reg.sock"))
	if err != nil {
		return err
	}
	r := &registrar{result: make(chan error, 1)}
	c.registrar = grpc.NewServer()
	registration.RegisterRegistrationServer(c.registrar, r)
	c.serving.Go(func() { _ = c.registrar.Serve(listener) })
	select {
	case err := <-r.result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for kubelet to register the driver: %w\n%s", ctx.Err(), c.Tails("kubelet"))
	}
}
