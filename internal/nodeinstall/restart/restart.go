// Package restart restarts a service of the host: through systemd, or by a command where there is none.
package restart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// timeout bounds one restart. systemd itself gives a service 90 s to start.
const timeout = 3 * time.Minute

// Restarter restarts the container runtime and returns when it is up, as far as it can tell.
type Restarter interface {
	// Restart restarts it.
	Restart(ctx context.Context) error
	// String completes the sentence "restart by …".
	String() string
}

// Command restarts by running a program with arguments.
type Command []string

// ParseCommand splits a command at its spaces. There is no shell, and no quoting.
func ParseCommand(line string) (Command, error) {
	if strings.ContainsAny(line, "'\"\\$`|&;<>") {
		return nil, fmt.Errorf("command %q: it is split at spaces and run without a shell, so quotes and the like mean nothing; put it into a script", line)
	}
	return strings.Fields(line), nil
}

func (c Command) String() string { return "the command " + strings.Join(c, " ") }

// Restart runs the command, which must succeed.
func (c Command) Restart(ctx context.Context) error {
	if len(c) == 0 {
		return errors.New("the command that restarts the container runtime is empty")
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c[0], c[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second // what it has started may keep the output open
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("restart by %s: %w: %s", c, err, lastWords(said.String()))
	}
	return nil
}

func lastWords(said string) string {
	const enough = 1000
	return strings.TrimSpace(said[max(0, len(said)-enough):])
}
