package gatewayd

import (
	"reflect"
	"strings"
	"testing"

	"lewes/cmd/lewes/internal/config"
)

// TestEveryKeyHasAnEffect changes each key in turn and finds it in the list of its effect.
func TestEveryKeyHasAnEffect(t *testing.T) {
	var walk func(table string, v reflect.Value, do func(key string, v reflect.Value))
	walk = func(table string, v reflect.Value, do func(string, reflect.Value)) {
		for i := range v.NumField() {
			if f := v.Field(i); f.Kind() == reflect.Struct {
				walk(table+v.Type().Field(i).Tag.Get("toml")+".", f, do)
			} else {
				do(table+v.Type().Field(i).Tag.Get("toml"), f)
			}
		}
	}
	named := map[effect]int{}
	next := config.Default()
	walk("", reflect.ValueOf(next).Elem(), func(key string, v reflect.Value) {
		was := reflect.New(v.Type()).Elem()
		was.Set(v)
		switch v.Kind() {
		case reflect.String:
			v.SetString("another")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), v.Len()+1, v.Len()+1))
		case reflect.Array:
			v.Index(0).SetUint(v.Index(0).Uint() + 1)
		case reflect.Float64:
			v.SetFloat(v.Float() + 1)
		default:
			v.SetInt(v.Int() + 1)
		}
		found := changes(config.Default(), next)
		if len(found) != 1 || len(found[effectOf(key)]) != 1 || found[effectOf(key)][0] != key {
			t.Errorf("%s: %v", key, found)
		}
		named[effectOf(key)]++
		v.Set(was)
	})
	if named[byRestart] != 5 || named[byReload] < 12 || named[byUpgrade] < 20 {
		t.Errorf("%d keys at once, %d by an upgrade, %d by a restart", named[byReload], named[byUpgrade], named[byRestart])
	}
	for key := range effects {
		found := false
		walk("", reflect.ValueOf(next).Elem(), func(name string, _ reflect.Value) {
			found = found || name == key || strings.HasPrefix(name, key+".")
		})
		if !found {
			t.Errorf("%s is no key", key)
		}
	}
}
