// Package gap names the places between two side effects, where a crash or a
// freeze leaves the first one done and the second one not. Production code
// passes them by; tests stop a worker there and look at who repairs it.
package gap

import "context"

type key struct{}

// At is called at a gap. The name is stage and effect, such as "submit: number
// stored".
func At(ctx context.Context, name string) {
	if f, ok := ctx.Value(key{}).(func(context.Context, string)); ok {
		f(ctx, name)
	}
}

// With returns a context under which f is called at every gap. f may block (a
// frozen worker) or call runtime.Goexit (one that died).
func With(ctx context.Context, f func(ctx context.Context, name string)) context.Context {
	return context.WithValue(ctx, key{}, f)
}
