package guest_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/qemu"
	"github.com/katadirect/katadirect/pkg/runtime/vm"
)

// Kata's shims can give a guest swap: a disk by its PCI path, or a device by its name. A kernel lets go of neither while
// it swaps there, so this machine is the test's own.
func TestDisksBecomeSwap(t *testing.T) {
	m := newMachine(t, qemu.Config{})
	if err := m.createSandbox(t.Context()); err != nil {
		t.Fatal(err)
	}
	// plug plugs a disk for good.
	plug := func(image string) []uint32 {
		t.Helper()
		address, err := m.PlugDisk(t.Context(), vm.Disk{ID: newID("swap"), Path: image})
		if err != nil {
			t.Fatal(err)
		}
		return slots(t, address.Source)
	}
	formatted := func(size int64) string {
		t.Helper()
		image := newImage(t, size)
		onHost(t, "mkswap", image)
		return image
	}

	_, err := m.agent.AddSwap(t.Context(), &agentproto.AddSwapRequest{PCIPath: plug(formatted(16 * mib))})
	if err != nil {
		t.Error(err)
	}
	plug(formatted(32 * mib))
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // a name is not waited for, as a PCI path is
		_, err = m.agent.AddSwapPath(t.Context(), &agentproto.AddSwapPathRequest{Path: "/dev/vdb"})
		if err == nil || !strings.Contains(err.Error(), "no such file") || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Error(err)
	}
	sizes := strings.Fields(m.running(t).must("awk 'NR > 1 {print $3}' /proc/swaps"))
	slices.Sort(sizes)
	// The first page of each says what it is.
	if want := []string{fmt.Sprint(16<<10 - 4), fmt.Sprint(32<<10 - 4)}; !slices.Equal(sizes, want) {
		t.Errorf("the guest swaps to %q KiB, want %q", sizes, want)
	}

	_, err = m.agent.AddSwap(t.Context(), &agentproto.AddSwapRequest{PCIPath: []uint32{2, 32}})
	wantCode(t, err, codes.InvalidArgument, "slot 32")
	_, err = m.agent.AddSwap(t.Context(), &agentproto.AddSwapRequest{PCIPath: plug(newImage(t, 16*mib))})
	wantCode(t, err, codes.Internal, "swap on /dev/vdc")
	_, err = m.agent.AddSwapPath(t.Context(), &agentproto.AddSwapPathRequest{Path: "/no/such/disk"})
	wantCode(t, err, codes.Internal, "swap on /no/such/disk")
}

// slots is a PCI path in Kata's other form.
func slots(t *testing.T, path string) (numbers []uint32) {
	t.Helper()
	for part := range strings.SplitSeq(path, "/") {
		n, err := strconv.ParseUint(part, 16, 8)
		if err != nil {
			t.Fatalf("PCI path %q: %v", path, err)
		}
		numbers = append(numbers, uint32(n))
	}
	return numbers
}

// Memory is announced by its address only where firmware does not do it. Debian's kernel cannot be told of any, and
// the agent says so, before somebody tries and when somebody does.
func TestMemoryIsNotAnnouncedToAKernelThatCannotBeTold(t *testing.T) {
	m := theMachine(t)
	details, err := m.agent.GetGuestDetails(t.Context(), &agentproto.GuestDetailsRequest{MemHotplugProbe: true})
	if err != nil || details.GetSupportMemHotplugProbe() {
		t.Errorf("details are %v, %v", details, err)
	}
	_, err = m.agent.MemHotplugByProbe(t.Context(), &agentproto.MemHotplugByProbeRequest{MemHotplugProbeAddr: []uint64{1 << 30}})
	wantCode(t, err, codes.Internal, "announce memory at 0x40000000")
}
