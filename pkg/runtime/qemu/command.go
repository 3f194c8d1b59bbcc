package qemu

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// Names of the machine's hardware. The first two and the disks' are Kata's, so that its tools recognise them.
const (
	bridgePrefix = "pci-bridge-"
	scsiID       = "scsi0"
	ioThread     = "iothread0"
	agentPort    = "katadirect.agent.0"
	agentChardev = "agent"
	agentVsock   = 1024 // the port on which the agent listens when there is a vsock
)

// firstBridgeSlot is where the first PCI bridge sits on the root bus, as in Kata.
const firstBridgeSlot = 2

// inherited are the descriptors that QEMU finds open, by number; 0 where there is none.
type inherited struct {
	qmp, console, vsock int
	cid                 uint32 // of vsock
	nics                []wiredNIC
	vhost               bool // whether the host's kernel moves their frames
}

// arguments is QEMU's command line for the machine c, without the program. c has its defaults.
func arguments(c Config, fds inherited) []string {
	a := []string{
		// Nothing but what stands here: no configuration files of the host, no default devices.
		"-no-user-config", "-nodefaults", "-display", "none",
		"-name", "sandbox-" + escape(c.ID) + ",debug-threads=on", "-uuid", machineUUID(c.ID),
		"-pidfile", c.pidFile(),
		// A guest that panics or reboots has ended; its pod is started anew.
		"-no-reboot",
		// What a guest that broke out of QEMU could not do: execute programs, gain privileges, change
		// priorities. Hot-plugging needs none of it.
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	}
	a = append(a, c.board()...)
	a = append(a, "-kernel", c.Kernel, "-initrd", c.Initrd, "-append", kernelCommandLine(c, fds))
	a = append(a,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", fds.qmp), "-mon", "chardev=qmp,mode=control")
	// The bridges come first: QEMU gives devices without an address the lowest free slot.
	a = append(a, c.diskBuses()...)
	a = append(a, c.consoleAndAgent(fds)...)
	if c.ShareSocket != "" {
		a = append(a, "-chardev", "socket,id=share,path="+escape(c.ShareSocket),
			"-device", "vhost-user-fs-pci,chardev=share,tag="+escape(c.ShareTag)+",queue-size=1024")
	}
	return append(a, nicDevices(fds.nics, fds.vhost)...)
}

// EmulatedCPU is the processor of a machine without KVM, in the words of QEMU's -cpu. The emulator copies a byte at a
// time where a processor says that it is fast at strings of bytes (ERMS, FSRM), and eight where it does not: what a
// container writes then arrives three times as fast.
const EmulatedCPU = "max,-erms,-fsrm"

// board is processor and memory.
func (c Config) board() []string {
	machine, cpu := "q35", EmulatedCPU
	accel := "tcg,thread=multi"
	if c.Accel == AccelKVM {
		accel, cpu = "kvm", "host"
	}
	memory := []string{"-m", c.memorySize()}
	if c.ShareSocket != "" {
		// virtiofsd reads and writes the guest's memory, so it must be a file it can map.
		machine += ",memory-backend=memory"
		memory = append(memory, "-object", fmt.Sprintf("memory-backend-memfd,id=memory,size=%dM,share=on", c.MemoryMiB))
	}
	return append([]string{"-machine", machine, "-accel", accel, "-cpu", cpu, "-smp", c.processors()}, memory...)
}

// diskBuses are where disks are plugged in later. A bridge needs room for thirty disks reserved, or the guest's
// kernel finds none for the first: 4 KiB of memory and 16 KiB of prefetchable memory for each.
func (c Config) diskBuses() []string {
	var a []string
	for i := range c.Bridges {
		a = append(a, "-device", fmt.Sprintf("pci-bridge,id=%s%d,bus=pcie.0,addr=%02x,chassis_nr=%d,shpc=off,io-reserve=8k,mem-reserve=2m,pref64-reserve=1m",
			bridgePrefix, i, firstBridgeSlot+i, i+1))
	}
	scsi := "virtio-scsi-pci,id=" + scsiID
	if c.IOThread {
		a = append(a, "-object", "iothread,id="+ioThread)
		scsi += ",iothread=" + ioThread
	}
	if c.BlockDriver == VirtioSCSI {
		a = append(a, "-device", scsi)
	}
	return a
}

// consoleAndAgent: one stream for everything the guest says, fed by the first serial port until the kernel has
// loaded its virtio driver, and by a virtio console from then on; and the agent's channel.
func (c Config) consoleAndAgent(fds inherited) []string {
	a := []string{
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d,mux=on", fds.console),
		"-device", "isa-serial,chardev=console",
		"-device", "virtio-serial-pci,id=serial0", "-device", "virtconsole,chardev=console",
	}
	if fds.vsock != 0 {
		return append(a, "-device", fmt.Sprintf("vhost-vsock-pci,id=vsock-%d,guest-cid=%d,vhostfd=%d", fds.cid, fds.cid, fds.vsock))
	}
	return append(a, "-chardev", "socket,id="+agentChardev+",path="+escape(c.agentSocket())+",server=on,wait=off",
		"-device", "virtserialport,chardev="+agentChardev+",id=agent-port,name="+agentPort)
}

// kernelCommandLine is what the guest's kernel and agent are told. Later words win, so Config's come last.
func kernelCommandLine(c Config, fds inherited) string {
	words := []string{}
	if !c.Debug {
		words = append(words, "quiet") // before the console that it is to keep quiet
	}
	words = append(words,
		// A panic ends the machine at once. Until hvc0 is there, what is worth saying goes to the serial
		// port, whose driver is not needed; tty0 is there so that init finds a console to open.
		"panic=-1", "earlyprintk=serial,0x3f8,115200", "8250.nr_uarts=0", "console=tty0", "console=hvc0",
		// Clock and timers are the hypervisor's business, there is no keyboard to look for, no second processor
		// to patch the kernel for, nobody to wait for. All this is Kata's too, and saves a tenth of a second.
		"tsc=reliable", "no_timer_check", "random.trust_cpu=on", "cryptomgr.notests", "audit=0", "noreplace-smp",
		"rcupdate.rcu_expedited=1", "i8042.direct=1", "i8042.dumbkbd=1", "i8042.nopnp=1", "i8042.noaux=1",
	)
	if c.Accel != AccelKVM {
		// The mitigations are for processors that speculate; an emulated one only gets slower.
		words = append(words, "mitigations=off")
	}
	if c.growsMemory() {
		// Room for memory above 4 GiB makes the kernel set 64 MiB aside for devices that cannot reach it; there is none.
		// And what comes is used as soon as it is there: nobody can tell the agent how much to wait for.
		words = append(words, "swiotlb=noforce", "memhp_default_state=online")
	}
	if c.Debug {
		words = append(words, "agent.log=debug")
	}
	if fds.vsock != 0 {
		words = append(words, fmt.Sprintf("agent.server_addr=vsock://-1:%d", agentVsock))
	} else {
		words = append(words, "agent.server_addr=vserial://"+agentPort)
	}
	return strings.Join(append(words, c.KernelParams...), " ")
}

// escape makes s safe inside an option: QEMU splits options at commas.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// machineUUID is made of the id, so that one sandbox's machine always has the same.
func machineUUID(id string) string {
	h := sha256.Sum256([]byte("katadirect machine " + id))
	h[6] = h[6]&0x0f | 0x80 // version 8, made of whatever the maker likes
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
