package criconf

import (
	"fmt"
	"path"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// importList is where the list imports stands in a text.
type importList struct {
	open     int // the place after its "["
	elements []element
}

type element struct {
	value    string
	from, to int
}

// topLevel looks at the key-values above all tables: it finds the list imports (nil if there is none) and the end of
// the line of version (-1 if there is none).
func topLevel(text string) (list *importList, afterVersion int, err error) {
	afterVersion = -1
	p := unstable.Parser{}
	p.Reset([]byte(text))
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.Table || e.Kind == unstable.ArrayTable {
			break
		}
		if e.Kind != unstable.KeyValue {
			continue
		}
		key := e.Key()
		key.Next()
		name, last := key.Node(), key.IsLast()
		keyEnd := int(name.Raw.Offset + name.Raw.Length)
		switch {
		case !last:
		case string(name.Data) == "version":
			afterVersion = lineEnd(text, keyEnd)
		case string(name.Data) == "imports":
			if list, err = readList(text, keyEnd, e.Value()); err != nil {
				return nil, 0, err
			}
		}
	}
	if err := p.Error(); err != nil {
		return nil, 0, refuse("it is no TOML: %v", err)
	}
	return list, afterVersion, nil
}

func lineEnd(text string, at int) int {
	i := strings.IndexByte(text[at:], '\n')
	if i < 0 {
		return len(text)
	}
	return at + i + 1
}

func readList(text string, keyEnd int, value *unstable.Node) (*importList, error) {
	if value.Kind != unstable.Array {
		return nil, refuse("imports is no list")
	}
	list := &importList{open: keyEnd + strings.IndexByte(text[keyEnd:], '[') + 1}
	for items := value.Children(); items.Next(); {
		item := items.Node()
		if item.Kind == unstable.Comment {
			continue
		}
		if item.Kind != unstable.String {
			return nil, refuse("imports has something that is no string")
		}
		from := int(item.Raw.Offset)
		list.elements = append(list.elements, element{string(item.Data), from, from + int(item.Raw.Length)})
	}
	return list, nil
}

// addImport adds a pattern to imports: before the first element of the list that is there, or in a block after the
// line of version.
func addImport(text, pattern string) (string, error) {
	list, afterVersion, err := topLevel(text)
	if err != nil {
		return "", err
	}
	if list != nil && len(list.elements) == 0 {
		return fmt.Sprintf("%s%q%s", text[:list.open], pattern, text[list.open:]), nil
	}
	if list != nil {
		first := list.elements[0].from
		return fmt.Sprintf("%s%q, %s", text[:first], pattern, text[first:]), nil
	}
	if afterVersion < 0 {
		return "", refuse("it has no line version above its tables")
	}
	content := fmt.Sprintf("imports = [%q]\n", pattern)
	return appendBlock(text[:afterVersion], content) + text[afterVersion:], nil
}

// cutImport takes the pattern out of the list imports, with its comma.
func cutImport(text, pattern string) (string, error) {
	list, _, err := topLevel(text)
	if err != nil || list == nil {
		return text, err
	}
	for i, e := range list.elements {
		if e.value != pattern {
			continue
		}
		before, after := text[:e.from], text[e.to:]
		switch {
		case i+1 < len(list.elements):
			after = strings.TrimPrefix(after[strings.IndexByte(after, ',')+1:], " ")
		case i > 0:
			before = text[:list.elements[i-1].to]
		}
		return before + after, onlyAdds(before+after, text, nil, pattern)
	}
	return text, nil
}

// Covers reports whether one of the imports of a file brings in another file.
func Covers(imports []string, mainPath, file string) bool {
	for _, pattern := range imports {
		pattern = path.Clean(pattern)
		if !path.IsAbs(pattern) {
			pattern = path.Join(path.Dir(mainPath), pattern)
		}
		if matches, err := path.Match(pattern, file); err == nil && matches {
			return true
		}
	}
	return false
}
