// Command bugs puts one bug at a time into the rules that keep money safe, and
// runs the one test that must notice. A rule that can be taken out without a
// test failing is not tested.
//
// Nothing in the tree is changed: the go command is told to read the mutated
// file in place of the real one. Run it from the module's root:
//
//	go run ./pkg/lab/bugs [-run words-of-the-bug] [-part 1/4] [-build]
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	only := flag.String("run", "", "only bugs whose text contains this")
	part := flag.String("part", "1/1", "only this part of them, such as 2/4: every fourth, from the second")
	build := flag.Bool("build", false, "only see whether each can be built: a minute or two for all")
	flag.Parse()
	dir, err := os.MkdirTemp("", "bugs")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	tried := partOf(chosen(*only), *part)
	does, word := bug.caught, "caught"
	if *build {
		does, word = bug.builds, "builds"
	} else if err := sound(tried); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	missed := run(dir, tried, word, does)
	_ = os.RemoveAll(dir)
	if missed > 0 {
		fmt.Fprintf(os.Stderr, "%d of the bugs were not caught\n", missed)
		os.Exit(1)
	}
}

// chosen are the bugs whose text contains some words.
func chosen(words string) []bug {
	return slices.DeleteFunc(slices.Clone(bugs), func(b bug) bool { return !strings.Contains(b.what, words) })
}

// partOf are the bugs whose turn it is.
func partOf(all []bug, part string) (turn []bug) {
	var k, n int
	if _, err := fmt.Sscanf(part, "%d/%d", &k, &n); err != nil || k < 1 || k > n {
		fmt.Fprintf(os.Stderr, "-part is %q: write for example 2/4\n", part)
		os.Exit(2)
	}
	for i := k - 1; i < len(all); i += n {
		turn = append(turn, all[i])
	}
	return turn
}

// patience is what tests have that wait for servers: with a bug, what they wait for
// mostly never comes.
const patience = 20 * time.Second

// impatient are those tests' packages: natstest reads the flag.
var impatient = []string{stage, ledger, pipeline, permit, app}

// flags are a test binary's, in a package.
func flags(pkg string) []string {
	if slices.Contains(impatient, pkg) {
		return []string{"-patience=" + patience.String()}
	}
	return nil
}

// sound checks that the tests pass without a bug, and with as little patience: one
// that fails anyway would catch everything.
func sound(tried []bug) error {
	tests := map[string][]string{}
	for _, b := range tried {
		tests[b.pkg] = append(tests[b.pkg], b.test)
	}
	for pkg, names := range tests {
		args := append([]string{"test", "-count=1", "-run", "^(" + strings.Join(names, "|") + ")$", "./" + pkg}, flags(pkg)...)
		out, err := exec.Command("go", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("without any bug: %w\n%s", err, out)
		}
	}
	return nil
}

// run tries the bugs, as many at a time as there are processors, and prints
// what became of each as soon as it is known: all of them take most of an hour.
func run(dir string, tried []bug, word string, does func(b bug, dir string) error) (missed int) {
	var wg sync.WaitGroup
	var mu sync.Mutex // guards missed, and a line of the output
	hands := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, b := range tried {
		wg.Go(func() {
			hands <- struct{}{}
			defer func() { <-hands }()
			began, verdict := time.Now(), word
			at := filepath.Join(dir, fmt.Sprint(i))
			failed := does(b, at)
			_ = os.RemoveAll(at) // a test's program has 40 MB
			mu.Lock()
			defer mu.Unlock()
			if failed != nil {
				missed++
				verdict = "NOT " + strings.ToUpper(word) + ": " + failed.Error()
			}
			fmt.Printf("%5.1fs %s: %s %s: %s\n", time.Since(began).Seconds(), verdict, b.pkg, b.test, b.what)
		})
	}
	wg.Wait()
	return missed
}

// caught builds the test with the bug in it and runs it. It returns nil if the
// test fails, which it must.
func (b bug) caught(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	overlay, err := b.overlay(dir)
	if err != nil {
		return err
	}
	program := filepath.Join(dir, "test")
	if out, err := exec.Command("go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-overlay", overlay, "-o", program, "./"+b.pkg).CombinedOutput(); err != nil {
		return fmt.Errorf("does not build: %s", firstLines(out))
	}
	test := exec.Command(program, append(flags(b.pkg), "-test.run", "^"+b.test+"$", "-test.timeout", "2m", "-test.failfast")...)
	test.Dir = b.pkg
	out, err := test.CombinedOutput()
	failed, is := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil && bytes.Contains(out, []byte("no tests to run")):
		return errors.New("there is no such test")
	case err == nil:
		return errors.New("the test passes")
	case !is || failed.ExitCode() < 0 || !bytes.Contains(out, []byte("--- FAIL: "+b.test)):
		return fmt.Errorf("the test did not run to its end: %w: %s", err, firstLines(out))
	}
	return nil
}

// builds builds the package with the bug in it.
func (b bug) builds(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	overlay, err := b.overlay(dir)
	if err != nil {
		return err
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "./"+filepath.Dir(b.file)).CombinedOutput(); err != nil {
		return fmt.Errorf("does not build: %s", firstLines(out))
	}
	return nil
}

// overlay writes the mutated file, and the go command's instruction to use it.
// The text that is replaced must be there exactly once: a bug whose place has
// changed is to be put in anew, not passed over.
func (b bug) overlay(dir string) (string, error) {
	source, err := os.ReadFile(b.file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(source), b.old); n != 1 {
		return "", fmt.Errorf("%s has its text %d times, not once:\n%s", b.file, n, b.old)
	}
	mutated := filepath.Join(dir, filepath.Base(b.file))
	if err := os.WriteFile(mutated, []byte(strings.Replace(string(source), b.old, b.new, 1)), 0o600); err != nil {
		return "", err
	}
	real, err := filepath.Abs(b.file)
	if err != nil {
		return "", err
	}
	instruction, err := json.Marshal(map[string]any{"Replace": map[string]string{real: mutated}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, instruction, 0o600)
}

func firstLines(out []byte) string {
	lines := strings.SplitN(string(out), "\n", 9)
	return strings.Join(lines[:min(len(lines), 8)], "\n")
}
