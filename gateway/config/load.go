package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

// Load returns the configuration: defaults, overridden by the file that the flag --config or SLUICE_CONFIG names, by
// environment variables, and by the flags of fs that were given (nil for none). A key that is set replaces the whole value
// of the level below, lists included. Unknown keys, values of a wrong type and what Validate finds are all reported,
// joined.
func Load(fs *pflag.FlagSet) (Config, error) {
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter))
	if err := readFile(v, configFile(fs)); err != nil {
		return Config{}, err
	}
	if err := bind(v, fs); err != nil {
		return Config{}, err
	}
	settings := v.AllSettings()
	problems := applyAlluxio(v, settings)
	problems = append(problems, unknownKeys(settings, reflect.TypeFor[Config](), "")...)
	if len(problems) > 0 {
		return Config{}, errors.Join(problems...)
	}
	c := Default()
	if err := decode(settings, &c); err != nil {
		return Config{}, err
	}
	c.normalize()
	return c, c.Validate()
}

func configFile(fs *pflag.FlagSet) string {
	if fs != nil {
		if f := fs.Lookup("config"); f != nil && f.Changed {
			return f.Value.String()
		}
	}
	return os.Getenv("SLUICE_CONFIG")
}

func readFile(v *viper.Viper, name string) error {
	if name == "" {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	defer f.Close()
	v.SetConfigType("yaml")
	if err := v.ReadConfig(f); err != nil {
		return fmt.Errorf("configuration file %s: %w", name, err)
	}
	return nil
}

// bind lets environment variables and the flags that were given override the file.
func bind(v *viper.Viper, fs *pflag.FlagSet) error {
	for _, f := range fields() {
		if err := v.BindEnv(f.viperKey(), f.env); err != nil {
			return err
		}
		if f.root {
			if err := bindSecretFile(v, f); err != nil {
				return err
			}
		}
		if fs == nil || f.flag == "" {
			continue
		}
		if flag := fs.Lookup(f.flag); flag != nil && flag.Changed {
			if err := v.BindPFlag(f.viperKey(), flag); err != nil {
				return err
			}
		}
	}
	return nil
}

// bindSecretFile reads a key from the file that its _FILE variable names, as secrets are handed to containers.
func bindSecretFile(v *viper.Viper, f field) error {
	name := os.Getenv(f.env + "_FILE")
	if name == "" {
		return nil
	}
	if os.Getenv(f.env) != "" {
		return fmt.Errorf("%s and %s_FILE are both set; unset one of them", f.env, f.env)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("%s_FILE: %w", f.env, err)
	}
	v.Set(f.viperKey(), strings.TrimRight(string(b), "\r\n"))
	return nil
}

// applyAlluxio replaces Alluxio's property names at the top level by the keys they are aliases of.
func applyAlluxio(v *viper.Viper, settings map[string]any) []error {
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if !strings.HasPrefix(name, "alluxio.") {
			continue
		}
		value := fmt.Sprint(settings[name])
		delete(settings, name)
		key, known := alluxio()[name]
		group, last, nested := strings.Cut(key, ".")
		at := settings
		if nested {
			at, _ = settings[group].(map[string]any)
			if at == nil {
				at = map[string]any{}
				settings[group] = at
			}
		} else {
			last = key
		}
		_, set := at[last]
		switch {
		case !known:
			problems = append(problems, errors.New(unknownAlluxio(name)))
		case v.InConfig(strings.ReplaceAll(key, ".", delimiter)):
			problems = append(problems, fmt.Errorf("%s: the file also sets %s, which it is an alias of; remove one", name, key))
		case set: // a flag or the environment wins over the file
		case key == "sync_interval":
			i, err := parseAlluxioInterval(value)
			if err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", name, err))
			}
			settings[key] = i.String()
		default:
			at[last] = value
		}
	}
	return problems
}

// unknownKeys returns an error for every key of settings that t has not.
func unknownKeys(settings map[string]any, t reflect.Type, prefix string) []error {
	known := map[string]reflect.Type{}
	for f := range structFields(t) {
		known[f.Tag.Get("key")] = f.Type
	}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		child, ok := known[name]
		if !ok {
			problems = append(problems, unknownKey(prefix, name, slices.Sorted(maps.Keys(known))))
			continue
		}
		switch value := settings[name].(type) {
		case map[string]any:
			if child.Kind() == reflect.Struct {
				problems = append(problems, unknownKeys(value, child, prefix+name+".")...)
			}
		case []any:
			if child.Kind() != reflect.Slice {
				continue
			}
			for i, item := range value {
				if m, ok := item.(map[string]any); ok {
					problems = append(problems, unknownKeys(m, child.Elem(), fmt.Sprintf("%s%s[%d].", prefix, name, i))...)
				}
			}
		}
	}
	return problems
}

// unknownKey names the nearest key: one of the same group, else one of the whole configuration.
func unknownKey(prefix, name string, siblings []string) error {
	for i := range siblings {
		siblings[i] = prefix + siblings[i]
	}
	for _, f := range fields() {
		siblings = append(siblings, f.key)
	}
	near := nearest(prefix+name, siblings)
	if near == "" {
		return fmt.Errorf("unknown key %s%s; configs/sluice.yaml lists all keys", prefix, name)
	}
	return fmt.Errorf("unknown key %s%s; did you mean %s?", prefix, name, near)
}

// nearest returns the candidate with the fewest edits from s, "" if none is near.
func nearest(s string, candidates []string) string {
	best, fewest := "", len(s)/3+2
	for _, c := range candidates {
		if d := edits(s, c); d < fewest {
			best, fewest = c, d
		}
	}
	return best
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func decode(settings map[string]any, c *Config) error {
	d, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: c, TagName: "key", ErrorUnused: true, ZeroFields: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(listHook, scalarHook, mapstructure.TextUnmarshallerHookFunc()),
	})
	if err != nil {
		return err
	}
	if err := d.Decode(settings); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return nil
}

// listHook splits the one-line form of a list, and joins what repeated flags gave for a map.
func listHook(from, to reflect.Type, data any) (any, error) {
	switch {
	case to == reflect.TypeFor[Names]() && from.Kind() == reflect.String:
		return data, nil
	case from.Kind() == reflect.String && to.Kind() == reflect.Slice:
		return splitList(data.(string)), nil
	case from == reflect.TypeFor[[]string]() && slices.Contains([]reflect.Type{reflect.TypeFor[Aliases](), reflect.TypeFor[Names](), reflect.TypeFor[Peers]()}, to):
		return strings.Join(data.([]string), "\n"), nil
	}
	return data, nil
}

// scalarHook gives values the types their keys have: flags and environment variables are strings, and YAML reads some
// values as numbers that were meant as text.
func scalarHook(from, to reflect.Type, data any) (any, error) {
	if to.Kind() == reflect.Pointer {
		to = to.Elem()
	}
	text, isText := data.(string)
	switch to {
	case reflect.TypeFor[time.Duration]():
		d, err := time.ParseDuration(fmt.Sprint(data))
		if err != nil || d < 0 {
			return nil, fmt.Errorf("%v is not a duration; write a number and a unit, such as 30s", data)
		}
		return d, nil
	case reflect.TypeFor[int]():
		n, err := strconv.Atoi(fmt.Sprint(data))
		if err != nil {
			return nil, fmt.Errorf("%v is not a whole number", data)
		}
		return n, nil
	case reflect.TypeFor[Interval]():
		return ParseInterval(fmt.Sprint(data))
	case reflect.TypeFor[bool]():
		if isText {
			b, err := strconv.ParseBool(text)
			if err != nil {
				return nil, fmt.Errorf("%q is neither true nor false", text)
			}
			return b, nil
		}
	case reflect.TypeFor[string]():
		// Options and modes are text, though 5, 0755 and true look like something else to YAML. An octal number
		// must be quoted, since what was written can no longer be told.
		if !isText && from.Kind() == reflect.Bool {
			return fmt.Sprint(data), nil
		}
		if _, ok := data.(int); ok { // which may be a secret: it is not repeated
			return nil, errors.New("a number stands where text is needed; put it in quotes")
		}
	}
	return data, nil
}

// normalize makes equal what means the same.
func (c *Config) normalize() {
	for _, listen := range []*string{&c.S3.Listen, &c.S3.TLSListen, &c.WebHDFS.Listen, &c.WebHDFS.TLSListen, &c.Admin.Listen, &c.Internal.Listen} {
		if *listen == "off" {
			*listen = ""
		}
	}
	if c.S3.Region == "any" {
		c.S3.Region = ""
	}
	if abs, err := filepath.Abs(c.Data); err == nil && c.Data != "" {
		c.Data = abs
	}
	if abs, err := filepath.Abs(c.Backup.Dir); err == nil && c.Backup.Dir != "" && c.Backup.Dir != "off" {
		c.Backup.Dir = abs
	}
}
