package main

import (
	"context"

	"lewes/router"
)

func (p *gatewayProcess) reload(ctx context.Context, g *router.Gateway) {}
