//go:build !unix

package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// account is the user that a server runs as. Private servers need Unix: this file only keeps the package compiling.
type account struct {
	uid  int
	drop bool
}

func serverAccount() (account, error) {
	return account{}, errors.New("private servers need Linux or macOS: name a server for tests in DATABASE_URL instead")
}

func (account) attributes() *syscall.SysProcAttr { return nil }
func (account) own(string) error                 { return errors.ErrUnsupported }
func signalGroup(int, os.Signal) error           { return errors.ErrUnsupported }
func ownedBy(fs.FileInfo, int) bool              { return false }
func tryLock(*os.File) (bool, error)             { return false, errors.ErrUnsupported }
