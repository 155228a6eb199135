package main

import (
	"fmt"
	"strings"
)

// options holds what was parsed: for each letter how often it came, and the values of those that take one.
type options struct {
	count map[byte]int
	value map[byte][]string
	rest  []string
}

func (o *options) has(letter byte) bool { return o.count[letter] > 0 }

// last is the value given last for a letter, or def.
func (o *options) last(letter byte, def string) string {
	if v := o.value[letter]; len(v) > 0 {
		return v[len(v)-1]
	}
	return def
}

// getopt parses args by POSIX's rules: letters may be bundled, ":" in spec after a letter means it takes a value,
// "--" ends the options, and options may follow operands (as GNU's tools allow) unless spec begins with "+".
// long maps GNU's long names to letters.
func getopt(args []string, spec string, long map[string]byte) (*options, error) {
	o := &options{count: map[byte]int{}, value: map[byte][]string{}}
	stopAtOperand := strings.HasPrefix(spec, "+")
	spec = strings.TrimPrefix(spec, "+")
	takesValue := func(letter byte) (known, value bool) {
		i := strings.IndexByte(spec, letter)
		return i >= 0 && letter != ':', i >= 0 && i+1 < len(spec) && spec[i+1] == ':'
	}
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			o.rest = append(o.rest, args[i+1:]...)
			return o, nil
		case strings.HasPrefix(a, "--"):
			name, val, hasVal := strings.Cut(a[2:], "=")
			letter, ok := long[name]
			if !ok {
				return nil, fmt.Errorf("unrecognized option %q", a)
			}
			o.count[letter]++
			if _, value := takesValue(letter); value {
				if !hasVal {
					i++
					if i >= len(args) {
						return nil, fmt.Errorf("option %q requires an argument", a)
					}
					val = args[i]
				}
				o.value[letter] = append(o.value[letter], val)
			} else if hasVal {
				return nil, fmt.Errorf("option %q takes no argument", a)
			}
		case len(a) > 1 && a[0] == '-':
			for j := 1; j < len(a); j++ {
				known, value := takesValue(a[j])
				if !known {
					return nil, fmt.Errorf("invalid option -- '%c'", a[j])
				}
				o.count[a[j]]++
				if !value {
					continue
				}
				val := a[j+1:]
				if val == "" {
					i++
					if i >= len(args) {
						return nil, fmt.Errorf("option requires an argument -- '%c'", a[j])
					}
					val = args[i]
				}
				o.value[a[j]] = append(o.value[a[j]], val)
				break
			}
		default:
			if stopAtOperand {
				o.rest = append(o.rest, args[i:]...)
				return o, nil
			}
			o.rest = append(o.rest, a)
		}
	}
	return o, nil
}
