package cloudsim

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"time"
)

// tencentAction is one action of one service. Run gets the body as it came.
type tencentAction struct {
	service string
	region  bool // the documents require X-TC-Region
	run     func(s *Sim, by caller, body []byte) (fields, error)
}

// caller is a main account and the access key of it that calls.
type caller struct {
	owner owner
	hand  hand
	key   Account
}

// fields are the answer below "Response"; what an API calls nullable is nil.
type fields map[string]any

// tencentVersions are the services and the one version that each has here.
var tencentVersions = map[string]string{"ssl": "2019-12-05", "dnspod": "2021-03-23", "sts": "2018-08-13", "cam": "2019-01-16"}

// tencentActions are all actions; no two services share a name.
var tencentActions = map[string]tencentAction{
	"CertificateInfoSubmit":              writes("ssl", (*Sim).certificateInfoSubmit),
	"CertificateOrderSubmit":             serves("ssl", (*Sim).certificateOrderSubmit),
	"ApplyCertificate":                   writes("ssl", (*Sim).applyCertificate),
	"DescribeCertificate":                serves("ssl", (*Sim).describeCertificate),
	"DescribeCertificateDetail":          serves("ssl", (*Sim).describeCertificateDetail),
	"DescribeCertificates":               writes("ssl", (*Sim).describeCertificates),
	"CompleteCertificate":                serves("ssl", (*Sim).completeCertificate),
	"CheckCertificateDomainVerification": serves("ssl", (*Sim).checkDomainVerification),
	"DownloadCertificate":                serves("ssl", (*Sim).downloadCertificate),
	"CancelCertificateOrder":             serves("ssl", (*Sim).cancelCertificateOrder),
	"CancelAuditCertificate":             serves("ssl", (*Sim).cancelAuditCertificate),
	"DeleteCertificate":                  serves("ssl", (*Sim).deleteCertificate),

	"CreateRecord":       writes("dnspod", (*Sim).createRecord),
	"DeleteRecord":       writes("dnspod", (*Sim).deleteRecord),
	"DescribeRecordList": serves("dnspod", (*Sim).describeRecordList),
	"DescribeDomainList": serves("dnspod", (*Sim).describeDomainList),
	"DescribeDomain":     serves("dnspod", (*Sim).describeDomain),
	"CreateRecordBatch":  writes("dnspod", (*Sim).createRecordBatch),
	"DeleteRecordBatch":  writes("dnspod", (*Sim).deleteRecordBatch),
	"DescribeBatchTask":  serves("dnspod", (*Sim).describeBatchTask),

	"GetCallerIdentity": regional(writes("sts", (*Sim).tencentCallerIdentity)),
	"GetUserAppId":      writes("cam", (*Sim).getUserAppID),
}

// tencentBatch are the actions that Config.NoBatch leaves out.
var tencentBatch = []string{"CreateRecordBatch", "DeleteRecordBatch", "DescribeBatchTask"}

// serves joins the binding of parameters with an action.
func serves[In any](service string, run func(*Sim, owner, In) (fields, error)) tencentAction {
	return writes(service, func(s *Sim, by caller, in In) (fields, error) { return run(s, by.owner, in) })
}

// writes is serves for what asks which access key it is.
func writes[In any](service string, run func(*Sim, caller, In) (fields, error)) tencentAction {
	return tencentAction{service: service, run: func(s *Sim, by caller, body []byte) (fields, error) {
		var in In
		if err := bind(body, &in, s.cfg().IgnoreUnknownKeys); err != nil {
			return nil, err
		}
		return run(s, by, in)
	}}
}

// regional marks an action that is called in a region.
func regional(a tencentAction) tencentAction {
	a.region = true
	return a
}

// serveTencent answers one call of API 3.0: signature, limit, fault, action.
func (s *Sim) serveTencent(w http.ResponseWriter, r *http.Request) {
	s.pause()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 10<<20)) // the documented largest request of TC3
	if err != nil {
		s.tencentReply(nil, refuse(0, "RequestSizeLimitExceeded", "The request is larger than 10 MB, or broken off.")).send(w)
		return
	}
	a, action, err := s.admitTencent(r, body)
	var f *Fault
	if err == nil {
		f, err = s.passTencent(a, r.Header.Get("X-TC-Action"))
	}
	if err != nil {
		s.pause()
		s.repeat(a, s.tencentReply(nil, err)).send(w)
		return
	}
	answer := s.tencentReply(nil, internal())
	if f == nil || f.Commit == "before" {
		answer = s.tencentReply(s.runTencent(a, r.Header.Get("X-TC-Action"), action, body))
	}
	answer = s.repeat(a, answer)
	s.pause()
	if f == nil {
		answer.send(w)
		return
	}
	s.spoilTencent(w, r, f, answer)
}

// admitTencent checks who calls and what.
func (s *Sim) admitTencent(r *http.Request, body []byte) (Account, tencentAction, error) {
	// GET and multipart/form-data exist as well; nothing here needs them.
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if r.Method != http.MethodPost || err != nil || kind != "application/json" {
		return Account{}, tencentAction{}, refuse(0, "UnsupportedProtocol", "Send a POST of application/json.")
	}
	a, service, err := s.verifyTC3(r, body, time.Now())
	if err != nil {
		return Account{}, tencentAction{}, err
	}
	version, known := tencentVersions[service]
	name, cfg := r.Header.Get("X-TC-Action"), s.cfg()
	switch action := tencentActions[name]; {
	case !known:
		return Account{}, tencentAction{}, refuse(0, "NoSuchProduct", "The product `%s` does not exist.", service)
	case r.Header.Get("X-TC-Version") != version:
		return Account{}, tencentAction{}, refuse(0, "NoSuchVersion", "The version `%s` does not exist.", r.Header.Get("X-TC-Version"))
	case action.service != service, cfg.NoBatch && contains(tencentBatch, name), cfg.leavesOut(cloudTencent, name):
		return Account{}, tencentAction{}, refuse(0, "InvalidAction", "The action `%s` does not exist in version %s.", name, version)
	case action.region && r.Header.Get("X-TC-Region") == "":
		return Account{}, tencentAction{}, lacking("Region")
	default:
		return a, action, nil
	}
}

// passTencent counts the call and says which fault hits it. Throttling stops a
// call before the backend sees it (cloud.tencent.com 1278/109059).
func (s *Sim) passTencent(a Account, action string) (*Fault, error) {
	cfg, counted := s.cfg(), api{owner{a.Cloud, a.UID}, action}
	limit := cfg.limit(cloudTencent, action)
	if !s.meter.arrive(counted, limit, cfg.LimitMode, cfg.ThrottledCount) {
		return nil, tooMany(limit)
	}
	f := s.faults.draw(cloudTencent, action, s.dice)
	if f != nil && f.Kind == "throttle" {
		s.meter.refuse(counted)
		return nil, tooMany(limit)
	}
	return f, nil
}

func tooMany(limit int) error {
	return refuse(0, "RequestLimitExceeded", "Your current request times exceeds the limit of `%d` times per second. Please try again later.", limit)
}

func (s *Sim) runTencent(a Account, name string, action tencentAction, body []byte) (fields, error) {
	if contains(a.Deny, name) {
		return nil, refuse(0, "UnauthorizedOperation", "you are not authorized to perform operation (%s:%s)", action.service, name)
	}
	return action.run(s, caller{owner{a.Cloud, a.UID}, hand{a.AccessKeyID, name}, a}, body)
}

// spoilTencent does what is Tencent's own about a fault, and leaves the rest to
// Fault.spoil. nonce_used means nothing here: TC3 has no nonce.
func (s *Sim) spoilTencent(w http.ResponseWriter, r *http.Request, f *Fault, answer reply) {
	switch f.Kind {
	case "http_500":
		answer = s.tencentReply(nil, internal())
		answer.Status = http.StatusInternalServerError
	case "code_in_200":
		answer = jsonReply(http.StatusOK, fields{"Code": "InternalError", "Message": "An internal error has occurred."})
	case "numeric_code":
		answer = jsonReply(http.StatusOK, fields{"Response": fields{
			"Error": fields{"Code": 500, "Message": "An internal error has occurred."}, "RequestId": s.dice.uuid()}})
	case "stall":
		if !waitFor(r, f.stall()) {
			return // the caller gave up
		}
	}
	f.spoil(w, answer)
}

// tencentReply wraps an answer. Every one has status 200, errors too.
func (s *Sim) tencentReply(out fields, err error) reply {
	if err != nil {
		var r *refusal
		if !errors.As(err, &r) {
			s.log.Error("cloudsim: a Tencent call failed", "error", err)
			errors.As(internal(), &r)
		}
		out = fields{"Error": fields{"Code": r.Code, "Message": r.Message}}
	}
	if out == nil {
		out = fields{}
	}
	out["RequestId"] = s.dice.uuid()
	return jsonReply(http.StatusOK, fields{"Response": out})
}

func internal() error { return refuse(0, "InternalError", "An internal error has occurred.") }

func lacking(name string) error {
	return refuse(0, "MissingParameter", "The request is missing a required parameter `%s`.", name)
}

func wrongValue(name string, value any) error {
	return refuse(0, "InvalidParameterValue", "The value `%v` of parameter `%s` is not valid.", value, name)
}

// bind reads a body into a struct whose field names are the parameters' names,
// case and all. Null is as good as absent. A field with the tag `tc:"required"`
// must be there; a key that no field has is refused unless lenient.
func bind(body []byte, in any, lenient bool) error {
	raw := map[string]json.RawMessage{}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &raw); err != nil {
			return refuse(0, "InvalidParameter", "The request body is not a JSON object.")
		}
	}
	return bindObject(raw, reflect.ValueOf(in).Elem(), "", lenient)
}

func bindObject(raw map[string]json.RawMessage, into reflect.Value, path string, lenient bool) error {
	for i := range into.NumField() {
		field := into.Type().Field(i)
		value, given := raw[field.Name]
		delete(raw, field.Name)
		if !given || string(value) == "null" {
			if field.Tag.Get("tc") == "required" {
				return lacking(path + field.Name)
			}
			continue
		}
		if err := bindValue(value, into.Field(i), path+field.Name, lenient); err != nil {
			return err
		}
	}
	if len(raw) > 0 && !lenient {
		return refuse(0, "UnknownParameter", "The parameter `%s` is not recognized.", path+slices.Sorted(maps.Keys(raw))[0])
	}
	return nil
}

func bindValue(value json.RawMessage, into reflect.Value, path string, lenient bool) error {
	wrongType := refuse(0, "InvalidParameter", "The value of parameter `%s` has not the type that the document says.", path)
	if into.Kind() != reflect.Slice || into.Type().Elem().Kind() != reflect.Struct {
		if json.Unmarshal(value, into.Addr().Interface()) != nil {
			return wrongType
		}
		return nil
	}
	var items []map[string]json.RawMessage
	if json.Unmarshal(value, &items) != nil {
		return wrongType
	}
	into.Set(reflect.MakeSlice(into.Type(), len(items), len(items)))
	for i, item := range items {
		if err := bindObject(item, into.Index(i), path+".", lenient); err != nil {
			return err
		}
	}
	return nil
}

// gmt8 writes a time as Tencent does, nil for none.
func gmt8(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.In(chinaTime).Format(time.DateTime)
}

// chinaTime is how both clouds write times that name no zone.
var chinaTime = time.FixedZone("GMT+8", 8*3600)
