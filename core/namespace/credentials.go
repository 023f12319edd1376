package namespace

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/core/meta"
	"github.com/sluicefs/sluice/core/seal"
	"github.com/sluicefs/sluice/ufs"
)

// credentialPrefix starts the key of every named secret.
const credentialPrefix = "sys/credentials/"

// credential is a named secret. It is not changed once it is in the table.
type credential struct {
	name    string
	options map[string]string
	err     error // why the options cannot be read; then there are none
	at      time.Time
	by      string
}

// credentialRecord is the value of its key. The options are sealed.
type credentialRecord struct {
	Options map[string]string `json:"options"`
	At      int64             `json:"at"`
	By      string            `json:"by"`
}

// sealedAs stands for the mount where options of a named secret are sealed; no mount has such an id.
func sealedAs(name string) string { return "secret " + name }

func credentialOf(kv meta.KeyValue) (r credentialRecord, err error) {
	err = json.Unmarshal(kv.Value, &r)
	return r, err
}

// loadCredentials reads the named secrets that the journal has.
func (n *Namespace) loadCredentials(ctx context.Context) error {
	kvs, err := n.log.ListConfig(ctx, credentialPrefix)
	if err != nil {
		return err
	}
	all := make(map[string]*credential, len(kvs))
	for _, kv := range kvs {
		r, err := credentialOf(kv)
		if err != nil {
			return errs.E("namespace.Open", kv.Key, errs.Corrupt, err)
		}
		c := &credential{name: strings.TrimPrefix(kv.Key, credentialPrefix), at: time.Unix(0, r.At), by: r.By}
		if c.options, c.err = n.sealer.Open(sealedAs(c.name), r.Options); c.err != nil {
			c.options = r.Options // their names can be told
			n.o.Logger.Error("a named secret cannot be read; stores of mounts that use it do not open", "secret", c.name, "err", c.err)
		}
		all[c.name] = c
	}
	n.credentials.Store(&all)
	return nil
}

// withSecret returns the mount with the options of the secret that it names in place of the name.
func (n *Namespace) withSecret(s core.MountSpec) (core.MountSpec, error) {
	name, ok := s.Options[core.SecretOption]
	if !ok {
		return s, nil
	}
	return withOptions(s, (*n.credentials.Load())[name])
}

func withOptions(s core.MountSpec, c *credential) (core.MountSpec, error) {
	name := s.Options[core.SecretOption]
	switch {
	case c == nil:
		return s, errs.New("namespace.Mount", s.Path.String(), errs.Invalid, fmt.Sprintf("there is no secret of the name %q; set it with `sluice secret set`", name))
	case c.err != nil:
		return s, c.err
	}
	s.Options = maps.Clone(s.Options)
	delete(s.Options, core.SecretOption)
	for option, value := range c.options {
		if _, twice := s.Options[option]; twice {
			return s, errs.New("namespace.Mount", s.Path.String(), errs.Invalid,
				fmt.Sprintf("the mount has an option %s of its own, and the secret %s has it too; take it out of one of them", option, name))
		}
		s.Options[option] = value
	}
	return s, nil
}

// users returns the mounts that use the secret, by path.
func (set *mountSet) users(secret string) (all []*mounted) {
	for _, m := range set.table.All() {
		if m.Options[core.SecretOption] == secret {
			all = append(all, set.byID[m.ID])
		}
	}
	return all
}

// Secrets implements core.MountLife.
func (n *Namespace) Secrets(ctx context.Context) ([]core.SecretInfo, error) {
	if err := n.admin(ctx); err != nil {
		return nil, err
	}
	known, set := *n.credentials.Load(), n.mounts.Load()
	all := make([]core.SecretInfo, 0, len(known))
	for _, name := range slices.Sorted(maps.Keys(known)) {
		all = append(all, set.tell(known[name]))
	}
	return all, nil
}

func (set *mountSet) tell(c *credential) core.SecretInfo {
	i := core.SecretInfo{Name: c.name, Options: slices.Sorted(maps.Keys(c.options)), Changed: c.at, By: c.by}
	for _, m := range set.users(c.name) {
		i.UsedBy = append(i.UsedBy, m.Path)
	}
	return i
}

var secretName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// The bounds of a secret: it is one value of the journal's store. A key file of a cloud has some 2 KiB.
const (
	maxSecretBytes = 64 << 10
	maxSecrets     = 1000
)

func checkSecret(name string, values map[string]string) error {
	const op = "namespace.SetSecret"
	if !secretName.MatchString(name) {
		return errs.New(op, "", errs.Invalid, "the name of a secret is 1 to 63 letters, digits, dots, dashes and underscores, and begins with a letter or a digit")
	}
	if len(values) == 0 {
		return errs.New(op, name, errs.Invalid, "a secret holds at least one option of a store, such as access_key")
	}
	size := 0
	for option, value := range values {
		if !seal.Secret(option) {
			return errs.New(op, name, errs.Invalid, "the option "+option+" is no secret; give it to the mount")
		}
		if option == "" || value == "" {
			return errs.New(op, name, errs.Invalid, "an option of a secret has a name and a value")
		}
		if err := checkOptions(map[string]string{option: value}); err != nil {
			return err
		}
		size += len(option) + len(value)
	}
	if size > maxSecretBytes {
		return errs.New(op, name, errs.TooLarge, fmt.Sprintf("a secret has at most %d bytes", maxSecretBytes))
	}
	return nil
}

// reopened is a mount with its store opened again.
type reopened struct {
	was   *mounted
	store ufs.Store // nil if it does not answer
	err   error     // then
}

// SetSecret implements core.MountLife.
func (n *Namespace) SetSecret(ctx context.Context, name string, values map[string]string, o core.LifeOptions) (core.SecretInfo, error) {
	if err := n.mayChangeTable(ctx); err != nil {
		return core.SecretInfo{}, err
	}
	if err := checkSecret(name, values); err != nil {
		return core.SecretInfo{}, err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	known := *n.credentials.Load()
	if known[name] == nil && len(known) >= maxSecrets {
		return core.SecretInfo{}, errs.New("namespace.SetSecret", name, errs.NoSpace, fmt.Sprintf("there are %d named secrets, and no more may be; remove some", maxSecrets))
	}
	now := &credential{name: name, options: maps.Clone(values), at: time.Now(), by: core.PrincipalOf(ctx).User}
	fresh, err := n.reopenWith(ctx, now, o.Force)
	closeAll := func(err error) error {
		for _, f := range fresh {
			err = errors.Join(err, closeStore(f.store))
		}
		return err
	}
	if err != nil {
		return core.SecretInfo{}, closeAll(err)
	}
	old := n.mounts.Load()
	if o.DryRun {
		return old.tell(now), closeAll(nil)
	}
	value, err := json.Marshal(credentialRecord{n.sealer.Options(sealedAs(name), values), now.at.UnixNano(), now.by})
	if err != nil {
		return core.SecretInfo{}, closeAll(err)
	}
	what := "the secret " + name + " was made"
	if known[name] != nil {
		what = "the secret " + name + " was given other values"
	}
	what += " (" + strings.Join(slices.Sorted(maps.Keys(values)), ", ") + ")"
	if err := n.journalTable(ctx, meta.Batch{Puts: []meta.KeyValue{{Key: credentialPrefix + name, Value: value}}}, what); err != nil {
		return core.SecretInfo{}, closeAll(err)
	}
	all := maps.Clone(known)
	all[name] = now
	n.credentials.Store(&all)
	set := old
	for _, f := range fresh {
		m := *f.was
		if f.store != nil {
			n.reopened(&m, f.store)
		} else if m.store == nil { // it is opened when it answers
			m.err = f.err
		} else { // so is this; until then what has begun ends with the store that it began with
			m.renew = f.err
		}
		set = &mountSet{set.table, with(set.byID, &m)}
	}
	if len(fresh) > 0 {
		n.mounts.Store(set)
		for _, f := range fresh {
			if f.store != nil {
				n.retire(f.was.store)
			}
		}
	}
	return set.tell(now), nil
}

// reopenWith opens and probes the stores of all mounts that use the secret, with c in its place. What it opened is returned with
// an error too. If unproved, stores are not probed, and one that does not answer is no error.
func (n *Namespace) reopenWith(ctx context.Context, c *credential, unproved bool) ([]reopened, error) {
	users := n.mounts.Load().users(c.name)
	fresh, failed := make([]reopened, len(users)), make([]error, len(users))
	var wg sync.WaitGroup
	for i, was := range users {
		wg.Go(func() {
			fresh[i].was = was
			s, err := withOptions(was.MountSpec, c)
			if err == nil {
				fresh[i].store, err = n.open1(ctx, s)
			}
			if err == nil {
				err = cmp.Or(sameRoot(was.Root, fresh[i].store, s), n.sameIs(ctx, was.Mount, fresh[i].store))
			}
			if err == nil && !unproved {
				err = n.probe(ctx, fresh[i].store, s)
			}
			if err != nil {
				err = fmt.Errorf("the mount %s does not work with it: %w", was.Path.File(), err)
			}
			if k := errs.KindOf(err); unproved && fresh[i].store == nil && (k == errs.Unavailable || errors.Is(err, context.DeadlineExceeded)) {
				fresh[i].err, err = err, nil
			}
			failed[i] = err
		})
	}
	wg.Wait()
	return fresh, errors.Join(failed...)
}

// RemoveSecret implements core.MountLife.
func (n *Namespace) RemoveSecret(ctx context.Context, name string) error {
	const op = "namespace.RemoveSecret"
	if err := n.mayChangeTable(ctx); err != nil {
		return err
	}
	n.mountMu.Lock()
	defer n.mountMu.Unlock()
	known := *n.credentials.Load()
	if known[name] == nil {
		return errs.New(op, name, errs.NotExist, "there is no secret of that name")
	}
	if users := n.mounts.Load().users(name); len(users) > 0 {
		return errs.New(op, name, errs.Busy, "the mount "+users[0].Path.File().String()+" uses it; give it other credentials or unmount it first")
	}
	if err := n.journalTable(ctx, meta.Batch{Deletes: []string{credentialPrefix + name}}, "the secret "+name+" was removed"); err != nil {
		return err
	}
	all := maps.Clone(known)
	delete(all, name)
	n.credentials.Store(&all)
	return nil
}
