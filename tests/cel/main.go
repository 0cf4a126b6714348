// Prints the cases of CEL's own conformance tests as JSON, file by file: main.go DIRECTORY
package main

import (
	"encoding/json"
	"log"
	"os"
	"path/filepath"
	"strings"

	_ "cel.dev/expr/conformance/proto2"
	_ "cel.dev/expr/conformance/proto3"
	"cel.dev/expr/conformance/test"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
)

func main() {
	names, err := filepath.Glob(filepath.Join(os.Args[1], "*.textproto"))
	if err != nil || len(names) == 0 {
		log.Fatalf("no cases in %s: %v", os.Args[1], err)
	}
	files := map[string]json.RawMessage{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			log.Fatal(err)
		}
		file := &test.SimpleTestFile{}
		if err := prototext.Unmarshal(text, file); err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		cases, err := protojson.Marshal(file)
		if err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		files[strings.TrimSuffix(filepath.Base(name), ".textproto")] = cases
	}
	if err := json.NewEncoder(os.Stdout).Encode(files); err != nil {
		log.Fatal(err)
	}
}
