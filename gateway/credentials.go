package gateway

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluicefs/sluice/gateway/config"
)

// CredentialsFile is the name of the file, in the data directory, that keeps the generated root key pair. It is readable
// by its owner only.
const CredentialsFile = "root-credentials.json"

// storedRoot is the content of CredentialsFile.
type storedRoot struct {
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
}

// ReadCredentials returns the key pair kept in the data directory dir. It refuses a file that others can read.
// Errors: fs.ErrNotExist if there is none.
func ReadCredentials(dir string) (config.Root, error) {
	name := filepath.Join(dir, CredentialsFile)
	info, err := os.Stat(name)
	if err != nil {
		return config.Root{}, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return config.Root{}, fmt.Errorf("%s can be read by others (mode %04o), so its secret may be known; run: chmod 600 %s, and remove the file to get another key pair at the next start", name, info.Mode().Perm(), name)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return config.Root{}, err
	}
	var s storedRoot
	if err := json.Unmarshal(b, &s); err != nil || s.AccessKey == "" || s.SecretKey == "" {
		return config.Root{}, fmt.Errorf("%s does not hold access_key and secret_key; remove it to get another key pair at the next start", name)
	}
	return config.Root{AccessKey: s.AccessKey, SecretKey: config.Secret(s.SecretKey)}, nil
}

// rootCredentials returns the configured key pair, else the one kept in the data directory, else a fresh one, which it
// keeps there; fresh says which.
func rootCredentials(c config.Config) (root config.Root, fresh bool, err error) {
	if c.Root.AccessKey != "" {
		return c.Root, false, nil
	}
	root, err = ReadCredentials(c.Data)
	if !errors.Is(err, fs.ErrNotExist) {
		return root, false, err
	}
	// Shaped as AWS's are, since some clients check: 20 upper-case letters and digits, and 40 characters.
	root = config.Root{AccessKey: "SLUICE" + rand.Text()[:14], SecretKey: config.Secret(strings.ToLower(rand.Text()) + rand.Text())[:40]}
	return root, true, writeCredentials(c.Data, root)
}

// writeCredentials keeps root durably: the file appears whole or not at all.
func writeCredentials(dir string, root config.Root) error {
	b, err := json.MarshalIndent(storedRoot{root.AccessKey, root.SecretKey.Reveal()}, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, CredentialsFile+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, CredentialsFile)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
