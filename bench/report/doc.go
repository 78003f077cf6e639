// Package report says what a bench has measured: as a table on a terminal, as JSON, as a page of
// Markdown with charts. It invents nothing: what was not measured is left out, and what
// could not run is listed with the reason.
package report
