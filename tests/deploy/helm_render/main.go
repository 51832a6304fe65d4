// Renders a chart's templates with Helm's engine, Go's text/template with sprig, where there is no helm:
//
//	main CHART VALUES RELEASE NAMESPACE
//
// VALUES is a YAML file that is laid over the chart's values.yaml.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/ioutil"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

type files struct{ chart string }

func (f files) Get(name string) (string, error) {
	content, err := ioutil.ReadFile(filepath.Join(f.chart, name))
	return string(content), err
}

func read(path string) map[string]interface{} {
	content, err := ioutil.ReadFile(path)
	values := map[string]interface{}{}
	if err == nil {
		err = yaml.Unmarshal(content, &values)
	}
	fail(err)
	return values
}

func merge(into, over map[string]interface{}) map[string]interface{} {
	for key, value := range over {
		below, isMap := value.(map[string]interface{})
		known, wasMap := into[key].(map[string]interface{})
		if isMap && wasMap {
			into[key] = merge(known, below)
		} else {
			into[key] = value
		}
	}
	return into
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	chart, release, namespace := os.Args[1], os.Args[3], os.Args[4]
	about := read(filepath.Join(chart, "Chart.yaml"))
	data := map[string]interface{}{
		"Values":  merge(read(filepath.Join(chart, "values.yaml")), read(os.Args[2])),
		"Release": map[string]interface{}{"Name": release, "Namespace": namespace, "Service": "Helm"},
		"Chart":   map[string]interface{}{"Name": about["name"], "Version": about["version"], "AppVersion": about["appVersion"]},
		"Files":   files{chart},
	}
	all := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["toYaml"] = func(value interface{}) (string, error) {
		content, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(content), "\n"), err
	}
	// As `helm template` has it: no cluster is asked.
	functions["lookup"] = func(string, string, string, string) map[string]interface{} { return map[string]interface{}{} }
	functions["fromJsonArray"] = func(text string) ([]interface{}, error) {
		var value []interface{}
		err := json.Unmarshal([]byte(text), &value)
		return value, err
	}
	all.Funcs(functions)
	paths, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	fail(err)
	sort.Strings(paths)
	for _, path := range paths {
		content, err := ioutil.ReadFile(path)
		fail(err)
		_, err = all.New(path).Parse(string(content))
		fail(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, ".yaml") {
			fmt.Println("---")
			fail(all.ExecuteTemplate(os.Stdout, path, data))
		}
	}
}
