// The cases that expressions are tested with are those of this version of CEL.
module lazaret.dev/cel

go 1.26.7

require (
	cel.dev/expr v0.25.1
	google.golang.org/protobuf v1.36.10
)
