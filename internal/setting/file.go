package setting

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxFile is far above any real configuration or template. It bounds what a wrong path can cost.
const maxFile = 4 << 20

// File is a file as it was found: two that are equal had the same contents, or failed in the same way.
type File struct {
	Path string
	Sum  [sha256.Size]byte
}

// ReadFile reads a file of a configuration. The File is there also when that fails.
func ReadFile(path string) ([]byte, File, error) {
	raw, err := readBounded(path)
	if err != nil {
		return nil, File{Path: path, Sum: sha256.Sum256([]byte("cannot be read: " + err.Error()))}, err
	}
	return raw, File{Path: path, Sum: sha256.Sum256(raw)}, nil
}

// OpenNamed reads a file that the configuration names, relative to its folder, tells the Surroundings of it, and returns where
// it is.
func OpenNamed(ctx context.Context, path string) (raw []byte, full string, err error) {
	around := FromContext(ctx)
	if !filepath.IsAbs(path) {
		path = filepath.Join(around.Dir, path)
	}
	raw, file, err := ReadFile(path)
	if err == nil && around.Opened != nil {
		around.Opened(file)
	}
	return raw, path, err
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = fmt.Errorf("%s is too large: expected at most %d bytes", path, maxFile)
	}
	return raw, err
}
