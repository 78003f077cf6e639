package config

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// instead returns the end of a sentence about a key that does not exist in the table
// n: what was probably meant, or what there is.
func (n *node) instead(path string) string {
	name := lastPart(path)
	best, distance := "", 0
	for known := range schema.below() {
		d := editDistance(strings.ToLower(path), known.path)
		if lastPart(known.path) == name && known.kind != table {
			d = min(d, 2) // right, but for another table
		}
		if best == "" || d < distance {
			best, distance = known.path, d
		}
	}
	if distance <= 1+len(name)/3 {
		return fmt.Sprintf("did you mean %s?", best)
	}
	where := "the file"
	if n.path != "" {
		where = "[" + n.path + "]"
	}
	return fmt.Sprintf("%s may hold %s", where, strings.Join(slices.Sorted(maps.Keys(n.keys)), ", "))
}

// below yields all keys below a node, in order.
func (n *node) below() iter.Seq[*node] {
	return func(yield func(*node) bool) {
		n.visit(func(found *node) bool { return found == n || yield(found) })
	}
}

func (n *node) visit(each func(*node) bool) bool {
	if !each(n) {
		return false
	}
	if n.kind == tables {
		n = n.elem
	}
	for _, name := range slices.Sorted(maps.Keys(n.keys)) {
		if !n.keys[name].visit(each) {
			return false
		}
	}
	return true
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }

// editDistance returns how many bytes must be inserted, left out or replaced to make
// b of a, where two that changed places count as one.
func editDistance(a, b string) int {
	older, old, now := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range old {
		old[j] = j
	}
	for i := range len(a) {
		now[0] = i + 1
		for j := range len(b) {
			replaced := old[j]
			if a[i] != b[j] {
				replaced++
			}
			now[j+1] = min(replaced, old[j+1]+1, now[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				now[j+1] = min(now[j+1], older[j-1]+1)
			}
		}
		older, old, now = old, now, older
	}
	return old[len(b)]
}
