// Package machine says what a bench ran on: figures mean nothing without.
package machine
