package aliyun_test

import (
	"testing"
	"time"
)

// The CA of a product is its brand's.
func TestBrands(t *testing.T) {
	c := client(t, "http://127.0.0.1:1", permits(time.Second))
	for product, want := range map[string]string{
		"digicert-free-1-free": "digicert.com", "symantec-ov-w-personal": "digicert.com", "geotrust-dv-1-starter": "digicert.com",
		"globalsign-dv-w-advanced": "globalsign.com", "cfca-ev-w-advanced": "cfca.com.cn",
		"": "", "other-dv": "",
	} {
		ca := c.Product(product).CA
		if (ca.Name != "") != (want != "") || want != "" && ca.Identities[0] != want {
			t.Errorf("%q: %+v", product, ca)
		}
	}
}
