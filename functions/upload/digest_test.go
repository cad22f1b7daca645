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
		"none":                      {want: digests{}},
		"SHA-256":                   {lines: []string{good}, want: one},
		"SHA-512":                   {lines: []string{long}, want: digests{sha512: sum512[:]}},
		"both":                      {lines: []string{good + " , " + long}, want: digests{sum256[:], sum512[:]}},
		"parameters":                {lines: []string{good + `;x=1; y;z="a,\"b;c"`}, want: one},
		"with other algorithms":     {lines: []string{"sha=:AAAA:,\t" + good, "unixsum=:AAAA:, *.x_-=::"}, want: one},
		"only other algorithms":     {lines: []string{"md5=:AAAA:"}, want: digests{}},
		"last value counts":         {lines: []string{zero, good}, want: one},
		"last value is too short":   {lines: []string{good, "sha-256=:AAAA:"}, want: digests{}, bad: true},
		"string with a colon":       {lines: []string{good + `;x="=:AA:"`}, want: one},
		"inner list":                {lines: []string{"sha-256=(:" + helloBase64 + ":)"}, want: digests{}, bad: true},
		"without padding":           {lines: []string{strings.TrimSuffix(good, "=:") + ":"}, want: one},
		"spaces around":             {lines: []string{" " + good + " "}, want: one},
		"hex":                       {lines: []string{"sha-256=" + helloHex}, want: digests{}, bad: true},
		"SHA-256 too short":         {lines: []string{"sha-256=:AAAA:"}, want: digests{}, bad: true},
		"SHA-512 too short":         {lines: []string{good + ", sha-512=:AAAA:"}, want: digests{}, bad: true},
		"not base64":                {lines: []string{"sha-256=:???:"}, want: digests{}, bad: true},
		"too much padding":          {lines: []string{"sha-256=:" + helloBase64 + "=:"}, want: digests{}, bad: true},
		"other algorithm malformed": {lines: []string{good + ", md5=:A:"}, want: digests{}, bad: true},
		"other algorithm not bytes": {lines: []string{good + ", md5=1"}, want: digests{}, bad: true},
		"upper case":                {lines: []string{"SHA-256=:" + helloBase64 + ":"}, want: digests{}, bad: true},
		"one colon":                 {lines: []string{"sha-256=:"}, want: digests{}, bad: true},
		"no value":                  {lines: []string{"sha-256"}, want: digests{}, bad: true},
		"empty":                     {lines: []string{""}, want: digests{}, bad: true},
		"trailing comma":            {lines: []string{good + ","}, want: digests{}, bad: true},
		"two without a comma":       {lines: []string{good + " " + good}, want: digests{}, bad: true},
		"space before the value":    {lines: []string{"sha-256= :" + helloBase64 + ":"}, want: digests{}, bad: true},
		"parameter without a name":  {lines: []string{good + ";"}, want: digests{}, bad: true},
		"parameter without value":   {lines: []string{good + ";x="}, want: digests{}, bad: true},
		"unterminated string":       {lines: []string{good + `;x="a`}, want: digests{}, bad: true},
		"invalid escape":            {lines: []string{good + `;x="\a"`}, want: digests{}, bad: true},
		"format of RFC 3230":        {lines: []string{"SHA-256=" + helloBase64}, want: digests{}, bad: true},
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
