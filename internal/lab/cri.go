package lab

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRI is the container runtime interface as kubelet uses it.
type CRI struct {
	cri.RuntimeServiceClient
	images cri.ImageServiceClient
	conn   *grpc.ClientConn
}

func dialCRI(socket string) (*CRI, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &CRI{cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn), conn}, nil
}

func (c *CRI) close() error { return c.conn.Close() }

// ready succeeds when runtime and network are.
func (c *CRI) ready(ctx context.Context) error {
	c.conn.ResetConnectBackoff()
	status, err := c.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return err
	}
	for _, condition := range status.GetStatus().GetConditions() {
		// Others are warnings of containerd's own.
		wanted := condition.GetType() == cri.RuntimeReady || condition.GetType() == cri.NetworkReady
		if wanted && !condition.GetStatus() {
			return fmt.Errorf("%s: %s", condition.GetReason(), condition.GetMessage())
		}
	}
	return nil
}

// hasImage succeeds when the runtime knows the image.
func (c *CRI) hasImage(ctx context.Context, name string) error {
	status, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
	if err == nil && status.GetImage() == nil {
		err = errors.New("image not there")
	}
	return err
}
