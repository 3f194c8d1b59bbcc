// Package deploy has the manifests with which the driver is installed, for those who install it from a program: the
// project's own cluster does.
package deploy

import "embed"

// Kustomize has the folder "kustomize".
//
//go:embed kustomize
var Kustomize embed.FS
