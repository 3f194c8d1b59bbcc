package csi

import (
	"regexp"
	"strings"
)

// kubelet hands a pod's SELinux label over as a mount option, where the CSIDriver object has seLinuxMount: true and the
// node has SELinux: context="system_u:object_r:container_file_t:s0:c15,c25". It is the host's word about the host's
// files, so it is an option of host mounts, and of a record it is metadata, not an option.

const selinuxOption = "context="

// selinuxLabel is user:role:type, and a level that may have categories.
var selinuxLabel = regexp.MustCompile(`^[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+:[A-Za-z0-9_.-]+(:[A-Za-z0-9:.,_-]+)?$`)

// maxLabelBytes is far more than a label has.
const maxLabelBytes = 255

// takeSELinuxLabel returns the label that is among the mount flags, "" if there is none, and the other flags. The label
// stands alone in its flag, for it may have commas in it.
func takeSELinuxLabel(flags []string) (label string, others []string, err error) {
	for _, flag := range flags {
		value, found := strings.CutPrefix(flag, selinuxOption)
		if !found {
			others = append(others, flag)
			continue
		}
		if unquoted, quoted := strings.CutPrefix(value, `"`); quoted {
			value = strings.TrimSuffix(unquoted, `"`)
		}
		switch {
		case len(value) > maxLabelBytes || !selinuxLabel.MatchString(value):
			return "", nil, failf(ErrInvalidArgument, "mount option %q does not hold an SELinux label", flag)
		case label != "" && label != value:
			return "", nil, failf(ErrInvalidArgument, "mount options hold two SELinux labels, %q and %q", label, value)
		}
		label = value
	}
	return label, others, nil
}
