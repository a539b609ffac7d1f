// Package bucket places FILE challenges in an object store, <host>/<path>, from
// which the web servers or the CDN of the names serve /.well-known/.
//
// Stores are named by URL (gocloud.dev/blob): s3:// speaks to Amazon S3 and to
// what speaks its protocol, as the object stores of most clouds do. For a folder
// there is package file, which creates exclusively where the driver for file://
// looks first and writes then.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/s3blob" // s3://
	"gocloud.dev/gcerrors"

	"github.com/certmill/certmill/pkg/dcv"
	"github.com/certmill/certmill/pkg/dcv/file"
	"github.com/certmill/certmill/pkg/order"
)

// Solver writes the objects. Several workers may share a bucket. It is safe for
// concurrent use.
type Solver struct{ bucket *blob.Bucket }

var (
	_ dcv.Solver = (*Solver)(nil)
	_ dcv.Haser  = (*Solver)(nil)
)

// maxContent bounds what is compared, in bytes.
const maxContent = 64 << 10

// Open opens a bucket by its URL, such as
// s3://name?region=eu-1&endpoint=https://s3.eu-1.example.com. The credentials are
// those that the S3 tools take: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a
// profile. Nothing is sent.
func Open(ctx context.Context, address string) (*Solver, error) {
	u, err := parse(address)
	if err != nil {
		return nil, err
	}
	b, err := blob.OpenBucket(ctx, compatible(u).String())
	if err != nil {
		return nil, fmt.Errorf("bucket %s://%s: %w", u.Scheme, u.Host, err)
	}
	return New(b), nil
}

// Check refuses what is no address of a bucket. Nothing is opened.
func Check(address string) error {
	_, err := parse(address)
	return err
}

// parse never repeats the address: it could hold a secret.
func parse(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Scheme == "" || u.Host == "" && u.Scheme != "mem":
		return nil, errors.New("bucket: write a URL such as s3://name?region=cn-hangzhou")
	case u.User != nil:
		return nil, errors.New("bucket: leave user and password out of the URL; credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)")
	case !blob.DefaultURLMux().ValidBucketScheme(u.Scheme):
		return nil, fmt.Errorf("bucket: nothing here opens %s://…; write s3://name?region=…, "+
			"for other clouds' stores with endpoint=…", u.Scheme)
	}
	return u, nil
}

// New places challenges in a bucket that is open.
func New(b *blob.Bucket) *Solver { return &Solver{b} }

// compatible leaves out the checksums in trailers that Amazon's SDK sends to
// everybody by default and that other stores refuse ("aws-chunked encoding is
// not supported"), unless the URL says otherwise.
func compatible(u *url.URL) *url.URL {
	q := u.Query()
	if u.Scheme != "s3" || q.Get("endpoint") == "" {
		return u
	}
	for _, name := range []string{"request_checksum_calculation", "response_checksum_validation"} {
		if !q.Has(name) {
			q.Set(name, "when_required")
		}
	}
	out := *u
	out.RawQuery = q.Encode()
	return &out
}

// Close gives the connections back.
func (s *Solver) Close() error { return s.bucket.Close() }

// Present creates the object. One with another content is Conflict.
//
// Not every store heeds the condition "only if there is none" (If-None-Match).
// So what is there is read before, and once more after: of two orders that write
// at the same moment, one reads the other's content then, or sees it at the
// next look from outside, and is refused.
func (s *Solver) Present(ctx context.Context, c order.Challenge) error {
	name, err := file.Locate(c)
	if err != nil {
		return err
	}
	there, err := s.read(ctx, name)
	if err == nil && there == "" {
		err = s.bucket.WriteAll(ctx, name, []byte(c.Value), &blob.WriterOptions{
			IfNotExist: true, ContentType: "text/plain; charset=utf-8", CacheControl: "no-store"})
		if err == nil || gcerrors.Code(err) == gcerrors.FailedPrecondition {
			there, err = s.read(ctx, name)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("place object: %w", kind(err))
	case there == "":
		return errors.New("place object: it was removed meanwhile")
	case there != c.Value:
		return fmt.Errorf("%w: %s holds something else; remove it if no order needs it any more", dcv.Conflict, name)
	}
	return nil
}

// CleanUp removes the object if it has the challenge's content. A store cannot
// compare and remove in one step; between the two, only another worker that
// cleans up the same challenge may have removed it, and only an order that came
// after have placed its own. That one is placed again when it is missed.
func (s *Solver) CleanUp(ctx context.Context, c order.Challenge) error {
	name, err := file.Locate(c)
	if err != nil {
		return err
	}
	there, err := s.read(ctx, name)
	if err == nil && there == c.Value {
		err = s.bucket.Delete(ctx, name)
	}
	if err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return fmt.Errorf("remove object: %w", kind(err))
	}
	return nil
}

// Has implements dcv.Haser: whether the object is there with exactly the
// challenge's content.
func (s *Solver) Has(ctx context.Context, c order.Challenge) (bool, error) {
	name, err := file.Locate(c)
	if err != nil {
		return false, err
	}
	there, err := s.read(ctx, name)
	if err != nil {
		return false, fmt.Errorf("look at object: %w", kind(err))
	}
	return there == c.Value, nil
}

// read returns an object's content, "" if there is none: a challenge is never
// empty.
func (s *Solver) read(ctx context.Context, name string) (string, error) {
	r, err := s.bucket.NewReader(ctx, name, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer r.Close()
	var b strings.Builder
	if _, err := io.Copy(&b, io.LimitReader(r, maxContent+1)); err != nil {
		return "", err
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("%w: an empty object stands there; remove it if nobody needs it", dcv.Conflict)
	}
	return b.String(), nil
}

// kind tells what only a person can mend.
func kind(err error) error {
	if gcerrors.Code(err) == gcerrors.PermissionDenied {
		return fmt.Errorf("%w: %w", dcv.Denied, err)
	}
	return err
}
