package main

import (
	"cmp"
	"context"
	"flag"

	"github.com/katadirect/katadirect/pkg/csi"
	"github.com/katadirect/katadirect/pkg/csi/registration"
)

// registering are the flags of what node-driver-registrar does elsewhere, under the names they have there.
type registering struct {
	dir      string
	endpoint string
}

func (r *registering) flags(f *flag.FlagSet) {
	f.StringVar(&r.dir, "plugin-registration-path", "",
		"kubelet's folder of plugins, for instance /var/lib/kubelet/plugins_registry, to register there; without it somebody else must")
	f.StringVar(&r.endpoint, "kubelet-registration-path", "",
		"path of the driver's socket as kubelet sees it (default: the endpoint's)")
}

// keep registers the driver until ctx ends; without a folder it does nothing.
func (r registering) keep(ctx context.Context, o options) error {
	if r.dir == "" {
		return nil
	}
	path, err := csi.SocketPath(o.endpoint)
	if err != nil {
		return err
	}
	return registration.Keep(ctx, registration.Config{Dir: r.dir, Endpoint: cmp.Or(r.endpoint, path), Log: o.driver.Log})
}
