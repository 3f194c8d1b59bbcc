package child

import (
	"os/exec"
	"testing"
)

func TestKillEndsTheProcessItNamesAndNoOther(t *testing.T) {
	c, err := Start(exec.Command("sleep", "1000"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Stop(t.Context()) })

	other := Process{PID: c.PID, StartTicks: c.StartTicks + 1} // the id as an earlier process had it
	if err := other.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case <-c.done:
		t.Fatal("a process that only has the same id was killed")
	default:
	}
	for range 2 {
		if err := c.Process.Kill(t.Context()); err != nil {
			t.Error(err)
		}
	}
	<-c.done
}

func TestNoProcessIsNotKilled(t *testing.T) {
	if err := (Process{}).Kill(t.Context()); err != nil {
		t.Error(err)
	}
}
