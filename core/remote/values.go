package remote

import (
	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/cluster"
)

// Each function codes one type of package core, in the order in which the protocol has its fields.

func (c *coder) byteRange(r *core.Range) {
	c.varint(&r.Off)
	c.varint(&r.Len)
}

func (c *coder) cond(x *core.Cond) {
	text(c, &x.IfMatch)
	text(c, &x.IfNoneMatch)
}

func (c *coder) checksum(x *core.Checksum) {
	text(c, &x.Algorithm)
	text(c, &x.Value)
	text(c, &x.Type)
}

func (c *coder) info(i *core.Info) {
	c.flags(&i.Dir, &i.CommonPrefix, &i.Marker, &i.MountPoint, &i.ReadOnly)
	c.path(&i.Path)
	text(c, &i.Name)
	c.uvarint(&i.ID)
	text(c, &i.Version)
	c.varint(&i.Size)
	c.time(&i.ModTime)
	c.time(&i.AccessTime)
	text(c, &i.ETag)
	text(c, &i.Owner)
	text(c, &i.Group)
	c.uint32(&i.Mode)
	c.int(&i.Replication)
	c.varint(&i.BlockSize)
	c.int(&i.Children)
	c.strmap(&i.Headers)
	c.strmap(&i.User)
	list(c, &i.Checksums, (*coder).checksum)
	list(c, &i.Parts, (*coder).varint)
	text(c, &i.Mount)
	c.duration(&i.Age)
	text(c, &i.Cache)
	text(c, &i.Write)
}

func (c *coder) fileAttr(a *core.FileAttr) {
	c.uint32(&a.Mode)
	c.strmap(&a.Headers)
	c.strmap(&a.User)
	c.varint(&a.BlockSize)
	c.int(&a.Replication)
}

func (c *coder) createOptions(o *core.CreateOptions) {
	c.flags(&o.MakeParents, &o.Explicit)
	c.byte((*byte)(&o.Mode))
	if c.reading && o.Mode > core.Append {
		c.fail("a create mode that is not known")
	}
	c.path(&o.Within)
	c.varint(&o.Size)
	c.cond(&o.Cond)
	c.fileAttr(&o.Attr)
	text(c, &o.WriteType)
	c.checksum(&o.Checksum)
}

func (c *coder) commitOptions(o *core.CommitOptions) {
	sum := &o.MD5
	if o.MD5 == nil {
		sum = nil
	}
	optional(c, &sum, (*coder).bytes)
	if c.reading && sum != nil {
		o.MD5 = append([]byte{}, *sum...)
	}
	list(c, &o.Checksums, (*coder).checksum)
	c.cond(&o.Cond)
}

func (c *coder) copyOptions(o *core.CopyOptions) {
	c.flags(&o.MakeParents)
	c.cond(&o.Source)
	optional(c, &o.ReplaceAttr, (*coder).fileAttr)
	c.cond(&o.Dest)
	c.path(&o.Within)
}

func (c *coder) completeOptions(o *core.CompleteOptions) {
	c.cond(&o.Cond)
	c.path(&o.Within)
	list(c, &o.Checksums, (*coder).checksum)
}

func (c *coder) mkdirOptions(o *core.MkdirOptions) {
	c.flags(&o.MakeParents, &o.Marker)
	c.uint32(&o.Mode)
	c.path(&o.Within)
	c.strmap(&o.Headers)
	c.strmap(&o.User)
	c.cond(&o.Cond)
}

func (c *coder) removeOptions(o *core.RemoveOptions) {
	c.flags(&o.Recursive, &o.Prune)
	c.cond(&o.Cond)
}

func (c *coder) attrChange(a *core.AttrChange) {
	optional(c, &a.Owner, text[string])
	optional(c, &a.Group, text[string])
	optional(c, &a.Mode, (*coder).uint32)
	optional(c, &a.ModTime, (*coder).time)
	optional(c, &a.AccessTime, (*coder).time)
	optional(c, &a.Replication, (*coder).int)
}

func (c *coder) listOptions(o *core.ListOptions) {
	c.flags(&o.Children, &o.HideShadowed)
	text(c, &o.Prefix)
	text(c, &o.Delimiter)
	text(c, &o.After)
	c.int(&o.Limit)
}

func (c *coder) part(p *core.Part) {
	c.int(&p.Number)
	c.varint(&p.Size)
	text(c, &p.ETag)
	c.time(&p.ModTime)
	list(c, &p.Checksums, (*coder).checksum)
}

func (c *coder) upload(u *core.Upload) {
	text(c, &u.ID)
	c.path(&u.Path)
	text(c, &u.Name)
	c.time(&u.Initiated)
	text(c, &u.Owner)
	c.fileAttr(&u.Attr)
	c.checksum(&u.Checksum)
}

func (c *coder) block(b *core.Block) {
	c.varint(&b.Off)
	c.varint(&b.Len)
	list(c, &b.Hosts, text[string])
	list(c, &b.Names, text[string])
}

func (c *coder) fileChecksum(s *core.FileChecksum) {
	text(c, &s.Algorithm)
	c.bytes(&s.Bytes)
}

func (c *coder) summary(s *core.Summary) {
	c.varint(&s.Dirs)
	c.varint(&s.Files)
	c.varint(&s.Bytes)
}

func (c *coder) principal(p *core.Principal) {
	c.flags(&p.Super)
	text(c, &p.User)
	list(c, &p.Groups, text[string])
	text(c, &p.AccessKey)
}

func (c *coder) mountSpec(m *core.MountSpec) {
	c.mountBase(m)
	c.mountCopies(m)
	text(c, &m.LoadType)
}

// mountBase and mountCopies are parts of a mountSpec, which a mountInfo has apart: its answers are stored.
func (c *coder) mountBase(m *core.MountSpec) {
	c.flags(&m.ReadOnly, &m.NoAccess)
	c.path(&m.Path)
	text(c, &m.URI)
	c.strmap(&m.Options)
	optional(c, &m.SyncInterval, (*coder).duration)
	text(c, &m.Owner)
	text(c, &m.Group)
	c.uint32(&m.Mode)
	text(c, &m.WriteType)
	text(c, &m.ReadType)
	text(c, &m.Origin)
	c.int(&m.Replicas)
	optional(c, &m.PersistDelay, (*coder).duration)
}

func (c *coder) mountCopies(m *core.MountSpec) {
	optional(c, &m.ReplicationMin, (*coder).int)
	c.int(&m.ReplicationMax)
}

func (c *coder) mountChange(m *core.MountChange) {
	optional(c, &m.ReadOnly, func(c *coder, v *bool) { c.flags(v) })
	optional(c, &m.SyncInterval, (*coder).duration)
	optional(c, &m.Owner, text[string])
	optional(c, &m.Group, text[string])
	optional(c, &m.Mode, (*coder).uint32)
	optional(c, &m.WriteType, text[core.WriteType])
	optional(c, &m.ReadType, text[core.ReadType])
	c.strmap(&m.Options)
	optional(c, &m.Replicas, (*coder).int)
	optional(c, &m.PersistDelay, (*coder).duration)
	optional(c, &m.ReplicationMin, (*coder).int)
	optional(c, &m.ReplicationMax, (*coder).int)
	optional(c, &m.LoadType, text[core.LoadType])
}

func (c *coder) mountInfo(m *core.MountInfo) {
	c.mountBase(&m.MountSpec)
	text(c, &m.State)
	if c.reading && c.err == nil && c.s == "" {
		return // an answer that was stored before there was what follows
	}
	c.mountCopies(&m.MountSpec)
	if c.reading && c.err == nil && c.s == "" {
		return // likewise
	}
	text(c, &m.LoadType)
}

func (c *coder) node(n *cluster.Node) {
	c.flags(&n.Draining, &n.Volatile)
	text(c, &n.Name)
	text(c, &n.Role)
	text(c, &n.Addr)
	text(c, &n.Pages)
	text(c, &n.Version)
	text(c, &n.Host)
	text(c, &n.Zone)
	text(c, &n.Domain)
	c.varint(&n.Capacity)
	c.varint(&n.Hold)
	text(c, &n.Incarnation)
	c.time(&n.Since)
}

func (c *coder) placed(p *core.Placed) {
	c.info(&p.Info)
	c.varint(&p.Off)
	c.varint(&p.Len)
	list(c, &p.Runs, (*coder).run)
}

func (c *coder) run(r *core.Run) {
	for i := range r.ID {
		c.byte(&r.ID[i])
	}
	c.uvarint(&r.Rev)
	c.varint(&r.Off)
	c.varint(&r.Len)
	c.int(&r.Copies.Min)
	c.int(&r.Copies.Max)
	c.bytes(&r.Ticket)
}

func (c *coder) storeSpec(s *core.StoreSpec) {
	text(c, &s.ID)
	c.mountBase(&s.MountSpec) // a LoadType is of no use to who opens the store
	c.mountCopies(&s.MountSpec)
	text(c, &s.Is)
}

func (c *coder) pageReport(op core.PageOp, r *core.PageReport) {
	list(c, &r.Media, text[string])
	c.bytes(&r.Pages)
	if op == core.MissedPages {
		c.flags(&r.Misses.Forgotten)
		c.time(&r.Misses.Since)
		optional(c, &r.Misses.Last, (*coder).miss)
	}
}

func (c *coder) miss(m *core.MissedRead) {
	c.time(&m.At)
	c.varint(&m.Off)
	c.varint(&m.Len)
	text(c, &m.Why)
	c.time(&m.Since)
	c.flags(&m.Other)
}
