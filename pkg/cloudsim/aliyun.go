package cloudsim

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	cas2018    = "2018-07-13"
	cas2020    = "2020-04-07"
	alidns2015 = "2015-01-09"
	sts2015    = "2015-04-01"
)

// rpcFields are the parameters of an answer, all of them beside RequestId.
type rpcFields map[string]any

// rpcAction is one operation.
type rpcAction struct {
	run func(*Sim, *rpcCall) (rpcFields, error)
	// spends marks what makes an order or a task; its nonce survives a restart.
	spends bool
	batch  bool // Config.NoBatch leaves it out
}

// rpcActions are the operations of each version. No two versions share a name.
var rpcActions map[string]map[string]rpcAction

func init() { // not in the declaration, because the actions' calls look them up
	rpcActions = map[string]map[string]rpcAction{
		cas2018: {
			"CreateDVOrderAudit":        {run: (*Sim).createDVOrderAudit, spends: true},
			"DescribeDVOrderResult":     {run: (*Sim).describeDVOrderResult},
			"DescribeOrderInstanceList": {run: (*Sim).describeOrderInstanceList},
		},
		cas2020: {
			"CreateCertificateForPackageRequest": {run: (*Sim).createForPackage, spends: true},
			"CreateCertificateWithCsrRequest":    {run: (*Sim).createWithCsr, spends: true},
			"CreateCertificateRequest":           {run: (*Sim).createCertificateRequest, spends: true},
			"DescribeCertificateState":           {run: (*Sim).describeCertificateState},
			"ListUserCertificateOrder":           {run: (*Sim).listUserCertificateOrder},
			"GetUserCertificateDetail":           {run: (*Sim).getUserCertificateDetail},
			"DescribePackageState":               {run: (*Sim).describePackageState},
			"CancelOrderRequest":                 {run: (*Sim).cancelOrderRequest},
			"DeleteCertificateRequest":           {run: (*Sim).deleteCertificateRequest},
			"CancelCertificateForPackageRequest": {run: (*Sim).cancelForPackage},
		},
		alidns2015: {
			"AddDomainRecord":          {run: (*Sim).addDomainRecord},
			"UpdateDomainRecord":       {run: (*Sim).updateDomainRecord},
			"DeleteDomainRecord":       {run: (*Sim).deleteDomainRecord},
			"DescribeSubDomainRecords": {run: (*Sim).describeSubDomainRecords},
			"DescribeDomainRecords":    {run: (*Sim).describeDomainRecords},
			"DescribeDomains":          {run: (*Sim).describeDomains},
			"GetMainDomainName":        {run: (*Sim).getMainDomainName},

			"OperateBatchDomain":        {run: (*Sim).operateBatchDomain, spends: true, batch: true},
			"DescribeBatchResultCount":  {run: (*Sim).describeBatchResultCount, batch: true},
			"DescribeBatchResultDetail": {run: (*Sim).describeBatchResultDetail, batch: true},
		},
		sts2015: {"GetCallerIdentity": {run: (*Sim).rpcCallerIdentity}},
	}
}

// serveAliyun answers RPC calls of CAS, alidns and STS. A call passes the signature,
// the limit, the key's permissions, then a fault if one is due, then the action.
func (s *Sim) serveAliyun(w http.ResponseWriter, r *http.Request) {
	s.pause() // on its way here
	c, err := readRPC(w, r)
	if err == nil {
		err = s.admitRPC(c, r.URL.Path)
	}
	if err != nil {
		answer := s.rpcRefusal(c, err)
		s.pause() // on its way back
		answer.send(w)
		return
	}
	fault := s.faults.draw(cloudAliyun, c.action(), s.dice)
	if fault == nil {
		answer := s.runRPC(c)
		s.pause()
		answer.send(w)
		return
	}
	s.failRPC(w, r, c, fault)
}

// admitRPC is the gateway: what it refuses never reaches the product.
func (s *Sim) admitRPC(c *rpcCall, path string) error {
	if err := s.authenticate(c, time.Now()); err != nil {
		return err
	}
	actions, known := rpcActions[c.version()]
	if !known {
		return refuse(http.StatusBadRequest, "InvalidVersion", "Specified parameter Version is not valid.")
	}
	cfg := s.cfg()
	action, known := actions[c.action()]
	if !known || path != "/" || action.batch && cfg.NoBatch || cfg.leavesOut(cloudAliyun, c.action()) {
		return refuse(http.StatusNotFound, "InvalidAction.NotFound", "Specified api is not found, please check your url and method.")
	}
	if !s.meter.arrive(api{c.own, c.action()}, cfg.limit(cloudAliyun, c.action()), cfg.LimitMode, cfg.ThrottledCount) {
		return errFlowControl()
	}
	if contains(c.key.Deny, c.action()) {
		return refuse(http.StatusForbidden, "Forbidden.RAM", "User not authorized to operate on the specified resource, or this API doesn't support RAM.")
	}
	return nil
}

func errFlowControl() error {
	return refuse(http.StatusBadRequest, "Throttling.User", "Request was denied due to user flow control.")
}

// runRPC carries a call out.
func (s *Sim) runRPC(c *rpcCall) reply {
	out, err := rpcActions[c.version()][c.action()].run(s, c)
	if err != nil {
		return s.rpcRefusal(c, err)
	}
	if out == nil {
		out = rpcFields{}
	}
	out["RequestId"] = s.rpcRequestID()
	return s.repeat(c.key, jsonReply(http.StatusOK, out))
}

// rpcRefusal is the gateway's error body, in which every value is a string. An
// error that is no refusal is the simulator's own, and a 500.
func (s *Sim) rpcRefusal(c *rpcCall, err error) reply {
	var no *refusal
	if !errors.As(err, &no) {
		s.log.Error("cloudsim cannot answer", "action", c.action(), "error", err)
		no = &refusal{http.StatusInternalServerError, "InternalError", "The request processing has failed due to some unknown error."}
	}
	return s.repeat(c.key, jsonReply(no.Status, rpcFields{
		"RequestId": s.rpcRequestID(), "HostId": c.host, "Code": no.Code, "Message": no.Message,
		"Recommend": "https://error-center.aliyun.com/status/search?Keyword=" + no.Code + "&source=PopGw",
	}))
}

func (s *Sim) rpcRequestID() string { return strings.ToUpper(s.dice.uuid()) }

// failRPC lets a call go wrong as the fault says.
func (s *Sim) failRPC(w http.ResponseWriter, r *http.Request, c *rpcCall, f *Fault) {
	answer := s.rpcRefusal(c, refuse(http.StatusServiceUnavailable, "ServiceUnavailable", "The request has failed due to a temporary failure of the server."))
	if f.Commit == "before" {
		answer = s.runRPC(c)
	}
	switch f.Kind {
	case "throttle":
		s.meter.refuse(api{c.own, c.action()})
		answer = s.rpcRefusal(c, errFlowControl())
	case "nonce_used":
		answer = s.rpcRefusal(c, errNonceUsed())
	case "http_500":
		answer = s.rpcRefusal(c, refuse(http.StatusInternalServerError, "Error", "An error occurred."))
	case "code_in_200":
		answer = s.rpcRefusal(c, refuse(http.StatusOK, "ServiceUnavailable", "The request has failed due to a temporary failure of the server."))
	case "numeric_code":
		answer = jsonReply(http.StatusInternalServerError, rpcFields{"RequestId": s.rpcRequestID(), "HostId": c.host, "Code": 500, "Message": "numeric"})
	case "redirect_307":
		w.Header().Set("Location", r.URL.RequestURI())
		answer = reply{http.StatusTemporaryRedirect, "text/plain", nil}
		answer.send(w)
		return
	case "stall":
		if !waitFor(r, f.stall()) {
			return // the caller has gone
		}
	}
	s.pause()
	f.spoil(w, answer)
}

// waitFor is false when the caller, or the simulator, ended first.
func waitFor(r *http.Request, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
		return false
	case <-timer.C:
		return true
	}
}

// require refuses a call in which one of the parameters is empty.
func (c *rpcCall) require(names ...string) error {
	for _, name := range names {
		if c.params[name] == "" {
			return rpcMissing(name)
		}
	}
	return nil
}

// number reads a whole number from least on; absent it is standard.
func (c *rpcCall) number(name string, standard, least int) (int, error) {
	text := c.params[name]
	if text == "" {
		return standard, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least {
		return 0, rpcInvalid(name, "it is no whole number from "+strconv.Itoa(least)+" on")
	}
	return n, nil
}

// rpcPage cuts a list; pages count from 1.
func rpcPage[T any](all []T, number, size int) []T {
	return offsetPage(all, pageStart(number, size, len(all)), size)
}

// pageStart is the first row of a page, or the end of the list beyond it.
func pageStart(number, size, total int) int {
	if number-1 > total/size { // before the product below can overflow
		return total
	}
	return min((number-1)*size, total)
}
