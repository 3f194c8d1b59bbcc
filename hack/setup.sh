#!/bin/bash
# Installs the Debian packages that a target needs and that are not there yet. None of them starts a service.
#
#   hack/setup.sh demo|test
set -euo pipefail

packages="ca-certificates qemu-system-x86 busybox-static containernetworking-plugins passt"
if [ "${1:-test}" = test ]; then
	# runc: the handler that others are compared with; file system tools: tests look at volumes with them;
	# iptables: the cluster's services, and what the agent runs in a guest; curl, bash-static, netcat-openbsd: what
	# Kubernetes' suite runs in its containers;
	# gcc: the race detector and Kubernetes' pause program; protobuf-compiler: generated code is made again and compared.
	packages+=" runc iptables curl dbus-daemon bash-static netcat-openbsd e2fsprogs xfsprogs btrfs-progs gcc libc6-dev protobuf-compiler"
fi

fail() { echo "$*" >&2; exit 1; }
command -v dpkg-query apt-get >/dev/null || fail "Debian's package manager is missing: this runs on Debian 12 or a relative of it."
command -v go >/dev/null || fail "Go is missing: install Go 1.26 or later and put it in PATH."

missing=
for p in $packages; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=" $p"
done
# The guest's kernel and tools are downloaded as packages, which needs the lists even when nothing is missing.
lists=(/var/lib/apt/lists/*_Packages*)
[ -n "$missing" ] || [ ! -e "${lists[0]}" ] || exit 0

[ "$(id -u)" = 0 ] || fail "Packages are missing:${missing:- apt lists}. Run \"sudo make setup\", or as root: apt-get update && apt-get install$missing"
apt-get -qq update
[ -n "$missing" ] || exit 0
echo "installing:$missing"
log=$(mktemp)
DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends install $missing >"$log" 2>&1 </dev/null || {
	cat "$log" >&2
	fail "apt-get could not install:$missing"
}
rm -f "$log"
