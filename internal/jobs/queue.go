package jobs

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

// queueChange is the queue of changes that are no events.
const queueChange = "weir_change"

// isOurs says that a queue is no endpoint's.
func isOurs(name string) bool {
	return name == queueChange || name == KindDocument || name == KindHousekeeping
}

var (
	riverQueue = regexp.MustCompile(`^[a-z0-9]+([_|-]?[a-z0-9]+)*$`)
	notInQueue = regexp.MustCompile(`[^a-z0-9]+`)
)

var queueSeparators = strings.NewReplacer(".", "_", ":", "-")

// QueueName is the River queue of an endpoint. River allows only lower-case letters, digits and single separators, at
// most 64: a dot becomes an underscore, a colon a hyphen (erp.example.org:8443 is erp_example_org-8443). A name that
// this would not keep apart from others gets a hash behind it.
func QueueName(endpoint string) string {
	name := queueSeparators.Replace(endpoint)
	ambiguous := strings.Contains(endpoint, "_")
	if !ambiguous && len(name) <= 64 && riverQueue.MatchString(name) && !isOurs(name) {
		return name
	}
	plain := strings.Trim(notInQueue.ReplaceAllString(strings.ToLower(endpoint), "_"), "_")
	plain = strings.TrimRight(plain[:min(len(plain), 50)], "_")
	sum := sha256.Sum256([]byte(endpoint))
	return strings.TrimLeft(plain+"-"+hex.EncodeToString(sum[:4]), "-")
}
