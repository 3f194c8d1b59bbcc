//go:build tools

// Package suite keeps what the end-to-end suite imports in this module's files.
package suite

import (
	_ "k8s.io/kubernetes/test/e2e"
)
