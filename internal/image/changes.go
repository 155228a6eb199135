package image

import (
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// instructions takes apart changes of several lines, as a Dockerfile has them: a backslash at its end goes on with the next line, and
// empty lines and comments are none.
func instructions(changes []string) (list []string) {
	for _, c := range changes {
		line := ""
		for part := range strings.SplitSeq(c, "\n") {
			part = strings.TrimRight(part, " \t\r")
			if strings.HasPrefix(strings.TrimSpace(part), "#") || line != "" && part == "" {
				continue
			}
			rest, more := strings.CutSuffix(part, "\\")
			line += rest
			if more {
				continue
			}
			if strings.TrimSpace(line) != "" {
				list = append(list, line)
			}
			line = ""
		}
		if strings.TrimSpace(line) != "" {
			list = append(list, line)
		}
	}
	return list
}

// applyChange changes a configuration by one instruction of a Dockerfile, of those that only change it.
func applyChange(c *dockerspec.DockerOCIImageConfig, line string) error {
	bad := func(format string, args ...any) error {
		return withKind(errdefs.ErrInvalidArgument, "change %q: "+format, append([]any{line}, args...)...)
	}
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	word, rest = strings.ToUpper(word), strings.TrimSpace(rest)
	known := []string{"CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "SHELL", "STOPSIGNAL",
		"USER",
		"VOLUME", "WORKDIR"}
	if !slices.Contains(known, word) {
		return bad("%s is not a valid change command", word)
	}
	if rest == "" {
		return bad("%s requires at least one argument", word)
	}
	words, err := splitWords(rest)
	if err != nil {
		return bad("%w", err)
	}
	list, isJSON := jsonList(rest)
	command := list
	if !isJSON {
		command = []string{"/bin/sh", "-c", rest}
		if len(c.Shell) > 0 {
			command = append(slices.Clone(c.Shell), rest)
		}
	}
	switch word {
	case "CMD":
		c.Cmd = command
	case "ENTRYPOINT":
		c.Entrypoint = command
	case "ENV", "LABEL":
		pairs, err := pairsOf(words, rest)
		if err != nil {
			return bad("%w", err)
		}
		for _, p := range pairs {
			if word == "ENV" {
				c.Env = setVariable(c.Env, p[0], p[1])
				continue
			}
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[p[0]] = p[1]
		}
	case "EXPOSE":
		for _, w := range words {
			ports, err := portsOf(w)
			if err != nil {
				return bad("%w", err)
			}
			if c.ExposedPorts == nil {
				c.ExposedPorts = map[string]struct{}{}
			}
			for _, p := range ports {
				c.ExposedPorts[p] = struct{}{}
			}
		}
	case "HEALTHCHECK":
		h, err := healthOf(rest)
		if err != nil {
			return bad("%w", err)
		}
		c.Healthcheck = h
	case "ONBUILD":
		c.OnBuild = append(c.OnBuild, rest)
	case "SHELL":
		if !isJSON || len(list) == 0 {
			return bad("SHELL requires the arguments to be in JSON form")
		}
		c.Shell = list
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "USER":
		c.User = rest
	case "VOLUME":
		if isJSON {
			words = list
		}
		for _, w := range words {
			if strings.TrimSpace(w) == "" {
				return bad("VOLUME specified can not be an empty string")
			}
			if c.Volumes == nil {
				c.Volumes = map[string]struct{}{}
			}
			c.Volumes[w] = struct{}{}
		}
	case "WORKDIR":
		dir := strings.Join(words, " ")
		if !path.IsAbs(dir) {
			dir = path.Join("/", c.WorkingDir, dir)
		}
		c.WorkingDir = path.Clean(dir)
	}
	return nil
}

// jsonList reads the JSON form of an instruction's arguments.
func jsonList(s string) ([]string, bool) {
	var list []string
	if !strings.HasPrefix(s, "[") || json.Unmarshal([]byte(s), &list) != nil {
		return nil, false
	}
	return list, true
}

type textError string

func (e textError) Error() string { return string(e) }

// splitWords splits at blanks, as a shell without expansions does: quotes keep blanks, a backslash keeps the next
// character.
func splitWords(s string) ([]string, error) {
	var out []string
	var cur strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case quote != '\'' && c == '\\' && i+1 < len(s):
			i++
			if quote == '"' && s[i] != '"' && s[i] != '\\' && s[i] != '$' {
				cur.WriteByte('\\')
			}
			cur.WriteByte(s[i])
			in = true
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case quote == 0 && (c == ' ' || c == '\t' || c == '\n'):
			if in {
				out = append(out, cur.String())
				cur.Reset()
				in = false
			}
		default:
			cur.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, textError("a quote is not closed")
	}
	if in {
		out = append(out, cur.String())
	}
	return out, nil
}

// pairsOf reads "k=v k=v", or the old form "k the rest is the value".
func pairsOf(words []string, rest string) ([][2]string, error) {
	if len(words) > 0 && !strings.Contains(words[0], "=") {
		key, value, ok := strings.Cut(rest, " ")
		if !ok {
			return nil, textError("a value is missing for \"" + key + "\"")
		}
		return [][2]string{{key, strings.TrimSpace(value)}}, nil
	}
	var out [][2]string
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return nil, textError("\"" + w + "\" is not of the form name=value")
		}
		out = append(out, [2]string{key, value})
	}
	return out, nil
}

func setVariable(env []string, key, value string) []string {
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// portsOf reads "80", "80/udp" or "8000-8010/tcp".
func portsOf(s string) ([]string, error) {
	span, proto, ok := strings.Cut(s, "/")
	proto = strings.ToLower(proto)
	if !ok {
		proto = "tcp"
	}
	from, to, isRange := strings.Cut(span, "-")
	if !isRange {
		to = from
	}
	a, err1 := strconv.ParseUint(from, 10, 16)
	b, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || a > b || proto != "tcp" && proto != "udp" && proto != "sctp" {
		return nil, textError("invalid containerPort: " + s)
	}
	var out []string
	for p := a; p <= b; p++ {
		out = append(out, strconv.FormatUint(p, 10)+"/"+proto)
	}
	return out, nil
}

// healthOf reads "NONE" or "[--interval=… …] CMD command".
func healthOf(rest string) (*dockerspec.HealthcheckConfig, error) {
	h := &dockerspec.HealthcheckConfig{}
	for strings.HasPrefix(rest, "--") {
		flag, after, _ := strings.Cut(rest, " ")
		rest = strings.TrimSpace(after)
		key, value, _ := strings.Cut(flag, "=")
		if key == "--retries" {
			n, err := strconv.Atoi(value)
			if err != nil || n < 0 {
				return nil, textError("--retries must be a number that is not negative")
			}
			h.Retries = n
			continue
		}
		to := map[string]*time.Duration{"--interval": &h.Interval, "--timeout": &h.Timeout,
			"--start-period":   &h.StartPeriod,
			"--start-interval": &h.StartInterval}[key]
		d, err := time.ParseDuration(value)
		if to == nil || err != nil || d < 0 {
			return nil, textError("invalid flag " + flag)
		}
		*to = d
	}
	word, command, _ := strings.Cut(rest, " ")
	command = strings.TrimSpace(command)
	switch word = strings.ToUpper(word); {
	case word == "NONE" && command == "":
		h.Test = []string{"NONE"}
	case word == "CMD" && command != "":
		if list, ok := jsonList(command); ok {
			h.Test = append([]string{"CMD"}, list...)
		} else {
			h.Test = []string{"CMD-SHELL", command}
		}
	default:
		return nil, textError("HEALTHCHECK wants CMD and a command, or NONE")
	}
	return h, nil
}
