package aliyun

import "github.com/certmill/certmill/pkg/issuer"

// Where the codes are documented.
const (
	ofGateway = "gateway" // common client and server errors: help.aliyun.com documents 48054, 60629, 51132; "Error Code Reference" of DNS
	ofCAS     = "CAS"     // error table of CreateCertificateWithCsrRequest
	ofDNS     = "alidns"  // error tables of AddDomainRecord, UpdateDomainRecord and document 2355841
)

// Codes is the table of every error code that Alibaba Cloud documents for CAS,
// for alidns and for the gateway before both.
func Codes() *issuer.Table { return codes }

// codes: NoEffect is said only of what the gateway refuses and of the checks of
// quota and parameters, which come before the effect. It is not said of
// SignatureNonceUsed (a first copy may have been accepted), of 5xx codes, of
// CreateCertificateRequestFailed (gives no reason), and of alidns, which no
// spending call asks.
var codes = issuer.NewTable("Alibaba Cloud",
	issuer.Group{Source: ofGateway, Kind: issuer.Throttled, NoEffect: true, Rows: [][3]string{
		{"Throttling", "nothing; other programs may use the same account", "无需处理；可能有其他程序在使用同一账号"},
		{"Throttling.User", "nothing; if it goes on, stop other programs that call this API with the account, or lower its limit in certmill", "无需处理；若持续出现，请停用以同一账号调用此 API 的其他程序，或调低 certmill 中的限额"},
		{"Throttling.Api", "nothing; the API is busy with all its users", "无需处理；该 API 整体繁忙"},
		{"Throttling*", "nothing; other programs may use the same account", "无需处理；可能有其他程序在使用同一账号"},
		{"*FlowControl*", "nothing; the cloud limits its own load", "无需处理；云端正在进行流量控制"},
	}},
	issuer.Group{Source: ofGateway, Kind: issuer.NeverSent, NoEffect: true, Rows: [][3]string{
		{"InvalidTimeStamp.Expired", "set the worker's clock: it is more than 15 minutes off", "请校准工作进程所在机器的时钟：偏差超过 15 分钟"},
		{"IllegalTimestamp", "set the worker's clock (NTP); if it is right, look for a proxy that alters requests", "请校准时钟（NTP）；若时钟无误，请检查是否有代理改写了请求"},
	}},
	issuer.Group{Source: ofGateway, Kind: issuer.Credentials, NoEffect: true, Rows: [][3]string{
		{"InvalidAccessKeyId.NotFound", "correct the access key id in the config; this one does not exist", "请更正配置中的 AccessKey ID：该 ID 不存在"},
		{"InvalidAccessKeyId.Inactive", "enable the access key in the RAM console, or use another", "请在 RAM 控制台启用该 AccessKey，或更换一个"},
		{"InvalidAccessKeyId*", "check the access key id in the config", "请检查配置中的 AccessKey ID"},
		{"InvalidSecurityToken.Expired", "renew the STS token; it has run out", "STS 令牌已过期，请更新"},
		{"InvalidSecurityToken.Malformed", "write the STS token whole and without line breaks", "请完整填写 STS 令牌，不要包含换行"},
		{"InvalidSecurityToken.MismatchWithAccessKey", "use access key and STS token of the same answer of STS", "请使用同一次 STS 响应中的 AccessKey 与令牌"},
		{"InvalidSecurityToken*", "renew the STS token", "请更新 STS 令牌"},
		{"MissingSecurityToken", "set the STS token too: this is a temporary access key", "这是临时 AccessKey，请同时配置 STS 令牌"},
		{"SignatureDoesNotMatch", "correct the access key secret in the config", "请更正配置中的 AccessKey Secret"},
		{"IncompleteSignature", "correct the access key secret; if it is right, look for a proxy that alters requests", "请更正 AccessKey Secret；若无误，请检查是否有代理改写了请求"},
		{"Forbidden", "grant the RAM user the action that the error names", "请为 RAM 用户授予错误中所示操作的权限"},
		{"Forbidden.RAM", "grant the RAM user the action that the error names (yundun-cert or alidns)", "请为 RAM 用户授予错误中所示操作的权限（yundun-cert 或 alidns）"},
		{"Forbidden.RiskControl", "the account is under risk control: open a ticket with Alibaba Cloud before going on", "账号已被风险控制：请先向阿里云提交工单，再继续"},
		{"Forbidden.UserVerification", "complete the account's real-name verification", "请先完成账号实名认证"},
		{"Forbidden.AuthType", "use an access key of a kind that this API accepts", "请使用该 API 支持的凭证类型"},
		{"Forbidden*", "grant the RAM user the action that the error names", "请为 RAM 用户授予错误中所示操作的权限"},
		{"Forbedden.NotSupportRAM", "this API takes no RAM users: use another access key", "该 API 不支持 RAM 用户：请更换 AccessKey"},
		{"NoPermission", "grant the RAM user the action that the error names", "请为 RAM 用户授予错误中所示操作的权限"},
		{"NoPermission*", "grant the RAM user the action that the error names", "请为 RAM 用户授予错误中所示操作的权限"},
		{"ActionUnauthorized", "have the product activated, and the action granted to this account", "请开通该产品，并为此账号授予该操作的权限"},
	}},
	issuer.Group{Source: ofGateway, Kind: issuer.Rejected, NoEffect: true, OfOrder: true, Rows: [][3]string{
		{"MissingParameter", "give the field that the message names", "请补充错误信息中所示的字段"},
		{"Missing*", "give the field that the code names", "请补充错误码中所示的字段"},
		{"InvalidParameter", "mend the field that the message names", "请修改错误信息中所示的字段"},
		{"InvalidParameter*", "mend the field that the message names", "请修改错误信息中所示的字段"},
		{"Invalid*", "mend the field that code and message name", "请修改错误码和错误信息中所示的字段"},
		{"UnsupportedOperation", "the product does not do this: choose another product or another flow for the order", "该产品不支持此操作：请为订单选择其他产品或流程"},
		{"UnsupportedOperation*", "the product does not do this: choose another product or another flow for the order", "该产品不支持此操作：请为订单选择其他产品或流程"},
		{"UnsupportedParameter", "leave out the field that the message names", "请去掉错误信息中所示的字段"},
	}},
	issuer.Group{Source: ofGateway, Kind: issuer.Rejected, NoEffect: true, Rows: [][3]string{
		{"InvalidTimeStamp.Format", "look for a proxy that alters requests; if there is none, report it to the makers of certmill", "请检查是否有代理改写了请求；若没有，请告知 certmill 开发者"},
		{"InvalidAction", "check the endpoint in the config; the API does not know the action", "请检查配置中的接入地址：该 API 不支持此操作"},
		{"InvalidAction.NotFound", "check the endpoint in the config; the API does not know the action", "请检查配置中的接入地址：该 API 不支持此操作"},
		{"InvalidApi.NotFound", "check the endpoint in the config; if it is right, the API was withdrawn", "请检查配置中的接入地址；若无误，则该 API 已下线"},
		{"InvalidProduct.NotFound", "check the endpoint in the config: it belongs to another product", "请检查配置中的接入地址：它属于其他产品"},
		{"InvalidProtocol.NeedSsl", "write https:// in the endpoint of the config", "请在配置的接入地址中使用 https://"},
		{"NoSuchVersion", "check the endpoint in the config; if it is right, the API version was withdrawn", "请检查配置中的接入地址；若无误，则该 API 版本已下线"},
		{"UnsupportedHTTPMethod", "look for a proxy that alters requests", "请检查是否有代理改写了请求"},
	}},
	issuer.Group{Source: ofGateway, Kind: issuer.Unavailable, Rows: [][3]string{
		{"SignatureNonceUsed", "nothing; if it goes on, look for a proxy that sends requests twice", "无需处理；若持续出现，请检查是否有代理重复发送请求"},
		{"InternalError", "nothing at first; if it goes on, open a ticket with the request id", "暂时无需处理；若持续出现，请带上请求 ID 提交工单"},
		{"ServiceUnavailable", "nothing at first; if it goes on, see the cloud's status page", "暂时无需处理；若持续出现，请查看云服务状态页"},
	}},

	issuer.Group{Source: ofCAS, Kind: issuer.QuotaExhausted, NoEffect: true, Rows: [][3]string{
		{"NotFoundPackage", "buy a certificate plan of this product code, or order with a product that the account has", "请购买该产品代码对应的证书资源包，或改用账号已有的产品下单"},
		{"NotRemainCount", "buy more certificates for this plan; orders then go on by themselves", "该资源包额度已用尽，请购买更多额度；之后订单会自动继续"},
	}},
	issuer.Group{Source: ofCAS, Kind: issuer.WrongState, Rows: [][3]string{
		{"OrderStateError", "nothing at first; if the order does not move on, see its state in the CAS console", "暂时无需处理；若订单没有进展，请到数字证书控制台查看其状态"},
		{"DeleteFail", "cancel the order in the CAS console first, then delete it", "请先在数字证书控制台取消该订单，再删除"},
	}},
	issuer.Group{Source: ofCAS, Kind: issuer.NotFound, Rows: [][3]string{
		{"NotFoundOrder", "check that the order id belongs to this account and was not deleted in the CAS console", "请确认该订单 ID 属于此账号，且未在数字证书控制台中被删除"},
	}},
	issuer.Group{Source: ofCAS, Kind: issuer.Unavailable, Rows: [][3]string{
		{"CreateCertificateRequestFailed", "the cloud gives no reason: compare names, product and contact with what the CAS console accepts", "云端未给出原因：请对照数字证书控制台检查域名、产品和联系人"},
		{"Error", "nothing at first; if it goes on, open a ticket with the request id", "暂时无需处理；若持续出现，请带上请求 ID 提交工单"},
	}},

	issuer.Group{Source: ofDNS, Kind: issuer.NotFound, Rows: [][3]string{
		{"DomainRecordNotBelongToUser", "nothing: the record is gone already", "无需处理：该解析记录已不存在"},
		{"IncorrectDomainUser", "give certmill the account that has the zone, or delegate the challenge to a zone of this one by CNAME", "请为 certmill 配置拥有该域名的账号，或用 CNAME 将验证记录委派到本账号的域名"},
		{"InvalidDomainName.NoExist", "add the zone to Alibaba DNS in this account, or name the provider that has it", "请将该域名添加到本账号的云解析，或指定实际的 DNS 服务商"},
		{"InvalidDomainName.Unregistered", "check the name for misspelling: the domain is not registered", "请检查域名拼写：该域名未注册"},
		{"Forbidden.NotHichinaDomain", "name the DNS provider that has the zone", "请指定实际托管该域名的 DNS 服务商"},
	}},
	issuer.Group{Source: ofDNS, Kind: issuer.Rejected, Rows: [][3]string{
		{"DomainRecordDuplicate", "nothing: the same record is there already", "无需处理：相同的解析记录已存在"},
		{"DomainRecordConflict", "remove the record at this name that excludes others (a CNAME, for example)", "请删除该主机记录上与之冲突的解析（例如 CNAME）"},
		{"DomainRecordLocked", "unlock the record in the DNS console", "请在云解析控制台解锁该记录"},
		{"DomainForbidden", "the domain is barred: open a ticket with Alibaba Cloud", "该域名被禁止解析：请向阿里云提交工单"},
		{"DomainForbidden*", "the domain is barred: open a ticket with Alibaba Cloud", "该域名被禁止解析：请向阿里云提交工单"},
		{"DomainAddedByOthers", "give certmill the account that has the zone", "请为 certmill 配置拥有该域名的账号"},
		{"RecordForbidden.BlackHole", "wait until the DDoS protection releases the zone, then: certmill retry <id>", "请等待 DDoS 防护解除，然后执行：certmill retry <id>"},
		{"RecordForbidden*", "see the record in the DNS console, then: certmill retry <id>", "请在云解析控制台查看该记录，然后执行：certmill retry <id>"},
		{"QuotaExceeded.Record", "delete old records at this name, or raise the DNS edition; then: certmill retry <id>", "请删除该主机记录下的旧记录或升级云解析版本，然后执行：certmill retry <id>"},
		{"QuotaExceeded.ARecord", "delete old address records at this name, or raise the DNS edition", "请删除该主机记录下的旧地址记录，或升级云解析版本"},
		{"QuotaExceeded*", "delete old records of the zone, or raise the DNS edition; then: certmill retry <id>", "请删除域名下的旧记录或升级云解析版本，然后执行：certmill retry <id>"},
		{"InvalidDomainName.Format", "correct the domain name in the order", "请更正订单中的域名"},
		{"InvalidDomainName.Suffix", "name another DNS provider: Alibaba DNS does not serve this top-level domain", "云解析不支持该后缀：请指定其他 DNS 服务商"},
		{"InvalidDomainName.Duplicate", "nothing: the zone is there already", "无需处理：该域名已在解析列表中"},
		{"SubDomainInvalid.Value", "check that the challenge's host lies within the zone", "请检查验证记录的主机名是否属于该域名"},
		{"Forbidden.DomainType", "do this in the console: it is not allowed for domains registered with Alibaba Cloud", "在阿里云注册的域名不能通过 API 执行此操作：请到控制台处理"},
		{"Forbidden.DomainExpired", "renew the domain's registration, then: certmill retry <id>", "请先续费该域名，然后执行：certmill retry <id>"},
		{"Forbidden.DomainLocked", "unlock the domain in the DNS console, then: certmill retry <id>", "请在云解析控制台解锁该域名，然后执行：certmill retry <id>"},
		{"Forbidden.RecordLocked", "unlock the record in the DNS console, then: certmill retry <id>", "请在云解析控制台解锁该记录，然后执行：certmill retry <id>"},
		{"Forbidden.ProtectedDomain", "the domain is protected: open a ticket with Alibaba Cloud", "该域名受保护：请向阿里云提交工单"},
	}},
	issuer.Group{Source: ofDNS, Kind: issuer.Throttled, Rows: [][3]string{
		{"Fobidden.TooOfen", "nothing; other programs may change the same zone", "无需处理；可能有其他程序在修改同一域名"}, // spelt so
	}},
	issuer.Group{Source: ofDNS, Kind: issuer.Unavailable, Rows: [][3]string{
		{"UnKnownError", "nothing at first; if it goes on, open a ticket with the request id", "暂时无需处理；若持续出现，请带上请求 ID 提交工单"},
	}},
)
