#!/bin/sh
# Makes pkg/agentproto/*.pb.go and *_ttrpc.pb.go from the .proto files beside
# them. Needs protoc (Debian: protobuf-compiler); the two Go generators are
# taken from PATH, or built from the versions that go.mod names.
#
#   hack/generate.sh [OUTDIR]     OUTDIR: default pkg/agentproto
set -eu
cd "$(dirname "$0")/.."
out=${1:-pkg/agentproto}
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
GOBIN=$tools go install google.golang.org/protobuf/cmd/protoc-gen-go
GOBIN=$tools go install github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc
module=github.com/katadirect/katadirect/pkg/agentproto
PATH=$tools:$PATH protoc -I pkg/agentproto/proto \
	--go_out="$out" --go_opt=module=$module \
	--go-ttrpc_out="$out" --go-ttrpc_opt=module=$module \
	pkg/agentproto/proto/katadirect/*/v1/*.proto

# The services' names on the wire are Kata's. Only they are changed: messages
# keep a proto package of our own, because two files that register the same
# message or file name in one program panic at its start.
for f in "$out"/*_ttrpc.pb.go; do
	sed -i -e 's/"katadirect\.agent\.v1\.\(AgentService\|Health\)"/"grpc.\1"/' "$f"
done
gofmt -w "$out"/*.pb.go
