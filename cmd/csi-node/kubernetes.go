package main

import (
	"context"
	"flag"
	"log/slog"

	"k8s.io/klog/v2"

	"github.com/katadirect/katadirect/pkg/csi"
	"github.com/katadirect/katadirect/pkg/csi/kube"
	"github.com/katadirect/katadirect/pkg/csi/mode"
)

// kubernetesFlags adds the flags that say how to look up what runs a pod, and what the answer means.
func kubernetesFlags(flags *flag.FlagSet, source *string, driver *csi.Config) {
	flags.StringVar(source, "kubernetes", kube.Off,
		"how to look up pods, RuntimeClasses and claims: off, in-cluster, or the absolute path of a kubeconfig")
	flags.Func("machine-handlers", "handlers of RuntimeClasses whose pods are virtual machines, with commas; * stands for "+
		"anything (default "+mode.DefaultMachines.String()+")",
		func(list string) (err error) {
			driver.Machines, err = mode.ParseMachines(list)
			return err
		})
	flags.StringVar(&driver.DefaultHandler, "default-handler", "runc",
		"handler of pods without a RuntimeClass, as the container runtime is set up")
}

// watchKubernetes opens the way to Kubernetes and watches until ctx ends; wait returns when it has ended. The cluster is
// nil when the source is off.
func watchKubernetes(ctx context.Context, source, node string, log *slog.Logger) (_ *kube.Cluster, wait func(), err error) {
	klog.SetSlogLogger(log) // what the libraries have to say
	cluster, err := kube.Open(source, node, log)
	if err != nil {
		return nil, nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if cluster != nil {
			cluster.Run(ctx)
		}
	}()
	return cluster, func() { <-ended }, nil
}
