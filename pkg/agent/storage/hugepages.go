package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/katadirect/katadirect/internal/rollback"
)

// hugePages is where the kernel keeps its pools of huge pages, one folder for each size.
var hugePages = "/sys/kernel/mm/hugepages"

// hugePagesMu is held while a pool grows: the kernel takes a number, not an increase.
var hugePagesMu sync.Mutex

// reserveHugePages grows the machine's pool of huge pages by what a file system of them may hold. data are its mount
// options, "pagesize=2097152,size=4194304" for instance, both in bytes as Kata's shims send them. Without a size
// nothing is reserved.
func reserveHugePages(undo *rollback.Stack, data string) error {
	page, size := int64(0), int64(0)
	for _, option := range strings.Split(data, ",") {
		key, value, _ := strings.Cut(option, "=")
		to := map[string]*int64{"pagesize": &page, "size": &size}[key]
		if to == nil {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n <= 0 {
			return fmt.Errorf("%w: option %q", ErrRequest, option)
		}
		*to = n
	}
	if page == 0 || size == 0 {
		return nil
	}
	hugePagesMu.Lock()
	defer hugePagesMu.Unlock()
	pool := filepath.Join(hugePages, fmt.Sprintf("hugepages-%dkB", page>>10), "nr_hugepages")
	before, err := readNumber(pool)
	if os.IsNotExist(err) {
		return fmt.Errorf("%w: the guest has no pages of %d bytes", ErrRequest, page)
	}
	if err != nil {
		return err
	}
	wanted := before + (size-1)/page + 1
	if err := os.WriteFile(pool, strconv.AppendInt(nil, wanted, 10), 0); err != nil {
		return fmt.Errorf("reserve huge pages: %w", err)
	}
	// The kernel makes as many as it finds room for, and says nothing.
	if got, err := readNumber(pool); err != nil || got < wanted {
		_ = os.WriteFile(pool, strconv.AppendInt(nil, before, 10), 0)
		return fmt.Errorf("the guest has room for %d of %d pages of %d bytes: give the machine more memory (default_memory): %w",
			got-before, wanted-before, page, ErrNoMemory)
	}
	undo.Push("give the huge pages back", func(context.Context) error { return shrinkPool(pool, wanted-before) })
	return nil
}

// shrinkPool takes that many pages out of a pool again.
func shrinkPool(pool string, pages int64) error {
	hugePagesMu.Lock()
	defer hugePagesMu.Unlock()
	now, err := readNumber(pool)
	if err != nil {
		return err
	}
	return os.WriteFile(pool, strconv.AppendInt(nil, max(0, now-pages), 10), 0)
}

func readNumber(file string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}
