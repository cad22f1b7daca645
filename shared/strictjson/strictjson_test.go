package strictjson

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// person has required and optional members of each type that callers use, and of one other type.
type person struct {
	Name  string   `json:"name"`
	Age   *int64   `json:"age,omitempty"`
	Admin bool     `json:"admin,omitempty"`
	Roles []string `json:"roles,omitempty"`
	Tags  struct{} `json:"tags,omitempty"`
}

func TestDecode(t *testing.T) {
	for data, want := range map[string]string{
		` {"name":"ada","age":36,"admin":true,"roles":["user"]} `: "",
		`{"name":"ada"}`:                       "",
		`{"name":"ada","name":"s3cret"}`:       errTwice.Error(),
		`{"name":"ada","n\u0061me":"s3cret"}`:  errTwice.Error(),
		``:                                     errMalformed.Error(),
		`null`:                                 errMalformed.Error(),
		`[]`:                                   errMalformed.Error(),
		`{"name":1`:                            errMalformed.Error(),
		`{"name"}`:                             errMalformed.Error(),
		`{"name":}`:                            errMalformed.Error(),
		`{"name":1,}`:                          errMalformed.Error(),
		`{name:1}`:                             errMalformed.Error(),
		`{}{}`:                                 errMalformed.Error(),
		`{} x`:                                 errMalformed.Error(),
		"{\"name\":\"\xff\"}":                  errMalformed.Error(),
		`{}`:                                   "missing members: name",
		`{"name":null}`:                        "name must not be null",
		`{"name":"ada","age":null}`:            "age must not be null",
		`{"name":["s3cret"]}`:                  "name must be a string",
		`{"name":"ada","age":"s3cret"}`:        "age must be an integer",
		`{"name":"ada","age":1.5}`:             "age must be an integer",
		`{"name":"ada","age":9999999999999e9}`: "age must be an integer",
		`{"name":"ada","admin":"s3cret"}`:      "admin must be true or false",
		`{"name":"ada","roles":"s3cret"}`:      "roles must be an array",
		`{"name":"ada","tags":"s3cret"}`:       "tags must be of another type",
		`{"name":"ada","s3cret":1}`:            "the only allowed members are name, age, admin, roles, tags",
		`{"Name":"s3cret"}`:                    "the only allowed members are name, age, admin, roles, tags",
	} {
		var got person
		if err := Decode([]byte(data), &got); message(err) != want {
			t.Errorf("%s: got error %q, want %q", data, message(err), want)
		}
	}
}

func TestDecodeKnown(t *testing.T) {
	for data, want := range map[string]string{
		`{"name":"ada","other":1,"Other":null}`: "",
		`{"name":"ada","AGE":36}`:               "the member name AGE must be spelled age",
		`{"other":1}`:                           "missing members: name",
		`{"name":"ada","other":1,"other":1}`:    errTwice.Error(),
	} {
		var got person
		if err := DecodeKnown([]byte(data), &got); message(err) != want {
			t.Errorf("%s: got error %q, want %q", data, message(err), want)
		}
	}
}

// message returns the text of err, or an empty string if err is nil.
func message(err error) string {
	return strings.TrimPrefix(fmt.Sprint(err), "<nil>")
}

func ExampleDecode() {
	var user struct {
		Name     string `json:"name"`
		Disabled bool   `json:"disabled,omitempty"`
	}
	fmt.Println(Decode([]byte(`{"name":"ada"}`), &user), user.Name)
	fmt.Println(Decode([]byte(`{"name":"ada","disabled":1}`), &user))
	// Output:
	// <nil> ada
	// disabled must be true or false
}

// FuzzDecode checks that encoding/json accepts every object that DecodeKnown accepts, and reads the same name from it.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"name":"a"}`, `{"name":"a","A":[2]}`, `{"name":"a","name":""}`, `{"name"`, `{"name":""} {}`, "{\"\xff\":0}", `{"name":"","NAME":"a"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got, plain struct {
			Name string `json:"name"`
		}
		if err := DecodeKnown(data, &got); err != nil {
			return
		}
		if err := json.Unmarshal(data, &plain); err != nil || plain != got {
			t.Errorf("%q: got %+v, encoding/json %+v (%v)", data, got, plain, err)
		}
	})
}
