package qemu

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// firstInherited is the number of the first descriptor a child finds beyond standard input, output and error.
const firstInherited = 3

// wires are the connections between this process and QEMU. Control and console are socket pairs: nobody else can
// connect, no path is left behind, and the end of either process ends them.
type wires struct {
	qmp, console net.Conn   // this process' ends
	theirs       []*os.File // what QEMU inherits, in order
	fds          inherited  // the numbers under which it finds them
	owned        []*os.File // the part of theirs to close in this process
}

func (m *Machine) connectWires() (_ *wires, err error) {
	w := &wires{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.closeOurs())
			w.closeTheirs()
		}
	}()
	if w.qmp, w.fds.qmp, err = w.connect("qmp"); err != nil {
		return nil, err
	}
	if w.console, w.fds.console, err = w.connect("console"); err != nil {
		return nil, err
	}
	if m.cfg.Vsock {
		file, cid, err := claimVsock(vhostVsock)
		switch {
		case errors.Is(err, os.ErrNotExist):
			m.cfg.Log.Debug("no vsock on this host, the agent gets a virtio-serial port", "device", vhostVsock)
		case err != nil:
			return nil, err
		default:
			w.owned = append(w.owned, file)
			w.fds.vsock, w.fds.cid = w.pass(file), cid
		}
	}
	if m.cfg.Lease != nil {
		w.pass(m.cfg.Lease) // QEMU keeps it open without knowing of it, and a lock on it lives as long
	}
	for _, nic := range m.cfg.NICs {
		wired := wiredNIC{NIC: nic}
		for _, tap := range nic.Taps {
			wired.taps = append(wired.taps, w.pass(tap))
		}
		if nic.Stream != nil {
			wired.stream = w.pass(nic.Stream)
		}
		w.fds.nics = append(w.fds.nics, wired)
	}
	w.fds.vhost = len(m.cfg.NICs) > 0 && hasVhostNet()
	return w, nil
}

// connect makes a socket pair of which QEMU inherits one end.
func (w *wires) connect(name string) (net.Conn, int, error) {
	conn, file, err := socketPair(name)
	if err != nil {
		return nil, 0, err
	}
	w.owned = append(w.owned, file)
	return conn, w.pass(file), nil
}

func (w *wires) pass(file *os.File) int {
	w.theirs = append(w.theirs, file)
	return firstInherited + len(w.theirs) - 1
}

// closeTheirs must come once QEMU has its copies, or its death would not end the connections.
func (w *wires) closeTheirs() {
	for _, file := range w.owned {
		_ = file.Close() // never written to
	}
	w.owned = nil
}

func (w *wires) closeOurs() error {
	var errs []error
	for _, conn := range []net.Conn{w.qmp, w.console} {
		if conn != nil {
			errs = append(errs, conn.Close())
		}
	}
	return errors.Join(errs...)
}

// socketPair returns two connected ends, the first for this process.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for %s: %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name)
	defer ours.Close() // FileConn has a duplicate
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn, theirs, nil
}
