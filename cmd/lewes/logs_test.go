package main

import (
	"go/ast"
	"go/token"
	"os"
	"strings"
	"testing"
)

// TestLogMessagesAreConstant: the log is bounded by message and searched by message, so values go into
// fields.
func TestLogMessagesAreConstant(t *testing.T) {
	m, err := readModule(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	levels := map[string]bool{"Debug": true, "Info": true, "Warn": true, "Error": true}
	calls := 0
	for _, p := range m.packages {
		for name, file := range p.files {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				method, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || !levels[method.Sel.Name] || !isLogger(method.X) || len(call.Args) == 0 {
					return true
				}
				calls++
				if text, ok := call.Args[0].(*ast.BasicLit); !ok || text.Kind != token.STRING {
					t.Errorf("%s: the message is not a constant", m.set.Position(call.Pos()))
				}
				return true
			})
		}
	}
	if calls < 40 {
		t.Errorf("only %d calls found", calls)
	}
}

// isLogger reports whether an expression is named as loggers are.
func isLogger(x ast.Expr) bool {
	name := ""
	switch x := x.(type) {
	case *ast.Ident:
		name = x.Name
	case *ast.SelectorExpr:
		name = x.Sel.Name
	}
	return name == "log" || name == "audit" || name == "Logger"
}
