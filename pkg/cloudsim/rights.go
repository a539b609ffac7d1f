package cloudsim

import (
	"net/http"
	"path"
)

// may says whether a key may write or remove a record: policies may end at a zone,
// or, with servers of their own kind, at names. The answer is that of a policy which
// does not allow the call, before anything that stands at the name is looked at.
// Callers hold the lock.
func (b *books) may(r record, by hand, remove bool) error {
	for _, a := range b.accounts {
		if a.AccessKeyID != by.key || a.Cloud != r.Owner.Cloud {
			continue
		}
		allowed := a.Writes
		if remove {
			allowed = a.Removes
		}
		if allowed == nil || anyMatch(allowed, r.name()+" "+r.Type) {
			return nil
		}
		if a.Cloud == cloudTencent {
			return refuse(0, "UnauthorizedOperation", "you are not authorized to perform operation (dnspod:%s)", by.api)
		}
		return refuse(http.StatusForbidden, "Forbidden.RAM", "User not authorized to operate on the specified resource, or this API doesn't support RAM.")
	}
	return nil
}

// anyMatch compares with patterns in which * stands for anything but a slash.
func anyMatch(patterns []string, s string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, s); ok && err == nil {
			return true
		}
	}
	return false
}
