package token

import (
	"strings"
	"testing"
)

// TestRFCExamples checks the examples of the RFCs. Their signatures are valid, but Open rejects each example for the given
// reason.
func TestRFCExamples(t *testing.T) {
	const (
		payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
		es256   = `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`
		ed25519 = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`
		rs256   = `{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}`
	)
	for name, c := range map[string]struct{ key, jws, refusal string }{
		"RFC 7515 A.2": {key: rs256, jws: "eyJhbGciOiJSUzI1NiJ9." + payload + ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw", refusal: "missing members: kid"},
		"RFC 7515 A.3": {key: es256, jws: "eyJhbGciOiJFUzI1NiJ9." + payload + ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q", refusal: "missing members: kid"},
		"RFC 8037 A.4": {key: ed25519, jws: "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg", refusal: "missing members: kid"},
	} {
		t.Run(name, func(t *testing.T) {
			_, key, err := parseJWK([]byte(c.key))
			if err != nil {
				t.Fatal(err)
			}
			signed, encoded := cutLast(c.jws)
			signature, err := decode(encoded, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := key.method.Verify(signed, signature, key.public); err != nil {
				t.Errorf("verify the signature: %v", err)
			}
			keys, err := ParseKeys([]byte(`{"keys":[` + c.key + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := keys.Open(c.jws); err == nil || !strings.Contains(err.Error(), c.refusal) {
				t.Errorf("got error %v, want one that contains %q", err, c.refusal)
			}
		})
	}
	keys, err := ParseKeys([]byte(`{"keys":[` + es256 + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	// Open rejects the examples of RFC 7797, section 4. Two of them have an unencoded payload, one detached and
	// one attached.
	for name, jws := range map[string]string{
		"RFC 7797 4.2, detached": "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19..A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY",
		"RFC 7797 4.2, attached": "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19.$.02.A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY",
		"RFC 7797 4.1, encoded":  "eyJhbGciOiJIUzI1NiJ9.JC4wMg.5mvfOroL-g7HyqJoozehmsaqmvTYGEq5jTI1gVvoEoQ",
	} {
		if _, _, err := keys.Open(jws); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// RFC 8037, appendix A.3, has the thumbprint of an Ed25519 key.
	key, _, err := parsePublic([]byte(ed25519))
	if want := "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; err != nil || key.ID != want {
		t.Errorf("got thumbprint %s, error %v; want thumbprint %s", key.ID, err, want)
	}
}
