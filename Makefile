# Everything is a target here; `make help` lists them. Nothing outside the module proxy and Debian's archive is needed.
# GOFLAGS, GOPROXY and the rest of Go's environment are left as they are found.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export CGO_ENABLED := 0

VERSION := $(shell git describe --tags --match 'v[0-9]*' --dirty 2>/dev/null | sed 's/^v//')
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
DATE    := $(shell git log -1 --format=%cI 2>/dev/null)
LDFLAGS  = -s -w -X main.version=$(or $(VERSION),0.1.0-dev) -X main.commit=$(or $(COMMIT),unknown) \
           -X main.buildTime=$(or $(DATE),unknown)
GOBUILD  = go build -trimpath -buildvcs=false
ROOTFS  := internal/image/builtin/files/rootfs.tar.gz

# Parameters of some targets: make soak ROUNDS=1000, make bench ROUNDS=40, make test E2E=TestRun
ROUNDS   ?=
E2E      ?= .
FUZZTIME ?= 10s
PREFIX   ?= /usr/local
DESTDIR  ?=

# Packages whose goroutines share memory; the race detector is slow and needs a C compiler.
RACE := ./cmd/berth-box/... ./engine/... ./internal/container/... ./internal/dockerapi/... ./internal/durable/... \
        ./internal/image/... ./internal/logfile/... ./internal/monitor/... ./internal/network/... ./internal/store/... \
        ./internal/volume/...

.PHONY: help
help: ## List every target
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: build
build: rootfs ## Build bin/berth, bin/berthd, bin/berth-runtime and bin/berth-registry: static, stripped
	$(GOBUILD) -tags nethttpomithttp2 -ldflags '$(LDFLAGS)' -o bin/ ./cmd/berth
	$(GOBUILD) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/berthd ./cmd/berth-runtime
	cd third/registry && $(GOBUILD) -ldflags '-s -w' -o $(CURDIR)/bin/berth-registry .

.PHONY: rootfs
rootfs: ## Build bin/berth-box and from it the image that berthd carries
	$(GOBUILD) -ldflags '-s -w' -o bin/ ./cmd/berth-box
	@bin/berth-box --rootfs $(ROOTFS)

.PHONY: demo
demo: build ## Set up, then run a first container and show what the kernel made of it
	@test/demo

.PHONY: setup
setup: ## Install what the tests need from Debian (nothing is started)
	@test/setup

.PHONY: test
test: setup ## Set up, then pass every test
	@$(MAKE) --no-print-directory -k build lint docs-check unit race e2e
	@echo "make test: everything passed"

.PHONY: unit
unit: rootfs ## Run the tests beside the code
	go test -timeout 20m $$(go list ./... | grep -v '/test/e2e')
	cd third/conform && go vet ./... && go test ./...
	cd third/registry && go vet ./... && go test ./...

.PHONY: race
race: rootfs ## Run the tests of packages that share memory under the race detector (needs gcc)
	@if command -v gcc >/dev/null; then \
	  CGO_ENABLED=1 go test -race -short -timeout 20m $(RACE); \
	else echo "race: skipped, there is no gcc"; fi

.PHONY: e2e
e2e: build ## Run the end-to-end tests: real daemons, real clients (E2E=regexp chooses)
	BERTH_E2E=1 go test -count=1 -timeout 30m -run '$(E2E)' ./test/e2e/... ./test/runtime/...

.PHONY: soak
soak: build ## Kill the daemon and cut the power again and again under load (ROUNDS=100, SOAK=regexp chooses)
	BERTH_E2E=1 BERTH_SOAK=$(or $(ROUNDS),100) go test -count=1 -timeout 4h -v -run '$(or $(SOAK),Kill|PowerCut|Checkpoint|OnSystemd|WithoutIPv6)' ./test/e2e/... ./test/guest/ ./cmd/berth-runtime/

.PHONY: bench
bench: setup build ## Measure Berth beside Docker, Podman and the bare kernel; writes bench/RESULTS.md
	go run ./bench $(if $(ROUNDS),-rounds $(ROUNDS)) -o bench/RESULTS.md

.PHONY: bench-runtime
bench-runtime: setup build ## Measure berth-runtime alone beside crun, runc and unshare; writes bench/RUNTIME.md (ROUNDS=40)
	go run ./bench/runtime $(if $(ROUNDS),-rounds $(ROUNDS)) -o bench/RUNTIME.md

.PHONY: bench-pull
bench-pull: setup build ## Measure pulls beside Docker, Podman and igzip with tar; writes bench/PULL.md (ROUNDS=7)
	go run ./bench -pull $(if $(ROUNDS),-rounds $(ROUNDS)) -o bench/PULL.md

.PHONY: bench-net
bench-net: setup build ## Measure networks beside Docker with and without its proxy; writes bench/NETWORK.md
	go run ./bench -network $(if $(ROUNDS),-rounds $(ROUNDS)) -o bench/NETWORK.md

.PHONY: bench-smoke
bench-smoke: build ## The benchmark with few rounds, to see that it works; writes nothing
	go run ./bench -smoke

# Without a bound, a target that touches files spends all of its time with making its first find smaller.
.PHONY: fuzz-short
fuzz-short: ## Run every fuzz target for a moment (FUZZTIME=10s)
	@for p in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' "$$p" | grep '^Fuzz' || true); do \
	    echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$p"; \
	  done; \
	done
	cd third/conform && go test -run '^$$' -fuzz FuzzReference -fuzztime $(FUZZTIME) -fuzzminimizetime 10x . && go test -run '^$$' -fuzz FuzzDigest -fuzztime $(FUZZTIME) -fuzzminimizetime 10x .
	cd third/registry && go test -run '^$$' -fuzz FuzzAccounts -fuzztime $(FUZZTIME) -fuzzminimizetime 10x . && go test -run '^$$' -fuzz FuzzReferring -fuzztime $(FUZZTIME) -fuzzminimizetime 10x .

.PHONY: lint
lint: ## gofmt, go vet and staticcheck (pinned in go.mod)
	@unformatted=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	 if [ -n "$$unformatted" ]; then echo "not gofmt'd: $$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...

.PHONY: fmt
fmt: ## Format every Go file
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')

.PHONY: docs
docs: build ## Write the command line reference, docs/cli.md
	go run ./test/clidocs bin/berth docs/cli.md

.PHONY: docs-check
docs-check: build ## Fail when docs/cli.md is not what the program says of itself
	go run ./test/clidocs -check bin/berth docs/cli.md

.PHONY: install
install: build ## Install the four programs into PREFIX/bin (/usr/local)
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 bin/berth bin/berthd bin/berth-runtime bin/berth-registry $(DESTDIR)$(PREFIX)/bin/

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin build $(ROOTFS)
