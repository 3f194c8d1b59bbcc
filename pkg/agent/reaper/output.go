package reaper

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// maxOutput bounds what Output keeps, in bytes; a program's writes beyond it
// fail.
const maxOutput = 64 << 10

// Output runs a program with an empty standard input to its end, and returns
// what it wrote to both of its output streams, and its status as Child.Status
// has it. The program is killed when ctx ends. err is not nil only when the
// program could not be run, or ctx ended.
func (r *Reaper) Output(ctx context.Context, name string, args ...string) (output []byte, status int, err error) {
	// Memory and not a pipe: nobody needs to read along, and what a program
	// leaves running in the background cannot hold the reader up.
	memory, err := boundedMemory(maxOutput)
	if err != nil {
		return nil, 0, fmt.Errorf("run %s: %w", name, err)
	}
	defer memory.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = memory, memory
	child, err := r.Start(cmd)
	if err != nil {
		return nil, 0, err
	}
	release := context.AfterFunc(ctx, func() { _ = child.Signal(unix.SIGKILL) })
	defer release()
	<-child.Done()

	length, err := memory.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, 0, fmt.Errorf("run %s: %w", name, err)
	}
	output = make([]byte, length)
	if _, err := memory.ReadAt(output, 0); err != nil {
		return nil, 0, fmt.Errorf("run %s: %w", name, err)
	}
	if err := ctx.Err(); err != nil {
		return output, child.Status(), fmt.Errorf("run %s: %w", name, err)
	}
	return output, child.Status(), nil
}

// boundedMemory is an anonymous file that does not grow beyond size.
func boundedMemory(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make anonymous file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "output")
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW); err != nil {
		f.Close()
		return nil, fmt.Errorf("bound anonymous file: %w", err)
	}
	return f, nil
}
