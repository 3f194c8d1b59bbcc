package device

import (
	"fmt"
	"strconv"
	"strings"
)

// SCSIAddress is a disk's place on the machine's SCSI controller; channel and
// host number are not part of it, for there is one controller with one
// channel.
type SCSIAddress struct {
	ID  uint8
	LUN uint16 // 0 to 16383, as virtio-scsi has them
}

const maxLUN = 16383

// ParseSCSIAddress reads "id:lun", both decimal.
func ParseSCSIAddress(s string) (SCSIAddress, error) {
	id, lun, ok := strings.Cut(s, ":")
	idNumber, idErr := parseDecimal(id, 255)
	lunNumber, lunErr := parseDecimal(lun, maxLUN)
	if !ok || idErr != nil || lunErr != nil {
		return SCSIAddress{}, fmt.Errorf("SCSI address %q: %w: want ID:LUN, at most 255:%d", s, ErrAddress, maxLUN)
	}
	return SCSIAddress{ID: uint8(idNumber), LUN: uint16(lunNumber)}, nil
}

func parseDecimal(s string, maxValue uint64) (uint64, error) {
	v, err := strconv.ParseUint(s, 10, 16)
	if err != nil || v > maxValue {
		return 0, ErrAddress
	}
	return v, nil
}

// String is the address as ParseSCSIAddress reads it.
func (a SCSIAddress) String() string { return fmt.Sprintf("%d:%d", a.ID, a.LUN) }
