// The proof that third/reference says what github.com/distribution/reference says. A module of its own: the program
// must not link the original.
module github.com/berth-engine/berth/third/conform

go 1.26

require (
	github.com/distribution/reference v0.6.0
	github.com/opencontainers/go-digest v1.0.0
)
