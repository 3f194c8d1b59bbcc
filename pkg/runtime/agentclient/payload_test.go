package agentclient

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

func TestDataIsFoundInPlaceAndNonsenseIsAnError(t *testing.T) {
	good, err := proto.Marshal(&agentproto.ReadStreamResponse{Data: []byte("some output")})
	if err != nil {
		t.Fatal(err)
	}
	data, err := bytesField(good, dataField)
	if err != nil || string(data) != "some output" {
		t.Fatalf("%q, %v", data, err)
	}
	if &data[0] != &good[len(good)-len(data)] {
		t.Error("it was copied")
	}
	for name, message := range map[string]string{
		"cut short": string(good[:len(good)-1]), "no tag": "\xff", "length past the end": "\x0a\xff\xff\xff\xff\x0f",
		"field zero": "\x02\x00", "group without an end": "\x0b",
	} {
		if got, err := bytesField([]byte(message), dataField); !errors.Is(err, errStream) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, message := range map[string]string{"": "", "another field": "\x12\x01x", "a number": "\x08\x01"} {
		if got, err := bytesField([]byte(message), dataField); len(got) > 0 || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// FuzzData holds bytesField against the library.
func FuzzData(f *testing.F) {
	f.Add([]byte("\x0a\x02hi"))
	f.Add([]byte("\x0a\x02hi\x0a\x00"))
	f.Fuzz(func(t *testing.T, message []byte) {
		var want agentproto.ReadStreamResponse
		wantErr := proto.Unmarshal(message, &want)
		got, err := bytesField(message, dataField)
		if wantErr == nil && (err != nil || string(got) != string(want.Data)) {
			t.Errorf("%q, %v; want %q", got, err, want.Data)
		}
	})
}
