package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/katadirect/katadirect/pkg/runtime/qmp"
)

// forgetfulQEMU does what it is told with memory, and says nothing of the first device_add.
type forgetfulQEMU struct {
	objects, devices []string
	sizes            map[string]int64 // of objects
	used             []string         // objects
	silent           func()           // called for that; nil when it has been
}

func (q *forgetfulQEMU) serve(conn net.Conn) {
	fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var command struct {
			Execute   string `json:"execute"`
			ID        any    `json:"id"`
			Arguments struct {
				ID, Memdev string
				Size       int64
			} `json:"arguments"`
		}
		if json.Unmarshal(lines.Bytes(), &command) != nil {
			return
		}
		answer, refused := q.run(command.Execute, command.Arguments.ID, command.Arguments.Memdev, command.Arguments.Size)
		reply := map[string]any{"id": command.ID, "return": answer}
		if refused != "" {
			reply = map[string]any{"id": command.ID, "error": map[string]any{"class": "GenericError", "desc": refused}}
		}
		if q.silent != nil && command.Execute == "device_add" {
			q.silent()
			q.silent = nil
			continue
		}
		_ = json.NewEncoder(conn).Encode(reply)
	}
}

func (q *forgetfulQEMU) run(command, id, memdev string, size int64) (answer any, refused string) {
	switch command {
	case "object-add":
		if slices.Contains(q.objects, id) {
			return nil, "attempt to add duplicate property '" + id + "' to object"
		}
		q.objects, q.sizes[id] = append(q.objects, id), size
	case "object-del":
		if slices.Contains(q.used, id) {
			return nil, "object '" + id + "' is in use, can not be deleted"
		}
		q.objects = slices.DeleteFunc(q.objects, func(o string) bool { return o == id })
	case "device_add":
		if slices.Contains(q.devices, id) {
			return nil, "Duplicate device ID '" + id + "'"
		}
		q.devices, q.used = append(q.devices, id), append(q.used, memdev)
	case "query-memory-devices":
		modules := []any{}
		for _, o := range q.used {
			modules = append(modules, map[string]any{"type": "dimm", "data": map[string]any{"size": q.sizes[o]}})
		}
		return modules, ""
	}
	return map[string]any{}, ""
}

// The real one answers, unless its host has no time for it.
func TestMemoryThatWasPluggedInWithoutAnAnswerIsThere(t *testing.T) {
	here, there := net.Pipe()
	impatient, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	go (&forgetfulQEMU{sizes: map[string]int64{}, silent: giveUp}).serve(there)
	client, err := qmp.NewClient(t.Context(), here)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var g growth
	grow := func(ctx context.Context, totalMiB int) (int, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return g.memory(ctx, client, Config{MemoryMiB: 256, MaxMemoryMiB: 1024, MemorySlots: 10}, totalMiB)
	}
	if _, err := grow(impatient, 512); err == nil {
		t.Fatal("a command without an answer has succeeded")
	}
	if now, err := grow(t.Context(), 512); err != nil || now != 512 {
		t.Errorf("asked for as much again: %d, %v; want 512", now, err)
	}
	if now, err := grow(t.Context(), 640); err != nil || now != 640 {
		t.Errorf("asked for more: %d, %v; want 640", now, err)
	}
}
