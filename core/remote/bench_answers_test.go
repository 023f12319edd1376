package remote_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/meta/memkv"
	"github.com/sluicefs/sluice/core/namespace"
	"github.com/sluicefs/sluice/core/page"
	"github.com/sluicefs/sluice/core/page/mempage"
	"github.com/sluicefs/sluice/core/remote"
	"github.com/sluicefs/sluice/ufs/memufs"
)

// BenchmarkAnswers creates files through a stream and a namespace, with answers that are journaled and such that are not.
// bytes/op is what a create adds to the journal.
func BenchmarkAnswers(b *testing.B) {
	for _, journaled := range []bool{false, true} {
		b.Run(fmt.Sprintf("journaled=%v", journaled), func(b *testing.B) {
			log, err := meta.OpenLog(memkv.New(), meta.LogOptions{Group: namespace.JournalGroup, CheckpointEvery: -1})
			if err != nil {
				b.Fatal(err)
			}
			if err := log.Claim(b.Context()); err != nil {
				b.Fatal(err)
			}
			cache := page.NewCache(mempage.New(0), page.CacheOptions{})
			o := namespace.Options{Log: log, Cache: cache, Root: memufs.New(memufs.Options{}), RootMode: 0o777, SyncInterval: -1}
			var so remote.ServerOptions
			if journaled {
				o.Answer = remote.EncodeAnswer
			}
			ns, err := namespace.Open(b.Context(), o)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			ready, done := make(chan struct{}), make(chan error, 1)
			go func() { done <- ns.Run(ctx, func() { close(ready) }) }()
			<-ready
			if journaled {
				so.Answers = remote.NewJournaledAnswers(ns)
			}
			so.Tree, so.Authenticator = ns, users{}
			addr, stop := serve(b, so, 0)
			c := dial(b, remote.Options{Addrs: []string{addr}})
			who := asRoot(b.Context())
			create := func(i int) error {
				w, err := c.Create(who, mustPath(b, fmt.Sprintf("/warehouse/db/table/part-%08d.parquet", i)), core.CreateOptions{MakeParents: true})
				if err != nil {
					return err
				}
				_, err = w.Commit(who, core.CommitOptions{})
				return err
			}
			if err := create(-1); err != nil {
				b.Fatal(err)
			}
			before := log.Stats().Bytes
			callers(b, 256, create)
			b.ReportMetric(float64(log.Stats().Bytes-before)/float64(b.N), "journal-B/op")
			b.StopTimer()
			if err := c.Close(); err != nil {
				b.Fatal(err)
			}
			cancel()
			<-done
			stop()
			ns.Close()
			cache.Close()
		})
	}
}
