package sandbox

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

const (
	elasticsearchName = "elasticsearch-" + ElasticsearchVersion
	// elasticsearchArchive is the distribution that Elasticsearch's own integration tests run: the real engine with few modules,
	// and without a JDK. It comes from the repository where embedded-postgres finds PostgreSQL.
	elasticsearchArchive = "https://repo1.maven.org/maven2/org/elasticsearch/distribution/integ-test-zip/elasticsearch/" +
		ElasticsearchVersion + "/" + elasticsearchName + ".zip"
	elasticsearchSHA256 = "c3d95992e27741b33a8057118379cda8b17cfda9e46ff4ec25e3f5b94fc22b52"

	oldestJava = 17
	// maxUnpacked bounds one file of the archive.
	maxUnpacked = 1 << 30
)

// elasticsearchHome returns the folder of the unpacked distribution. Must be called with the cache's lock held.
func (c *cache) elasticsearchHome(ctx context.Context) (string, error) {
	home := filepath.Join(c.dir, elasticsearchName)
	if _, err := os.Stat(home); err == nil {
		return home, nil
	}
	stage, err := os.MkdirTemp(c.dir, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage)
	archive := filepath.Join(archiveFolder(stage), elasticsearchName+".zip")
	if checkArchive(archive) != nil { // not there, or not whole
		if err := download(ctx, archive); err != nil {
			return "", fmt.Errorf("download Elasticsearch %s: %w (or name a server in %s)",
				ElasticsearchVersion, err, ElasticsearchURLVariable)
		}
	}
	if err := unpack(archive, stage); err != nil {
		return "", fmt.Errorf("unpack %s: %w", archive, err)
	}
	unpacked := filepath.Join(stage, elasticsearchName)
	if err := makeReadable(unpacked); err != nil {
		return "", err
	}
	return home, os.Rename(unpacked, home)
}

// download fetches the distribution into a file, all or nothing.
func download(ctx context.Context, file string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, elasticsearchArchive, http.NoBody)
	if err != nil {
		return err
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", elasticsearchArchive, response.Status)
	}
	part, err := os.CreateTemp(filepath.Dir(file), "elasticsearch-*.part")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(part.Name()) }() // once it has been renamed there is none
	_, err = io.Copy(part, response.Body)
	if err := errors.Join(err, part.Close()); err != nil {
		return err
	}
	if err := checkArchive(part.Name()); err != nil {
		return err
	}
	return os.Rename(part.Name(), file)
}

// checkArchive compares the file with what was tried: we are going to run what is in it.
func checkArchive(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != elasticsearchSHA256 {
		return fmt.Errorf("its SHA-256 is %s, expected %s", got, elasticsearchSHA256)
	}
	return nil
}

// unpack extracts the archive into a folder.
func unpack(archive, into string) error {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, f := range r.File {
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("%q is no name of a file", f.Name)
		}
		path := filepath.Join(into, f.Name) //nolint:gosec // it is local
		if err := unpackFile(f, path); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
	}
	return nil
}

func unpackFile(f *zip.File, path string) error {
	if f.FileInfo().IsDir() {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	from, err := f.Open()
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, f.Mode().Perm()|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, io.LimitReader(from, maxUnpacked))
	return errors.Join(err, to.Close())
}

// javaHome finds a Java that is new enough, in JAVA_HOME or on the PATH, and returns the folder of its installation.
func javaHome(ctx context.Context) (string, error) {
	program := "java"
	if home := os.Getenv("JAVA_HOME"); home != "" {
		program = filepath.Join(home, "bin", "java")
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "-XshowSettings:properties", "-version") //nolint:gosec // who sets JAVA_HOME runs us
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("java: %w\n%s\n%s", err, strings.TrimSpace(out.String()), installJava)
	}
	home := property(out.String(), "java.home")
	version := property(out.String(), "java.specification.version") // "17", and "1.8" for what was called 8
	if n, err := strconv.Atoi(version); err != nil || n < oldestJava {
		return "", fmt.Errorf("%s is Java %s, and Elasticsearch %s needs %d or newer: %s",
			program, version, ElasticsearchVersion, oldestJava, installJava)
	}
	return home, nil
}

const installJava = "install Java 17, on Debian with apt-get install openjdk-17-jre-headless (make test as root does so), " +
	"and put it on the PATH or name its folder in JAVA_HOME"

// property reads a line of java -XshowSettings:properties.
func property(settings, name string) string {
	found := regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(name) + ` = (.*?)\s*$`).FindStringSubmatch(settings)
	if found == nil {
		return ""
	}
	return found[1]
}
