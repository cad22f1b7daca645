package function

import (
	"fmt"
	"net/url"
	"strings"
)

// ParseURL parses the base URL of another function and removes a trailing slash. The URL must have the scheme http or
// https, a host, and no other parts. The variable parameter is the name of the setting that contains the URL. Errors
// begin with this name. They do not quote the URL, because it can contain a password.
func ParseURL(variable, address string) (*url.URL, error) {
	base, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%s: the base URL is not a valid URL", variable)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" ||
		strings.Trim(base.Path, "/") != "" {
		return nil, fmt.Errorf("%s: the base URL must have only a scheme and a host, such as http://login.strongroom.svc.cluster.local", variable)
	}
	base.Path = ""
	return base, nil
}
