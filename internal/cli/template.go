package cli

import (
	"errors"
	"fmt"
	"html"
	"io"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"text/template/parse"
	"unicode"
	"unicode/utf8"
)

// outputTemplate is the parsed value of a --format. It has the language of text/template, on data made of
//
//	nil, bool, int64, float64, string, []any, *object (a JSON object), what stands in for Go's other values
//	(see shaped), and rows (columns by name)
//
// A field that is not there in any spelling is an error that names those that are.
type outputTemplate struct {
	text  string
	trees map[string]*parse.Tree
	// header makes the functions that change a value leave it alone, because the values are titles of columns.
	header bool
}

// fields is what a template can take a field from.
type fields interface {
	// field returns a value by name; ok is false when there is none.
	field(name string) (value any, ok bool)
	fieldNames() []string
}

// methods is what a template can call with arguments, as in {{.Label "x"}}.
type methods interface {
	method(name string, args []any) (value any, ok bool, err error)
}

func parseTemplate(text string) (*outputTemplate, error) {
	trees, err := parse.Parse("", text, "", "", templateFuncNames())
	if err != nil {
		return nil, err
	}
	return &outputTemplate{text: text, trees: trees}, nil
}

func templateFuncNames() map[string]any {
	names := map[string]any{}
	for _, n := range strings.Fields("and or not eq ne lt le gt ge index slice len print printf println html urlquery " +
		"json split join title lower upper pad truncate table") {
		names[n] = n
	}
	return names
}

// execute writes the template's text for data.
func (t *outputTemplate) execute(w io.Writer, data any) (err error) {
	main := t.trees[""]
	if main == nil {
		return nil // nothing but definitions
	}
	e := &execution{template: t, w: w, vars: []variableValue{{"$", data}}}
	defer func() {
		if r := recover(); r != nil {
			failure, ok := r.(templateError)
			if !ok {
				panic(r)
			}
			err = errors.New("template: " + failure.text)
		}
	}()
	e.tree = main
	e.walk(data, main.Root)
	return nil
}

type templateError struct{ text string }

type execution struct {
	template *outputTemplate
	tree     *parse.Tree
	w        io.Writer
	vars     []variableValue
	depth    int
}

type variableValue struct {
	name  string
	value any
}

// How a list of nodes ended.
type leaving int

const (
	onward leaving = iota
	breaking
	continuing
)

func (e *execution) fail(n parse.Node, format string, args ...any) {
	where, context := e.tree.ErrorContext(n)
	panic(templateError{fmt.Sprintf("%s: executing %q at <%s>: %s", where, e.tree.Name, context,
		fmt.Sprintf(format, args...))})
}

func (e *execution) walk(dot any, n parse.Node) leaving {
	switch n := n.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			if l := e.walk(dot, child); l != onward {
				return l
			}
		}
	case *parse.TextNode:
		e.write(n, n.Text)
	case *parse.ActionNode:
		value := e.pipeline(dot, n.Pipe)
		if len(n.Pipe.Decl) == 0 {
			e.write(n, []byte(printed(value)))
		}
	case *parse.IfNode:
		return e.ifOrWith(dot, n.Pipe, n.List, n.ElseList, false)
	case *parse.WithNode:
		return e.ifOrWith(dot, n.Pipe, n.List, n.ElseList, true)
	case *parse.RangeNode:
		e.rangeOver(dot, n)
	case *parse.BreakNode:
		return breaking
	case *parse.ContinueNode:
		return continuing
	case *parse.TemplateNode:
		e.call(dot, n)
	case *parse.CommentNode:
	default:
		e.fail(n, "cannot use this here")
	}
	return onward
}

func (e *execution) write(n parse.Node, b []byte) {
	if _, err := e.w.Write(b); err != nil {
		e.fail(n, "%v", err)
	}
}

func (e *execution) scope() func() {
	mark := len(e.vars)
	return func() { e.vars = e.vars[:mark] }
}

func (e *execution) ifOrWith(dot any, pipe *parse.PipeNode, list, elseList *parse.ListNode, with bool) leaving {
	defer e.scope()()
	value := e.pipeline(dot, pipe)
	switch {
	case truth(value):
		if with {
			dot = value
		}
		return e.walk(dot, list)
	case elseList != nil:
		return e.walk(dot, elseList)
	}
	return onward
}

func (e *execution) rangeOver(dot any, n *parse.RangeNode) {
	defer e.scope()()
	value := e.pipeline(dot, n.Pipe)
	mark := len(e.vars)
	count := 0
	one := func(key, item any) bool {
		count++
		switch len(n.Pipe.Decl) {
		case 1:
			e.setTop(n.Pipe.Decl[0], item, n.Pipe.IsAssign)
		case 2:
			e.setTop(n.Pipe.Decl[0], key, n.Pipe.IsAssign)
			e.setTop(n.Pipe.Decl[1], item, n.Pipe.IsAssign)
		}
		l := e.walk(item, n.List)
		if !n.Pipe.IsAssign {
			e.vars = e.vars[:mark]
		}
		return l != breaking
	}
	switch v := value.(type) {
	case nil, nilPointer:
	case []any:
		for i, item := range v {
			if !one(int64(i), item) {
				break
			}
		}
	case *object:
		for _, key := range sortedKeys(v.values) {
			if !one(key, v.values[key]) {
				break
			}
		}
	case int64:
		for i := range v {
			if !one(i, i) {
				break
			}
		}
	default:
		e.fail(n, "range can't iterate over %s", printed(value))
	}
	if count == 0 && n.ElseList != nil {
		e.walk(dot, n.ElseList)
	}
}

func (e *execution) call(dot any, n *parse.TemplateNode) {
	tree := e.template.trees[n.Name]
	if tree == nil {
		e.fail(n, "template %q not defined", n.Name)
	}
	if e.depth > 1000 {
		e.fail(n, "exceeded maximum template depth")
	}
	if n.Pipe != nil {
		dot = e.pipeline(dot, n.Pipe)
	} else {
		dot = nil
	}
	inner := &execution{template: e.template, tree: tree, w: e.w, vars: []variableValue{{"$", dot}}, depth: e.depth + 1}
	inner.walk(dot, tree.Root)
}

func (e *execution) setTop(v *parse.VariableNode, value any, assign bool) {
	name := v.Ident[0]
	if assign {
		for i := len(e.vars) - 1; i >= 0; i-- {
			if e.vars[i].name == name {
				e.vars[i].value = value
				return
			}
		}
		e.fail(v, "undefined variable: %s", name)
	}
	e.vars = append(e.vars, variableValue{name, value})
}

// none marks the absence of a value passed along a pipeline.
type none struct{}

func (e *execution) pipeline(dot any, pipe *parse.PipeNode) any {
	var value any = none{}
	for _, cmd := range pipe.Cmds {
		value = e.command(dot, cmd, value)
	}
	for _, v := range pipe.Decl {
		e.setTop(v, value, pipe.IsAssign)
	}
	return value
}

func (e *execution) command(dot any, cmd *parse.CommandNode, final any) any {
	first := cmd.Args[0]
	if id, ok := first.(*parse.IdentifierNode); ok {
		return e.function(dot, id.Ident, cmd, cmd.Args[1:], final)
	}
	args := cmd.Args[1:]
	if len(args) > 0 || final != (none{}) {
		return e.callMethod(dot, first, args, final)
	}
	return e.arg(dot, first)
}

// callMethod handles {{.Label "x"}}.
func (e *execution) callMethod(dot any, first parse.Node, args []parse.Node, final any) any {
	var receiver any
	var name string
	switch n := first.(type) {
	case *parse.FieldNode:
		receiver, name = e.chain(n, dot, n.Ident[:len(n.Ident)-1]), n.Ident[len(n.Ident)-1]
	case *parse.VariableNode:
		if len(n.Ident) < 2 {
			e.fail(n, "can't give argument to non-function %s", n)
		}
		receiver, name = e.chain(n, e.variable(n), n.Ident[1:len(n.Ident)-1]), n.Ident[len(n.Ident)-1]
	default:
		e.fail(n, "can't give argument to non-function %s", n)
	}
	var values []any
	for _, a := range args {
		values = append(values, e.arg(dot, a))
	}
	if final != (none{}) {
		values = append(values, final)
	}
	if m, ok := receiver.(methods); ok {
		if value, ok, err := m.method(name, values); err != nil {
			e.fail(first, "error calling %s: %v", name, err)
		} else if ok {
			return value
		}
	}
	e.fail(first, "%s has arguments but cannot be invoked as function", name)
	return nil
}

func (e *execution) arg(dot any, n parse.Node) any {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot
	case *parse.NilNode:
		return nil
	case *parse.FieldNode:
		return e.chain(n, dot, n.Ident)
	case *parse.VariableNode:
		return e.chain(n, e.variable(n), n.Ident[1:])
	case *parse.ChainNode:
		return e.chain(n, e.arg(dot, n.Node), n.Field)
	case *parse.PipeNode:
		return e.pipeline(dot, n)
	case *parse.IdentifierNode:
		return e.function(dot, n.Ident, n, nil, none{})
	case *parse.StringNode:
		return n.Text
	case *parse.BoolNode:
		return n.True
	case *parse.NumberNode:
		switch {
		case n.IsInt:
			return n.Int64
		case n.IsFloat:
			return n.Float64
		}
		e.fail(n, "number too large")
	}
	e.fail(n, "can't handle %s", n)
	return nil
}

func (e *execution) variable(n *parse.VariableNode) any {
	for i := len(e.vars) - 1; i >= 0; i-- {
		if e.vars[i].name == n.Ident[0] {
			return e.vars[i].value
		}
	}
	e.fail(n, "undefined variable: %s", n.Ident[0])
	return nil
}

func (e *execution) chain(n parse.Node, value any, names []string) any {
	for _, name := range names {
		if value == nil || value == (nilPointer{}) {
			e.fail(n, "nil data; no entry for key %q", name)
		}
		f, ok := value.(fields)
		if !ok {
			e.fail(n, "can't evaluate field %s in %s", name, kindOf(value))
		}
		next, ok := f.field(name)
		if !ok {
			hint := ""
			if near := nearest(name, f.fieldNames()); len(near) > 0 {
				hint = "; did you mean ." + strings.Join(near, " or .") + "?"
			}
			e.fail(n, "map has no entry for key %q%s", name, hint)
		}
		value = next
	}
	return value
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64, float64:
		return "a number"
	case []any:
		return "a list"
	}
	return "this value"
}

func (e *execution) function(dot any, name string, n parse.Node, argNodes []parse.Node, final any) any {
	// The two that need not look at everything.
	if name == "and" || name == "or" {
		var value any
		for _, a := range argNodes {
			if value = e.arg(dot, a); truth(value) == (name == "or") {
				return value
			}
		}
		if final != (none{}) {
			return final
		}
		return value
	}
	var args []any
	for _, a := range argNodes {
		args = append(args, e.arg(dot, a))
	}
	if final != (none{}) {
		args = append(args, final)
	}
	if e.template.header && len(args) > 0 {
		switch name {
		case "json", "split", "join", "title", "lower", "upper":
			return args[0]
		}
	}
	value, err := callFunction(name, args)
	if err != nil {
		e.fail(n, "error calling %s: %v", name, err)
	}
	return value
}

var errArguments = errors.New("wrong number of args")

func callFunction(name string, args []any) (any, error) {
	text := func(i int) string { return printed(args[i]) }
	atLeast := func(n int) bool { return len(args) >= n }
	switch name {
	case "print":
		return fmt.Sprint(plainAll(args)...), nil
	case "println":
		return fmt.Sprintln(plainAll(args)...), nil
	case "printf":
		if !atLeast(1) {
			return nil, errArguments
		}
		return fmt.Sprintf(text(0), plainAll(args[1:])...), nil
	case "not", "len", "html", "urlquery", "json", "title", "lower", "upper":
		if len(args) != 1 {
			return nil, errArguments
		}
		return oneArgument(name, args[0])
	case "eq", "ne", "lt", "le", "gt", "ge":
		return compare(name, args)
	case "index":
		return index(args)
	case "slice":
		return slice(args)
	case "split":
		if len(args) != 2 {
			return nil, errArguments
		}
		var list []any
		for s := range strings.SplitSeq(text(0), text(1)) {
			list = append(list, s)
		}
		return list, nil
	case "join":
		if len(args) != 2 {
			return nil, errArguments
		}
		list, _ := args[0].([]any)
		var words []string
		for _, v := range list {
			words = append(words, printed(v))
		}
		return strings.Join(words, text(1)), nil
	case "pad":
		if len(args) != 3 {
			return nil, errArguments
		}
		before, ok1 := args[1].(int64)
		after, ok2 := args[2].(int64)
		if !ok1 || !ok2 || before < 0 || after < 0 || before+after > 1000 {
			return nil, errors.New("expected numbers")
		}
		if text(0) == "" {
			return "", nil
		}
		return strings.Repeat(" ", int(before)) + text(0) + strings.Repeat(" ", int(after)), nil
	case "truncate":
		if len(args) != 2 {
			return nil, errArguments
		}
		n, ok := args[1].(int64)
		if !ok || n < 0 {
			return nil, errors.New("expected a number")
		}
		if s := text(0); int64(len(s)) > n {
			return s[:n], nil
		}
		return text(0), nil
	}
	return nil, errors.New("function not defined")
}

func oneArgument(name string, v any) (any, error) {
	switch name {
	case "not":
		return !truth(v), nil
	case "len":
		switch v := v.(type) {
		case string:
			return int64(len(v)), nil
		case []any:
			return int64(len(v)), nil
		case *object:
			return int64(len(v.keys)), nil
		}
		return nil, fmt.Errorf("len of %s", kindOf(v))
	case "html":
		return html.EscapeString(printed(v)), nil
	case "urlquery":
		return url.QueryEscape(printed(v)), nil
	case "json":
		return toJSON(v)
	case "title":
		return title(printed(v)), nil
	case "lower":
		return strings.ToLower(printed(v)), nil
	}
	return strings.ToUpper(printed(v)), nil
}

// title makes the first letter of every word big.
func title(s string) string {
	previous := ' '
	return strings.Map(func(r rune) rune {
		word := unicode.IsLetter(previous) || unicode.IsDigit(previous) || previous == '_' || previous == '\''
		previous = r
		if word {
			return r
		}
		return unicode.ToTitle(r)
	}, s)
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, none, nilPointer:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case *object:
		return len(v.keys) > 0 || v.of != nil && v.of.Kind() == reflect.Struct
	}
	return true
}

func compare(name string, args []any) (any, error) {
	if len(args) < 2 || name != "eq" && len(args) != 2 {
		return nil, errArguments
	}
	if name == "eq" || name == "ne" {
		for _, other := range args[1:] {
			same, err := equal(args[0], other)
			if err != nil {
				return nil, err
			}
			if same {
				return name == "eq", nil
			}
		}
		return name == "ne", nil
	}
	order, err := ordering(args[0], args[1])
	if err != nil {
		return nil, err
	}
	switch name {
	case "lt":
		return order < 0, nil
	case "le":
		return order <= 0, nil
	case "gt":
		return order > 0, nil
	}
	return order >= 0, nil
}

var errIncompatible = errors.New("incompatible types for comparison")

func equal(a, b any) (bool, error) {
	for _, v := range []*any{&a, &b} {
		if *v == (nilPointer{}) {
			*v = nil
		}
	}
	if a == nil || b == nil {
		return a == nil && b == nil, nil
	}
	if x, ok := a.(bool); ok {
		y, ok := b.(bool)
		if !ok {
			return false, errIncompatible
		}
		return x == y, nil
	}
	order, err := ordering(a, b)
	return order == 0, err
}

func ordering(a, b any) (int, error) {
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), nil
		}
	case int64:
		switch y := b.(type) {
		case int64:
			switch {
			case x < y:
				return -1, nil
			case x > y:
				return 1, nil
			}
			return 0, nil
		case float64:
			return floatOrder(float64(x), y), nil
		}
	case float64:
		switch y := b.(type) {
		case int64:
			return floatOrder(x, float64(y)), nil
		case float64:
			return floatOrder(x, y), nil
		}
	}
	return 0, errIncompatible
}

func floatOrder(x, y float64) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func index(args []any) (any, error) {
	if len(args) == 0 {
		return nil, errArguments
	}
	value := args[0]
	for _, key := range args[1:] {
		switch v := value.(type) {
		case []any:
			i, ok := key.(int64)
			if !ok {
				return nil, fmt.Errorf("cannot index a list with %s", kindOf(key))
			}
			if v == nil {
				return nil, errors.New("index of untyped nil") // as Docker says of what is null
			}
			if i < 0 || i >= int64(len(v)) {
				return nil, fmt.Errorf("index out of range: %d", i)
			}
			value = v[i]
		case string:
			i, ok := key.(int64)
			if !ok || i < 0 || i >= int64(len(v)) {
				return nil, errors.New("index out of range")
			}
			value = int64(v[i])
		case *object:
			k, ok := key.(string)
			if !ok {
				return nil, fmt.Errorf("value has %s for a key; should be a string", kindOf(key))
			}
			at, there := v.values[k]
			if value = at; !there && v.of != nil && v.of.Kind() == reflect.Map {
				value = empty(v.of.Elem())
			}
		case nil:
			return nil, errors.New("index of untyped nil")
		default:
			return nil, fmt.Errorf("can't index %s", kindOf(v))
		}
	}
	return value, nil
}

func slice(args []any) (any, error) {
	if len(args) == 0 || len(args) > 3 {
		return nil, errArguments
	}
	length := int64(0)
	switch v := args[0].(type) {
	case string:
		length = int64(len(v))
	case []any:
		length = int64(len(v))
	default:
		return nil, fmt.Errorf("can't slice %s", kindOf(v))
	}
	from, to := int64(0), length
	for i, p := range []*int64{&from, &to} {
		if len(args) > i+1 {
			n, ok := args[i+1].(int64)
			if !ok || n < 0 || n > length {
				return nil, fmt.Errorf("index out of range: %v", args[i+1])
			}
			*p = n
		}
	}
	if from > to {
		return nil, fmt.Errorf("invalid slice index: %d > %d", from, to)
	}
	if s, ok := args[0].(string); ok {
		return s[from:to], nil
	}
	return args[0].([]any)[from:to], nil
}

// printed is the text of a value in the output.
func printed(v any) string {
	switch v := v.(type) {
	case nil, none:
		return "<no value>"
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return fmt.Sprint(plain(v))
}

func plainAll(args []any) []any {
	list := make([]any, len(args))
	for i, a := range args {
		list[i] = plain(a)
	}
	return list
}

// plain turns values into those fmt prints as text/template would.
func plain(v any) any {
	switch v := v.(type) {
	case *object:
		if v.of != nil && v.of.Kind() == reflect.Struct {
			return v.structText()
		}
		m := make(map[string]any, len(v.keys))
		for k, item := range v.values {
			m[k] = plain(item)
		}
		return m
	case []any:
		return plainAll(v)
	case int64, float64, string, bool, nil:
		return v
	case fmt.Stringer:
		return v.String()
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Int {
		return rv.Int()
	}
	return v
}

// unescape gives --format the two escapes a shell makes hard to type.
func unescape(format string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
}

// shorten cuts a text to n characters, the last an ellipsis when something was cut.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	if n <= 1 {
		return string([]rune(s)[:n])
	}
	return string([]rune(s)[:n-1]) + "…"
}
