// Package config reads Kata's configuration.toml: the file people already have, from the places where it already
// is, with the keys under their own names.
//
// The sandbox takes a Config when it is made and never looks back at the file. Nothing here starts, opens or checks
// anything but the file itself: whether a path in it exists is for its user to say, with the reason it is needed.
package config

import "time"

// Config is what the shim honours of configuration.toml. Default gives the values of a host without one.
type Config struct {
	// Path is the file it came from, empty when there was none.
	Path       string
	Hypervisor Hypervisor
	Runtime    Runtime
	Agent      Agent
	Direct     Direct
}

// Hypervisor is the table [hypervisor.qemu].
type Hypervisor struct {
	Path              string
	Kernel            string
	Initrd            string
	KernelParams      string
	MemoryMiB         int
	VCPUs             int
	Bridges           int
	EnableAnnotations []string

	BlockDriver    string
	BlockAIO       string
	DisableBlock   bool
	SharedFS       string
	VirtiofsDaemon string
	VirtiofsCache  string
	VirtiofsArgs   []string
	Debug          bool
}

// Runtime is the table [runtime].
type Runtime struct {
	Debug                  bool
	CreateContainerTimeout time.Duration
	DisableGuestSeccomp    bool
	StaticSandboxSizing    bool
}

// Agent is the table [agent.kata].
type Agent struct {
	DialTimeout time.Duration
	Debug       bool
}

// Direct is the table [katadirect], which Kata ignores with a warning.
type Direct struct {
	// Accel is "kvm", "tcg", or empty to find out.
	Accel string
}
