# Three commands show everything: "make demo", "make test" and "make e2e". They install what they need (root), from Debian's packages
# and Go modules alone. Nothing of the system's own is started, stopped or configured.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export HOME ?= /root
export XDG_CACHE_HOME ?= $(HOME)/.cache
# git refuses to speak of a clone that belongs to another user, as after "sudo make".
export GOFLAGS := $(GOFLAGS) -buildvcs=false
CACHE := $(XDG_CACHE_HOME)/katadirect

VERSION := $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/katadirect/katadirect/internal/version.Version=$(VERSION)

CONTAINERD2 := $(shell sed -n 's/^require github.com.containerd.containerd.v2 //p' hack/containerd/go.mod)
CONTAINERD1_DIR := $(CACHE)/containerd/debian
PROMETHEUS_DIR := $(CACHE)/prometheus/debian
CONTAINERD2_DIR := $(CACHE)/containerd/$(CONTAINERD2)
KUBERNETES := $(shell sed -n 's/^.*k8s.io.kubernetes \(v[0-9.]*\)$$/\1/p' hack/kubernetes/go.mod)
KUBERNETES_DIR := $(CACHE)/kubernetes/$(KUBERNETES)
HELM_DIR := $(CACHE)/helm/$(shell sed -n 's/^require helm.sh.helm.v3 //p' hack/helm/go.mod)
STATICCHECK := $(CACHE)/tools/$(shell sed -n 's/^require honnef.co.go.tools //p' hack/tools/go.mod)/staticcheck

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1 \2/p' Makefile | while read -r name what; do printf '  make %-14s %s\n' "$$name" "$$what"; done

demo: setup-demo build guest containerd1 ## one volume from claim to guest and back, in a real machine; writes out/demo.json
	@bin/katadirect demo

test: root setup-test build guest containerd1 containerd2 prometheus kubernetes kubernetes-suite helm lint ## lint, unit, CSI sanity, guest, CRI, crash and Kubernetes' own tests, a minute of soak: everything but make e2e
	@go test -race -timeout 30m ./cmd/... ./deploy/... ./internal/... ./pkg/...
	@go test -count=1 -p 1 -timeout 60m ./test/cluster ./test/conformance ./test/crash
	@go test -count=1 -p 2 -timeout 60m $$(go list ./test/... | grep -vE '/test/(cluster|conformance|crash|e2e)$$')

bench: root setup-test build guest containerd1 ## measure, with the floor beside each figure; writes out/bench.json
	@go run ./test/bench

soak: root setup-test containerd1 ## work a pod hard for an hour (SOAK=10m for less, SEED=n to repeat) and see that nothing grows; then the driver against its model (MODEL=10m)
	@go test -count=1 -v -timeout 0 ./test/soak -soak $(or $(SOAK),60m) -seed $(or $(SEED),0)
	@go test -count=1 -v -timeout 0 ./test/model -model $(or $(MODEL),10m)

cluster: root setup-test build kubernetes containerd2 ## a Kubernetes of one node whose pods can be machines, left running; says how to use it
	@go build -o bin/ ./test/cluster
	@bin/cluster up

cluster-down: ## end it and remove every trace
	@go build -o bin/ ./test/cluster
	@bin/cluster down

e2e: root setup-test kubernetes containerd2 prometheus helm ## the driver on a real Kubernetes, from kubectl to the guest: cluster, tests, tear-down; writes out/e2e.xml, and figures into out/bench.json
	@go test -count=1 -v -timeout 60m -parallel $(or $(PARALLEL),3) ./test/e2e -report $(CURDIR)/out/e2e.xml -figures $(CURDIR)/out/bench.json

conformance: root setup-test kubernetes kubernetes-suite containerd2 ## Kubernetes' own node suite, every pod a machine; writes out/conformance.xml
	@go test -count=1 -v -timeout 0 -run TestPodsInMachinesPass ./test/conformance -whole -procs $(or $(PROCS),3) -handler $(or $(HANDLER),katadirect) -report $(CURDIR)/out/conformance.xml

build: ## the five programs, static, in bin/
	@echo "building the programs (the first time takes a minute or two)"
	@mkdir -p bin
	@export CGO_ENABLED=0; for p in csi-node agent katadirect kubectl-katadirect; do go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/$$p; done; \
	  go build -trimpath -ldflags '$(LDFLAGS)' -o bin/containerd-shim-katadirect-v2 ./cmd/shim

guest: build ## the guest's kernel and initrd, from Debian's packages, in the cache
	@bin/katadirect guest build

image: build guest ## the image of deploy/, made without Docker: out/image/katadirect.tar (docker save) and katadirect-oci; IMAGE=name:tag
	@go run ./deploy/image --version '$(VERSION)' --out out/image $(if $(IMAGE),--name '$(IMAGE)')

push-image: build guest ## the same, into the registry that IMAGE=registry/name:tag names, with the credentials of docker login
	@[ -n '$(IMAGE)' ] || { echo "push-image: say where to: IMAGE=registry/name:tag" >&2; exit 1; }
	@go run ./deploy/image --version '$(VERSION)' --push --name '$(IMAGE)'

example-images: ## the images of deploy/examples that nobody else makes: out/image/postgresql.tar
	@go run ./deploy/image --postgresql --out out/image

lint: $(STATICCHECK) ## gofmt, go vet, staticcheck, go.mod
	@echo "lint"
	@unformatted=$$(gofmt -l cmd deploy internal pkg test); [ -z "$$unformatted" ] || { echo "not formatted (gofmt -w): $$unformatted"; exit 1; }
	@go vet ./...
	@$(STATICCHECK) ./...
	@go mod tidy -diff >/dev/null || { echo 'go.mod does not state what is used (go mod tidy)'; exit 1; }

generate: setup-test ## make the generated code again
	@hack/generate.sh

setup: setup-test ## install the Debian packages that everything here needs (root)

clean: ## remove what was built here (the cache stays: $XDG_CACHE_HOME/katadirect)
	@rm -rf bin out

# --- what the targets above stand on

setup-demo setup-test: setup-%:
	@hack/setup.sh $*

root:
	@[ "$$(id -u)" = 0 ] || { echo "root is missing: machines, namespaces and mounts need it. Run it again with sudo, or as root." >&2; exit 1; }

containerd1: $(CONTAINERD1_DIR)/.complete
containerd2: $(CONTAINERD2_DIR)/.complete

# Debian's containerd is unpacked, not installed: installing it would start it.
$(CONTAINERD1_DIR)/.complete:
	@echo "containerd 1.6: unpacking Debian's package"
	@rm -rf $(@D) && mkdir -p $(@D)
	@cd $(@D) && apt-get -qq -o APT::Sandbox::User=root download containerd && dpkg-deb -x containerd_*.deb . && rm containerd_*.deb
	@touch $@

prometheus: $(PROMETHEUS_DIR)/.complete

# Likewise Debian's Prometheus, with promtool: rules are tested with them, and the driver's metrics scraped.
$(PROMETHEUS_DIR)/.complete:
	@echo "Prometheus: unpacking Debian's package"
	@rm -rf $(@D) && mkdir -p $(@D)
	@cd $(@D) && apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb
	@touch $@

$(CONTAINERD2_DIR)/.complete: hack/containerd/go.mod
	@echo "containerd $(CONTAINERD2): building from its Go module (the first time takes a minute or two)"
	@mkdir -p $(@D)
	@CGO_ENABLED=0 go build -C hack/containerd -mod=readonly -trimpath \
	  -ldflags '-s -w -X github.com/containerd/containerd/v2/version.Version=$(CONTAINERD2)' -o $(@D)/ tool
	@touch $@

kubernetes: $(KUBERNETES_DIR)/.complete
kubernetes-suite: $(KUBERNETES_DIR)/.suite-complete

KUBERNETES_BUILD = CGO_ENABLED=0 go $(1) -C hack/kubernetes -mod=readonly -trimpath -o $(@D)/ \
  -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES) -X k8s.io/client-go/pkg/version.gitVersion=$(KUBERNETES) \
  -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBERNETES)))'

$(KUBERNETES_DIR)/.complete: hack/kubernetes/go.mod
	@echo "Kubernetes $(KUBERNETES), etcd and the CSI sidecars: building from their Go modules (the first time takes 5 minutes on two processors)"
	@mkdir -p $(@D)
	@$(call KUBERNETES_BUILD,build) go.etcd.io/etcd/server/v3 github.com/kubernetes-csi/external-provisioner/v5/cmd/csi-provisioner \
	  github.com/kubernetes-csi/external-resizer/cmd/csi-resizer \
	  $(addprefix github.com/kubernetes-csi/external-snapshotter/v8/cmd/,csi-snapshotter snapshot-controller) \
	  $(addprefix k8s.io/kubernetes/cmd/,kube-apiserver kube-controller-manager kube-proxy kube-scheduler kubectl kubelet)
	@gcc -Os -static -s -DVERSION=$(KUBERNETES) -o $(@D)/pause "$$(go list -C hack/kubernetes -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c"
	@install -m 644 -D -t $(@D)/crd "$$(go list -C hack/kubernetes -m -f '{{.Dir}}' github.com/kubernetes-csi/external-snapshotter/client/v8)"/config/crd/snapshot.storage.k8s.io_*.yaml
	@touch $@

$(KUBERNETES_DIR)/.suite-complete: hack/kubernetes/go.mod
	@echo "Kubernetes' test suite $(KUBERNETES): building from its Go module (the first time takes 4 minutes on two processors)"
	@mkdir -p $(@D)
	@$(call KUBERNETES_BUILD,test) -c k8s.io/kubernetes/test/e2e
	@$(call KUBERNETES_BUILD,build) github.com/onsi/ginkgo/v2/ginkgo $(addprefix k8s.io/kubernetes/test/images/,agnhost nonewprivs)
	@install -m 644 "$$(go list -C hack/kubernetes -m -f '{{.Dir}}' k8s.io/kubernetes)"/test/images/agnhost/porter/localhost.* $(@D)/
	@touch $@

helm: $(HELM_DIR)/.complete

$(HELM_DIR)/.complete: hack/helm/go.mod
	@echo "Helm: building from its Go module (the first time takes 2 minutes on two processors)"
	@mkdir -p $(@D)
	@CGO_ENABLED=0 go build -C hack/helm -mod=readonly -trimpath -ldflags '-s -w' -o $(@D)/ tool
	@touch $@

$(STATICCHECK): hack/tools/go.mod
	@mkdir -p $(@D)
	@CGO_ENABLED=0 go build -C hack/tools -mod=readonly -trimpath -o $(@D)/ tool
	@touch $@

.PHONY: help demo test bench soak build guest image push-image example-images helm lint generate setup clean setup-demo setup-test root containerd1 containerd2 cluster cluster-down e2e conformance kubernetes kubernetes-suite prometheus
