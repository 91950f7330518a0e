package capture

import (
	"testing"

	"github.com/fraiseql/weir/internal/event"
)

// What has one position is never parted: a worker that dies between the two would leave out the second.
func TestMiddleKeepsTogether(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		indexes []int64
		want    int
	}{
		"even": {[]int64{1, 2, 3, 4}, 2}, "odd": {[]int64{1, 2, 3}, 1}, "pair in the middle": {[]int64{1, 2, 2, 3}, 1},
		"pair at the end": {[]int64{1, 2, 2}, 1}, "pair at the front": {[]int64{1, 1, 2}, 2}, "one pair": {[]int64{1, 1}, 0},
		"five at once": {[]int64{7, 7, 7, 7, 7}, 0}, "only at the end": {[]int64{7, 7, 7, 7, 8}, 4}, "one": {[]int64{1}, 0},
	} {
		changes := make([]event.Change, len(tt.indexes))
		for i, index := range tt.indexes {
			changes[i].LSN, changes[i].TxIndex = 5, index
		}
		if got := middle(changes); got != tt.want {
			t.Errorf("%s: parted at %d, want %d", name, got, tt.want)
		}
	}
}
