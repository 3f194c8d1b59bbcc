// Command load does one kind of work with files in a folder, and prints how much of it was done in a second. It runs in
// a container, once in a direct volume and once in a folder that is shared with the host.
//
//	load FOLDER sequential-write|sequential-read   MB/s of one file, in pieces of 1 MiB
//	load FOLDER random-write|random-read           pieces of 4 KiB per second, all over that file
//	load FOLDER fsync                              appended and flushed pieces of 4 KiB per second
//	load FOLDER create|stat                        small files per second
//	load ADDRESS:PORT send                         MB/s by TCP, to
//	load ADDRESS:PORT sink                         which runs until it is killed
//
// What is read is not in the guest's memory before. What is written has reached the host when the clock is stopped.
package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fileBytes = 64 << 20
	chunk     = 1 << 20
	piece     = 4 << 10
	pieces    = 3000
	flushes   = 300
	files     = 1000
	looks     = 5 // at each file
)

// work returns how much it has done; the clock runs only for what it does between begin and its end.
type work func(dir string, begin func()) (float64, error)

var works = map[string]work{
	"sequential-write": sequentialWrite,
	"sequential-read":  sequentialRead,
	"random-write":     randomWrite,
	"random-read":      randomRead,
	"fsync":            fsync,
	"create":           create,
	"stat":             stat,
	"send":             send,
	"sink":             sink,
}

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 3 || works[args[2]] == nil {
		return errors.New("usage: load FOLDER WORK")
	}
	var start time.Time
	done, err := works[args[2]](args[1], func() { start = time.Now() })
	if err != nil {
		return err
	}
	fmt.Println(done / time.Since(start).Seconds())
	return nil
}

func large(dir string) string { return filepath.Join(dir, "large") }

func sequentialWrite(dir string, begin func()) (float64, error) {
	buf := make([]byte, chunk)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	_ = os.Remove(large(dir))
	begin()
	f, err := os.Create(large(dir))
	if err != nil {
		return 0, err
	}
	for range fileBytes / chunk {
		if _, err := f.Write(buf); err != nil {
			return 0, err
		}
	}
	return fileBytes / 1e6, errors.Join(f.Sync(), f.Close())
}

// openCold opens the large file with none of it in the guest's memory.
func openCold(dir string, advice int) (*os.File, error) {
	f, err := os.OpenFile(large(dir), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return f, errors.Join(f.Sync(),
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), unix.Fadvise(int(f.Fd()), 0, 0, advice))
}

func sequentialRead(dir string, begin func()) (float64, error) {
	f, err := openCold(dir, unix.FADV_SEQUENTIAL)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, chunk)
	begin()
	for range fileBytes / chunk {
		if _, err := f.Read(buf); err != nil {
			return 0, err
		}
	}
	return fileBytes / 1e6, nil
}

// offsets are different places in the file, the same ones every time.
func offsets() []int {
	return rand.New(rand.NewPCG(1, 2)).Perm(fileBytes / piece)[:pieces]
}

func randomRead(dir string, begin func()) (float64, error) {
	f, err := openCold(dir, unix.FADV_RANDOM)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, piece)
	at := offsets()
	begin()
	for _, i := range at {
		if _, err := f.ReadAt(buf, int64(i)*piece); err != nil {
			return 0, err
		}
	}
	return pieces, nil
}

func randomWrite(dir string, begin func()) (float64, error) {
	f, err := openCold(dir, unix.FADV_RANDOM)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, piece)
	at := offsets()
	begin()
	for _, i := range at {
		if _, err := f.WriteAt(buf, int64(i)*piece); err != nil {
			return 0, err
		}
	}
	return pieces, f.Sync()
}

func fsync(dir string, begin func()) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, piece)
	begin()
	for range flushes {
		if _, err := f.Write(buf); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	return flushes, nil
}

func small(dir string, i int) string { return filepath.Join(dir, "small", fmt.Sprint(i)) }

func create(dir string, begin func()) (float64, error) {
	if err := os.RemoveAll(filepath.Dir(small(dir, 0))); err != nil {
		return 0, err
	}
	if err := os.Mkdir(filepath.Dir(small(dir, 0)), 0o755); err != nil {
		return 0, err
	}
	content := make([]byte, 100)
	begin()
	for i := range files {
		if err := os.WriteFile(small(dir, i), content, 0o644); err != nil {
			return 0, err
		}
	}
	return files, nil
}

func stat(dir string, begin func()) (float64, error) {
	begin()
	for range looks {
		for i := range files {
			if _, err := os.Stat(small(dir, i)); err != nil {
				return 0, err
			}
		}
	}
	return files * looks, nil
}
