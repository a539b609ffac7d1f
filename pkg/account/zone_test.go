package account

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/certmill/certmill/pkg/natstest"
	"github.com/certmill/certmill/pkg/record"
)

var shopZone = ZoneKey{Main: main, Label: "acme", Zone: "shop.example"}

// Of many who ask for a check at the same time one does.
func TestZoneIsAskedForOnce(t *testing.T) {
	t.Parallel()
	a := open(t, natstest.Server(t))
	var mu sync.Mutex
	asked := 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, changed, err := a.ChangeZone(t.Context(), shopZone, func(z *Zone) bool {
				if !z.Due(time.Now()) {
					return false
				}
				z.Asked = time.Now().UTC()
				return true
			})
			if err != nil {
				t.Error(err)
			}
			if mu.Lock(); changed {
				asked++
			}
			mu.Unlock()
		})
	}
	wg.Wait()
	z, err := a.Zone(t.Context(), shopZone)
	if err != nil || asked != 1 || !z.UnderWay(time.Now()) {
		t.Errorf("%d asked: %+v, %v", asked, z, err)
	}
	if mains := a.Mains(); len(mains) != 0 {
		t.Errorf("a zone is a state: %v", mains)
	}
}

// Another build's zone is left alone.
func TestZoneOfANewerBuild(t *testing.T) {
	t.Parallel()
	a := open(t, natstest.Server(t))
	subject, err := shopZone.subject()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.js.Publish(t.Context(), subject, []byte(`{"v":99}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Zone(t.Context(), shopZone); !errors.Is(err, record.ErrNewer) {
		t.Errorf("%v", err)
	}
	other := shopZone
	other.Zone = "a.shop.example"
	if subject, err = other.subject(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.js.Publish(t.Context(), subject, []byte(`{"v":1,"next":"kept"}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.ChangeZone(t.Context(), other, func(z *Zone) bool { z.Asked = time.Now(); return true }); err != nil {
		t.Fatal(err)
	}
	m, err := a.stream.GetLastMsgForSubject(t.Context(), subject)
	if err != nil || !strings.Contains(string(m.Data), `"next":"kept"`) {
		t.Errorf("%s, %v", m.Data, err)
	}
	if k, ok := zoneKey(subject); !ok || k != other {
		t.Errorf("%+v", k)
	}
}

// How long it holds what is known.
func TestZoneInTime(t *testing.T) {
	now := time.Now()
	at := func(ago time.Duration) time.Time { return now.Add(-ago) }
	for _, c := range []struct {
		what                  string
		z                     Zone
		due, underWay, proved bool
	}{
		{"nothing is known", Zone{}, true, false, false},
		{"just asked for", Zone{Asked: now}, false, true, false},
		{"asked for, and no answer", Zone{Asked: at(CheckWait)}, false, false, false},
		{"asked for long ago", Zone{Asked: at(CheckAgain)}, true, false, false},
		{"by a clock that is wrong", Zone{Asked: at(-time.Hour)}, true, false, false},
		{"passed", Zone{Asked: at(time.Hour), Check: Outcome{Is: CheckPassed, At: at(time.Hour)}}, false, false, false},
		{"passed yesterday", Zone{Asked: at(ZoneHolds), Check: Outcome{Is: CheckPassed, At: at(ZoneHolds)}}, true, false, false},
		{"it could not be tried", Zone{Asked: at(time.Minute), Check: Outcome{Is: CheckUnanswered, At: at(time.Minute)}}, false, false, false},
		{"it could not be tried, a while ago", Zone{Asked: at(time.Hour), Check: Outcome{Is: CheckUnanswered, At: at(time.Hour)}}, true, false, false},
		{"refused, and a challenge placed since", Zone{Asked: at(time.Hour), Check: Outcome{Is: CheckRefused, At: at(time.Hour)},
			Placed: map[string]time.Time{"TXT": at(time.Minute)}}, false, false, true},
		{"refused, and one placed the day before", Zone{Asked: at(time.Hour), Check: Outcome{Is: CheckRefused, At: at(time.Hour)},
			Placed: map[string]time.Time{"TXT": at(2 * time.Hour)}}, false, false, false},
	} {
		if c.z.Due(now) != c.due || c.z.UnderWay(now) != c.underWay || c.z.Proved() != c.proved {
			t.Errorf("%s: due %v, under way %v, proved %v", c.what, c.z.Due(now), c.z.UnderWay(now), c.z.Proved())
		}
	}
	z := Zone{Refused: map[string]Refusal{"TXT": {At: at(ZoneHolds)}, "CNAME": {At: at(time.Hour)}}}
	if r := z.Refusals(now); len(r) != 1 || r["CNAME"].At.IsZero() {
		t.Errorf("%+v", r)
	}
}

// A key without any rights in ten thousand zones does not make the state of its
// account too large for a message.
func TestManyZonesAreTold(t *testing.T) {
	t.Parallel()
	a := open(t, natstest.Server(t))
	for i := range mostZones + 10 {
		k := shopZone
		k.Zone = fmt.Sprintf("shop-%d.example", i)
		if _, err := a.TellZone(t.Context(), k, Trouble{What: "refused", Last: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	told := a.State(main).Troubles
	if len(told) != mostZones+1 || !strings.Contains(told[DNSRights("acme", moreZones)].What, "shop-20.example") || !a.State(main).ZoneTroubled("acme") || a.State(main).ZoneTroubled("acm") {
		t.Errorf("%d: %+v", len(told), told)
	}
	worse := shopZone
	worse.Zone = "shop-4.example"
	for _, what := range []string{"refused", "refused at its own name"} {
		if _, err := a.TellZone(t.Context(), worse, Trouble{What: what, Last: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	if is := a.State(main).Troubles[DNSRights("acme", worse.Zone)]; is.What != "refused at its own name" || is.Zone != worse.Zone {
		t.Errorf("%+v", is)
	}
	for range 2 {
		if err := a.Calm(t.Context(), main, DNSRights("acme", "shop-3.example")); err != nil {
			t.Fatal(err)
		}
	}
	if told := a.State(main).Troubles; len(told) != mostZones {
		t.Errorf("%d are told of", len(told))
	}
}
