package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
)

// busyQEMU begins a copy and does not come to say so.
type busyQEMU struct{ node, job bool }

func (q *busyQEMU) serve(conn net.Conn) {
	fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var command struct {
			Execute string `json:"execute"`
			ID      any    `json:"id"`
		}
		if json.Unmarshal(lines.Bytes(), &command) != nil {
			return
		}
		reply := map[string]any{"id": command.ID, "return": map[string]any{}}
		refuse := func(words string) {
			reply = map[string]any{"id": command.ID, "error": map[string]any{"class": "GenericError", "desc": words}}
		}
		switch command.Execute {
		case "query-named-block-nodes":
			reply["return"] = []any{map[string]any{"node-name": nodePrefix + "d", "image": map[string]any{"virtual-size": 1 << 20}}}
		case "blockdev-add":
			q.node = true
		case "blockdev-backup":
			q.job = true
			continue
		case "block-job-cancel":
			if !q.job {
				refuse("Block job '" + copyPrefix + "d' not found")
				break
			}
			q.job = false
			fmt.Fprintf(conn, `{"event": "BLOCK_JOB_CANCELLED", "data": {"device": "%sd"}, "timestamp": {"seconds": 1, "microseconds": 1}}`+"\n", copyPrefix)
		case "blockdev-del":
			if q.job {
				refuse("Node " + copyPrefix + "d is in use")
				break
			}
			q.node = false
		}
		_ = json.NewEncoder(conn).Encode(reply)
	}
}

func TestACopyThatWasBegunWithoutAnAnswerIsEnded(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var q busyQEMU
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		q.serve(conn)
	}()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client, err := qmp.NewClient(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(target, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	c := &diskCopy{client: client, disk: &disk{id: "d"}, done: make(chan struct{})}
	if err := c.start(ctx, &Machine{}, target); err == nil {
		t.Error("a copy of which nothing was heard has begun")
	}
	client.Close()
	<-served
	if q.job || q.node {
		t.Errorf("left in QEMU: the job: %t, its node: %t", q.job, q.node)
	}
}
