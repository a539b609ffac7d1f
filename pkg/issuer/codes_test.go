package issuer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/certmill/certmill/pkg/issuer"
)

func table() *issuer.Table {
	return issuer.NewTable("Test|Cloud",
		issuer.Group{Source: "a", Kind: issuer.Throttled, NoEffect: true, Rows: [][3]string{{"Slow*", "slow", "慢"}, {"*Brake*", "brake", "刹车"}}},
		issuer.Group{Source: "b", Kind: issuer.Rejected, NoEffect: true, Rows: [][3]string{{"Bad*", "bad", "坏"}, {"Bad.Name*", "name", "名称"}}},
		issuer.Group{Source: "b", Kind: issuer.Rejected, Rows: [][3]string{{"Bad.Name.Late", "a | b", "甲 | 乙"}}},
		issuer.Group{Source: "b", Kind: issuer.WrongState, Rows: [][3]string{{"State", "look", "查看"}}},
		issuer.Group{Source: "b", Kind: issuer.Unavailable, Rows: [][3]string{{"Down", "down", "故障"}}},
	)
}

func spending(ctx context.Context) context.Context { return issuer.Spending(ctx, issuer.Fence{}) }

func TestRefusal(t *testing.T) {
	tests := []struct {
		code         string
		reads, pays  issuer.Kind
		help, onPays string // advice in English; "" is that of the kind
	}{
		{"Slow", issuer.Throttled, issuer.Throttled, "slow", "slow"},
		{"SlowDown.User", issuer.Throttled, issuer.Throttled, "slow", "slow"},
		{"PullBrakeNow", issuer.Throttled, issuer.Throttled, "brake", "brake"},
		{"Bad", issuer.Rejected, issuer.Rejected, "bad", "bad"},
		{"Bad.Name.Long", issuer.Rejected, issuer.Rejected, "name", "name"},
		{"Bad.Name.Late", issuer.Rejected, issuer.UnknownOutcome, "a | b", ""},
		{"State", issuer.WrongState, issuer.WrongState, "look", "look"},
		{"Down", issuer.Unavailable, issuer.UnknownOutcome, "down", ""},
	}
	for _, tt := range tests {
		read := table().Refusal(t.Context(), tt.code, "message", "R1")
		paid := table().Refusal(spending(t.Context()), tt.code, "message", "R1")
		if !errors.Is(read, tt.reads) || read.Advice("en") != tt.help {
			t.Errorf("%s, reading: %q, %q", tt.code, read.Kind, read.Advice("en"))
		}
		want := tt.onPays
		if want == "" {
			want = (&issuer.Error{Kind: tt.pays}).Advice("en")
		}
		if !errors.Is(paid, tt.pays) || paid.Advice("en") != want || want == "" {
			t.Errorf("%s, spending: %q, %q", tt.code, paid.Kind, paid.Advice("en"))
		}
	}
}

// counted returns what UnlistedCodes has of a cloud.
func counted(cloud string) map[string]uint64 {
	counts := map[string]uint64{}
	for _, c := range issuer.UnlistedCodes.All() {
		if c.Cloud == cloud {
			counts[c.Code] = c.Count
		}
	}
	return counts
}

func TestUnlistedCodesAreKeptAndCounted(t *testing.T) {
	before := counted("Test|Cloud")["New.Code"]
	read := table().Refusal(t.Context(), "New.Code", "the message", "R1")
	paid := table().Refusal(spending(t.Context()), "New.Code", "the message", "R1")
	if read.Kind != issuer.Unavailable || paid.Kind != issuer.UnknownOutcome {
		t.Errorf("reading %q, spending %q", read.Kind, paid.Kind)
	}
	for _, e := range []*issuer.Error{read, paid} {
		if e.Code != "New.Code" || e.Message != "the message" || e.RequestID != "R1" {
			t.Errorf("not kept: %v", e)
		}
		if !strings.Contains(e.Advice("en"), "no document lists") || !strings.Contains(e.Advice("zh"), "未见于任何文档") {
			t.Errorf("advice %q, %q", e.Advice("en"), e.Advice("zh"))
		}
	}
	table().Refusal(t.Context(), "Slow", "", "")
	after := counted("Test|Cloud")
	if after["New.Code"] != before+2 || after["Slow"] != 0 {
		t.Errorf("counted %v", after)
	}
}

// TestUnlistedCodesAreBounded lets a broken gateway invent codes.
func TestUnlistedCodesAreBounded(t *testing.T) {
	broken := issuer.NewTable("broken")
	const workers, each = 8, 100
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			for i := range each {
				broken.Refusal(t.Context(), fmt.Sprint("Code", w, ".", i), "", "")
			}
		})
	}
	all.Wait()
	counts, sum := counted("broken"), uint64(0)
	for _, n := range counts {
		sum += n
	}
	if sum != workers*each || len(counts) > 201 || counts[issuer.OtherCodes] == 0 {
		t.Errorf("%d calls counted under %d codes, %d as others", sum, len(counts), counts[issuer.OtherCodes])
	}
}

func TestTableRefusesACodeListedTwice(t *testing.T) {
	defer func() {
		if s := fmt.Sprint(recover()); !strings.Contains(s, "twice") {
			t.Errorf("panic %q", s)
		}
	}()
	row := [][3]string{{"Same", "a", "b"}}
	issuer.NewTable("x", issuer.Group{Kind: issuer.Rejected, Rows: row}, issuer.Group{Kind: issuer.NotFound, Rows: row})
}

func TestEveryKindSaysWhatToDo(t *testing.T) {
	for _, k := range []issuer.Kind{issuer.Throttled, issuer.NeverSent, issuer.UnknownOutcome, issuer.Unavailable, issuer.QuotaExhausted,
		issuer.Rejected, issuer.Credentials, issuer.WrongState, issuer.NotFound} {
		e := &issuer.Error{Kind: k}
		for _, s := range []string{k.Does("en"), k.Does("zh"), e.Advice("en"), e.Advice("zh-CN")} {
			if s == "" {
				t.Errorf("%s says nothing", k)
			}
		}
		if e.Advice("en") == e.Advice("zh") || e.Advice("zh") != e.Advice("ZH-cn") || e.Advice("") != e.Advice("en") {
			t.Errorf("%s: languages", k)
		}
	}
}

func TestWriteCodes(t *testing.T) {
	for lang, want := range map[string][]string{
		"en": {"### Test|Cloud (7)", "| `Bad.Name.Late` | rejected | ends the order", `| a \| b | b |`, "unknown outcome: keeps the ledger entry open", "the same: nothing was spent"},
		"zh": {"| 错误码 |", `| 甲 \| 乙 | b |`, "unknown outcome: 保持账本条目打开", "同左：未消耗额度"},
	} {
		var b strings.Builder
		if err := issuer.WriteCodes(&b, lang, table(), issuer.NewTable("second")); err != nil {
			t.Fatal(err)
		}
		for _, s := range append(want, "\n\n### second (0)\n") {
			if !strings.Contains(b.String(), s) {
				t.Errorf("%s: no %q in\n%s", lang, s, b.String())
			}
		}
	}
}
