package config

import (
	"regexp"
	"slices"
	"strings"
)

// signingSecret is the key whose value is a secret. That of signing_secret_env is a name.
var signingSecret = regexp.MustCompile(`(?i)\bsigning_secret["']?\s*:(\s+|$)`)

// nextKey is where a plain value in braces ends: at another key, or at the braces' end.
var nextKey = regexp.MustCompile(`,\s*["']?[a-z_]+["']?\s*:(\s|$)|[\s\]}]*}[\s\]},]*(#.*)?$`)

// maskSigningSecrets replaces the values of signing_secret by as many asterisks, so that columns stay, and returns what it
// replaced. It goes by the text, for a file that cannot be parsed shows lines, too, and rather masks too much: a value that has
// no end on its line reaches over all that is indented more than its key.
func maskSigningSecrets(lines []string) (shown, secrets []string) {
	shown = slices.Clone(lines)
	mask := func(line, from, to int) {
		text := shown[line][from:to]
		shown[line] = shown[line][:from] + strings.Repeat("*", len([]rune(text))) + shown[line][to:]
		if text = strings.Trim(text, ` "'`); text != "" {
			secrets = append(secrets, text)
		}
	}
	for i := range lines {
		all := signingSecret.FindAllStringIndex(lines[i], -1)
		for _, at := range slices.Backward(all) { // what is masked may be shorter in bytes
			if from := at[1]; from < len(shown[i]) && !strings.HasPrefix(shown[i][from:], "*") {
				to, closed := valueEnd(shown[i], at[0], from)
				mask(i, from, to)
				if closed {
					continue
				}
			}
			for j := i + 1; j < len(lines) && (indent(lines[j]) > at[0] || strings.TrimSpace(lines[j]) == ""); j++ {
				mask(j, min(indent(lines[j]), len(shown[j])), len(shown[j]))
			}
		}
	}
	return shown, secrets
}

// valueEnd is where the value that begins at a byte of a line ends, and whether it can not go on in the next line.
func valueEnd(line string, key, from int) (to int, closed bool) {
	value := line[from:]
	switch quote := value[0]; {
	case quote == '"' || quote == '\'':
		for i := 1; i < len(value); i++ {
			switch {
			case quote == '"' && value[i] == '\\', quote == '\'' && strings.HasPrefix(value[i:], "''"):
				i++
			case value[i] == quote:
				return from + i + 1, true
			}
		}
		return len(line), false
	case strings.LastIndex(line[:key], "{") > strings.LastIndex(line[:key], "}"):
		if at := nextKey.FindStringIndex(value); len(at) > 0 && at[0] > 0 {
			return from + at[0], true
		}
	}
	return len(line), false
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

// withoutSecrets is for a message that may quote the file: a value that was not meant to be cut into keys is.
func (s *source) withoutSecrets(text string) string {
	syntax := func(r rune) bool { return strings.ContainsRune(", :{}[]", r) }
	for _, secret := range s.secrets {
		for _, piece := range append([]string{secret}, strings.FieldsFunc(secret, syntax)...) {
			if len(piece) >= shortestPiece {
				text = strings.ReplaceAll(text, piece, strings.Repeat("*", len([]rune(piece))))
			}
		}
	}
	return text
}

// shortestPiece of a secret is as long as nothing that stands in a message by chance, as a rule.
const shortestPiece = 4
