package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/config"
)

// checkRecords looks at the record root. Whoever can write there chooses which of the host's disks a pod gets.
func checkRecords(ctx context.Context, o Options, _ config.Config) []Finding {
	const name = "records"
	info, err := os.Stat(o.RecordRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return []Finding{ok(name, "%s will be made with the first record", o.RecordRoot)}
	}
	if err != nil {
		return []Finding{failure(name, "make it a folder of root's with mode 0700", "%v", err)}
	}
	repair := fmt.Sprintf("look for records that are not yours (katadirect volume list), then: chown root: %[1]s && chmod 0700 %[1]s", o.RecordRoot)
	if !info.IsDir() {
		return []Finding{failure(name, "remove it", "%s is not a folder", o.RecordRoot)}
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 && int(owner) != os.Geteuid() {
		return []Finding{failure(name, repair, "%s belongs to user %d", o.RecordRoot, owner)}
	}
	mode := info.Mode().Perm()
	if mode&0o022 != 0 {
		return []Finding{failure(name, repair, "%s can be written by others (mode %04o); no record is used", o.RecordRoot, mode)}
	}
	findings := badRecords(ctx, o.RecordRoot)
	if mode != 0o700 {
		findings = append(findings, warning(name, "chmod 0700 "+o.RecordRoot, "%s can be read by others (mode %04o)", o.RecordRoot, mode))
	}
	return findings
}

// badRecords counts the records that no container can start with.
func badRecords(ctx context.Context, root string) []Finding {
	const name = "records"
	entries, err := directvolume.NewStore(root).List(ctx)
	if err != nil {
		return []Finding{failure(name, "see the message", "%v", err)}
	}
	bad := 0
	for _, entry := range entries {
		if entry.Err != nil {
			bad++
		}
	}
	if bad > 0 {
		return []Finding{warning(name, "katadirect volume list says why; end the pods, then katadirect direct-volume remove",
			"%d of %d records in %s cannot be used", bad, len(entries), root)}
	}
	return []Finding{ok(name, "%d in %s", len(entries), root)}
}
