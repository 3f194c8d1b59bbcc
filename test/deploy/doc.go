// Package deploy looks at what users apply: that kustomize and Helm give the same objects, that each is an object of
// Kubernetes' own types to the letter, that nothing may be done that is not needed, and that bad values are refused.
// What a cluster makes of them is test/e2e's.
package deploy
