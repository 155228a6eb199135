package cgroup

// What Docker says of a limit that the kernel cannot keep, before it goes on without. People search for these
// sentences.
const (
	noMemory = "Your kernel does not support memory limit capabilities or the cgroup is not mounted. " +
		"Limitation discarded."
	noSwap = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. " +
		"Memory limited without swap."
	noSoftLimit = "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. " +
		"Limitation discarded."
	noSwappiness = "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. " +
		"Memory swappiness discarded."
	noOOMDisable = "Your kernel does not support OomKillDisable. OomKillDisable discarded."
	noKernelTCP  = "Your kernel does not support kernel memory TCP limit capabilities or the cgroup is not mounted. " +
		"Limitation discarded."
	noKernelMemory = "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. " +
		"Limitation discarded."
	noLeafWeight    = "Block I/O leaf weight is not known to cgroup version 2. Weight discarded."
	alwaysHierarchy = "Memory is always counted with the groups below: useHierarchy false discarded."
	noPids          = "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. " +
		"PIDs limit discarded."
	noShares = "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."
	noQuota  = "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."
	noCpuset = "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
	noWeight = "Your kernel does not support Block I/O weight or the cgroup is not mounted. " +
		"Weight discarded."
	noWeightOfDev = "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. " +
		"Weight-device discarded."
	noReadBps = "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. " +
		"Block I/O BPS read limit discarded."
	noWriteBps = "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. " +
		"Block I/O BPS write limit discarded."
	noReadIOPS = "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. " +
		"Block I/O IOPS read limit discarded."
	noWriteIOPS = "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. " +
		"Block I/O IOPS write limit discarded."
)
