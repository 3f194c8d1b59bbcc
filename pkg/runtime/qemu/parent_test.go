package qemu_test

import (
	"context"
	"fmt"
	"os"

	"github.com/katadirect/katadirect/pkg/runtime/qemu"
)

// parentEnv makes the test binary act as a shim: it starts a machine in the folder that the variable names, says the
// machine's process id, and waits to be killed.
const parentEnv = "KATADIRECT_TEST_PARENT"

func actAsParent(dir string) {
	m := qemu.New(qemu.Config{
		ID: "orphan", Dir: dir, Kernel: os.Getenv("KATADIRECT_TEST_KERNEL"), Initrd: os.Getenv("KATADIRECT_TEST_INITRD"),
		Accel: qemu.AccelTCG, MemoryMiB: 256,
	})
	if err := m.Start(context.Background()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(m.PID())
	<-m.Done()
	os.Exit(0)
}
