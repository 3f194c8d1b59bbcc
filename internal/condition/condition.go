// Package condition is how the guest says in one sentence, the message of the agent protocol's VolumeCondition, what is
// wrong with a volume, so that programs can read it as well as people: "ReadOnly: …; IOErrors: …". The agent writes it,
// the shim adds what the machine knows, and the CSI driver takes it apart. It is in the message because that is all
// that goes through a shim of Kata's.
//
// Whoever parses it believes nothing: a guest can write there what it likes.
package condition

import (
	"strings"
	"unicode"
)

// What can be wrong with a volume, as its guest or its machine knows it.
const (
	// ReadOnly: the kernel of the guest has made the file system read-only after an error.
	ReadOnly = "ReadOnly"
	// FileSystemErrors: the file system has counted errors in its own structure.
	FileSystemErrors = "FileSystemErrors"
	// Unreadable: the file system is mounted and does not answer, for it has shut itself down.
	Unreadable = "Unreadable"
	// DeviceGone: the disk is not in the machine any more.
	DeviceGone = "DeviceGone"
	// IOErrors: the guest's kernel has counted errors of the disk.
	IOErrors = "IOErrors"
	// HostIOErrors: the machine's disk had errors on the host, which the guest was told.
	HostIOErrors = "HostIOErrors"
	// ReportedByGuest: anything else, as an agent that is not ours may say it.
	ReportedByGuest = "ReportedByGuest"
)

// OK is the message when nothing is wrong. It is Kata's.
const OK = "OK"

// Bounds on what Parse believes to be a condition.
const (
	maxProblems     = 8
	maxMessageBytes = 1 << 10
)

// Problem is one thing that is wrong.
type Problem struct {
	// Reason is one of the words above, Message a sentence for a person.
	Reason, Message string
}

// separator stands between two problems. Sentences must not have it inside.
const separator = "; "

// Format puts problems into one message; OK for none.
func Format(problems ...Problem) string {
	if len(problems) == 0 {
		return OK
	}
	parts := make([]string, 0, len(problems))
	for _, p := range problems {
		parts = append(parts, p.Reason+": "+strings.ReplaceAll(p.Message, separator, ", "))
	}
	return strings.Join(parts, separator)
}

// Parse takes the message of an abnormal condition apart. It returns at least one problem, each reason once, in the
// order of the message; what has no reason is ReportedByGuest.
func Parse(message string) []Problem {
	var found []Problem
	for part := range strings.SplitSeq(readable(message), separator) {
		p := Problem{Reason: ReportedByGuest, Message: part}
		if reason, rest, _ := strings.Cut(part, ": "); known(reason) {
			p = Problem{Reason: reason, Message: rest}
		}
		if found = add(found, p); len(found) == maxProblems {
			break
		}
	}
	return found
}

func add(found []Problem, p Problem) []Problem {
	for i := range found {
		if found[i].Reason == p.Reason {
			found[i].Message += separator + p.Message
			return found
		}
	}
	return append(found, p)
}

func known(reason string) bool {
	switch reason {
	case ReadOnly, FileSystemErrors, Unreadable, DeviceGone, IOErrors, HostIOErrors:
		return true
	}
	return false
}

// readable cuts the message and drops what could disturb a terminal or a log.
func readable(message string) string {
	message = strings.ToValidUTF8(message[:min(len(message), maxMessageBytes)], "")
	message = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, message)
	if strings.TrimSpace(message) == "" {
		return "the guest says that something is wrong, and not what"
	}
	return message
}
