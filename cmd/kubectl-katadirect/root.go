package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/katadirect/katadirect/internal/claims"
	"github.com/katadirect/katadirect/internal/version"
)

const (
	// driverSelector finds the drivers' pods, as deploy/ labels them.
	driverSelector = "app.kubernetes.io/name=katadirect,app.kubernetes.io/component=node"
	nodeTimeout    = 15 * time.Second
	// A cluster's worth of pages is asked for; the API server protects itself.
	questionsPerSecond, questionsAtOnce = 50, 100
)

// cluster is which cluster to look at, and what of it, as the flags say.
type cluster struct {
	loading   *clientcmd.ClientConfigLoadingRules
	overrides clientcmd.ConfigOverrides

	allNamespaces   bool
	driverNamespace string
	driverSelector  string
	nodeTimeout     time.Duration
}

func newRoot() *cobra.Command {
	c := &cluster{loading: clientcmd.NewDefaultClientConfigLoadingRules()}
	root := &cobra.Command{
		Use:   "kubectl-katadirect",
		Short: "Show the volumes that katadirect has given to the pods of a cluster",
		Long: "Shows the claims whose volumes katadirect has: which pod and which virtual machine uses each, how full it is as\n" +
			"the guest sees it, whether it is well, and what went wrong with it last.\n\n" + exitHelp,
		Example: "  kubectl katadirect volumes -A\n  kubectl katadirect describe data-postgres-0 -n shop\n  kubectl katadirect top -n shop --watch",
		Version: version.Version, SilenceErrors: true, SilenceUsage: true,
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl katadirect"},
		Args:        usageArgs(cobra.NoArgs),
		RunE:        func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&c.loading.ExplicitPath, "kubeconfig", "", "Path to the kubeconfig file to use")
	clientcmd.BindOverrideFlags(&c.overrides, flags, clientcmd.RecommendedConfigOverrideFlags(""))
	flags.BoolVarP(&c.allNamespaces, "all-namespaces", "A", false, "Show the claims of all namespaces")
	flags.StringVar(&c.driverNamespace, "driver-namespace", "", "Namespace of the driver's pods; all are searched if empty")
	flags.StringVar(&c.driverSelector, "driver-selector", driverSelector, "Labels of the driver's pods")
	flags.DurationVar(&c.nodeTimeout, "node-timeout", nodeTimeout, "How long to wait for one node's figures")
	for _, rare := range []string{
		"as", "as-group", "as-uid", "as-user-extra", "certificate-authority", "client-certificate", "client-key", "cluster",
		"disable-compression", "insecure-skip-tls-verify", "password", "proxy-url", "server", "tls-server-name", "token",
		"user", "username",
	} {
		if flag := flags.Lookup(rare); flag != nil {
			flag.Hidden = true // they are kubectl's, work as there, and hide the others in the help
		}
	}
	root.AddCommand(newVolumes(c), newDescribe(c), newTop(c))
	return root
}

func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
		}
		return nil
	}
}

// open returns a reader of the cluster, and the namespace that is meant: "" for all.
func (c *cluster) open(progress func(string)) (claims.Reader, string, error) {
	fail := func(err error) (claims.Reader, string, error) { return claims.Reader{}, "", err }
	if c.nodeTimeout <= 0 {
		return fail(usageError{fmt.Errorf("--node-timeout %s is no time", c.nodeTimeout)})
	}
	config := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(c.loading, &c.overrides)
	namespace, _, err := config.Namespace()
	if err != nil {
		return fail(accessError{err})
	}
	if c.allNamespaces {
		namespace = ""
	}
	rest, err := config.ClientConfig()
	if err != nil {
		return fail(accessError{err})
	}
	rest.UserAgent = version.String("kubectl-katadirect")
	rest.QPS, rest.Burst = questionsPerSecond, questionsAtOnce
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return fail(accessError{err})
	}
	return claims.Reader{
		Client: client, DriverNamespace: c.driverNamespace, DriverSelector: c.driverSelector,
		NodeTimeout: c.nodeTimeout, Progress: progress,
	}, namespace, nil
}

// unreachable reports whether an error says that the API server did not answer.
func unreachable(err error) bool {
	return errors.As(err, new(*url.Error)) || errors.As(err, new(net.Error)) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, clientcmd.ErrEmptyConfig) || clientcmd.IsConfigurationInvalid(err)
}
