package remote

import (
	"context"

	"github.com/sluicefs/sluice/core"
)

// What these calls return is kept for long, and so are its strings: they are read as copies.

// Mounts implements core.Mounts.
func (c *Client) Mounts(ctx context.Context) (all []core.MountInfo, err error) {
	err = c.call(ctx, methodMounts, nil, func(in *coder) { in.own = true; mountInfos(in, &all) })
	return all, err
}

func (c *Client) mountInfo(ctx context.Context, m method, args func(c *coder)) (i core.MountInfo, err error) {
	err = c.call(ctx, m, args, func(in *coder) { in.own = true; in.mountInfo(&i) })
	return i, err
}

// Mount implements core.Mounts.
func (c *Client) Mount(ctx context.Context, m core.MountSpec) (core.MountInfo, error) {
	return c.mountInfo(ctx, methodMount, func(out *coder) { out.mountSpec(&m) })
}

// UpdateMount implements core.Mounts.
func (c *Client) UpdateMount(ctx context.Context, p core.Path, m core.MountChange) (core.MountInfo, error) {
	return c.mountInfo(ctx, methodUpdateMount, func(out *coder) { out.path(&p); out.mountChange(&m) })
}

// Unmount implements core.Mounts.
func (c *Client) Unmount(ctx context.Context, p core.Path) error {
	return c.call(ctx, methodUnmount, func(out *coder) { out.path(&p) }, nil)
}

// Secret implements core.Authenticator.
func (c *Client) Secret(ctx context.Context, accessKey string) (secret string, p core.Principal, err error) {
	err = c.call(ctx, methodSecret, func(out *coder) { text(out, &accessKey) },
		func(in *coder) { in.own = true; text(in, &secret); in.principal(&p) })
	return secret, p, err
}

// User implements core.Authenticator.
func (c *Client) User(ctx context.Context, name string) (p core.Principal, err error) {
	err = c.call(ctx, methodUser, func(out *coder) { text(out, &name) },
		func(in *coder) { in.own = true; in.principal(&p) })
	return p, err
}

// TicketSecret implements core.Tickets.
func (c *Client) TicketSecret(ctx context.Context) (secret []byte, err error) {
	var s string
	err = c.call(ctx, methodTicketSecret, nil, func(in *coder) { in.own = true; text(in, &s) })
	return []byte(s), err
}
