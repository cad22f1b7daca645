package jsonobject

import (
	"encoding/json"
	"errors"
	"testing"
)

func TestMembers(t *testing.T) {
	for data, want := range map[string]error{
		`{}`:                        nil,
		` {"a":1,"A":[2,{"b":3}]} `: nil,
		`{"a":1,"a":2}`:             ErrTwice,
		`{"a":1,"\u0061":2}`:        ErrTwice,
		``:                          ErrMalformed,
		`null`:                      ErrMalformed,
		`[]`:                        ErrMalformed,
		`{"a":1`:                    ErrMalformed,
		`{"a"}`:                     ErrMalformed,
		`{"a":}`:                    ErrMalformed,
		`{"a":1,}`:                  ErrMalformed,
		`{a:1}`:                     ErrMalformed,
		`{}{}`:                      ErrMalformed,
		`{} x`:                      ErrMalformed,
		"{\"a\":\"\xff\"}":          ErrMalformed,
	} {
		members, err := Members([]byte(data))
		if !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", data, err, want)
		}
		if (members != nil) != (want == nil) {
			t.Errorf("%q: got members %v with error %v", data, members, err)
		}
	}
}

// FuzzMembers checks that encoding/json accepts every object that Members accepts, with the same number of members.
func FuzzMembers(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1,"A":[2]}`, `{"a":1,"a":2}`, `{"a"`, `{} {}`, "{\"\xff\":0}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		members, err := Members(data)
		if err != nil {
			return
		}
		var plain map[string]json.RawMessage
		if err := json.Unmarshal(data, &plain); err != nil || len(plain) != len(members) {
			t.Errorf("%q: got %d members, encoding/json %d (%v)", data, len(members), len(plain), err)
		}
	})
}
