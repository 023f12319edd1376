package gateway

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluicefs/sluice/core/seal"
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

// writeCredentials keeps root.
func writeCredentials(dir string, root config.Root) error {
	b, err := json.MarshalIndent(storedRoot{root.AccessKey, root.SecretKey.Reveal()}, "", "  ")
	if err != nil {
		return err
	}
	return writePrivate(filepath.Join(dir, CredentialsFile), append(b, '\n'))
}

// writePrivate makes the file name, readable by its owner only, durably: it appears whole or not at all.
func writePrivate(name string, b []byte) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, filepath.Base(name)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// SecretKeyFile is the name of the file, in the data directory, that keeps the generated key of the secrets of mounts.
const SecretKeyFile = "secret-key"

// secretKey returns the key of the secrets of mounts: the configured one, else the one kept in the data directory, else a
// fresh one, which it keeps there.
func secretKey(c config.Config) ([]byte, error) {
	if c.SecretKeyFile != "" {
		return readSecretKey(c.SecretKeyFile)
	}
	name := filepath.Join(c.Data, SecretKeyFile)
	key, err := readSecretKey(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, seal.KeySize)
	rand.Read(key)
	return key, writePrivate(name, append([]byte(base64.StdEncoding.EncodeToString(key)), '\n'))
}

func readSecretKey(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o); run: chmod 600 %s", name, info.Mode().Perm(), name)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != seal.KeySize {
		return nil, fmt.Errorf("%s does not hold %d bytes in base64; make a key with: openssl rand -base64 %[2]d", name, seal.KeySize)
	}
	return key, nil
}
