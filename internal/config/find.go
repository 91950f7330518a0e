package config

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// ErrNotFound says that there is no configuration file in any of the usual places.
var ErrNotFound = errors.New("no configuration file")

// Find names the file to load: the one given on the command line, else WEIR_CONFIG's, else ./weir.yaml, else
// /etc/weir/weir.yaml. One that was named is returned even if it does not exist: Load then says so.
func Find(explicit string, lookup func(name string) (string, bool)) (string, error) {
	if explicit != "" {
		return explicit, nil
	}
	if path, _ := lookup("WEIR_CONFIG"); path != "" {
		return path, nil
	}
	places := []string{"./weir.yaml", "/etc/weir/weir.yaml"}
	for _, path := range places {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			return path, nil // one that cannot be looked at is Load's to report, not to be passed over
		}
	}
	return "", fmt.Errorf("%w in %s: write one, or name it with --config or WEIR_CONFIG",
		ErrNotFound, strings.Join(places, " or "))
}
