package criconf

import (
	"strings"
)

const (
	begin = `# BEGIN katadirect (added by "katadirect node install", taken out by "katadirect node uninstall")`
	end   = `# END katadirect`
)

// newline is how the lines of a text end.
func newline(text string) string {
	if i := strings.IndexByte(text, '\n'); i > 0 && text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// block makes the delimited block, with the line ends of the text that it is for.
func block(content, nl string) string {
	lines := begin + "\n" + content + end + "\n"
	return strings.ReplaceAll(lines, "\n", nl)
}

// appendBlock puts the block at the end of a text. Where the text's last line has no end, neither has the block's: so
// cutBlock knows that the line end before the block is the block's.
func appendBlock(text, content string) string {
	nl := newline(text)
	if text == "" || strings.HasSuffix(text, "\n") {
		return text + block(content, nl)
	}
	return text + nl + strings.TrimSuffix(block(content, nl), nl)
}

// cutBlock takes the block out.
func cutBlock(text string) (string, error) {
	from := lineAt(text, begin)
	if from < 0 {
		if lineAt(text, end) >= 0 {
			return "", refuse("it has the line %q without the line that begins the block; take it out by hand", end)
		}
		return text, nil
	}
	to := lineAt(text[from:], end)
	if to < 0 {
		return "", refuse("it has a block that begins with %q and does not end; take it out by hand", begin)
	}
	before, after := text[:from], text[from+to+len(end):]
	switch {
	case strings.HasPrefix(after, "\r\n"):
		after = after[2:]
	case strings.HasPrefix(after, "\n"):
		after = after[1:]
	default: // at the end of the text: see appendBlock
		before = strings.TrimSuffix(strings.TrimSuffix(before, "\n"), "\r")
	}
	if lineAt(before+after, begin) >= 0 || lineAt(before+after, end) >= 0 {
		return "", refuse("it has more than one block of katadirect's; take them out by hand")
	}
	return before + after, nil
}

// lineAt is where the line is in a text, -1 if it is not there.
func lineAt(text, line string) int {
	at := 0
	for l := range strings.Lines(text) {
		if strings.TrimRight(l, "\r\n") == line {
			return at
		}
		at += len(l)
	}
	return -1
}
