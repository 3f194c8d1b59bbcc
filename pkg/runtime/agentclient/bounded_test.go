package agentclient

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	"github.com/katadirect/katadirect/pkg/agentproto"
)

// Two bytes on the wire become a structure in memory: 4 MiB, which ttrpc would take, some hundred MiB.
func TestAnAnswerThatIsTooLargeEndsTheConnectionBeforeItIsUnpacked(t *testing.T) {
	said := sendsTooMuch(t, maxMessageBytes)
	if !strings.Contains(said, errTooLarge.Error()) {
		t.Errorf("the log does not say why: %q", said)
	}
	sendsTooMuch(t, maxAnswerBytes+2) // which is less than output may have
}

// sendsTooMuch has the guest answer a question for figures with so many bytes, and returns the client's log.
func sendsTooMuch(t *testing.T, bytes int) string {
	t.Helper()
	stats, err := proto.Marshal(&agentproto.StatsContainerResponse{
		NetworkStats: make([]*agentproto.NetworkStats, bytes/2),
	})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := proto.Marshal(&ttrpc.Response{Payload: stats})
	if err != nil {
		t.Fatal(err)
	}
	message := binary.BigEndian.AppendUint32(nil, uint32(len(payload)))
	message = append(binary.BigEndian.AppendUint32(message, 1), 2, 0) // of stream 1, a response
	message = append(message, payload...)

	here, guest := pair(t)
	var said strings.Builder
	c := New(here, Options{Log: slog.New(slog.NewTextHandler(&said, nil))})
	go func() {
		_, _ = guest.Read(make([]byte, 4096))
		_, _ = guest.Write(message)
	}()
	r, err := c.StatsContainer(t.Context(), &agentproto.StatsContainerRequest{})
	if !errors.Is(err, ErrGone) || !errors.Is(err, errTooLarge) {
		t.Errorf("%d entries and error %v, want ErrGone and why", len(r.GetNetworkStats()), err)
	}
	<-c.Gone()
	return said.String()
}

func TestMessagesAreFollowedHoweverTheyArrive(t *testing.T) {
	header := func(length uint32) []byte {
		return append(binary.BigEndian.AppendUint32(nil, length), make([]byte, 6)...)
	}
	stream := header(3)
	stream = append(stream, 0xff, 0xff, 0xff)
	stream = append(stream, header(0)...)
	stream = append(stream, header(maxMessageBytes)...)
	stream = append(stream, make([]byte, maxMessageBytes)...)
	for _, size := range []int{1, 7, 10, 4096, len(stream)} {
		var f frames
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			if err := f.see(rest[:n]); err != nil {
				t.Fatalf("in pieces of %d: %v", size, err)
			}
			rest = rest[n:]
		}
		if err := f.see(header(maxMessageBytes + 1)); !errors.Is(err, errTooLarge) {
			t.Errorf("in pieces of %d: error %v for a message that is too large", size, err)
		}
	}
}

// A machine whose host has no space left stands still, and takes nothing in until there is some.
func TestAGuestThatStandsStillIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, guest := net.Pipe()
		var resumed atomic.Pointer[time.Time] // nil while it stands still
		c := New(here, Options{Log: discard(), Standing: func(since time.Time) bool {
			at := resumed.Load()
			return at == nil || at.After(since)
		}})
		done := make(chan error)
		began := time.Now()
		go func() {
			_, err := c.WaitProcess(t.Context(), &agentproto.WaitProcessRequest{})
			done <- err
		}()
		time.Sleep(3*writeTimeout + time.Second)
		select {
		case <-c.Gone():
			t.Fatal("the connection to a guest that stands still was ended")
		default:
		}
		now := time.Now()
		resumed.Store(&now)
		if err := <-done; !errors.Is(err, ErrGone) {
			t.Errorf("error %v, want ErrGone once it should have gone on", err)
		}
		if took := time.Since(began); took != 5*writeTimeout { // the period in which it went on does not count
			t.Errorf("it took %v, want %v", took, 5*writeTimeout)
		}
		_ = guest.Close()
	})
}
