package cluster

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/katadirect/katadirect/internal/lab"
)

const driverName = "csi.katadirect.io"

//go:embed objects.yaml
var objects string

// createObjects creates the kinds that snapshots are, the RuntimeClasses, the StorageClasses and the CSIDriver.
func (c *Cluster) createObjects(ctx context.Context) error {
	crds := c.Program("crd")
	for _, args := range [][]string{
		{"apply", "-f", crds},
		{"wait", "--for=condition=Established", "-f", crds, "--timeout=" + readyTimeout.String()},
	} {
		if _, err := c.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	_, err := c.kubectl(ctx, objects, "apply", "-f", "-")
	return err
}

// driverSocket is where kubelet and the sidecars find the driver.
const driverSocket = "/var/lib/kubelet/plugins/" + driverName + "/csi.sock"

// startStorage starts the driver and what kubelet and the API need beside it.
func (c *Cluster) startStorage(ctx context.Context) error {
	for _, dir := range []string{"plugins/" + driverName, "plugins_registry"} {
		if err := os.MkdirAll(c.path("kubelet", dir), 0o750); err != nil {
			return err
		}
	}
	driver, err := c.lab.Start(lab.Command{Name: "csi-node", Path: c.opts.BinDir + "/csi-node", Args: []string{
		"--endpoint", "unix://" + driverSocket, "--node-id", nodeName, "--pool", c.path("pool"),
		"--state-dir", c.path("staged"), "--plugin-registration-path", "/var/lib/kubelet/plugins_registry", "--kubernetes", c.pki.kubeconfig(driverIdentity),
		"--default-handler", cmp.Or(c.opts.DefaultHandler, RuncHandler),
	}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := driver.WaitFor(ctx, c.probeDriver); err != nil {
		return err
	}
	return c.startSidecars()
}

// capacityPoll is how often the driver is asked how much room there is, besides when a volume comes or goes.
const capacityPoll = "10s"

// startSidecars starts what stands between the API and the driver. The two that may only speak of this node's volumes
// run as on each node of many.
func (c *Cluster) startSidecars() error {
	kubeconfig := "--kubeconfig=" + c.pki.kubeconfig("admin")
	common := []string{kubeconfig, "--csi-address=" + driverSocket, "--v=2"}
	onNode := []string{"NODE_NAME=" + nodeName, "NAMESPACE=kube-system"}
	for _, command := range []lab.Command{
		{Name: "csi-provisioner", Env: onNode, Args: append(common,
			"--extra-create-metadata", "--feature-gates=Topology=true,VolumeAttributesClass=true", "--default-fstype=ext4",
			"--node-deployment", "--strict-topology", "--immediate-topology=false",
			"--enable-capacity", "--capacity-ownerref-level=-1", "--capacity-poll-interval="+capacityPoll)},
		{Name: "csi-resizer", Args: append(common,
			"--handle-volume-inuse-error=false", "--feature-gates=VolumeAttributesClass=true")},
		{Name: "csi-snapshotter", Env: onNode, Args: append(common, "--node-deployment", "--extra-create-metadata")},
		{Name: "snapshot-controller", Args: []string{kubeconfig, "--enable-distributed-snapshotting", "--v=2"}},
	} {
		command.Path = c.Program(command.Name)
		if _, err := c.lab.Start(command); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) probeDriver(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+c.lab.Path(driverSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{})
	if err == nil && answer.GetReady() != nil && !answer.GetReady().GetValue() {
		err = fmt.Errorf("%s says that it is not ready", driverName)
	}
	return err
}
