package issue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"
	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/alidns"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/cas"

	"github.com/certmill/certmill/pkg/cloudsim"
	"github.com/certmill/certmill/pkg/order"
	"github.com/certmill/certmill/pkg/stream"
)

// customer is one worker of a program that a user would write with Alibaba's
// SDK and its documents. It buys, proves control and writes the certificate to
// a folder. What the cloud throttles it tries again after a second. The SDK's
// clients are not safe for concurrent use, so each worker has its own.
type customer struct {
	cas    *cas.Client
	dns    *alidns.Client
	host   string // of both products
	pace   pace
	folder string
}

// pace waits until an action may be called; nil does not wait.
type pace func(ctx context.Context, action string) error

func newCustomer(sim *cloudsim.Sim, folder string, p pace) (*customer, error) {
	a := sim.Accounts()[0]
	c := &customer{host: strings.TrimPrefix(sim.AliyunURL(), "http://"), pace: p, folder: folder}
	key := credentials.NewAccessKeyCredential(a.AccessKeyID, a.AccessKeySecret)
	making.Lock()
	defer making.Unlock()
	var err, failed error
	c.cas, err = cas.NewClientWithOptions("cn-hangzhou", sdk.NewConfig(), key)
	c.dns, failed = alidns.NewClientWithOptions("cn-hangzhou", sdk.NewConfig(), key)
	if err := errors.Join(err, failed); err != nil {
		return nil, err
	}
	c.cas.SetNoProxy("127.0.0.1")
	c.dns.SetNoProxy("127.0.0.1")
	return c, nil
}

// making is held while the SDK makes clients: it fills a map of its package's
// then, without a lock of its own.
var making sync.Mutex

// call makes one call, again while it is throttled.
func (c *customer) call(ctx context.Context, r requests.AcsRequest, send func() error) error {
	r.SetScheme("HTTP")
	r.SetDomain(c.host)
	for {
		if c.pace != nil {
			if err := c.pace(ctx, r.GetActionName()); err != nil {
				return err
			}
		}
		err := send()
		var coded interface{ ErrorCode() string }
		if !errors.As(err, &coded) || !strings.HasPrefix(coded.ErrorCode(), "Throttling") {
			return err
		}
		if err := stream.Sleep(ctx, throttledPause); err != nil {
			return err
		}
	}
}

// throttledPause is how long a customer rests when it was too quick.
const throttledPause = time.Second

// buy orders and returns the OrderId.
func (c *customer) buy(ctx context.Context, q order.Request) (string, error) {
	r := cas.CreateCreateCertificateForPackageRequestRequest()
	r.ProductCode, r.ValidateType, r.Domain = product, "DNS", q.Names[0]
	r.Username, r.Email, r.Phone = "Ops", "pki@example.com", "13800000000"
	var id int64
	err := c.call(ctx, r, func() error {
		out, err := c.cas.CreateCertificateForPackageRequest(r)
		if err == nil {
			id = out.OrderId
		}
		return err
	})
	return strconv.FormatInt(id, 10), err
}

// describe asks how an order stands. The answer has the challenge and, at the
// end, certificate and key.
func (c *customer) describe(ctx context.Context, id string) (*cas.DescribeCertificateStateResponse, error) {
	r := cas.CreateDescribeCertificateStateRequest()
	r.OrderId = requests.Integer(id)
	var out *cas.DescribeCertificateStateResponse
	err := c.call(ctx, r, func() (err error) {
		out, err = c.cas.DescribeCertificateState(r)
		return err
	})
	if err == nil && (out.Type == "verify_fail" || out.Type == "unknow") {
		err = fmt.Errorf("order %s ended as %s", id, out.Type)
	}
	return out, err
}

// until asks every so often until the order is in a state.
func (c *customer) until(ctx context.Context, id, state string, poll time.Duration) (*cas.DescribeCertificateStateResponse, error) {
	for {
		st, err := c.describe(ctx, id)
		if err != nil || st.Type == state {
			return st, err
		}
		if err := stream.Sleep(ctx, poll); err != nil {
			return nil, err
		}
	}
}

// prove adds the record and returns its id.
func (c *customer) prove(ctx context.Context, st *cas.DescribeCertificateStateResponse) (string, error) {
	labels := strings.Split(st.RecordDomain, ".")
	cut := len(labels) - 2 // the customer knows its zones
	r := alidns.CreateAddDomainRecordRequest()
	r.DomainName, r.RR = strings.Join(labels[cut:], "."), strings.Join(labels[:cut], ".")
	r.Type, r.Value = st.RecordType, st.RecordValue
	var id string
	err := c.call(ctx, r, func() error {
		out, err := c.dns.AddDomainRecord(r)
		if err == nil {
			id = out.RecordId
		}
		return err
	})
	return id, err
}

func (c *customer) drop(ctx context.Context, record string) error {
	r := alidns.CreateDeleteDomainRecordRequest()
	r.RecordId = record
	return c.call(ctx, r, func() error {
		_, err := c.dns.DeleteDomainRecord(r)
		return err
	})
}

// write puts the certificate where certmill's would be.
func (c *customer) write(q order.Request, st *cas.DescribeCertificateStateResponse) error {
	folder := filepath.Join(c.folder, q.ID)
	return errors.Join(os.MkdirAll(folder, 0o755),
		os.WriteFile(filepath.Join(folder, keyFile), []byte(st.PrivateKey), 0o600),
		os.WriteFile(filepath.Join(folder, chainFile), []byte(st.Certificate), 0o644))
}

// issue does it all for one order, as the documents say.
func (c *customer) issue(ctx context.Context, q order.Request, poll time.Duration) error {
	id, err := c.buy(ctx, q)
	if err != nil {
		return err
	}
	st, err := c.until(ctx, id, "domain_verify", poll)
	if err != nil {
		return err
	}
	record, err := c.prove(ctx, st)
	if err != nil {
		return err
	}
	if st, err = c.until(ctx, id, "certificate", poll); err != nil {
		return err
	}
	if err := c.write(q, st); err != nil {
		return err
	}
	return c.drop(ctx, record)
}
