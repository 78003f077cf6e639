// Package account bounds what one client holds of a gateway's shared resources, whatever the number
// of its sessions (section 12 of PROTOCOL.md).
package account
