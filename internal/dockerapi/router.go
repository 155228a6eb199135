package dockerapi

import "strings"

// route is one line of the table in routes.go.
type route struct {
	method string
	// pattern is literal but for one variable: "{name}" stands for one segment of the path, "{name...}" for one or
	// more, since the names of images hold slashes.
	pattern string
	since   version // the version that brought it; 0 for those older than MinVersion
	handle  func(*Server, *call) error
}

// pathVars is what stood in the place of a route's variables.
type pathVars struct{ name, second string }

// router finds the route of a path.
type router struct{ byMethod map[string][]compiled }

type compiled struct {
	route
	segments []string
	greedy   int // index of the segment that may take several, or -1
	literals int // how many segments hold no variable: the more, the earlier it is tried
}

func newRouter(table []route) *router {
	rt := &router{byMethod: map[string][]compiled{}}
	for _, r := range table {
		c := compiled{route: r, segments: split(r.pattern), greedy: -1}
		for i, s := range c.segments {
			switch {
			case strings.HasSuffix(s, "...}"):
				c.greedy = i
			case s[0] != '{':
				c.literals++
			}
		}
		list := rt.byMethod[r.method]
		at := 0
		for at < len(list) && list[at].literals >= c.literals {
			at++
		}
		rt.byMethod[r.method] = append(list[:at:at], append([]compiled{c}, list[at:]...)...)
	}
	return rt
}

// split cuts a path at its slashes; empty segments do not count, as "/containers//x" means "/containers/x".
func split(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

func (rt *router) match(method, path string) (route, pathVars, bool) {
	segments := split(path)
	for i := range rt.byMethod[method] {
		c := &rt.byMethod[method][i]
		if vars, ok := c.match(segments); ok {
			return c.route, vars, true
		}
	}
	return route{}, pathVars{}, false
}

func (c *compiled) match(path []string) (pathVars, bool) {
	var vars pathVars
	extra := len(path) - len(c.segments)
	if extra != 0 && c.greedy < 0 || extra < 0 {
		return vars, false
	}
	at := 0
	for i, want := range c.segments {
		got := path[at]
		at++
		switch {
		case i == c.greedy:
			got = strings.Join(path[at-1:at+extra], "/")
			at += extra
			fallthrough
		case want[0] == '{':
			if vars.name == "" {
				vars.name = got
			} else {
				vars.second = got
			}
		case got != want:
			return vars, false
		}
	}
	return vars, true
}
