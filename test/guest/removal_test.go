package guest_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/katadirect/katadirect/pkg/agentproto"
	"github.com/katadirect/katadirect/pkg/runtime/agentclient"
)

// A shim whose patience with a create is over removes the container at once. It must not come to life afterwards.
func TestAContainerThatIsStillBeingMadeIsRemovedWhenItIsMade(t *testing.T) {
	m := theMachine(t)
	c := &containerIn{t, m, newID("c")}
	created := make(chan error, 1)
	go func() { created <- m.tryCreate(t.Context(), c.id, spec("exec sleep 1000000")) }()
	err := c.remove()
	for agentclient.IsCode(err, codes.InvalidArgument) && len(created) == 0 { // the agent has not begun with it yet
		err = c.remove()
	}
	if err := <-created; err != nil {
		t.Errorf("the create: %v", err)
	}
	if agentclient.IsCode(err, codes.InvalidArgument) { // it was made between the last two looks
		err = c.remove()
	}
	if err != nil {
		t.Errorf("remove it meanwhile: %v", err)
	}
	_, err = m.agent.StartContainer(t.Context(), &agentproto.StartContainerRequest{ContainerId: c.id})
	wantCode(t, err, codes.InvalidArgument)
}
