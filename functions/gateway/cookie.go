package main

import (
	"net"
	"net/http"
	"strconv"
)

const (
	// maxCookie is the maximum length of the value of a cookie, in bytes. Refresh tokens from the login function are only
	// 64 bytes long.
	maxCookie = 512
	// maxCookies is the maximum number of cookies with the same name in a request. A browser sends several cookies with
	// the same name if another site on the same domain has set one of them.
	maxCookies = 8
)

// cookieName returns the name of a cookie of the gateway. Over HTTPS, the name has the prefix __Host-, so that browsers
// accept the cookie only from the gateway's own host (RFC 6265bis, section 4.1.3.2). Cookies do not provide isolation
// by port (RFC 6265, section 8.5), so the name contains the port. Two instances on one host thus have different
// cookies.
func cookieName(v visitor, base string) string {
	name := "strongroom_" + base
	if _, port, err := net.SplitHostPort(v.host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			name += "_" + port
		}
	}
	if v.scheme == "https" {
		return "__Host-" + name
	}
	return name
}

// newCookie returns a cookie of the gateway that scripts cannot read and that browsers send only with this site's own
// requests. It lasts until the browser is closed, unless the caller sets MaxAge. If the value is empty, the browser
// deletes the cookie. The prefix __Host- requires the path / and no domain.
func newCookie(v visitor, base, value string) *http.Cookie {
	cookie := &http.Cookie{
		Name: cookieName(v, base), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		// Over plain HTTP (for example, with `make run`), do not set Secure, because browsers would not send the
		// cookie back.
		Secure: v.scheme == "https",
	}
	if value == "" {
		cookie.MaxAge = -1
	}
	return cookie
}

// cookieValues returns the different values of a cookie of the gateway in r, without values that are empty or too long.
// It returns false if there are more than maxCookies values.
func cookieValues(r *http.Request, base string) (values []string, ok bool) {
	seen := map[string]bool{}
	for _, cookie := range r.CookiesNamed(cookieName(visitorOf(r.Context()), base)) {
		if value := cookie.Value; value != "" && len(value) <= maxCookie && !seen[value] {
			seen[value] = true
			values = append(values, value)
		}
	}
	return values, len(values) <= maxCookies
}
