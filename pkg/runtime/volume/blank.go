package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

// ErrCannotFormat is returned for a blank volume where the agent in the guest cannot make a file system on it.
var ErrCannotFormat = errors.New("the volume is blank, and the agent in the guest cannot format it; " +
	"format it on the host first, or use a guest image with katadirect's agent")

// blankBytes is how much from the beginning must be zero for a device to count as blank. Nothing is done to one that
// does: that it is blank is only a better reason than the guest's failed mount.
const blankBytes = 1 << 20

// refuseBlank says what is wrong before a foreign agent is asked to mount what is not there.
func refuseBlank(w wish, f agentclient.Features) error {
	if f.FormatIfBlank || !slices.Contains(w.driverOptions, optionFormatIfBlank) {
		return nil
	}
	device, err := os.OpenFile(w.device, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", directvolume.ErrDevice, err)
	}
	defer device.Close()
	start, err := io.ReadAll(io.LimitReader(device, blankBytes))
	if err != nil {
		return fmt.Errorf("%w: %w", directvolume.ErrDevice, err)
	}
	if bytes.Count(start, []byte{0}) == len(start) {
		return ErrCannotFormat
	}
	return nil
}
