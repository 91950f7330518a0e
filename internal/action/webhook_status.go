package action

import (
	"net/http"
	"slices"

	"github.com/fraiseql/weir/internal/outbound"
)

// judge turns a response into what becomes of the delivery; nil is success.
func (w *Webhook) judge(req *http.Request, res *outbound.Response) error {
	if isSuccess(res.Status) {
		return nil
	}
	return refusal(res, statusCode(res.Status), w.isFinal(res.Status), answered(req, res))
}

// isFinal says whether a status is never retried. The configured list replaces the default one and the redirects.
func (w *Webhook) isFinal(status int) bool {
	if len(w.FinalStatuses) > 0 {
		return slices.Contains(w.FinalStatuses, status)
	}
	return isFinalStatus(status)
}
