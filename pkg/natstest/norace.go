//go:build !race

package natstest

const atOnce = 3
