package agentproto

// TerminationLog is the one LogType of a GetDiagnosticDataRequest that an agent has data of: what a container has left in
// the file that kubelet reads when it has ended.
const TerminationLog = "termination_log"

// Where a container leaves its last words: kubelet's annotation that says it, and where it is if kubelet has not said.
const (
	AnnotationMessagePath = "io.kubernetes.container.terminationMessagePath"
	DefaultMessagePath    = "/dev/termination-log"
)
