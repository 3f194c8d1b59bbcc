package console

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// group is the cgroup of one program. All that the program starts is in it,
// in whatever session it hides.
type group struct{ dir *os.File }

// newGroup makes one below a folder of cgroup2's file system.
func newGroup(root string, number uint64) (*group, error) {
	path := filepath.Join(root, strconv.FormatUint(number, 10))
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a cgroup: %w", err), unix.Rmdir(path))
	}
	return &group{dir}, nil
}

// hold has a command start in the group.
func (g *group) hold(attr *unix.SysProcAttr) {
	attr.UseCgroupFD, attr.CgroupFD = true, int(g.dir.Fd())
}

// goneTimeout bounds the wait for what was killed. What stands in a frozen file
// system does not even end then.
const goneTimeout = 2 * time.Second

// end kills all that is in the group, and removes it.
func (g *group) end() error {
	defer g.dir.Close()
	if err := os.WriteFile(filepath.Join(g.dir.Name(), "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("kill what the program has started: %w", err)
	}
	const pause = 2 * time.Millisecond
	for deadline := time.Now().Add(goneTimeout); ; time.Sleep(pause) {
		err := unix.Rmdir(g.dir.Name())
		switch {
		case err == nil, errors.Is(err, fs.ErrNotExist):
			return nil
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			return fmt.Errorf("remove the cgroup %s of a program that has ended: %w", g.dir.Name(), err)
		}
	}
}
