package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// sentences are those of section 12 of the design, by the short names under which
// tests cite them: whoever writes another one there adds it here, with a test and
// a bug. A citation is "DESIGN 12.4: a resource stays with its names, …" in a
// comment: the number of the rule, and the short name first.
var sentences = map[string][]string{
	"12.1": {
		"an order is what it buys",
		"without an id one is derived",
		"an explicit id of the derived form",
		"an id never runs twice",
		"what is known is said, with what helps",
		"an order has ended when its end is decided",
		"another purchase is a successor",
		"again: <id> makes one successor",
		"again: true is resolved before anything is published",
	},
	"12.2": {
		"both ways of ordering open the names' entry",
		"names are taken until the order is issued",
		"in service is written before the order is issued",
		"an order that ends without a certificate frees its names",
		"a claim carries its end",
		"another account's open attempt is waited for",
		"names that are in service",
		"what was paid and failed",
		"what is due is the renewal's business",
		"a successor passes the hold for its own predecessor",
		"duplicates: allow",
		"an approval carries the fact it answers",
	},
	"12.3": {
		"one condition over all main accounts",
		"the greatest sequence that was read",
		"the filter's text belongs to the format",
	},
	"12.4": {
		"a resource stays with its names",
		"their renewal takes it over",
		"a follow-up certificate is never in the pool but its origin's",
		"a claim is given back",
		"a cancelled order waits",
		"who starts a resource compares, before the irreversible call",
		"who starts a resource compares, when it is seen started",
	},
	"12.5": {
		"one cloud order has one claimant",
		"the owner is written before the entry says so",
		"an owner without proof is replaced",
		"answers and adoptions go through the owner",
		"a foreign row stops the purchase",
		"a row without an id is none",
	},
	"12.6": {
		"the first sweep reads every list",
		"rows of names with an open attempt are reported",
		"nothing is bought before the mark",
		"nothing is started before the mark",
		"an account that cannot be swept",
	},
	"12.7": {
		"an account is who the cloud says it is",
		"it is asked once a session, without a permit",
		"a difference stops that account only",
		"an entry keeps its caller",
		"the endpoint is part of identity where the cloud cannot say",
		"no conclusion from a list that another main account read",
		"a new caller's list",
		"after a lost ledger",
	},
	"12.8": {
		"an installation is its key store",
		"new streams over a store take its id",
		"another or an empty store is refused",
		"entries lie under id and hash",
		"a pair that does not fit",
		"an attempt's number is never ignored",
		"a number of another account",
		"a submitter whose recipients differ does not start",
		"sealed anew are the recipients first",
		"of two seals of one key",
		"simulated clouds and real accounts never share a state folder",
		"who buys notices an older copy",
	},
	"12.9": {
		"a build that knows another format refuses",
		"builds of one format work side by side",
	},
}

// TestSentencesAreCited: every sentence is cited by a test that a seeded bug turns
// red, and what is cited is a sentence.
func TestSentencesAreCited(t *testing.T) {
	citing, unknown := citations(t)
	for _, u := range unknown {
		t.Errorf("%s: section 12 has no such sentence; write one of the short names in sentences_test.go behind the rule's number", u)
	}
	caught := map[string]bool{}
	for _, b := range bugs {
		caught[b.pkg+" "+b.test] = true
	}
	for rule, names := range sentences {
		for _, s := range names {
			switch tests := citing[rule+": "+s]; {
			case len(tests) == 0:
				t.Errorf("no test's comment cites DESIGN %s: %s", rule, s)
			case !slices.ContainsFunc(tests, func(test string) bool { return caught[test] }):
				t.Errorf("DESIGN %s: %s is cited by %q, and none of the bugs is for one of them", rule, s, tests)
			}
		}
	}
}

var citation = regexp.MustCompile(`DESIGN (12\.\d+): `)

// citations are the tests that cite each sentence, and the places that cite what
// is none.
func citations(t *testing.T) (citing map[string][]string, unknown []string) {
	citing = map[string][]string{}
	const root = "../../.."
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") || filepath.Base(path) == "sentences_test.go" {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		pkg, _ := filepath.Rel(root, filepath.Dir(path))
		tests := map[*ast.CommentGroup]string{}
		for _, d := range file.Decls {
			if f, is := d.(*ast.FuncDecl); is && f.Doc != nil && strings.HasPrefix(f.Name.Name, "Test") {
				tests[f.Doc] = pkg + " " + f.Name.Name
			}
		}
		for _, c := range file.Comments {
			text := strings.Join(strings.Fields(c.Text()), " ")
			for _, at := range citation.FindAllStringSubmatchIndex(text, -1) {
				rule, says := text[at[2]:at[3]], text[at[1]:]
				i := slices.IndexFunc(sentences[rule], func(s string) bool { return strings.HasPrefix(says, s) })
				if i < 0 {
					unknown = append(unknown, path+": DESIGN "+rule+": "+says[:min(len(says), 60)])
				} else if test, is := tests[c]; is {
					s := rule + ": " + sentences[rule][i]
					citing[s] = append(citing[s], test)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return citing, unknown
}
