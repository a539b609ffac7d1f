package cirrus

import "github.com/certmill/certmill/pkg/issuer"

const source = "Cirrus, page of error codes"

// codes is all that the invented documents say of error codes.
var codes = issuer.NewTable("Cirrus Cloud",
	issuer.Group{Source: source, Kind: issuer.Throttled, NoEffect: true, Rows: [][3]string{
		{"TooFast", "nothing; other programs may use the same account", "无需处理；可能有其他程序在使用同一账号"},
	}},
	issuer.Group{Source: source, Kind: issuer.NeverSent, NoEffect: true, Rows: [][3]string{
		{"StaleTime", "set the worker's clock: it is more than a minute off", "请校准工作进程所在机器的时钟：偏差超过 1 分钟"},
	}},
	issuer.Group{Source: source, Kind: issuer.Credentials, NoEffect: true, Rows: [][3]string{
		{"UnknownKey", "correct key_id in the config", "请更正配置中的 key_id"},
		{"BadSignature", "correct secret in the config", "请更正配置中的 secret"},
	}},
	issuer.Group{Source: source, Kind: issuer.QuotaExhausted, NoEffect: true, Rows: [][3]string{
		{"PlanEmpty", "buy more of the plan", "请购买更多额度"},
		{"NoSuchPlan", "buy a plan of the product, or correct the product", "请购买该产品的套餐，或更正产品代码"},
	}},
	issuer.Group{Source: source, Kind: issuer.Rejected, NoEffect: true, Rows: [][3]string{
		{"BadRequest", "mend the field that the message names", "请修改错误信息中所示的字段"},
		{"NoSuchAction", "check the endpoint in the config", "请检查配置中的接入地址"},
	}},
	issuer.Group{Source: source, Kind: issuer.NotFound, Rows: [][3]string{
		{"NoSuchOrder", "check that the order belongs to this account", "请确认该订单属于此账号"},
	}},
	issuer.Group{Source: source, Kind: issuer.Unavailable, Rows: [][3]string{
		{"Trouble", "nothing at first; if it goes on, tell the cloud", "暂时无需处理；若持续出现，请联系云厂商"},
	}},
)
