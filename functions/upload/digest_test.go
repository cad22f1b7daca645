package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
)

func TestContentDigest(t *testing.T) {
	sum256, sum512 := sha256.Sum256([]byte("hello")), sha512.Sum512([]byte("hello"))
	zero := "sha-256=:" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + ":"
	long := "sha-512=:" + base64.StdEncoding.EncodeToString(sum512[:]) + ":"
	good, one := "sha-256=:"+helloBase64+":", digests{sha256: sum256[:]}
	for name, c := range map[string]struct {
		lines []string
		want  digests
		bad   bool
	}{
		"none":                      {nil, digests{}, false},
		"SHA-256":                   {[]string{good}, one, false},
		"SHA-512":                   {[]string{long}, digests{sha512: sum512[:]}, false},
		"both":                      {[]string{good + " , " + long}, digests{sum256[:], sum512[:]}, false},
		"parameters":                {[]string{good + `;x=1; y;z="a,\"b;c"`}, one, false},
		"with other algorithms":     {[]string{"sha=:AAAA:,\t" + good, "unixsum=:AAAA:, *.x_-=::"}, one, false},
		"only other algorithms":     {[]string{"md5=:AAAA:"}, digests{}, false},
		"last value counts":         {[]string{zero, good}, one, false},
		"last value is too short":   {[]string{good, "sha-256=:AAAA:"}, digests{}, true},
		"string with a colon":       {[]string{good + `;x="=:AA:"`}, one, false},
		"inner list":                {[]string{"sha-256=(:" + helloBase64 + ":)"}, digests{}, true},
		"without padding":           {[]string{strings.TrimSuffix(good, "=:") + ":"}, one, false},
		"spaces around":             {[]string{" " + good + " "}, one, false},
		"hex":                       {[]string{"sha-256=" + helloHex}, digests{}, true},
		"SHA-256 too short":         {[]string{"sha-256=:AAAA:"}, digests{}, true},
		"SHA-512 too short":         {[]string{good + ", sha-512=:AAAA:"}, digests{}, true},
		"not base64":                {[]string{"sha-256=:???:"}, digests{}, true},
		"too much padding":          {[]string{"sha-256=:" + helloBase64 + "=:"}, digests{}, true},
		"other algorithm malformed": {[]string{good + ", md5=:A:"}, digests{}, true},
		"other algorithm not bytes": {[]string{good + ", md5=1"}, digests{}, true},
		"upper case":                {[]string{"SHA-256=:" + helloBase64 + ":"}, digests{}, true},
		"one colon":                 {[]string{"sha-256=:"}, digests{}, true},
		"no value":                  {[]string{"sha-256"}, digests{}, true},
		"empty":                     {[]string{""}, digests{}, true},
		"trailing comma":            {[]string{good + ","}, digests{}, true},
		"two without a comma":       {[]string{good + " " + good}, digests{}, true},
		"space before the value":    {[]string{"sha-256= :" + helloBase64 + ":"}, digests{}, true},
		"parameter without a name":  {[]string{good + ";"}, digests{}, true},
		"parameter without value":   {[]string{good + ";x="}, digests{}, true},
		"unterminated string":       {[]string{good + `;x="a`}, digests{}, true},
		"invalid escape":            {[]string{good + `;x="\a"`}, digests{}, true},
		"format of RFC 3230":        {[]string{"SHA-256=" + helloBase64}, digests{}, true},
	} {
		got, err := contentDigest(http.Header{"Content-Digest": c.lines})
		if !bytes.Equal(got.sha256, c.want.sha256) || !bytes.Equal(got.sha512, c.want.sha512) || (err != nil) != c.bad {
			t.Errorf("%s: got %x and %v, want %x and an error: %t", name, got, err, c.want, c.bad)
		}
	}
}

// FuzzContentDigest checks that an accepted header still has the same digests after it is rewritten in canonical form.
func FuzzContentDigest(f *testing.F) {
	f.Add("sha-256=:" + helloBase64 + ":")
	f.Add(" sha-512=:" + base64.StdEncoding.EncodeToString(make([]byte, 64)) + ":;a=?1;b=\"\\\"\" ,\tsha-256=:" + helloBase64 + ":")
	f.Add("md5=:AA:, *k=::")
	f.Add("sha-256=:" + helloBase64 + ":,")
	f.Fuzz(func(t *testing.T, header string) {
		got, err := contentDigest(http.Header{"Content-Digest": {header}})
		if err != nil {
			return
		}
		var again []string
		for algorithm, sum := range map[string][]byte{"sha-256": got.sha256, "sha-512": got.sha512} {
			if sum != nil {
				again = append(again, algorithm+"=:"+base64.StdEncoding.EncodeToString(sum)+":")
			}
		}
		if again == nil {
			return // only algorithms that are ignored
		}
		same, err := contentDigest(http.Header{"Content-Digest": again})
		if err != nil || !bytes.Equal(same.sha256, got.sha256) || !bytes.Equal(same.sha512, got.sha512) {
			t.Errorf("%q: got %x, but the canonical form %q has %x (error %v)", header, got, again, same, err)
		}
	})
}
