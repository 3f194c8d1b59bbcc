package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// card is the only one that the machine has.
const card = "eth0"

func ipv4(address string) ([4]byte, error) {
	ip, err := netip.ParseAddr(address)
	if err != nil || !ip.Is4() {
		return [4]byte{}, fmt.Errorf("not an IPv4 address: %q", address)
	}
	return ip.As4(), nil
}

// bringUp gives the card its address and switches it on.
func bringUp(address string) error {
	ip, err := ipv4(address)
	if err != nil {
		return err
	}
	if err := loadModules("network"); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, set := range []struct {
		request uint
		value   func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(ip[:]) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq(card)
		if err == nil {
			err = set.value(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, set.request, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// send returns how many microseconds it took until the other side had read everything and hung up.
func send(address, port, bytes string) (int64, error) {
	ip, err := ipv4(address)
	number, portErr := strconv.ParseUint(port, 10, 16)
	left, leftErr := strconv.Atoi(bytes)
	if err := errors.Join(err, portErr, leftErr); err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(number), Addr: ip}); err != nil {
		return 0, err
	}
	buf := make([]byte, 1<<20)
	start := time.Now()
	for left > 0 {
		n, err := unix.Write(fd, buf[:min(left, len(buf))])
		if err != nil {
			return 0, err
		}
		left -= n
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return 0, err
	}
	if _, err := unix.Read(fd, buf); err != nil {
		return 0, err
	}
	return time.Since(start).Microseconds(), nil
}
