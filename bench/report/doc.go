// Package report holds the results of a bench and writes them as tables, Markdown, JSON, and in
// Go's benchmark format, which benchstat reads.
package report
