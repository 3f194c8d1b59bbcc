package volume

import (
	"errors"
	"os"
	"testing"

	"github.com/katadirect/katadirect/pkg/directvolume"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

func TestABlankVolumeIsRefusedWhereTheAgentCannotFormat(t *testing.T) {
	formatIfBlank := func(r *directvolume.Record) {
		r.Metadata = map[string]string{directvolume.MetadataFormat: directvolume.FormatIfBlank}
	}
	h := newHost(t)
	h.set.Features = agentclient.Features{}
	blank := h.record("blank", formatIfBlank)
	if _, err := h.set.Attach(t.Context(), "c1", blank); !errors.Is(err, ErrCannotFormat) {
		t.Errorf("blank, and to be formatted: %v", err)
	}
	if len(h.machine.plugged) > 0 {
		t.Error("it was plugged in all the same")
	}
	// The next try, with another guest, must find it free.
	h.set.Features = agentclient.Features{FormatIfBlank: true}
	h.attach("c1", blank)

	h = newHost(t)
	h.set.Features = agentclient.Features{}
	formatted := h.record("formatted", formatIfBlank)
	if err := os.WriteFile(h.device("formatted"), append(make([]byte, 1024), "a file system"...), 0o600); err != nil {
		t.Fatal(err)
	}
	h.attach("c1", formatted)
	h.attach("c1", h.record("as it is", nil)) // nobody asks for a file system
}
