// Package network joins a pod's network namespace to its machine: it looks at what the CNI plugins have put there,
// gives each interface a card in the machine, and tells the guest's agent the addresses, routes and neighbours.
//
// The sandbox calls it in this order:
//
//	n, err := network.Open(ctx, network.Config{…})   // scanned and wired; nothing of it is left on error
//	machine.NICs = n.NICs()                          // the cards, with open descriptors
//	n.HandedOver()                                   // the machine runs and has its own copies
//	err = n.Configure(ctx, agent, cardPath)          // before CreateSandbox, as Kata's shim does it
//	err = n.Close(ctx)                               // the machine has ended
//
// and Cleanup when all that is left of the sandbox is what Config.Record was given.
//
// scan.go says what is in a namespace, and guest.go puts it into the agent's words; neither changes anything.
// tcfilter.go and passt.go are the ways frames travel. Nothing here may know of QEMU's options or of containers.
package network
