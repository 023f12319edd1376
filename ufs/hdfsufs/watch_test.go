package hdfsufs

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/ufs"
	"github.com/sluicefs/sluice/ufs/hadoopfs/minidfs"
)

// watch changes HDFS below a store, and beside it.
func watch(t *testing.T, c *minidfs.Cluster) {
	s := opener(c, nil)(t)
	beside := opener(c, nil)(t)
	put := func(s ufs.Store, name string) {
		t.Helper()
		if _, err := ufs.WriteFile(t.Context(), s, name, []byte("x"), ufs.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	put(s, "d/before")
	ctx, stop := context.WithCancel(t.Context())
	told, ended := make(chan ufs.Change, 10_000), make(chan error, 1)
	go func() { ended <- ufs.Watch(ctx, s, func(c ufs.Change) { told <- c }) }()
	defer func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v", err)
		}
	}()
	await := func(want ufs.Change) {
		t.Helper()
		for over := time.After(time.Minute); ; {
			select {
			case got := <-told:
				if strings.HasPrefix(got.Name, ufs.Staging) || strings.Contains(got.Name, "beside") || got.Kind == ufs.Lost {
					t.Errorf("%+v was told", got)
				}
				if got.Kind == want.Kind && got.Name == want.Name {
					if got.At.IsZero() && got.Kind != ufs.Ready {
						t.Errorf("%+v is told without a time", got)
					}
					return
				}
			case err := <-ended:
				ended <- err
				t.Fatalf("Watch: %v", err)
			case <-over:
				t.Fatalf("%+v was not told", want)
			}
		}
	}
	await(ufs.Change{Kind: ufs.Ready})
	put(beside, "beside")
	put(s, "d/f")
	await(ufs.Change{Kind: ufs.Touched, Name: "d/f"})
	if err := ufs.Rename(ctx, s, "d/", "e/", false); err != nil {
		t.Fatal(err)
	}
	await(ufs.Change{Kind: ufs.Touched, Name: "d/"})
	await(ufs.Change{Kind: ufs.Arrived, Name: "e/"})
	if err := s.Remove(ctx, "e/f", ""); err != nil {
		t.Fatal(err)
	}
	await(ufs.Change{Kind: ufs.Touched, Name: "e/f"})
	if err := ufs.Trash(ctx, s, "e/"); err != nil {
		t.Fatal(err)
	}
	await(ufs.Change{Kind: ufs.Touched, Name: "e/"})

	eve := opener(c, map[string]string{"user": "eve"})(t)
	if err := ufs.Watch(ctx, eve, func(ufs.Change) {}); errs.KindOf(err) != errs.Permission || !strings.Contains(err.Error(), "superuser") {
		t.Errorf("Watch by who is no superuser: %v", err)
	}
}

// TestEditsOf reads answers of a name node to who was told of all up to transaction 100.
func TestEditsOf(t *testing.T) {
	lost := ufs.Change{Kind: ufs.Lost}
	removed := ufs.Change{Kind: ufs.Touched, Name: "/f", At: time.UnixMilli(1767323045678)}
	for _, x := range []struct {
		what                   string
		first, through, synced int64
		want                   edits
	}{
		{"nothing new", -1, -1, 100, edits{last: 100}},
		{"the next", 101, 105, 105, edits{[]ufs.Change{removed}, 105, false}},
		{"some of them", 101, 105, 2000, edits{[]ufs.Change{removed}, 105, true}},
		{"edits between are deleted", 150, 155, 155, edits{[]ufs.Change{lost, removed}, 155, false}},
		{"rolled back", -1, -1, 60, edits{[]ufs.Change{lost}, 60, false}},
		{"formatted", -1, -1, 1, edits{[]ufs.Change{lost}, 1, false}},
		{"not known how many are synced", -1, -1, 0, edits{last: 100}},
	} {
		m, err := newMessage("hadoop.hdfs.UnlinkEventProto")
		if err == nil {
			err = fill(m, map[string]any{"path": "/f", "timestamp": int64(1767323045678)})
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := proto.Marshal(m.Interface())
		if err != nil {
			t.Fatal(err)
		}
		list, err := newMessage("hadoop.hdfs.EventsListProto")
		if err == nil {
			err = fill(list, map[string]any{"firstTxid": x.first, "lastTxid": x.through, "syncTxid": x.synced})
		}
		if err != nil {
			t.Fatal(err)
		}
		if x.through >= 0 {
			batches := list.Mutable(list.Descriptor().Fields().ByName("batch")).List()
			batch := batches.AppendMutable().Message()
			event := batch.Mutable(batch.Descriptor().Fields().ByName("events")).List().AppendMutable().Message()
			event.Set(event.Descriptor().Fields().ByName("type"), protoreflect.ValueOfEnum(5))
			event.Set(event.Descriptor().Fields().ByName("contents"), protoreflect.ValueOfBytes(content))
		}
		got, err := editsOf(list, 100)
		if diff := cmp.Diff(x.want, got, cmp.AllowUnexported(edits{})); diff != "" || err != nil {
			t.Errorf("%s: %v, -want +got:\n%s", x.what, err, diff)
		}
	}
}

// TestEditsPause follows how long is waited until the name node is asked again.
func TestEditsPause(t *testing.T) {
	some := []ufs.Change{{Kind: ufs.Touched}}
	pause := editsPause
	for i, x := range []struct {
		e    edits
		last int64
		want time.Duration
	}{
		{edits{last: 5}, 5, 2 * editsPause},
		{edits{last: 5}, 5, editsIdle},
		{edits{last: 5}, 5, editsIdle},
		{edits{some, 6, false}, 5, editsPause},
		{edits{some, 1006, true}, 6, 0},
		{edits{last: 2006, more: true}, 1006, 0},
		{edits{last: 2006, more: true}, 2006, editsPause}, // it does not get on
		{edits{last: 2007}, 2006, 2 * editsPause},
	} {
		if pause = x.e.pause(x.last, pause); pause != x.want {
			t.Errorf("%d: %v, want %v", i, pause, x.want)
		}
	}
}
