package capture

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fraiseql/weir/internal/event"
)

// TestStart is the table of docs/start-up.md: what was seen, what a worker does about it, and what weir adopt would do.
func TestStart(t *testing.T) {
	t.Parallel()
	here := identity{System: "1", Timeline: 1, Server: server{"5432", "/data"}, Home: home{"1", "16384"}}
	slotAt := func(confirmed event.LSN) *slotRow {
		return &slotRow{Confirmed: confirmed, Plugin: "pgoutput", Database: "shop", Status: "reserved"}
	}
	slot := func(change func(*slotRow)) *slotRow {
		s := slotAt(90)
		change(s)
		return s
	}
	cp := func(change func(*checkpoint)) *checkpoint {
		c := checkpoint{identity: here, Slot: "weir", Position: event.Position{LSN: 100, Index: 7}, Epoch: 3}
		change(&c)
		return &c
	}
	same := cp(func(*checkpoint) {})
	promoted := cp(func(c *checkpoint) { c.Timeline, c.Server = 0, server{"9", "/b"} })
	const present = event.LSN(0) // a slot that adopt makes
	page, err := os.ReadFile("../../docs/start-up.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		slot    *slotRow
		cp      *checkpoint // nil, and the name begins with "checkpoint gone": there are events
		want    verdict
		refusal string // part of it

		adopt      SlotAct // "": adopt has nothing to do, or refuses as well
		from       event.LSN
		continuous bool
	}{
		"first start":                      {nil, nil, createTheSlot, "", "", 0, false},
		"killed after making the slot":     {slotAt(90), nil, createTheCheckpoint, "", "", 0, false},
		"slot behind":                      {slotAt(90), same, readOn, "", "", 0, false},
		"slot at the checkpoint":           {slotAt(100), same, readOn, "", "", 0, false},
		"slot gone":                        {nil, same, recoverTheLoss, "", "", 0, false},
		"slot ahead":                       {slotAt(101), same, recoverTheLoss, "", "", 0, false},
		"slot lost":                        {slot(func(s *slotRow) { s.Status = "lost" }), same, recoverTheLoss, "", "", 0, false},
		"slot lost, no checkpoint":         {slot(func(s *slotRow) { s.Status = "lost" }), nil, "", "nothing has been read from it", "", 0, false},
		"slot of another plugin":           {slot(func(s *slotRow) { s.Plugin = "wal2json" }), same, "", "something else", "", 0, false},
		"physical slot":                    {slot(func(s *slotRow) { s.Confirmed, s.Plugin, s.Database, s.Physical = 0, "", "", true }), nil, "", "physical slot", "", 0, false},
		"slot of another database":         {slot(func(s *slotRow) { s.Database = "blog" }), same, "", "something else", "", 0, false},
		"checkpoint of another slot":       {slotAt(90), cp(func(c *checkpoint) { c.Slot = "other" }), "", "belongs to slot other", KeepSlot, 100, true},
		"checkpoint of another slot, none": {nil, cp(func(c *checkpoint) { c.Slot = "other" }), "", "belongs to slot other", CreateSlot, present, false},
		"checkpoint gone":                  {slotAt(90), nil, "", "there is no checkpoint", KeepSlot, 90, false},
		"checkpoint gone, no slot":         {nil, nil, "", "there is no checkpoint", CreateSlot, present, false},
		"checkpoint gone, slot lost":       {slot(func(s *slotRow) { s.Status = "lost" }), nil, "", "there is no checkpoint", RecreateSlot, present, false},
		"another cluster":                  {slotAt(90), cp(func(c *checkpoint) { c.System = "2" }), "", "another cluster", RecreateSlot, present, false},
		"another cluster, --keep-slot":     {slotAt(90), cp(func(c *checkpoint) { c.System = "2" }), "", "another cluster", KeepSlot, 90, false},
		"another cluster, no slot":         {nil, cp(func(c *checkpoint) { c.System = "2" }), "", "another cluster", CreateSlot, present, false},
		"another cluster, slot lost":       {slot(func(s *slotRow) { s.Status = "lost" }), cp(func(c *checkpoint) { c.System = "2" }), "", "another cluster", RecreateSlot, present, false},
		"schema weir restored elsewhere":   {slotAt(90), cp(func(c *checkpoint) { c.Home.System = "2" }), "", "schema weir is in another cluster", KeepSlot, 100, true},
		"another timeline":                 {slotAt(90), cp(func(c *checkpoint) { c.Timeline = 2 }), "", "timeline", KeepSlot, 100, false},
		"another timeline, slot ahead":     {slotAt(110), cp(func(c *checkpoint) { c.Timeline = 2 }), "", "timeline", KeepSlot, 110, false},
		"another timeline, no slot":        {nil, cp(func(c *checkpoint) { c.Timeline = 2 }), "", "timeline", CreateSlot, present, false},
		"another timeline, other server": {
			slotAt(90), cp(func(c *checkpoint) { c.Timeline, c.Server = 2, server{"9", "/b"} }), "", "timeline",
			KeepSlot, 100, false,
		},
		// The source is on timeline 1, and the checkpoint on 0, which was left at 105.
		"promoted standby":                      {slotAt(90), promoted, readOn, "", "", 0, false},
		"promoted standby, slot ahead":          {slotAt(101), promoted, recoverTheLoss, "", "", 0, false},
		"promoted standby, no slot":             {nil, promoted, recoverTheLoss, "", "", 0, false},
		"promoted standby, slot lost":           {slot(func(s *slotRow) { s.Status = "lost" }), promoted, recoverTheLoss, "", "", 0, false},
		"promoted standby, lacks the newest":    {slotAt(90), cp(func(c *checkpoint) { c.Timeline, c.Position.LSN = 0, 106 }), recoverTheLoss, "", "", 0, false},
		"promoted standby, lacks a commit":      {slotAt(90), cp(func(c *checkpoint) { c.Timeline, c.Position.LSN = 0, 105 }), recoverTheLoss, "", "", 0, false},
		"promoted standby, has just everything": {slotAt(90), cp(func(c *checkpoint) { c.Timeline, c.Position = 0, event.Position{LSN: 105} }), readOn, "", "", 0, false},
		"promoted standby, its WAL ends before the checkpoint": {
			slotAt(90), cp(func(c *checkpoint) { c.Timeline, c.Position.LSN = 0, 300 }), recoverTheLoss, "", "", 0, false,
		},
		"promoted standby, another installation": {
			slotAt(90), cp(func(c *checkpoint) { c.Timeline, c.Installation = 0, "prod" }), "", `installation "prod"`, KeepSlot, 100, false,
		},
		"recovery broken off":          {slotAt(110), cp(func(c *checkpoint) { c.State = stateRecovering }), recoverTheLoss, "", "", 0, false},
		"recovery broken off, no slot": {nil, cp(func(c *checkpoint) { c.State = stateRecovering }), recoverTheLoss, "", "", 0, false},
		"gap":                          {slotAt(90), cp(func(c *checkpoint) { c.State = stateGap }), stopAtTheGap, "", "", 0, false},
		"slot gone, tables":            {nil, cp(func(c *checkpoint) { c.TablesFrom = 50 }), stopAtTheGap, "", "", 0, false},
		"slot behind, tables":          {slotAt(90), cp(func(c *checkpoint) { c.TablesFrom = 50 }), readOn, "", "", 0, false},
		"recovery broken off, tables": {
			nil, cp(func(c *checkpoint) { c.TablesFrom, c.State = 50, stateRecovering }), recoverTheLoss, "", "", 0, false,
		},
		"another port":                   {slotAt(90), cp(func(c *checkpoint) { c.Server.Port = "5433" }), "", "copy of the data directory", KeepSlot, 100, true},
		"another directory":              {slotAt(90), cp(func(c *checkpoint) { c.Server.Directory = "/copy" }), "", "copy of the data directory", KeepSlot, 100, true},
		"server not known":               {slotAt(90), cp(func(c *checkpoint) { c.Server = server{} }), readOn, "", "", 0, false},
		"directory not known":            {slotAt(90), cp(func(c *checkpoint) { c.Server.Directory = "" }), readOn, "", "", 0, false},
		"schema weir's not known":        {slotAt(90), cp(func(c *checkpoint) { c.Home = home{} }), readOn, "", "", 0, false},
		"schema weir's of an older form": {slotAt(90), cp(func(c *checkpoint) { c.Home.Database = "" }), readOn, "", "", 0, false},
		"schema weir copied in its cluster": {
			slotAt(90), cp(func(c *checkpoint) { c.Home.Database = "16385" }), "", "another database of the cluster", KeepSlot, 100, true,
		},
		"another installation":                             {slotAt(90), cp(func(c *checkpoint) { c.Installation = "prod" }), "", `installation "prod"`, KeepSlot, 100, true},
		"checkpoint after the WAL":                         {slotAt(90), cp(func(c *checkpoint) { c.Position.LSN = 201 }), "", "older state", KeepSlot, 90, false},
		"checkpoint where the WAL ends":                    {slotAt(90), cp(func(c *checkpoint) { c.Position.LSN = 200 }), readOn, "", "", 0, false},
		"publication younger than the slot":                {slotAt(90), same, recoverTheLoss, "", "", 0, false},
		"publication younger than the slot, no checkpoint": {slotAt(90), nil, "", "is younger", RecreateSlot, present, false},
		"slot being read":                                  {slot(func(s *slotRow) { s.Active = true }), same, readOn, "", "", 0, false},
		"slot being read, another installation": {
			slot(func(s *slotRow) { s.Active = true }),
			cp(func(c *checkpoint) { c.Installation = "prod" }), "", `installation "prod"`, "", 0, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &sight{
				identity: here, database: "shop", written: 200, slot: tc.slot, checkpoint: tc.cp,
				used:   tc.cp != nil || strings.HasPrefix(name, "checkpoint gone"),
				tooOld: strings.HasPrefix(name, "publication younger"),
			}
			if strings.HasPrefix(name, "promoted") {
				s.branch = 105
			}
			cfg := Config{}.WithDefaults()
			if strings.HasSuffix(name, ", tables") {
				cfg.Tables = []CapturedTable{{Table: Table{Schema: "public", Name: "orders"}}}
			}
			ruled, err := judge(cfg, s)
			got := ruled.verdict
			if got != tc.want || (err == nil) != (tc.refusal == "") || (err != nil && !strings.Contains(err.Error(), tc.refusal)) {
				t.Errorf("got %q, %v; want %q, error with %q", got, err, tc.want, tc.refusal)
			}
			a, adoptErr := plan(cfg, s, strings.HasSuffix(name, "--keep-slot"))
			if line := documented(name, got, a); !strings.Contains(string(page), line) {
				t.Errorf("docs/start-up.md lacks the line\n%s", line)
			}
			switch {
			case tc.refusal == "":
				if adoptErr != nil || a.Problem != "" || (a.Recovers != "") != (got == recoverTheLoss && ruled.problem != "") {
					t.Errorf("adopt has something to do where a worker starts: %+v, %v", a, adoptErr)
				}
				if interrupts := got == recoverTheLoss || got == stopAtTheGap; interrupts != (ruled.cause != "" || strings.HasPrefix(name, "gap")) {
					t.Errorf("cause %q", ruled.cause)
				}
				return
			case tc.adopt == "":
				if adoptErr == nil {
					t.Errorf("adopt does not refuse: %+v", a)
				}
				return
			case adoptErr != nil:
				t.Fatal(adoptErr)
			}
			var from event.LSN
			if a.Present.LSN != nil {
				from = *a.Present.LSN
			}
			if a.Slot != tc.adopt || from != tc.from || a.Continuous != tc.continuous || a.Problem == "" {
				t.Errorf("adopt: %+v; want slot %s, position %s, continuous %t", a, tc.adopt, tc.from, tc.continuous)
			}
			if tc.cp == nil {
				return
			}
			if a.epoch != 3 {
				t.Errorf("adopt: epoch %d", a.epoch)
			}
			if foreign := strings.HasPrefix(name, "slot ") && tc.cp.Installation == "" || strings.HasPrefix(name, "checkpoint of"); foreign == a.Foreign {
				t.Errorf("adopt: foreign is %t", a.Foreign)
			}
			if keeps := from == tc.cp.Position.LSN; keeps != (a.Present.TxIndex == 7) {
				t.Errorf("adopt: index %d at %s", a.Present.TxIndex, from)
			}
		})
	}
}

// documented is a row of the table in the docs.
func documented(name string, got verdict, a *Adoption) string {
	line := "| " + name + " | "
	switch {
	case got != "":
		return line + string(got) + " | |"
	case a == nil:
		return line + "refuse | refuses as well |"
	}
	line += "refuse | " + string(a.Slot) + " the slot, go on at "
	switch {
	case a.Present.LSN == nil:
		line += "the present"
	case a.Checkpoint != nil && *a.Present.LSN == *a.Checkpoint.LSN:
		line += "the checkpoint"
	default:
		line += "the slot's position"
	}
	if !a.Continuous {
		line += "; changes may be missing"
	}
	return line + " |"
}

// Positions behind a branch come twice in a cluster's life: once on each timeline. Before it they are the same WAL.
func TestTimelines(t *testing.T) {
	t.Parallel()
	const history = "1\t0/3000148\tno recovery target specified\n\n2\t1A/5000000\tbefore 2026-11-25 12:00:00+00\n"
	left, err := parseHistory(history)
	if err != nil {
		t.Fatal(err)
	}
	third := timelines{system: "7", now: 3, left: left}
	for ancestor, want := range map[int32]event.LSN{1: 0x3000148, 2: 0x1A05000000, 3: 0} {
		if got := third.branch(ancestor); got != want {
			t.Errorf("timeline %d was left at %s", ancestor, got)
		}
	}
	first, second := timelines{system: "7", now: 1}, timelines{system: "7", now: 2, left: left[:1]}
	id := func(written timelines, lsn event.LSN) string {
		return eventID(written, event.Position{LSN: lsn, Index: 1}, 0).String()
	}
	const common, behind = event.LSN(0x3000140), event.LSN(0x3000148)
	if id(first, common) != id(second, common) || id(second, common) != id(third, common) {
		t.Error("the same WAL gives other events after a promotion")
	}
	if id(first, behind) == id(second, behind) || id(second, behind) != id(third, behind) {
		t.Error("other WAL at the same place gives the same event")
	}
	if _, err := parseHistory("1\tnowhere\n"); err == nil {
		t.Error("a broken history is accepted")
	}
}

// created_at is when a transaction began, which may be long before it committed.
func TestMissingChangesBeganEarlier(t *testing.T) {
	t.Parallel()
	query := MissingChanges(Config{}, time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC))
	if !strings.Contains(query, "l.created_at >= '2026-03-01T12:00:00Z'") {
		t.Errorf("got %s", query)
	}
}

func TestHomeText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]home{
		"":                                    {},
		"7301234567890123456":                 {System: "7301234567890123456"},
		"database 16401":                      {Database: "16401"},
		"7301234567890123456, database 16401": {System: "7301234567890123456", Database: "16401"},
	} {
		if got := parseHome(text); got != want || got.String() != text {
			t.Errorf("%q: got %+v, which is %q", text, got, got)
		}
	}
}

func TestServerText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]server{
		"":          {},
		"port 5432": {Port: "5432"},
		"port 5432, data directory /a, data directory b": {Port: "5432", Directory: "/a, data directory b"},
	} {
		if got := parseServer(text); got != want || got.String() != text {
			t.Errorf("%q: got %+v, which is %q", text, got, got)
		}
	}
}
