package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/pkg/runtime/sandbox/guestspec"
)

const (
	// wordsTimeout is how long the guest may take to tell a container's last words.
	wordsTimeout = 5 * time.Second
	// maxWords is what kubelet reads of them, in bytes.
	maxWords = 4 << 10
)

// messageFile is the host's file for a container's last words, which kubelet shows as the message of its end; "" if the
// container has none that it may write to.
func messageFile(spec *specs.Spec) string {
	m, ok := guestspec.MessageMount(spec)
	if !ok || guestspec.ReadOnly(m) {
		return ""
	}
	return m.Source
}

// lastWords fills that file with what nobody else can put there: what the container has written, if it wrote to a copy in
// the guest; and if it went with its machine, why, of which kubelet would hear nothing but 137.
func (s *Service) lastWords(c *container, lost error) {
	if c.message == "" {
		return
	}
	words, err := "", error(nil)
	switch {
	case lost != nil:
		words = strings.ReplaceAll(lost.Error(), "\n", "; ")
	case c.pod.alive.Err() != nil: // nobody is left to tell
	default:
		ctx, cancel := context.WithTimeout(c.pod.alive, wordsTimeout)
		defer cancel()
		words, err = c.pod.LastWords(ctx, c.id)
	}
	if err == nil && words != "" {
		err = leave(c.message, words)
	}
	if err != nil {
		c.init.log.Warn("the container's last words are lost", "error", err)
	}
}

var errNoFile = errors.New("it is no file")

// leave writes words into an existing file that has nothing in it. What has is the container's own.
func leave(path, words string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: %w", path, errNoFile)
	case info.Size() > 0:
		return nil
	}
	_, err = f.WriteString(strings.ToValidUTF8(words[:min(len(words), maxWords)], ""))
	return err
}
