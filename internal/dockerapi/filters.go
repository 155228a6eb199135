package dockerapi

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// filters is the "filters" query parameter: for each key the values asked for, any of which will do.
type filters map[string][]string

// parseFilters reads both forms clients send, {"key":["value"]} and the older {"key":{"value":true}}, and refuses keys
// that are not among allowed.
func parseFilters(param string, allowed ...string) (filters, error) {
	f := filters{}
	if param == "" {
		return f, nil
	}
	var lists map[string][]string
	if err := json.Unmarshal([]byte(param), &lists); err == nil {
		for key, values := range lists {
			f.add(key, values...)
		}
	} else {
		var sets map[string]map[string]bool
		if err := json.Unmarshal([]byte(param), &sets); err != nil {
			return nil, invalid("invalid filter: %w", err)
		}
		for key, set := range sets {
			for value, on := range set {
				if on {
					f.add(key, value)
				}
			}
		}
	}
	for key := range f {
		if !slices.Contains(allowed, key) {
			return nil, invalid("invalid filter '%s'", key)
		}
	}
	return f, nil
}

func (f filters) add(key string, values ...string) {
	for _, v := range values {
		if !slices.Contains(f[key], v) {
			f[key] = append(f[key], v)
		}
	}
	slices.Sort(f[key])
}

func (f filters) has(key string) bool { return len(f[key]) > 0 }

// exact says whether value is asked for, or nothing is.
func (f filters) exact(key, value string) bool {
	return !f.has(key) || slices.Contains(f[key], value)
}

// fuzzy is exact, or a regular expression among the values matches, as Docker's filters by name do.
func (f filters) fuzzy(key, value string) bool {
	if f.exact(key, value) {
		return true
	}
	for _, pattern := range f[key] {
		if ok, err := regexp.MatchString(pattern, value); err == nil && ok || strings.Contains(value, pattern) {
			return true
		}
	}
	return false
}

// pairs says whether have holds all that is asked for under key, as "name" or "name=value". With key ending in "!" it
// must hold none of it.
func (f filters) pairs(key string, have map[string]string) bool {
	none := strings.HasSuffix(key, "!")
	for _, want := range f[key] {
		name, value, exact := strings.Cut(want, "=")
		got, there := have[name]
		if (there && (!exact || got == value)) == none {
			return false
		}
	}
	return true
}

// boolean is a filter that may be given once with a word for yes or no.
func (f filters) boolean(key string, absent bool) (bool, error) {
	values := f[key]
	if len(values) == 0 {
		return absent, nil
	}
	if len(values) == 1 {
		switch values[0] {
		case "1", "true":
			return true, nil
		case "0", "false":
			return false, nil
		}
	}
	return false, invalid("invalid filter '%s=%s'", key, strings.Join(values, ","))
}
