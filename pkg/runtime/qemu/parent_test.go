package qemu_test

func actAsParent(dir string) {}
