package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestProofsNameFindings proves that the comment of each proof in the repository names its finding.
func TestProofsNameFindings(t *testing.T) {
	if _, err := find("../.."); err != nil {
		t.Error(err)
	}
}

// TestParse proves that parse returns the proofs of a file, and fails if the comment of a proof is missing or
// malformed.
func TestParse(t *testing.T) {
	const name = "a/b/audit_test.go"
	proofs, err := parse(name, []byte(constraint+`
package b

// TestAuditX checks data A1: a file
// has its bytes.
func TestAuditX(t *testing.T) {}

func helper() {}
`))
	if err != nil || len(proofs) != 1 || *proofs[0] != (proof{"a/b", "TestAuditX", "data A1", "a file has its bytes.", ""}) {
		t.Errorf("got %+v and error %v, want the proof of data A1", proofs, err)
	}
	for _, comment := range []string{"", "// TestAuditX checks nothing.", "// TestAuditY checks data A1: a file has its bytes."} {
		if _, err := parse(name, []byte(constraint+"\npackage b\n\n"+comment+"\nfunc TestAuditX(t *testing.T) {}\n")); err == nil {
			t.Errorf("parse a proof with the comment %q: got no error, want an error", comment)
		}
	}
}

// TestCollect proves that collect stores the results in the output of `go test -json`, and returns an error if a proof
// has no result.
func TestCollect(t *testing.T) {
	const one, two = `{"Action":"pass","Package":"m/a","Test":"TestOne"}`, `{"Action":"fail","Package":"m/b","Test":"TestTwo"}`
	for name, c := range map[string]struct {
		events []string
		err    string // a part of the error, or empty for no error
		want   string // a part of the output
	}{
		"all proofs ran": {[]string{one, `{"Action":"fail","Package":"m/b","Test":"TestTwo/sub"}`, two, `{"Action":"skip","Package":"m/b","Test":"TestThree"}`,
			`{"Action":"fail","Package":"m/b"}`}, "", "TestTwo  b  data A1  a rule\n3 proofs: 1 failed, 1 passed, 1 skipped\n"},
		"package does not compile": {[]string{one, `{"ImportPath":"m/b","Action":"build-output","Output":"undefined: x\n"}`, `{"ImportPath":"m/b","Action":"build-fail"}`,
			`{"Action":"fail","Package":"m/b","FailedBuild":"m/b"}`}, "TestTwo in b did not run to completion", "undefined: x"},
		"crash in the last proof": {[]string{one, `{"Action":"skip","Package":"m/b","Test":"TestThree"}`,
			`{"Action":"output","Package":"m/b","Test":"TestTwo","Output":"panic: boom\n"}`, two}, "the tests of m/b crashed", "panic: boom"},
		"test with the same name in another package": {[]string{one, `{"Action":"pass","Package":"m/a","Test":"TestTwo"}`}, "TestTwo in b did not run to completion", ""},
		"output is not JSON":                         {[]string{"FAIL"}, `decode the output of "go test"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			proofs := []*proof{{dir: "a", name: "TestOne"}, {dir: "b", name: "TestTwo", finding: "data A1", rule: "a rule"}, {dir: "b", name: "TestThree"}}
			var out bytes.Buffer
			err := collect(strings.NewReader(strings.Join(c.events, "\n")), proofs, &out)
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got error %v, want %q", err, c.err)
			}
			report(&out, proofs)
			if !strings.Contains(out.String(), c.want) {
				t.Errorf("got the output %q, want output with %q", &out, c.want)
			}
		})
	}
}
