package shimv2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/katadirect/katadirect/internal/durable"
)

// Bounds on the way out. A machine that does not stop is killed well before closeTimeout.
const (
	closeTimeout  = 30 * time.Second
	answerTimeout = time.Second
	flushTimeout  = 3 * time.Second
)

// contactTimeout is how long nobody may connect to a new daemon. containerd does as soon as it has read the address;
// if the start command was killed just before it printed that, nobody knows of this daemon, or ever will.
const contactTimeout = time.Minute

// serve is the daemon: it answers containerd until Shutdown, or a signal, ends it.
func serve(o options, c Config) (err error) {
	report := os.NewFile(readyFD, "ready")
	defer func() {
		if err != nil && report != nil {
			fmt.Fprint(report, err)
			report.Close()
		}
	}()
	listener, err := inheritListener()
	if err != nil {
		return err
	}
	unix.CloseOnExec(readyFD)

	log, level := daemonLog(o)
	tuneMemory()
	if err := ownMounts(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP)

	events := NewPublisher(os.Getenv("TTRPC_ADDRESS"), o.namespace, log)
	defer events.Close()

	done := make(chan struct{})
	shutdown := sync.OnceFunc(func() { close(done) })
	clients := newClients()
	service, err := c.Serve(context.Background(), Daemon{
		Namespace: o.namespace,
		ID:        o.id, Log: log, Level: level, Events: events, Connected: clients.any, Shutdown: shutdown,
	})
	if err != nil {
		return err
	}
	front, err := newFront(listener, service, clients)
	if err != nil {
		return err
	}
	log.Info("shim started", "pid", os.Getpid()) // before anybody can ask anything of it
	err = tellReady(o.bundle, report)
	report = nil
	if err == nil {
		err = waitForEnd(signals, done, front, contactTimeout, log)
	}
	return errors.Join(err, leave(service, front, events, log))
}

// tellReady fails if nobody listens any more: a start command that was killed has told nobody of this daemon. The pid
// is on disk before, by this process and not by the start command, so that delete finds a daemon whatever became of that.
func tellReady(bundle string, report *os.File) error {
	err := durable.WriteFile(filepath.Join(bundle, pidFile), []byte(strconv.Itoa(os.Getpid())), 0o600)
	if err != nil {
		fmt.Fprint(report, err)
		return errors.Join(err, report.Close())
	}
	if _, err := fmt.Fprint(report, readyWord); err != nil {
		return errors.Join(fmt.Errorf("the start command is gone: %w", err), report.Close())
	}
	return report.Close()
}

// waitForEnd returns when the daemon is to go: nil if it was asked to.
func waitForEnd(signals <-chan os.Signal, done <-chan struct{}, f *front, contact time.Duration, log *slog.Logger) error {
	lonely := time.NewTimer(contact)
	defer lonely.Stop()
	met := f.clients.met
	for {
		select {
		case <-met:
			lonely.Stop()
			met = nil
		case <-lonely.C:
			select {
			case <-met: // just in time: the outer select takes either when both are ready
				continue
			default:
			}
			log.Warn("shim shuts down: nobody has connected to it, so nobody knows of it", "waited", contact)
			return nil
		case <-done:
			log.Info("shim shuts down: nothing is left in it")
			return nil
		case <-f.served:
			return f.err
		case s := <-signals:
			if s == syscall.SIGUSR1 {
				dumpGoroutines(log)
				continue
			}
			log.Warn("shim shuts down: it was told to by a signal", "signal", s.String())
			return nil
		}
	}
}

// leave ends the service first, so that its last answers and events still get out.
func leave(service Service, f *front, events *Publisher, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := service.Close(ctx)

	flush, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	err = errors.Join(err, events.Flush(flush))

	removed := os.Remove(f.listener.Addr().String())
	if errors.Is(removed, os.ErrNotExist) {
		removed = nil
	}
	f.close(answerTimeout)
	if err = errors.Join(err, removed); err != nil {
		return err // Main writes it to stderr, which is the log
	}
	log.Info("shim ended")
	return nil
}

// inheritListener takes the socket over from the start command.
func inheritListener() (net.Listener, error) {
	f := os.NewFile(socketFD, "socket")
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("no socket was handed over: this program is started by containerd, with a command: %w", err)
	}
	return l, nil
}

// ownMounts parts this mount namespace from the host's: what the host mounts arrives here, what is mounted here stays
// here. It is shared among itself, because virtiofsd runs in a namespace below this one and must see what is mounted
// after it has started.
func ownMounts() error {
	for _, flags := range []uintptr{unix.MS_SLAVE | unix.MS_REC, unix.MS_SHARED | unix.MS_REC} {
		if err := unix.Mount("", "/", "", flags, ""); err != nil {
			return fmt.Errorf("part the shim's mounts from the host's: %w", err)
		}
	}
	return nil
}
