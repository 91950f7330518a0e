package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"time"
)

//go:embed static
var staticFiles embed.FS

// files are those that pages load, by name. Browsers keep them: a page names each with its version.
type files map[string]file

type file struct {
	content []byte
	version string
}

func readFiles() (files, error) {
	found := files{}
	err := fs.WalkDir(staticFiles, "static", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := staticFiles.ReadFile(path)
		sum := sha256.Sum256(content)
		found[d.Name()] = file{content, hex.EncodeToString(sum[:6])}
		return err
	})
	return found, err
}

// ServeHTTP serves the file that the path names.
func (f files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	one, ok := f[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == one.version {
		w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
	}
	w.Header().Set("ETag", `"`+one.version+`"`)
	http.ServeContent(w, r, r.URL.Path, time.Time{}, bytes.NewReader(one.content))
}
