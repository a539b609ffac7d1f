package issuer

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Text is a sentence in the two languages of the operators.
type Text struct{ EN, ZH string }

// In returns the text in lang: Chinese for "zh" and its variants ("zh-CN"),
// English for anything else.
func (t Text) In(lang string) string {
	if strings.HasPrefix(strings.ToLower(lang), "zh") {
		return t.ZH
	}
	return t.EN
}

// Code is one documented error code of a cloud: what it means to certmill and
// what the user should do about it.
type Code struct {
	// Code is compared exactly. One that begins or ends with '*' names a family
	// that the cloud documents by its prefix or by a word within.
	Code string
	// Kind is what it means on a call that only reads.
	Kind Kind
	// NoEffect: the code proves that a spending call had no effect, because the
	// gateway or a check before the effect refuses with it. When in doubt it is
	// false, and the outcome of a spending call is unknown.
	NoEffect bool
	// OfOrder: what it refuses stands in the order itself. Only a mended one helps.
	OfOrder bool
	Advice  Text
	Source  string // of the code: service and document
}

// On is the kind of the code. WrongState and NotFound stay what they are on a
// spending call, for both mean "look first" and neither is ever taken for a
// proof.
func (c Code) On(spending bool) Kind {
	if !spending || c.NoEffect || c.Kind == WrongState || c.Kind == NotFound {
		return c.Kind
	}
	return UnknownOutcome
}

// matches tells whether a family has the code.
func (c Code) matches(code string) bool {
	tail, within := strings.CutPrefix(c.Code, "*")
	word, prefix := strings.CutSuffix(tail, "*")
	switch {
	case within:
		return strings.Contains(code, word)
	case prefix:
		return strings.HasPrefix(code, word)
	}
	return false
}

func (c Code) family() bool { return strings.Contains(c.Code, "*") }

// Group is a part of a cloud's table: the codes of one source that mean the
// same. A row is the code, the advice in English and the advice in Chinese.
type Group struct {
	Source   string
	Kind     Kind
	NoEffect bool
	OfOrder  bool
	Rows     [][3]string
}

// Table is everything that is documented about the error codes of one cloud.
// It never changes, and is safe for concurrent use.
type Table struct {
	Cloud    string
	codes    []Code // as they are listed
	exact    map[string]Code
	families []Code // the longest first
}

// NewTable puts the groups together. It panics if a code is listed twice, for
// then one of the two rows is a lie.
func NewTable(cloud string, groups ...Group) *Table {
	t := &Table{Cloud: cloud, exact: map[string]Code{}}
	for _, g := range groups {
		for _, r := range g.Rows {
			t.add(Code{Code: r[0], Kind: g.Kind, NoEffect: g.NoEffect, OfOrder: g.OfOrder, Advice: Text{EN: r[1], ZH: r[2]}, Source: g.Source})
		}
	}
	slices.SortStableFunc(t.families, func(a, b Code) int { return cmp.Compare(len(b.Code), len(a.Code)) })
	return t
}

func (t *Table) add(c Code) {
	if _, twice := t.exact[c.Code]; twice {
		panic(fmt.Sprintf("issuer: %s lists the code %s twice", t.Cloud, c.Code))
	}
	t.exact[c.Code] = c
	t.codes = append(t.codes, c)
	if c.family() {
		t.families = append(t.families, c)
	}
}

// Codes returns a copy of the rows in the order in which they are listed.
func (t *Table) Codes() []Code { return slices.Clone(t.codes) }

// Lookup finds what is documented about a code: its own row, else that of the
// narrowest family.
func (t *Table) Lookup(code string) (Code, bool) {
	if c, ok := t.exact[code]; ok && !c.family() {
		return c, true
	}
	for _, c := range t.families {
		if c.matches(code) {
			return c, true
		}
	}
	return Code{}, false
}

// Refusal is the error of an answer with a code. A code that is not listed is
// counted in UnlistedCodes and stays unclear: UnknownOutcome below Spending, else
// Unavailable. Code, message and request id must be fit to be shown.
func (t *Table) Refusal(ctx context.Context, code, message, requestID string) *Error {
	e := &Error{Kind: Unclear(ctx), Code: code, Message: message, RequestID: requestID}
	c, ok := t.Lookup(code)
	if !ok {
		UnlistedCodes.add(t.Cloud, code)
		e.Help = unlistedAdvice
		return e
	}
	_, spending := fenceOf(ctx)
	e.Kind, e.Help, e.OfOrder = c.On(spending), c.Advice, c.OfOrder
	if e.Kind != c.Kind {
		e.OfOrder, e.Help = false, kinds[e.Kind].advice // the row's advice is for a clear answer
	}
	return e
}

// WriteCodes writes the tables as Markdown, one after another, in a language
// ("en" or "zh"): kind, what certmill does, on a spending call too, and what
// the user should do.
func WriteCodes(w io.Writer, lang string, tables ...*Table) error {
	var b strings.Builder
	for i, t := range tables {
		if i > 0 {
			b.WriteByte('\n')
		}
		t.markdown(&b, lang)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *Table) markdown(b *strings.Builder, lang string) {
	fmt.Fprintf(b, "### %s (%d)\n\n", t.Cloud, len(t.codes))
	for _, row := range [][]string{{
		Text{"Code", "错误码"}.In(lang), Text{"Kind", "类别"}.In(lang), Text{"What certmill does", "certmill 的处理"}.In(lang),
		Text{"On a call that spends", "在消耗额度的调用中"}.In(lang), Text{"What to do", "您需要做什么"}.In(lang), Text{"Source", "来源"}.In(lang),
	}, {"---", "---", "---", "---", "---", "---"}} {
		writeRow(b, row...)
	}
	for _, c := range t.codes {
		spending := Text{"the same", "同左"}.In(lang)
		if k := c.On(true); k != c.Kind {
			spending = string(k) + ": " + k.Does(lang)
		} else if c.NoEffect {
			spending = Text{"the same: nothing was spent", "同左：未消耗额度"}.In(lang)
		}
		writeRow(b, "`"+c.Code+"`", string(c.Kind), c.Kind.Does(lang), spending, c.Advice.In(lang), c.Source)
	}
}

func writeRow(b *strings.Builder, cells ...string) {
	for _, c := range cells {
		b.WriteString("| " + strings.ReplaceAll(c, "|", `\|`) + " ")
	}
	b.WriteString("|\n")
}

// kinds is what certmill does about each kind, and what the user should do
// where no code says more.
var kinds = map[Kind]struct{ does, advice Text }{
	Throttled: {
		Text{"rests this permit longer and asks again", "让该许可多休息一会儿，然后重新请求"},
		Text{"nothing; if it goes on, look for other programs or the console using the same account, or lower the limit", "无需处理；若持续出现，请检查是否有其他程序或控制台在使用同一账号，或调低限额"}},
	NeverSent: {
		Text{"signs anew and sends again", "重新签名后再次发送"},
		Text{"check clock, proxy and network of the worker", "请检查工作进程所在机器的时钟、代理和网络"}},
	UnknownOutcome: {
		Text{"keeps the ledger entry open and looks for the order at the cloud; never repeats blindly", "保持账本条目打开，到云端查找该订单；绝不盲目重复"},
		Text{"wait: certmill finds out whether the order exists before anything is repeated; do not buy by hand", "请等待：certmill 会先确认订单是否已存在，再决定是否重试；请勿手工购买"}},
	Unavailable: {
		Text{"asks again at growing distances", "以逐渐加长的间隔重试"},
		Text{"nothing at first; if it goes on, look at the cloud's status page or open a ticket with the request id", "暂时无需处理；若持续出现，请查看云服务状态页，或带上请求 ID 提交工单"}},
	QuotaExhausted: {
		Text{"buys no more of the product on this account until there is quota again; orders wait, or fail if they named what is used up", "在额度恢复之前不再在该账号上使用该产品；订单等待，若订单指定的资源已用尽则失败"},
		Text{"buy more of the product, then: certmill retry <id>", "请购买更多额度，然后执行：certmill retry <id>"}},
	Rejected: {
		Text{"ends the order as failed; holds it instead when only the download is refused", "将订单记为失败；若仅下载被拒绝，则转为等待人工处理"},
		Text{"mend what the cloud names in the order, and order again under a new id", "请按云端提示修改订单，并用新的 ID 重新下单"}},
	Credentials: {
		Text{"rests the account's label for minutes and says so; its orders wait", "让该账号标签暂停数分钟并给出提示；其订单等待"},
		Text{"check access key and permissions of the account; its orders go on by themselves", "请检查该账号的访问密钥和权限；修复后订单会自动继续"}},
	WrongState: {
		Text{"looks at the order at the cloud and goes by what it finds", "到云端查看订单的实际状态，再据此处理"},
		Text{"nothing at first; if the order does not move on, see it in the cloud's console", "暂时无需处理；若订单长时间没有进展，请到云控制台查看"}},
	NotFound: {
		Text{"looks again for a while, because lists lag; then goes by what it finds", "因列表可能延迟，先继续查找一段时间，再据此处理"},
		Text{"check that the id belongs to this account and was not deleted in the console", "请确认该 ID 属于此账号，且未在控制台中被删除"}},
}

var unlistedAdvice = Text{
	"no document lists this code: see the message, give the request id to the cloud's support, and tell the makers of certmill; nothing is repeated blindly",
	"该错误码未见于任何文档：请参阅错误信息，将请求 ID 提供给云厂商技术支持，并告知 certmill 开发者；certmill 不会盲目重试"}

// Does says in a language what certmill does about an error of this kind.
func (k Kind) Does(lang string) string { return kinds[k].does.In(lang) }
