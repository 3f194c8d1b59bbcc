package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// maxLine bounds one line from QEMU. The longest real ones list block nodes: about 2 KiB for each.
const maxLine = 4 << 20

// CommandError is QEMU's refusal of a command.
type CommandError struct {
	Command string
	// Class is "GenericError" for nearly everything, and "DeviceNotFound" where callers must know.
	Class string
	// Description is QEMU's own sentence, without a stop.
	Description string
}

// ClassDeviceNotFound is the Class of a CommandError about a device that is not there.
const ClassDeviceNotFound = "DeviceNotFound"

func (e *CommandError) Error() string { return e.Command + ": " + e.Description }

// Event is something QEMU reports by itself.
type Event struct {
	// Name is the event's QMP name, like "DEVICE_DELETED".
	Name string
	// Data is its JSON object, empty if it has none.
	Data json.RawMessage
	// Time is when QEMU says it happened.
	Time time.Time
}

// Decode reads the event's data into v.
func (e Event) Decode(v any) error {
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("event %s: %w", e.Name, err)
	}
	return nil
}

// message is one decoded line: exactly one of its fields is set.
type message struct {
	greeting *struct{}
	event    *Event
	reply    *reply
}

type reply struct {
	id      uint64
	result  json.RawMessage
	failure *failure
}

type failure struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

func encode(id uint64, command string, args any) ([]byte, error) {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return nil, err
	}
	return append(line, '\n'), nil
}

// decode takes apart one line of QEMU.
func decode(line []byte) (message, error) {
	var wire struct {
		Greeting  *struct{}       `json:"QMP"`
		Event     *string         `json:"event"`
		Data      json.RawMessage `json:"data"`
		Timestamp struct {
			Seconds      int64 `json:"seconds"`
			Microseconds int64 `json:"microseconds"`
		} `json:"timestamp"`
		ID     *uint64         `json:"id"`
		Return json.RawMessage `json:"return"`
		Error  *failure        `json:"error"`
	}
	if err := json.Unmarshal(line, &wire); err != nil {
		return message{}, fmt.Errorf("not a QMP message: %w", err)
	}
	switch {
	case wire.Greeting != nil:
		return message{greeting: wire.Greeting}, nil
	case wire.Event != nil:
		at := time.Unix(wire.Timestamp.Seconds, wire.Timestamp.Microseconds*1000)
		return message{event: &Event{Name: *wire.Event, Data: wire.Data, Time: at}}, nil
	case wire.ID == nil && wire.Error != nil:
		// QEMU answers so what it could not even parse.
		return message{}, fmt.Errorf("QEMU did not understand a command: %s", wire.Error.Description)
	case wire.ID == nil || (wire.Return == nil && wire.Error == nil):
		return message{}, errors.New("not a QMP message: neither greeting, event nor reply")
	}
	return message{reply: &reply{id: *wire.ID, result: wire.Return, failure: wire.Error}}, nil
}

// readLine returns the next line without its end, which is valid until the next call. A last line without an end
// is no line: QEMU died in the middle of it.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if err == nil {
		return line, nil
	}
	// Longer than the buffer, which is rare, so it may cost a copy.
	whole := append([]byte(nil), line...)
	for errors.Is(err, bufio.ErrBufferFull) {
		if len(whole) > maxLine {
			return nil, fmt.Errorf("QEMU sent a line of more than %d bytes", maxLine)
		}
		line, err = in.ReadSlice('\n')
		whole = append(whole, line...)
	}
	if err != nil {
		return nil, err
	}
	return whole, nil
}
