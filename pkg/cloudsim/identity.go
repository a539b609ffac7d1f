package cloudsim

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
)

// Whose credentials a key is, as the clouds tell it: GetCallerIdentity of both
// Security Token Services (help.aliyun.com 43767; cloud.tencent.com 1312/66098),
// and GetUserAppId of Tencent's CAM (cloud.tencent.com 598/70416).

// What an access key may be, by Account.CallerKind.
const (
	callerMain = "account" // the main account's own
	callerUser = "user"    // a RAM user's, a CAM user's
	callerRole = "role"    // a role's, with a token
)

// session is the RoleSessionName of every role here.
const session = "cloudsim"

// checkCaller refuses what no cloud would have given out.
func (a Account) checkCaller() error {
	switch a.CallerKind {
	case "", callerMain:
		if a.CallerID != "" {
			return fmt.Errorf("caller_id %q needs the caller_kind %s or %s", a.CallerID, callerUser, callerRole)
		}
	case callerUser, callerRole:
		if a.CallerID == "" || a.CallerID == a.UID {
			return fmt.Errorf("caller_id %q: a %s has an id of its own", a.CallerID, a.CallerKind)
		}
	default:
		return fmt.Errorf("caller_kind %q is none of: %s %s %s", a.CallerKind, callerMain, callerUser, callerRole)
	}
	if a.Sees != "" && a.Sees != seesAll && a.Sees != seesOwn {
		return fmt.Errorf("sees %q is neither %s nor %s", a.Sees, seesAll, seesOwn)
	}
	if (a.CallerKind == callerRole) != (a.Token != "") {
		return errors.New("a token goes with the temporary key of a role, and with nothing else")
	}
	if a.Cloud == cloudAliyun && contains(a.Deny, "GetCallerIdentity") {
		return errors.New("GetCallerIdentity cannot be denied at aliyun: no policy has a word for it")
	}
	return nil
}

// What an access key's lists show, by Account.Sees.
const (
	seesAll = "all"
	seesOwn = "own"
)

// caller is the id of who calls with the key.
func (a Account) caller() string { return cmp.Or(a.CallerID, a.UID) }

// lists tells whether the key's lists show an order.
func (a Account) lists(o *order) bool {
	return a.Sees != seesOwn || o.By == "" || o.By == a.caller()
}

// name is what users and roles are called in ARNs.
func (a Account) name() string { return cmp.Or(a.Label, a.CallerID) }

// reads decides where the documents allow two readings: one for the whole run,
// by the seed, so that it draws nothing from the dice of the calls.
func (s *Sim) reads(what string) bool {
	h := fnv.New64a()
	h.Write([]byte(what))
	return rand.New(rand.NewPCG(s.cfg().Seed, h.Sum64())).IntN(2) == 0
}

// rpcCallerIdentity is Alibaba's. Editions of its page call RAM users RAMUser or
// RamUser. All say that only roles have a RoleId and show one in the answer to a
// user, whose PrincipalId there is another number than the UserId.
func (s *Sim) rpcCallerIdentity(c *rpcCall) (rpcFields, error) {
	a := c.key
	out := rpcFields{"AccountId": a.UID}
	switch a.CallerKind {
	case callerUser:
		out["IdentityType"], out["UserId"] = "RAMUser", a.CallerID
		if s.reads("RamUser") {
			out["IdentityType"] = "RamUser"
		}
		out["PrincipalId"], out["Arn"] = a.CallerID, "acs:ram::"+a.UID+":user/"+a.name()
		if s.reads("sample of a user") {
			out["PrincipalId"], out["RoleId"] = "28877424437521"+a.CallerID, "33537620082992"+a.CallerID
		}
	case callerRole:
		out["IdentityType"], out["RoleId"] = "AssumedRoleUser", a.CallerID
		out["PrincipalId"], out["Arn"] = a.CallerID+":"+session, "acs:ram::"+a.UID+":assumed-role/"+a.name()+"/"+session
	default:
		out["IdentityType"], out["UserId"] = "Account", a.UID
		out["PrincipalId"], out["Arn"] = a.UID, "acs:ram::"+a.UID+":root"
	}
	return out, nil
}

// tencentCallerIdentity is Tencent's. Its page has samples of a user and of a
// role; what Type and Arn say of the main account itself it leaves out, and it
// has no other word for a caller with a Uin than CAMUser.
func (s *Sim) tencentCallerIdentity(by caller, _ struct{}) (fields, error) {
	a := by.key
	out := fields{"AccountId": a.UID, "Type": "CAMUser"}
	switch a.CallerKind {
	case callerUser:
		out["UserId"], out["PrincipalId"] = a.CallerID, a.CallerID
		out["Arn"] = "qcs::cam:" + a.UID + ":uin/" + a.CallerID
	case callerRole:
		// The principal is who asked for the role's key: here the main account.
		out["Type"], out["UserId"], out["PrincipalId"] = "CAMRole", a.CallerID+":"+session, a.UID
		out["Arn"] = "qcs::sts:" + a.UID + ":assumed-role/" + a.CallerID
	default:
		out["UserId"], out["PrincipalId"] = a.UID, a.UID
		out["Arn"] = "qcs::cam:" + a.UID + ":uin/" + a.UID
	}
	return out, nil
}

// getUserAppID tells Uins. A role has none; the page says nothing of roles, so
// that it is either the main account's, on whose behalf it acts, or the role's id.
func (s *Sim) getUserAppID(by caller, _ struct{}) (fields, error) {
	a := by.key
	uin := a.UID
	if a.CallerKind == callerUser || a.CallerKind == callerRole && s.reads("Uin of a role") {
		uin = a.CallerID
	}
	return fields{"Uin": uin, "OwnerUin": a.UID, "AppId": appID(a.UID)}, nil
}

// appID has the form of the page's sample, 1250000000: a number for each main
// account that never changes.
func appID(uid string) int64 {
	h := fnv.New32a()
	h.Write([]byte(uid))
	return 1_250_000_000 + int64(h.Sum32()%100_000_000)
}

// actionAt names an action of one cloud, where both have one of that name.
func actionAt(cloud, action string) string { return cloud + "/" + action }

// leavesOut tells whether a cloud is set up not to know an action.
func (c *Config) leavesOut(cloud, action string) bool {
	return contains(c.Unknown, action) || contains(c.Unknown, actionAt(cloud, action))
}

// checkUnknown refuses actions that no cloud has anyway.
func (c *Config) checkUnknown() error {
	for _, name := range c.Unknown {
		cloud, action, of := strings.Cut(name, "/")
		if !of {
			action = name
		}
		_, tencent := tencentActions[action]
		aliyun := false
		for _, actions := range rpcActions {
			_, has := actions[action]
			aliyun = aliyun || has
		}
		switch {
		case !of && (aliyun || tencent), of && cloud == cloudAliyun && aliyun, of && cloud == cloudTencent && tencent:
		default:
			return fmt.Errorf("unknown: there is no action %s anyway", strconv.Quote(name))
		}
	}
	return nil
}
