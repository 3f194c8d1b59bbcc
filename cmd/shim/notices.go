package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
)

// noticeDir remembers until the next boot what was said.
const noticeDir = "/run/katadirect/notices"

// notices are things a person should read once. Every pod is a process of its own, and each would say them again.
type notices struct {
	dir string
	log *slog.Logger
}

// tell says those as warnings that no shim of this host has said, and the others where somebody listens closely.
func (n notices) tell(all []string) {
	for _, notice := range all {
		if n.first(notice) {
			n.log.Warn(notice)
		} else {
			n.log.Debug(notice)
		}
	}
}

// first says whether nobody has said it. Where that cannot be remembered it is said again.
func (n notices) first(notice string) bool {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return true
	}
	sum := sha256.Sum256([]byte(notice))
	f, err := os.OpenFile(filepath.Join(n.dir, hex.EncodeToString(sum[:8])), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return !errors.Is(err, fs.ErrExist)
	}
	_ = f.Close() // nothing was written
	return true
}
