package agentproto

// TerminationLog is the one LogType of a GetDiagnosticDataRequest that an agent has data of: what a container has left in
// the file that kubelet reads when it has ended.
const TerminationLog = "termination_log"
