package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// parseSecurity reads the values of --security-opt. A seccomp profile in a file is read here, because the daemon may
// be elsewhere; systempaths=unconfined is no option of the API, but empty lists of masked and read-only paths.
func parseSecurity(values []string) (opts, masked, readonly []string, err error) {
	opts = []string{}
	for _, value := range values {
		if value == "systempaths=unconfined" {
			masked, readonly = []string{}, []string{}
			continue
		}
		key, val, ok := strings.Cut(value, "=")
		if !ok && value != "no-new-privileges" && value != "writable-cgroups" {
			// Before "=", Docker wrote ":".
			if key, val, ok = strings.Cut(value, ":"); !ok {
				return nil, nil, nil, fmt.Errorf("Invalid --security-opt: %q", value)
			}
		}
		if key == "seccomp" && val != "unconfined" && val != "builtin" {
			data, err := os.ReadFile(val)
			if err != nil {
				return nil, nil, nil, fmt.Errorf("opening seccomp profile (%s) failed: %w", val, err)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, data); err != nil {
				return nil, nil, nil, fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", val, err)
			}
			value = "seccomp=" + compact.String()
		}
		opts = append(opts, value)
	}
	return opts, masked, readonly, nil
}

// parseRestart reads the value of --restart: no, always, unless-stopped, on-failure or on-failure:5.
func parseRestart(value string) (container.RestartPolicy, error) {
	var p container.RestartPolicy
	if value == "" {
		return p, nil
	}
	name, count, ok := strings.Cut(value, ":")
	if ok && name == "" {
		return p, fmt.Errorf("invalid restart policy format: no policy provided before colon")
	}
	if count != "" {
		n, err := strconv.Atoi(count)
		if err != nil {
			return p, fmt.Errorf("invalid restart policy format: maximum retry count must be an integer")
		}
		p.MaximumRetryCount = n
	}
	p.Name = container.RestartPolicyMode(name)
	return p, nil
}

// validLink checks the value of --link: container[:alias].
func validLink(value string) (string, error) {
	parts := strings.Split(value, ":")
	if value == "" {
		return "", fmt.Errorf("empty string specified for links")
	}
	if len(parts) > 2 {
		return "", fmt.Errorf("bad format for links: %s", value)
	}
	return value, nil
}

// validHost checks the value of --add-host: name:address or name=address, the address "host-gateway" or an IP address.
func validHost(value string) (string, error) {
	name, ip, ok := strings.Cut(value, "=")
	if !ok {
		name, ip, ok = strings.Cut(value, ":")
	}
	if !ok || name == "" {
		return "", fmt.Errorf("bad format for add-host: %q", value)
	}
	if ip == "host-gateway" {
		return name + ":" + ip, nil
	}
	if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
		ip = ip[1 : len(ip)-1]
	}
	if _, err := parseIP(ip); err != nil {
		return "", fmt.Errorf("invalid IP address in add-host: %q", ip)
	}
	return name + ":" + ip, nil
}
