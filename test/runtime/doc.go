// Package runtime holds the proofs that berth-runtime can stand where runc stands: Debian's podman, containerd and dockerd
// drive it in their own ways, the validation programs of opencontainers/runtime-tools judge it beside runc, and bad
// input and sudden ends leave a clean machine.
//
// Each test has roots, sockets and cgroups of its own in a temporary folder, stops by their ids the daemons it started, and fails
// when a process, a mount or a cgroup of its own is left. The tests run with `make e2e` (or BERTH_E2E=1), as root.
package runtime
