package gateway

import (
	"context"
	"os"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sluicefs/sluice/core"
	"github.com/sluicefs/sluice/core/errs"
	"github.com/sluicefs/sluice/gateway/config"
)

// supergroup is the group whose members pass every permission check. Source: dfs.permissions.superusergroup in
// hdfs-default.xml.
const supergroup = "supergroup"

// users implements core.Authenticator over the operating system's users and groups and a fixed set of access keys.
type users struct {
	superuser string
	keys      map[string]accessKey
	groupsOf  func(user string) []string

	mu     sync.Mutex
	groups map[string]membership
}

type accessKey struct {
	secret config.Secret
	user   string
}

// membership is what the system said of a user's groups, which may take a directory service and is asked rarely.
type membership struct {
	groups []string
	till   time.Time
}

const (
	groupsAge = time.Minute
	maxUsers  = 10_000 // remembered; user names come from clients
)

func newUsers(superuser string, root config.Root) *users {
	return &users{
		superuser: superuser, keys: map[string]accessKey{root.AccessKey: {root.SecretKey, superuser}},
		groupsOf: systemGroups, groups: map[string]membership{},
	}
}

// Secret implements core.Authenticator.
func (u *users) Secret(ctx context.Context, key string) (string, core.Principal, error) {
	k, ok := u.keys[key]
	if !ok {
		return "", core.Principal{}, errs.E("gateway.Secret", "", errs.NotExist, nil)
	}
	p, err := u.User(ctx, k.user)
	p.AccessKey = key
	return k.secret.Reveal(), p, err
}

// User implements core.Authenticator.
func (u *users) User(_ context.Context, name string) (core.Principal, error) {
	p := core.Principal{User: name, Groups: u.memberships(name)}
	p.Super = name == u.superuser || p.In(supergroup)
	return p, nil
}

func (u *users) memberships(name string) []string {
	now := time.Now()
	u.mu.Lock()
	m, ok := u.groups[name]
	u.mu.Unlock()
	if ok && now.Before(m.till) {
		return m.groups
	}
	groups := u.groupsOf(name)
	if name == u.superuser && !slices.Contains(groups, supergroup) {
		groups = append(groups, supergroup)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.groups) >= maxUsers {
		clear(u.groups)
	}
	u.groups[name] = membership{groups, now.Add(groupsAge)}
	return groups
}

// systemGroups returns the names of the groups of a user of the operating system; none for one it does not know.
func systemGroups(name string) []string {
	found, err := user.Lookup(name)
	if err != nil {
		return nil
	}
	ids, _ := found.GroupIds()
	var names []string
	for _, id := range ids {
		if g, err := user.LookupGroupId(id); err == nil {
			names = append(names, g.Name)
		}
	}
	return names
}

// currentUser returns the name of the user that runs this process; its number where it has no name, as in a container.
func currentUser() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return strconv.Itoa(os.Getuid())
}
