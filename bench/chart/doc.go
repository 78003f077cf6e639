// Package chart draws bars and lines as SVG, a file each, with nothing in it that a
// browser or a code host would have to load.
package chart
