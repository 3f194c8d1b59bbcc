package task

import (
	"reflect"
	"testing"

	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestVersion3ClientsAreServed goes through a pod's life with the client, the names and the messages of version 3.
func TestVersion3ClientsAreServed(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	c := taskv3.NewTTRPCTaskClient(r.ttrpc)
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	v2 := r.request(spec{id: "pod", args: forever(), annotations: asPod()})
	created, err := c.Create(r.ctx, &taskv3.CreateTaskRequest{ID: "pod", Bundle: v2.GetBundle()})
	must("create", err)
	wantEqual(t, "pid", int(created.GetPid()), r.sandbox.PID())
	_, err = c.Start(r.ctx, &taskv3.StartRequest{ID: "pod"})
	must("start", err)

	stdout := fifo(t)
	output := reading(t, stdout)
	exec := execRequest(t, "pod", "e1", sh("echo from version 3; exit 5"), StdioConfig{})
	_, err = c.Exec(r.ctx, &taskv3.ExecProcessRequest{ID: "pod", ExecID: "e1", Stdout: stdout, Spec: exec.GetSpec()})
	must("exec", err)
	_, err = c.Start(r.ctx, &taskv3.StartRequest{ID: "pod", ExecID: "e1"})
	must("start the exec", err)
	waited, err := c.Wait(r.ctx, &taskv3.WaitRequest{ID: "pod", ExecID: "e1"})
	must("wait for the exec", err)
	wantEqual(t, "status of the exec", waited.GetExitStatus(), 5)
	wantEqual(t, "output", string(output()), "from version 3\n")
	_, err = c.Delete(r.ctx, &taskv3.DeleteRequest{ID: "pod", ExecID: "e1"})
	must("delete the exec", err)

	_, err = c.Pause(r.ctx, &taskv3.PauseRequest{ID: "pod"})
	must("pause", err)
	state, err := c.State(r.ctx, &taskv3.StateRequest{ID: "pod"})
	must("state", err)
	wantEqual(t, "state", state.GetStatus(), tasktypes.Status_PAUSED)
	_, err = c.Resume(r.ctx, &taskv3.ResumeRequest{ID: "pod"})
	must("resume", err)
	_, err = c.Update(r.ctx, &taskv3.UpdateTaskRequest{ID: "pod", Resources: &anypb.Any{Value: []byte(`{"memory": {"limit": 1}}`)}})
	must("update", err)
	_, err = c.Checkpoint(r.ctx, &taskv3.CheckpointTaskRequest{ID: "pod"})
	wantCode(t, err, codes.Unimplemented)
	_, err = c.ResizePty(r.ctx, &taskv3.ResizePtyRequest{ID: "pod"})
	wantCode(t, err, codes.FailedPrecondition)
	connected, err := c.Connect(r.ctx, &taskv3.ConnectRequest{ID: "pod"})
	must("connect", err)
	wantEqual(t, "pid of the task", int(connected.GetTaskPid()), r.sandbox.PID())
	pids, err := c.Pids(r.ctx, &taskv3.PidsRequest{ID: "pod"})
	must("pids", err)
	wantEqual(t, "processes", len(pids.GetProcesses()), 1)
	_, err = c.Stats(r.ctx, &taskv3.StatsRequest{ID: "pod"})
	must("stats", err)
	_, err = c.CloseIO(r.ctx, &taskv3.CloseIORequest{ID: "pod", Stdin: true})
	must("close IO", err)

	_, err = c.Kill(r.ctx, &taskv3.KillRequest{ID: "pod", Signal: 9, All: true})
	must("kill", err)
	_, err = c.Wait(r.ctx, &taskv3.WaitRequest{ID: "pod"})
	must("wait", err)
	deleted, err := c.Delete(r.ctx, &taskv3.DeleteRequest{ID: "pod"})
	must("delete", err)
	wantEqual(t, "status", deleted.GetExitStatus(), 137)
	_, err = c.State(r.ctx, &taskv3.StateRequest{ID: "pod"})
	wantCode(t, err, codes.NotFound)
	_, err = c.Shutdown(r.ctx, &taskv3.ShutdownRequest{ID: "pod"})
	must("shutdown", err)
	<-r.down
}

// Both versions are answered with version 2's messages, which is right only as long as they say the same on the wire.
func TestVersions2And3SayTheSameOnTheWire(t *testing.T) {
	t.Parallel()
	v2, v3 := taskv2.File_runtime_task_v2_shim_proto.Messages(), taskv3.File_runtime_task_v3_shim_proto.Messages()
	wantEqual(t, "number of messages", v3.Len(), v2.Len())
	for i := range v3.Len() {
		newer := v3.Get(i)
		older := v2.ByName(newer.Name())
		if older == nil {
			t.Errorf("%s is not in version 2", newer.Name())
			continue
		}
		wantEqual(t, "fields of "+string(newer.Name()), newer.Fields().Len(), older.Fields().Len())
		for f := range newer.Fields().Len() {
			field := newer.Fields().Get(f)
			same := older.Fields().ByNumber(field.Number())
			if same == nil || same.Name() != field.Name() || same.Kind() != field.Kind() || same.Cardinality() != field.Cardinality() {
				t.Errorf("%s.%s is not as in version 2", newer.Name(), field.Name())
			}
		}
	}
}

// A method that containerd has and the shim has not would be answered by the library, in words that help nobody.
func TestEveryMethodOfTheServiceIsThere(t *testing.T) {
	t.Parallel()
	r := newRig(t, hooks{})
	service := reflect.TypeFor[taskv3.TTRPCTaskService]()
	for _, client := range []any{taskv2.NewTTRPCTaskClient(r.ttrpc), taskv3.NewTTRPCTaskClient(r.ttrpc)} {
		for m := range service.Methods() {
			method := reflect.ValueOf(client).MethodByName(m.Name)
			request := reflect.New(method.Type().In(1).Elem())
			if _, ok := request.Interface().(proto.Message); !ok {
				t.Fatalf("%s takes no message", m.Name)
			}
			if m.Name == "Shutdown" || m.Name == "Wait" {
				continue // the one ends the shim, the other is above
			}
			out := method.Call([]reflect.Value{reflect.ValueOf(r.ctx), request})
			if err, _ := out[1].Interface().(error); status.Code(err) == codes.Unimplemented && m.Name != "Checkpoint" {
				t.Errorf("%s: %v", m.Name, err)
			}
		}
	}
}
