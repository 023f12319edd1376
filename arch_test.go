package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/sluicefs/sluice"

// arrows is the architecture: every package, by its directory, and the packages of Sluice it may import outside tests.
// Imports point one way, main → gateway → front-ends → core → core/errs; nothing points sideways or up.
var arrows = map[string][]string{
	".": {"gateway/cli"},

	// The composition root, and what an operator touches.
	"gateway": {"core", "core/cluster", "core/errs", "core/hold", "core/job", "core/meta", "core/namespace", "core/page", "core/remote", "core/seal", "core/worker", "etcd", "gateway/admin",
		"gateway/config", "gateway/telemetry", "s3api", "ufs", "ufs/azureufs", "ufs/gcsufs", "ufs/hdfsufs", "ufs/httpufs", "ufs/localufs", "ufs/s3ufs", "ufs/webhdfsufs", "ufs/wrap", "webhdfs"},
	"gateway/cli":       {"gateway", "gateway/admin", "gateway/config", "gateway/telemetry"},
	"gateway/admin":     {"core", "core/errs", "gateway/config"},
	"gateway/config":    {"core"},
	"gateway/telemetry": {"core", "core/errs"},

	// The front-ends see the vocabulary and nothing below it.
	"s3api":          {"core", "core/errs", "s3api/checksum", "s3api/sigv4"},
	"s3api/sigv4":    {"core/errs"},
	"s3api/checksum": {"core/errs"},
	"webhdfs":        {"core", "core/errs"},

	// The meaning, and the vocabulary it is expressed in.
	"core/namespace": {"core", "core/errs", "core/meta", "core/mount", "core/page", "core/seal", "core/wait", "ufs", "ufs/wrap"},
	"core/nstest":    {"core", "core/errs", "core/meta", "ufs"},
	"core/job":       {"core", "core/errs", "core/page", "core/wait"},
	"core/worker":    {"core", "core/errs", "core/page", "core/seal", "ufs"},
	"core/remote":    {"core", "core/cluster", "core/errs", "core/page"}, // what a worker lends is read as core/page reads it
	"core/hold":      {"core", "core/dirlock", "core/errs"},
	"core/hold/holdtest": {
		"core", "core/errs",
	},
	"core/seal":         {"core/errs"},
	"core/mount":        {"core"},
	"core/needtest":     {},
	"core/wait":         {},
	"core/cluster":      {},
	"core/meta":         {"core", "core/errs", "core/wait"},
	"core/meta/memkv":   {"core/errs", "core/meta"},
	"core/meta/kvtest":  {"core/errs", "core/meta"},
	"core/page":         {"core/dirlock", "core/errs"},
	"core/page/mempage": {"core/errs", "core/page"},
	"core/page/pagetest": {
		"core/errs", "core/page",
	},
	"core":         {"core/errs"},
	"core/dirlock": {"core/errs"},
	"core/errs":    {},

	// The matter: the journal's home, and the stores.
	"etcd":           {"core/cluster", "core/dirlock", "core/errs", "core/meta", "core/wait"},
	"ufs":            {"core/errs"},
	"ufs/ufstest":    {"core/errs", "ufs"},
	"ufs/wrap":       {"core/errs", "core/wait", "ufs"},
	"ufs/localufs":   {"core/errs", "ufs"},
	"ufs/memufs":     {"core/errs", "ufs"},
	"ufs/s3ufs":      {"core/errs", "ufs", "ufs/web"},
	"ufs/web":        {"core/errs", "ufs"},
	"ufs/httpufs":    {"core/errs", "ufs", "ufs/web"},
	"ufs/azureufs":   {"core/errs", "ufs", "ufs/web"},
	"ufs/hadoopfs":   {"core/errs", "ufs"},
	"ufs/hdfsufs":    {"core/errs", "core/wait", "ufs", "ufs/hadoopfs"},
	"ufs/webhdfsufs": {"core/errs", "ufs", "ufs/hadoopfs", "ufs/web"},
	"ufs/hadoopfs/minidfs": {
		"core/needtest", // what tests start
	},
	"ufs/gcsufs": {"core/errs", "ufs", "ufs/web"},

	// Programs beside the binary: they know it from outside.
	"conformance": {},
	"bench":       {},
}

// owners says which packages may import a module that is not Sluice's, outside tests, and why it is there.
var owners = map[string]struct {
	packages []string
	why      string
}{
	"github.com/aws":                    {[]string{"ufs/s3ufs", "bench"}, "S3 under-stores"},
	"github.com/Azure":                  {[]string{"ufs/azureufs"}, "Azure under-stores"},
	"github.com/colinmarc/hdfs":         {[]string{"ufs/hdfsufs"}, "Hadoop's RPC"},
	"github.com/jcmturner/gokrb5":       {[]string{"ufs/hadoopfs"}, "Kerberos"},
	"google.golang.org/protobuf":        {[]string{"ufs/hdfsufs"}, "the messages of Hadoop's RPC, which the library does not export"},
	"go.etcd.io":                        {[]string{"etcd"}, "the journal"},
	"go.uber.org/zap":                   {[]string{"etcd"}, "etcd's logger"},
	"google.golang.org/grpc":            {[]string{"core/remote"}, "calls between gateways and masters"},
	"go.opentelemetry.io":               {[]string{"gateway/telemetry"}, "metrics"},
	"github.com/prometheus":             {[]string{"gateway/telemetry"}, "the format of metrics"},
	"github.com/gorilla/mux":            {[]string{"s3api", "webhdfs", "gateway", "gateway/admin"}, "routes"},
	"github.com/danielgtaylor/huma":     {[]string{"gateway/admin"}, "OpenAPI from the code"},
	"github.com/spf13/viper":            {[]string{"gateway/config"}, "merges file, environment and flags"},
	"github.com/go-viper/mapstructure":  {[]string{"gateway/config"}, "decodes them strictly"},
	"github.com/spf13/pflag":            {[]string{"gateway/config", "gateway/cli"}, "flags"},
	"github.com/spf13/cobra":            {[]string{"gateway/cli"}, "commands"},
	"github.com/dustin/go-humanize":     {[]string{"gateway/config", "gateway/cli"}, "sizes that people write and read"},
	"github.com/tidwall/btree":          {[]string{"core/meta", "core/meta/memkv", "ufs/memufs"}, "ordered names with cheap snapshots"},
	"github.com/klauspost/compress":     {[]string{"core/meta"}, "journal records"},
	"github.com/zeebo/xxh3":             {[]string{"core/page", "core/hold", "core/cluster"}, "checksums of pages, scores of placement"},
	"github.com/minio/crc64nvme":        {[]string{"s3api/checksum"}, "one of S3's checksums"},
	"github.com/google/go-cmp":          {[]string{"ufs/ufstest", "core/meta/kvtest", "core/page/pagetest", "core/nstest"}, "suites"},
	"golang.org/x/sync":                 {[]string{"core", "ufs", "bench"}, "single flight, semaphores, groups"},
	"golang.org/x/time":                 {[]string{"ufs/wrap"}, "rates"},
	"golang.org/x/sys":                  {[]string{"core/dirlock", "core/meta", "core/page", "core/hold", "core/remote", "etcd", "ufs/localufs", "gateway", "bench"}, "files, mappings, locks and clocks below what os offers"},
	"github.com/johannesboyne/gofakes3": {nil, "tests only"},
	"go.uber.org/goleak":                {nil, "tests only"},
	"github.com/anishathalye/porcupine": {nil, "tests only"},
	"go.yaml.in/yaml":                   {nil, "tests only; viper reads the file"},
}

// top is everything that may be at the root of the repository.
var top = []string{"gateway", "s3api", "webhdfs", "core", "ufs", "etcd", "conformance", "bench", "configs", "main.go", "arch_test.go",
	"go.mod", "go.sum", "Dockerfile", "README.md", "LICENSE", ".ci", ".git", ".gitignore", ".dockerignore", ".golangci.yml"}

// background names the files that make a context of their own outside main, tests and programs, each with its reason.
var background = map[string]string{
	"etcd/zap.go": "zap's logging interface has no context",
}

// source is one parsed file.
type source struct {
	name string // relative to the root
	dir  string
	test bool
	*ast.File
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && name != "." && strings.HasPrefix(d.Name(), ".") || d != nil && d.Name() == "testdata" {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(name, ".go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(name), filepath.ToSlash(filepath.Dir(name)), strings.HasSuffix(name, "_test.go"), f})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// imports returns the packages that f imports.
func (f source) imports() []string {
	var all []string
	for _, i := range f.Imports {
		name, _ := strconv.Unquote(i.Path.Value)
		all = append(all, name)
	}
	return all
}

// program reports whether a directory is one of the programs beside the binary.
func program(dir string) bool { return under(dir, "conformance") || under(dir, "bench") }

// suite reports whether a directory is a suite that implementations of an interface pass.
func suite(dir string) bool { return strings.HasSuffix(dir, "test") }

func under(dir, root string) bool { return dir == root || strings.HasPrefix(dir, root+"/") }

func TestImportsFollowTheArchitecture(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range sources(t) {
		allowed, known := arrows[f.dir]
		if !known && !program(f.dir) {
			t.Errorf("%s: the package is not in the table of arrows; say there what it may import", f.dir)
		}
		seen[f.dir] = true
		for _, name := range f.imports() {
			room, ours := strings.CutPrefix(name, module+"/")
			if ours && !f.test && !slices.Contains(allowed, room) && !(program(f.dir) && program(room)) {
				t.Errorf("%s imports %s; %s may import %v", f.name, room, f.dir, allowed)
			}
		}
	}
	for dir := range maps.Keys(arrows) {
		if !seen[dir] && !program(dir) {
			t.Errorf("the table of arrows names %s, which does not exist", dir)
		}
	}
}

func TestDependenciesHaveOwners(t *testing.T) {
	for _, f := range sources(t) {
		for _, name := range f.imports() {
			if first, _, _ := strings.Cut(name, "/"); !strings.Contains(first, ".") || under(name, module) {
				continue
			}
			owner := ""
			for m := range maps.Keys(owners) {
				if under(name, m) && len(m) > len(owner) {
					owner = m
				}
			}
			o, ok := owners[owner]
			switch mayUse := func(dir string) bool { return under(f.dir, dir) }; {
			case !ok:
				t.Errorf("%s imports %s, which has no owner; a dependency needs a line that says who may import it and why", f.name, name)
			case !f.test && !slices.ContainsFunc(o.packages, mayUse):
				t.Errorf("%s imports %s, which is for %v (%s)", f.name, name, o.packages, o.why)
			}
		}
	}
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	said, comments := map[string]bool{}, map[string]int{}
	for _, f := range sources(t) {
		if f.test || f.Name.Name == "main" && f.dir != "." && !program(f.dir) {
			continue
		}
		text := f.Doc.Text()
		said[f.dir] = said[f.dir] || text != ""
		if text == "" {
			continue
		}
		comments[f.dir]++
		if want := "Package " + f.Name.Name + " "; f.Name.Name != "main" && !strings.HasPrefix(text, want) {
			t.Errorf("%s: the package comment does not start with %q", f.name, want)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(said)) {
		if !said[dir] {
			t.Errorf("%s: the package has no comment that says what it is and what it is not", dir)
		}
		if comments[dir] > 1 {
			t.Errorf("%s: %d files have a package comment; one is enough", dir, comments[dir])
		}
	}
}

func TestNothingIsHidden(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || program(f.dir) {
			continue
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: an init function acts without being called; pass what it makes to a constructor", f.name)
			}
		}
		calls(f, func(pkg, name string, _ *ast.CallExpr) {
			if pkg == "context" && (name == "Background" || name == "TODO") && f.name != "main.go" && background[f.name] == "" {
				t.Errorf("%s: context.%s below main: take the caller's context", f.name, name)
			}
		})
	}
}

func TestErrorsAreNotReadAsText(t *testing.T) {
	for _, f := range sources(t) {
		if f.test || suite(f.dir) || f.dir == "core/errs" {
			continue // a message is part of what tests and suites hold an error to: it says what to do, and no secret
		}
		calls(f, func(pkg, name string, call *ast.CallExpr) {
			if (pkg == "strings" || pkg == "regexp") && !strings.HasPrefix(name, "Split") && slices.ContainsFunc(call.Args, isErrorText) {
				t.Errorf("%s: %s.%s looks at an error's text; test its kind with errors.Is", f.name, pkg, name)
			}
		})
		ast.Inspect(f.File, func(n ast.Node) bool {
			if b, ok := n.(*ast.BinaryExpr); ok && (b.Op == token.EQL || b.Op == token.NEQ) && (isErrorText(b.X) || isErrorText(b.Y)) {
				t.Errorf("%s: an error's text is compared; test its kind with errors.Is", f.name)
			}
			return true
		})
	}
}

func TestTestsDoNotSleep(t *testing.T) {
	for _, f := range sources(t) {
		if !f.test && !suite(f.dir) || program(f.dir) {
			continue
		}
		calls(f, func(pkg, name string, _ *ast.CallExpr) {
			if pkg == "time" && name == "Sleep" && !slices.Contains(f.imports(), "testing/synctest") {
				t.Errorf("%s: a test sleeps; wait for what it waits for, or use testing/synctest", f.name)
			}
		})
	}
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(top, e.Name()) && !ignored(e.Name()) {
			t.Errorf("%s is at the top level, where only the rooms of the architecture are", path.Clean(e.Name()))
		}
	}
}

// ignored reports whether .gitignore names a file or directory of the top level.
func ignored(name string) bool {
	b, _ := os.ReadFile(".gitignore")
	return slices.ContainsFunc(strings.Fields(string(b)), func(line string) bool {
		ok, _ := path.Match(strings.Trim(line, "/"), name)
		return ok
	})
}

// calls runs visit for every call of a function of a package, by the package's local name.
func calls(f source, visit func(pkg, name string, call *ast.CallExpr)) {
	ast.Inspect(f.File, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if fun, ok := call.Fun.(*ast.SelectorExpr); ok {
			if pkg, ok := fun.X.(*ast.Ident); ok {
				visit(pkg.Name, fun.Sel.Name, call)
			}
		}
		return true
	})
}

// isErrorText reports whether e is a call x.Error().
func isErrorText(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) > 0 {
		return false
	}
	fun, ok := call.Fun.(*ast.SelectorExpr)
	return ok && fun.Sel.Name == "Error"
}
