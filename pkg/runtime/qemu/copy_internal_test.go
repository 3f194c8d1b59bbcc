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
type busyQEMU struct {
	nodes map[string]bool // that were added
	drive string          // the node of the guest's device
	job   bool
	early bool // the guest was to leave the filter while somebody else used it
	deaf  int  // orders to cancel the job that it still does not hear

	begun  func()        // called when the copy has been
	looked chan struct{} // until it is closed a deaf one does nothing
}

func (q *busyQEMU) serve(conn net.Conn) {
	fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var command struct {
			Execute   string `json:"execute"`
			ID        any    `json:"id"`
			Arguments struct {
				NodeName string `json:"node-name"`
				Value    string `json:"value"`
			} `json:"arguments"`
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
		case "qom-get":
			reply["return"] = q.drive
		case "qom-set":
			if q.nodes[pastPrefix+"d"] && command.Arguments.Value == nodePrefix+"d" {
				q.early = true // as QEMU 7.2 sees it: the guest cannot leave a filter that has other users
				refuse("Permission conflict on node '" + nodePrefix + "d'")
				break
			}
			q.drive = command.Arguments.Value
		case "blockdev-add":
			q.nodes[command.Arguments.NodeName] = true
		case "blockdev-backup":
			q.job = true
			q.begun()
			continue
		case "block-job-cancel":
			if q.deaf > 0 {
				q.deaf--
				<-q.looked
				continue
			}
			if !q.job {
				refuse("Block job '" + copyPrefix + "d' not found")
				break
			}
			q.job = false
			fmt.Fprintf(conn, `{"event": "BLOCK_JOB_CANCELLED", "data": {"device": "%sd"}, "timestamp": {"seconds": 1, "microseconds": 1}}`+"\n", copyPrefix)
		case "blockdev-del":
			if q.job || q.drive == command.Arguments.NodeName {
				refuse("Node " + command.Arguments.NodeName + " is in use")
				break
			}
			delete(q.nodes, command.Arguments.NodeName)
		}
		_ = json.NewEncoder(conn).Encode(reply)
	}
}

func TestACopyThatWasBegunWithoutAnAnswerIsEnded(t *testing.T) {
	for name, deaf := range map[string]int{"at once": 0, "by a QEMU that hears it late": 1} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			q := busyQEMU{nodes: map[string]bool{}, drive: nodePrefix + "d", deaf: deaf, begun: cancel, looked: make(chan struct{})}
			client, served := q.start(t)
			target := filepath.Join(t.TempDir(), "copy")
			if err := os.WriteFile(target, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			c := &diskCopy{client: client, disk: &disk{id: "d"}, done: make(chan struct{})}
			if err := c.start(ctx, &Machine{}, target); err == nil {
				t.Error("a copy of which nothing was heard has begun")
			}
			if copying := c.disk.copying(); copying != (deaf > 0) {
				t.Errorf("the disk counts as being copied: %t", copying)
			}
			close(q.looked)
			select {
			case <-c.done:
			case <-time.After(2 * commandTimeout):
				t.Error("QEMU still has something of the copy")
			}
			client.Close()
			<-served
			if q.early || q.job || len(q.nodes) > 0 || q.drive != nodePrefix+"d" {
				t.Errorf("left in QEMU: the job: %t, nodes %v; the guest has %s; taken down in the wrong order: %t", q.job, q.nodes, q.drive, q.early)
			}
		})
	}
}

// start connects a client with it. served is closed when it has nothing more to answer.
func (q *busyQEMU) start(t *testing.T) (client *qmp.Client, served chan struct{}) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	served = make(chan struct{})
	go func() {
		defer close(served)
		defer other.Close()
		q.serve(other)
	}()
	if client, err = qmp.NewClient(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	return client, served
}
