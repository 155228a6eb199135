// Command cri asks a container engine for pods as Kubernetes does, over the CRI, and prints what came of each step: for TestKubernetes,
// which compares it. A module of its own, so that the main one does not depend on gRPC and the CRI for it.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kube is the engine and what every pod is made with.
type kube struct {
	cri.RuntimeServiceClient
	ctx                    context.Context
	image, parent, handler string
	pods                   int
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: cri ADDRESS IMAGE CGROUP-PARENT HANDLER")
		os.Exit(2)
	}
	conn, err := grpc.NewClient("unix://"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Second)
	defer cancel()
	k := &kube{RuntimeServiceClient: cri.NewRuntimeServiceClient(conn), ctx: ctx, image: os.Args[2], parent: os.Args[3], handler: os.Args[4]}
	k.life()
	k.failures()
	k.sharedPids()
}

func check(err error) {
	if err != nil {
		fmt.Println("error:", text(err))
		os.Exit(1)
	}
}

func text(err error) string {
	s, _ := status.FromError(err)
	return s.Code().String() + ": " + s.Message()
}

func (k *kube) pod(pid cri.NamespaceMode) (string, *cri.PodSandboxConfig) {
	k.pods++
	name := fmt.Sprintf("pod%d", k.pods)
	c := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"},
		LogDirectory: os.Getenv("DIR"),
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: k.parent, SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: pid}}},
	}
	r, err := k.RunPodSandbox(k.ctx, &cri.RunPodSandboxRequest{Config: c, RuntimeHandler: k.handler})
	check(err)
	return r.PodSandboxId, c
}

func (k *kube) endPod(id string) {
	_, err := k.StopPodSandbox(k.ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	check(err)
	_, err = k.RemovePodSandbox(k.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	check(err)
}

func (k *kube) container(pod string, p *cri.PodSandboxConfig, name string, l *cri.LinuxContainerConfig, command ...string) string {
	c := &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: k.image}, Command: command,
		Envs: []*cri.KeyValue{{Key: "A", Value: []byte("1")}, {Key: "A", Value: []byte("2")}}, LogPath: name + ".log", Linux: l,
		Mounts: []*cri.Mount{{ContainerPath: "/host", HostPath: os.Getenv("DIR"), Readonly: true}}}
	r, err := k.CreateContainer(k.ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: c, SandboxConfig: p})
	check(err)
	return r.ContainerId
}

func (k *kube) start(id string) {
	_, err := k.StartContainer(k.ctx, &cri.StartContainerRequest{ContainerId: id})
	check(err)
}

func (k *kube) exec(id, line string) {
	r, err := k.ExecSync(k.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", line}, Timeout: 60})
	check(err)
	fmt.Printf("%d %q %q\n", r.ExitCode, r.Stdout, r.Stderr)
}

func (k *kube) status(id string) *cri.ContainerStatus {
	r, err := k.ContainerStatus(k.ctx, &cri.ContainerStatusRequest{ContainerId: id})
	check(err)
	return r.Status
}

func (k *kube) stop(id string, seconds int64) {
	_, err := k.StopContainer(k.ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: seconds})
	check(err)
}

// exited waits for a container's end and tells of it, but not of the reason: containerd may lose the kernel's word about memory when the
// end comes first.
func (k *kube) exited(id string) {
	for k.status(id).State != cri.ContainerState_CONTAINER_EXITED && k.ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	s := k.status(id)
	fmt.Println(s.State, s.ExitCode)
}

// life is a container as a deployment has them, from its start to its end.
func (k *kube) life() {
	pod, p := k.pod(cri.NamespaceMode_CONTAINER)
	id := k.container(pod, p, "life", &cri.LinuxContainerConfig{
		Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 100, CpuQuota: 50000, CpuPeriod: 100000, OomScoreAdj: 500},
		SecurityContext: &cri.LinuxContainerSecurityContext{RunAsUser: &cri.Int64Value{Value: 7}, RunAsGroup: &cri.Int64Value{Value: 8},
			SupplementalGroups: []int64{66}, ReadonlyRootfs: true, NoNewPrivs: true,
			Capabilities:     &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}},
			Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			NamespaceOptions: p.Linux.SecurityContext.NamespaceOptions,
			MaskedPaths:      []string{"/proc/kcore", "/proc/keys"}, ReadonlyPaths: []string{"/proc/sys"}}},
		"sh", "-c", `trap "exit 5" TERM; echo hi; while :; do sleep 0.05; done`)
	k.start(id)
	fmt.Println(k.status(id).State)
	k.exec(id, `id -u; id -g; id -G; echo $A; cat /proc/self/oom_score_adj; grep -e CapBnd -e NoNewPrivs -e Seccomp: /proc/self/status; exit 4`)
	k.exec(id, `for f in /x /host/x /proc/sys/kernel/domainname; do echo x > $f && echo "wrote $f"; done 2> /dev/null; cat /proc/keys`)
	k.exec(id, `cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max`)
	_, err := k.UpdateContainerResources(k.ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id,
		Linux: &cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20}})
	check(err)
	k.exec(id, `cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max`)
	_, err = k.ExecSync(k.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"nothing"}})
	fmt.Println(strings.Contains(text(err), `OCI runtime exec failed: exec failed: unable to start container process: exec: "nothing": `+
		`executable file not found in $PATH`) || fmt.Sprint(err) == "")
	_, err = k.ExecSync(k.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "600"}, Timeout: 1})
	fmt.Println(status.Code(err))
	s, err := k.ContainerStats(k.ctx, &cri.ContainerStatsRequest{ContainerId: id})
	check(err)
	fmt.Println(s.Stats.Memory.GetWorkingSetBytes().GetValue() > 0, s.Stats.Cpu.GetUsageCoreNanoSeconds().GetValue() > 0)
	k.stop(id, 60)
	k.exited(id)
	log, err := os.ReadFile(os.Getenv("DIR") + "/life.log")
	fmt.Println(strings.HasSuffix(string(log), " stdout F hi\n"), err)
	k.endPod(pod)
}

// failures are a program that is not there, and one that takes too much memory.
func (k *kube) failures() {
	pod, p := k.pod(cri.NamespaceMode_CONTAINER)
	id := k.container(pod, p, "none", nil, "nothing")
	_, err := k.StartContainer(k.ctx, &cri.StartContainerRequest{ContainerId: id})
	fmt.Println(strings.Contains(text(err), `exec: "nothing": executable file not found in $PATH`))
	k.exited(id)
	id = k.container(pod, p, "greedy", &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 24 << 20}},
		"dd", "if=/dev/zero", "of=/dev/null", "bs=64M")
	k.start(id)
	k.exited(id)
	k.endPod(pod)
}

// sharedPids: the containers of a pod may see each other's processes, and the end of one leaves none of its own.
func (k *kube) sharedPids() {
	pod, p := k.pod(cri.NamespaceMode_POD)
	l := &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
		NamespaceOptions: p.Linux.SecurityContext.NamespaceOptions}}
	one := k.container(pod, p, "one", l, "sh", "-c", "sleep 7777 & sleep 7777 & sleep 7777")
	two := k.container(pod, p, "two", l, "sleep", "600")
	k.start(one)
	k.start(two)
	const count = `n=0; for f in /proc/[0-9]*/cmdline; do grep -q 7777 $f && n=$((n+1)); done 2> /dev/null; echo $n`
	k.exec(two, `until [ $(n=0; for f in /proc/[0-9]*/comm; do grep -q sleep $f && n=$((n+1)); done; echo $n) -ge 4 ]; do :; done 2> /dev/null`)
	k.stop(one, 0)
	k.exited(one)
	k.exec(two, `until [ $(`+strings.ReplaceAll(count, "7777", "7[7]77")+`) = 0 ]; do :; done; echo gone`)
	fmt.Println(k.status(two).State)
	k.stop(two, 0)
	k.endPod(pod)
}
