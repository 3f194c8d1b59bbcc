// Command writer appends numbered records to logs for as long as it runs: number 1 to each log in turn, durably, then
// number 2. After each number it says in a file of its own, somewhere else, how far it is.
//
//	writer PROGRESS LOG…
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/katadirect/katadirect/test/snapshot/wal"
)

func main() {
	fmt.Fprintln(os.Stderr, write(os.Args[1], os.Args[2:]))
	os.Exit(1)
}

// write returns when it can write no more.
func write(progress string, names []string) error {
	var logs []*os.File
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		logs = append(logs, f)
	}
	for n := 1; ; n++ {
		for _, f := range logs {
			if err := wal.Append(f, n); err != nil {
				return err
			}
		}
		if err := os.WriteFile(progress+".new", []byte(strconv.Itoa(n)), 0o600); err != nil {
			return err
		}
		if err := os.Rename(progress+".new", progress); err != nil {
			return err
		}
	}
}
