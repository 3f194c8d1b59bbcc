package csi

import (
	"crypto/sha256"
	"encoding/binary"
	"os"
	"testing"

	"google.golang.org/grpc/codes"
)

// forgeUnfinishedFormat writes what a hostile guest can: a file system that looks as if nobody had ever mounted it, and
// the mark of a format that was cut short (internal/filesystem).
func forgeUnfinishedFormat(t *testing.T, image string) {
	t.Helper()
	size := fileSize(t, image)
	run(t, "mkfs.ext4", "-q", "-E", "nodiscard", image)
	mark := make([]byte, 4<<10)
	n := copy(mark, "katadirect.io: formatting has begun and is not complete\n")
	binary.LittleEndian.PutUint64(mark[n:], uint64(size))
	sum := sha256.Sum256(mark[:n+8])
	copy(mark[n+8:], sum[:])
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(mark, size-4<<20)
	must(t, err)
	must(t, f.Close())
}

// A volume that is once marked as the host's is mounted by the host whatever it holds by then, and so is every copy of
// it. So no word of a guest's may lead to the mark.
func TestAGuestCannotForgeItsWayIntoAMountOfTheHost(t *testing.T) {
	for name, flags := range map[string][]string{"to write": nil, "to read": {"ro"}} {
		t.Run(name, func(t *testing.T) {
			h, _ := newModesHost(t)
			v := h.createIn("data", inMode("auto"), withFlags(flags...))
			must(t, v.stage())
			machine := h.target("machine")
			must(t, v.publishFor("machine", machine))
			forgeUnfinishedFormat(t, v.image())
			must(t, v.unpublish(machine))
			refused(t, v.publishFor("plain", h.target("plain")), codes.FailedPrecondition, v.id, parameterAllowGuestData)
			if marked, err := h.driver.pool.HostOnly(v.id); err != nil || marked {
				t.Errorf("it is marked as the host's: %t, %v", marked, err)
			}
			h.nothingLeft()
		})
	}
}
