package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// field is one key that can be set.
type field struct {
	key  string // "s3.listen"
	flag string // "s3-listen"; "" for a secret: command lines can be read by every user of the machine
	env  string // "SLUICE_S3_LISTEN"
	help string
	bool bool // a flag without a value means true
	list bool // written item by item: a repeatable flag, a variable with ; between items
	root bool // part of the root key pair: can also be read from the file that env + "_FILE" names
}

// delimiter separates the parts of a key inside viper. It is none that a name in the file can hold.
const delimiter = "::"

func (f field) viperKey() string { return strings.ReplaceAll(f.key, ".", delimiter) }

// fields returns every key of Config in the order of its structs.
func fields() []field { return fieldsOf(reflect.TypeFor[Config](), "") }

func fieldsOf(t reflect.Type, prefix string) []field {
	var all []field
	for f := range structFields(t) {
		key := prefix + f.Tag.Get("key")
		if isGroup(f.Type) {
			all = append(all, fieldsOf(f.Type, key+".")...)
			continue
		}
		name := strings.NewReplacer(".", "-", "_", "-").Replace(key)
		leaf := field{
			key: key, flag: name, help: f.Tag.Get("help"),
			env:  "SLUICE_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")),
			bool: f.Type.Kind() == reflect.Bool,
			list: f.Type.Kind() == reflect.Slice || f.Type.Kind() == reflect.Map,
			root: strings.HasPrefix(key, "root."),
		}
		if flag := f.Tag.Get("flag"); flag != "" {
			leaf.flag = flag
		}
		if f.Type == reflect.TypeFor[Secret]() {
			leaf.flag = ""
		}
		all = append(all, leaf)
	}
	return all
}

// structFields yields the fields of t that are keys.
func structFields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("key") != "" && !yield(f) {
				return
			}
		}
	}
}

// isGroup reports whether t is a struct of further keys and not a value.
func isGroup(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// AddFlags defines a flag on fs for every key that has one, and --config. Pass the same set to Load after it is parsed.
func AddFlags(fs *pflag.FlagSet) {
	fs.String("config", "", "YAML file to read (environment: SLUICE_CONFIG); configs/sluice.yaml documents its keys")
	defaults := Default()
	for _, f := range fields() {
		switch {
		case f.flag == "":
		case f.list:
			fs.StringArray(f.flag, nil, f.help)
		default:
			fs.String(f.flag, "", f.help+defaultNote(defaults, f.key))
			if f.bool {
				fs.Lookup(f.flag).NoOptDefVal = "true"
			}
		}
	}
}

// defaultNote says what a key is if it is not set. The flag's own default is empty: only flags that were given count.
func defaultNote(c Config, key string) string {
	v := reflect.ValueOf(c)
	for part := range strings.SplitSeq(key, ".") {
		for f := range structFields(v.Type()) {
			if f.Tag.Get("key") == part {
				v = v.FieldByIndex(f.Index)
				break
			}
		}
	}
	if v.IsZero() {
		return ""
	}
	return " (default " + toString(v) + ")"
}

func toString(v reflect.Value) string {
	if s, ok := v.Interface().(interface{ String() string }); ok {
		return s.String()
	}
	return fmt.Sprint(v.Interface())
}

// UnknownEnv returns the names in environ (as os.Environ gives it) that start with SLUICE_ and name no setting, sorted.
// They are worth a warning and not an error: orchestrators add variables of that form to their containers. also are the
// names that other parts of the program know.
func UnknownEnv(environ []string, also ...string) []string {
	known := append([]string{"SLUICE_CONFIG"}, also...)
	for _, f := range fields() {
		known = append(known, f.env)
		if f.root {
			known = append(known, f.env+"_FILE")
		}
	}
	var unknown []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "SLUICE_") && !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown
}
