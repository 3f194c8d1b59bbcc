package mkfs

import "bytes"

// OneLine makes the output of a program of the file systems fit into an error message.
func OneLine(output []byte) string {
	const most = 600
	line := string(bytes.Join(bytes.Fields(output), []byte(" ")))
	if len(line) > most {
		line = line[:most] + "…"
	}
	return line
}
