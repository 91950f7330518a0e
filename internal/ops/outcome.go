package ops

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/fraiseql/weir/internal/jobs"
	"github.com/fraiseql/weir/internal/store"
)

// ofOutcome is a delivery that has left River's table.
func ofOutcome(row store.OutcomesOfEventRow) (Delivery, error) {
	var payload jobs.OutcomePayload
	if err := json.Unmarshal(row.Payload, &payload); err != nil {
		return Delivery{}, fmt.Errorf("outcome of delivery %s: %w", row.DeliveryID, err)
	}
	d := Delivery{
		JobID: payload.JobID, Kind: "weir_" + row.ActionType, Observer: row.Observer, Action: row.Action,
		Queue: row.Endpoint, State: stateCancelled, Moved: true, Attempt: int(row.Attempts),
		AttemptedAt: timeOf(row.StartedAt), FinalizedAt: timeOf(row.FinishedAt),
		EventID: row.EventID, Entity: row.EntityType, EntityID: row.EntityID, PK: row.EventPK, day: row.Day.Format(time.DateOnly),
		Errors: []AttemptError{},
	}
	d.identify(row.DeliveryID)
	if row.State == "delivered" {
		d.State = "completed"
	}
	if payload.Output != nil {
		if err := json.Unmarshal(payload.Output, &d.Outcome); err != nil {
			return Delivery{}, fmt.Errorf("output of delivery %s: %w", row.DeliveryID, err)
		}
	}
	errs := make([][]byte, len(payload.Errors))
	for i, raw := range payload.Errors {
		errs[i] = raw
	}
	err := d.readErrors(store.JobsOfEventRow{ID: payload.JobID, Errors: errs})
	return d, err
}
