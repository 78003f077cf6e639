package main

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/config"
	"lewes/crypto/identity"
)

// TestEveryBoundReachesTheGateway gives every bound of the configuration a value
// of its own and looks for it in what a gateway is started with.
//
// Shows R12.5.
func TestEveryBoundReachesTheGateway(t *testing.T) {
	c := config.Default()
	c.Access.Mode = config.AccessOpen
	next := int64(1001)
	want := map[string]string{} // value to key
	for _, section := range []any{&c.Handshake, &c.Session, &c.Flows, &c.Forward, &c.TCP} {
		v := reflect.ValueOf(section).Elem()
		for i := range v.NumField() {
			key := v.Type().Name() + "." + v.Type().Field(i).Name
			switch f := v.Field(i); {
			case f.Type() == reflect.TypeFor[config.Duration]():
				f.SetInt(next * int64(time.Second))
				want[fmt.Sprint(time.Duration(next)*time.Second)] = key
			case f.CanInt():
				f.SetInt(next)
				want[fmt.Sprint(next)] = key
			case f.CanFloat():
				f.SetFloat(float64(next))
				want[fmt.Sprint(float64(next))] = key
			}
			next++
		}
	}
	if len(want) != 35 {
		t.Errorf("%d bounds: %v", len(want), want)
	}
	settings := gatewaySettings(c, identity.FromSeed(&[32]byte{1}), openGuard(), zap.NewNop())
	var look func(v reflect.Value)
	look = func(v reflect.Value) {
		for i := range v.NumField() {
			switch f := v.Field(i); {
			case f.Kind() == reflect.Struct:
				look(f)
			case f.CanInt() || f.CanUint() || f.CanFloat():
				delete(want, fmt.Sprint(f.Interface()))
			}
		}
	}
	look(reflect.ValueOf(settings))
	for value, key := range want {
		t.Errorf("%s = %s does not reach the gateway", key, value)
	}
}
