package main

import (
	"errors"
	"io"
	"net"
)

// sentBytes are sent in one run.
const sentBytes = 128 << 20

// send sends, and waits until the other side has read everything and hung up.
func send(address string, begin func()) (float64, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	buf := make([]byte, chunk)
	begin()
	for range sentBytes / chunk {
		if _, err := conn.Write(buf); err != nil {
			return 0, err
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	if _, err := conn.Read(buf); !errors.Is(err, io.EOF) {
		return 0, err
	}
	return sentBytes / 1e6, nil
}

// sink reads whatever anybody sends.
func sink(address string, _ func()) (float64, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return 0, err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return 0, err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
}
