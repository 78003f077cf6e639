// Wireguard runs wireguard-go as a worker of the bench: one end of a tunnel, with a TUN
// device in the network namespace that the worker is in. It is a module of its own, so
// that its dependencies stay out of the product.
package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"lewes/bench/worker"
)

func main() {
	if err := worker.Main(map[string]worker.Role{worker.RoleWireGuard: worker.Start(start)}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// start creates a device. The result is the public key of this end; the call is "connect", with a
// worker.TunnelEnd.
func start(_ context.Context, name string) (*worker.Service, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := tun.CreateTUN(name, device.DefaultMTU)
	if err != nil {
		return nil, fmt.Errorf("create TUN device: %w", err)
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	config := fmt.Sprintf("private_key=%s\nlisten_port=%d\n", hex.EncodeToString(private.Bytes()), worker.WireGuardPort)
	if err := d.IpcSet(config); err != nil {
		d.Close()
		return nil, err
	}
	return &worker.Service{
		Result: hex.EncodeToString(private.PublicKey().Bytes()),
		Close:  d.Close,
		Calls: map[string]worker.Handler{
			"connect": worker.Method(func(_ context.Context, p worker.TunnelEnd) (worker.None, error) {
				config := fmt.Sprintf("public_key=%s\nendpoint=%s\nallowed_ip=%s\n", p.Public, p.Endpoint, p.Allowed)
				if err := d.IpcSet(config); err != nil {
					return worker.None{}, err
				}
				return worker.None{}, d.Up()
			}),
		},
	}, nil
}
