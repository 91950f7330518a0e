package console

import (
	"net/url"
	"strconv"
)

// said is the sentence about the act that led to a page, "" without one. Whoever makes up a link chooses among these sentences
// and their numbers, and cannot write his own.
func said(q url.Values) string {
	changed, _ := strconv.Atoi(q.Get("changed"))
	missing, _ := strconv.Atoi(q.Get("missing"))
	var text string
	switch q.Get("done") {
	case "retried":
		text = count(changed, "dead letter") + " retried: workers take them up at once."
		if changed == 1 {
			text = "1 dead letter retried: a worker takes it up at once."
		}
	case "removed":
		text = count(changed, "dead letter") + " removed."
	case "nothing":
		return "Nothing was chosen, so nothing was done."
	case "opened":
		return "The breaker is open: workers stop within about a second."
	case "closed":
		return "The breaker is closed: deliveries go on within about a second."
	case "revived":
		return "The action delivers again. What it could not deliver meanwhile are dead letters."
	default:
		return ""
	}
	if missing > 0 {
		text += " " + strconv.Itoa(missing) + " more had been dealt with already."
	}
	return text
}
